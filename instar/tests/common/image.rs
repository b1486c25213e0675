//! Small images, made here so that no other program is needed.

/// Size of a cluster in the images made here.
pub(crate) const CLUSTER_BYTES: usize = 512;
/// Size of the disk in the images made here.
pub(crate) const DISK_BYTES: u64 = 64 * CLUSTER_BYTES as u64;

/// A small qcow2 image, version 3, whose first cluster is allocated and holds `content`.
pub(crate) fn qcow2(content: u8, backing: &str, backing_format: &str) -> Vec<u8> {
    let mut image = vec![0; 6 * CLUSTER_BYTES];
    let mut put = |offset: usize, bytes: &[u8]| image[offset..offset + bytes.len()].copy_from_slice(bytes);
    let cluster = |index: usize| (index * CLUSTER_BYTES) as u64;
    put(0, b"QFI\xfb");
    put(4, &3u32.to_be_bytes());
    put(20, &9u32.to_be_bytes());
    put(24, &DISK_BYTES.to_be_bytes());
    put(36, &1u32.to_be_bytes());
    put(40, &cluster(3).to_be_bytes());
    put(48, &cluster(1).to_be_bytes());
    put(56, &1u32.to_be_bytes());
    put(96, &4u32.to_be_bytes());
    put(100, &104u32.to_be_bytes());
    let mut end = 104;
    if !backing_format.is_empty() {
        put(end, &0xe279_2aca_u32.to_be_bytes());
        put(end + 4, &u32::try_from(backing_format.len()).expect("short").to_be_bytes());
        put(end + 8, backing_format.as_bytes());
        end += 8 + backing_format.len().next_multiple_of(8);
    }
    end += 8;
    if !backing.is_empty() {
        put(8, &(end as u64).to_be_bytes());
        put(16, &u32::try_from(backing.len()).expect("short").to_be_bytes());
        put(end, backing.as_bytes());
    }
    put(CLUSTER_BYTES, &cluster(2).to_be_bytes());
    for index in 0..6 {
        put(2 * CLUSTER_BYTES + 2 * index, &1u16.to_be_bytes());
    }
    let copied = 1 << 63;
    put(3 * CLUSTER_BYTES, &(cluster(4) | copied).to_be_bytes());
    put(4 * CLUSTER_BYTES, &(cluster(5) | copied).to_be_bytes());
    put(5 * CLUSTER_BYTES, &[content; CLUSTER_BYTES]);
    image
}
