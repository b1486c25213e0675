//! Larger images with clusters here and there, made so that no other program is needed.
#![allow(dead_code, reason = "each test uses a part")]

/// Size of a cluster.
const CLUSTER_BYTES: usize = 64 << 10;
/// L2 entries in a table.
const L2_ENTRIES: usize = CLUSTER_BYTES / 8;
/// "In use, by nobody else".
const COPIED: u64 = 1 << 63;

/// Random numbers: the same for the same start, which is not 0 (xorshift).
pub(crate) struct Numbers(pub(crate) u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number below `end`, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What an image is based on.
pub(crate) enum Backing {
    None,
    /// A name and a format.
    Named(&'static str, &'static str),
}

/// A disk: for each cluster its content, or nothing. The content is a number that fills the cluster.
pub(crate) struct Disk(Vec<Option<u64>>);

impl Disk {
    /// A disk of `clusters`, about `percent` of which have content, in runs of different lengths.
    pub(crate) fn scattered(clusters: usize, percent: u64, numbers: &mut Numbers) -> Self {
        let mut disk = Vec::with_capacity(clusters);
        while disk.len() < clusters {
            let run = usize::try_from(1 + numbers.below(8)).expect("short").min(clusters - disk.len());
            let has_content = numbers.below(100) < percent;
            disk.extend((0..run).map(|_| has_content.then(|| numbers.next())));
        }
        Self(disk)
    }

    /// A disk of `clusters`, all of which have content.
    pub(crate) fn full(clusters: usize) -> Self {
        Self((1..=clusters as u64).map(Some).collect())
    }

    /// A disk of `clusters`, of which those in `range` have content.
    pub(crate) fn part(clusters: usize, range: std::ops::Range<usize>) -> Self {
        Self((0..clusters).map(|cluster| range.contains(&cluster).then_some(cluster as u64 + 1)).collect())
    }

    /// This disk, and where it has nothing, the other one.
    pub(crate) fn over(&self, below: &Self) -> Self {
        Self(self.0.iter().zip(&below.0).map(|(own, below)| own.or(*below)).collect())
    }

    /// All bytes of the disk.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.0.len() * CLUSTER_BYTES];
        for (cluster, content) in bytes.chunks_exact_mut(CLUSTER_BYTES).zip(&self.0) {
            if let Some(content) = content {
                fill(cluster, *content);
            }
        }
        bytes
    }

    /// The disk as a qcow2 image, version 3, whose data clusters are in a random order.
    pub(crate) fn as_qcow2(&self, backing: &Backing, numbers: &mut Numbers) -> Vec<u8> {
        let mut guests = self.clusters_with_content();
        for index in (1..guests.len()).rev() {
            let other = usize::try_from(numbers.below(index as u64 + 1)).expect("below the length");
            guests.swap(index, other);
        }
        self.as_qcow2_with(backing, &guests)
    }

    /// The disk as a qcow2 image, version 3, whose data clusters are in the order of the disk.
    pub(crate) fn as_ordered_qcow2(&self, backing: &Backing) -> Vec<u8> {
        self.as_qcow2_with(backing, &self.clusters_with_content())
    }

    fn clusters_with_content(&self) -> Vec<usize> {
        (0..self.0.len()).filter(|&guest| self.0[guest].is_some()).collect()
    }

    /// The disk as a qcow2 image, version 3, whose data clusters are those of `guests`, in this order.
    fn as_qcow2_with(&self, backing: &Backing, guests: &[usize]) -> Vec<u8> {
        let tables = self.0.len().div_ceil(L2_ENTRIES);
        // Header, refcount table, one refcount block, L1 table, L2 tables, data.
        let first_data = 4 + tables;
        let clusters = first_data + guests.len();
        assert!(clusters <= CLUSTER_BYTES / 2, "one refcount block is enough");
        let mut image = vec![0; clusters * CLUSTER_BYTES];
        image[..4].copy_from_slice(b"QFI\xfb");
        let offset = |cluster: usize| (cluster * CLUSTER_BYTES) as u64;
        let short = |number: usize| u32::try_from(number).expect("short").to_be_bytes();
        put(&mut image, 4, &3u32.to_be_bytes());
        put(&mut image, 20, &16u32.to_be_bytes());
        put(&mut image, 24, &offset(self.0.len()).to_be_bytes());
        put(&mut image, 36, &short(tables));
        put(&mut image, 40, &offset(3).to_be_bytes());
        put(&mut image, 48, &offset(1).to_be_bytes());
        put(&mut image, 56, &1u32.to_be_bytes());
        put(&mut image, 96, &4u32.to_be_bytes());
        put(&mut image, 100, &104u32.to_be_bytes());
        if let Backing::Named(name, format) = backing {
            put(&mut image, 104, &0xe279_2aca_u32.to_be_bytes());
            put(&mut image, 108, &short(format.len()));
            put(&mut image, 112, format.as_bytes());
            put(&mut image, 8, &512u64.to_be_bytes());
            put(&mut image, 16, &short(name.len()));
            put(&mut image, 512, name.as_bytes());
        }
        put(&mut image, CLUSTER_BYTES, &offset(2).to_be_bytes());
        for cluster in 0..clusters {
            put(&mut image, 2 * CLUSTER_BYTES + 2 * cluster, &1u16.to_be_bytes());
        }
        for table in 0..tables {
            put(&mut image, 3 * CLUSTER_BYTES + 8 * table, &(offset(4 + table) | COPIED).to_be_bytes());
        }
        for (index, &guest) in guests.iter().enumerate() {
            let host = offset(first_data + index);
            put(&mut image, 4 * CLUSTER_BYTES + 8 * guest, &(host | COPIED).to_be_bytes());
            let start = (first_data + index) * CLUSTER_BYTES;
            fill(&mut image[start..start + CLUSTER_BYTES], self.0[guest].expect("has content"));
        }
        image
    }
}

fn put(image: &mut [u8], offset: usize, bytes: &[u8]) {
    image[offset..offset + bytes.len()].copy_from_slice(bytes);
}

fn fill(cluster: &mut [u8], content: u64) {
    for (index, word) in cluster.chunks_exact_mut(8).enumerate() {
        word.copy_from_slice(&content.wrapping_mul(2 * index as u64 + 1).to_le_bytes());
    }
}
