//! A vmdk image as the sandbox reported it: identifiers, type, extents. The report is hostile: everything is checked.

use instar_abi::report::{ExtentItem, VmdkItem, extent_flag, extent_kind};
use instar_abi::wire::Wire;

/// What only vmdk images have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmdkInfo {
    /// The image's content identifier.
    pub cid: u32,
    /// The one that its parent must have; all ones without parent.
    pub parent_cid: u32,
    /// What kind of image it is, such as `monolithicSparse`.
    pub create_type: Vec<u8>,
    /// The extents, in order.
    pub extents: Vec<VmdkExtent>,
    extent_count: usize,
    file_count: usize,
}

/// An extent of the disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmdkExtent {
    /// The word for its kind in descriptors; `None` where the image's own file is the extent.
    pub kind: Option<&'static str>,
    /// Its file, by number.
    pub file: Option<usize>,
    /// The file's name as recorded; empty for the image's own.
    pub name: Vec<u8>,
    /// Whether sizes and compression come from the file itself.
    pub is_inspected: bool,
    /// Whether its grains are compressed.
    pub is_compressed: bool,
    /// How much of the disk it is.
    pub virtual_size_bytes: u64,
    /// Length of a grain, where there are any.
    pub cluster_size_bytes: Option<u64>,
}

impl VmdkInfo {
    /// Reads a [`VmdkItem`] and its string. The extents are still to come.
    pub(super) fn decode(data: &[u8]) -> Option<Self> {
        let (head, create_type) = data.split_at_checked(VmdkItem::SIZE_BYTES)?;
        let item = VmdkItem::get(head);
        let length_fits = usize::try_from(item.create_type_length_bytes) == Ok(create_type.len());
        let (extent_count, file_count) = (item.extent_count.try_into().ok()?, item.file_count.try_into().ok()?);
        let info = Self {
            cid: item.cid,
            parent_cid: item.parent_cid,
            create_type: create_type.to_vec(),
            extents: Vec::new(),
            extent_count,
            file_count,
        };
        (length_fits && extent_count > 0 && file_count <= extent_count).then_some(info)
    }

    /// Reads an [`ExtentItem`] and its string. `None` if it does not fit here.
    pub(super) fn push(&mut self, data: &[u8]) -> Option<()> {
        let (head, name) = data.split_at_checked(ExtentItem::SIZE_BYTES)?;
        let item = ExtentItem::get(head);
        let kind = match item.kind {
            extent_kind::OWN => None,
            extent_kind::FLAT => Some("FLAT"),
            extent_kind::VMFS => Some("VMFS"),
            extent_kind::SPARSE => Some("SPARSE"),
            extent_kind::VMFS_SPARSE => Some("VMFSSPARSE"),
            extent_kind::SE_SPARSE => Some("SESPARSE"),
            _ => return None,
        };
        let file = usize::try_from(item.data_index).ok().filter(|index| *index < self.file_count);
        let files_so_far = self.files().len();
        let is_right = usize::try_from(item.name_length_bytes) == Ok(name.len())
            && self.extents.len() < self.extent_count
            && match (kind, file) {
                (None, None) => name.is_empty() && self.extent_count == 1,
                // Files are numbered in the order of their first extents, and a number has one name.
                (Some(_), Some(file)) if file == files_so_far => !name.is_empty(),
                (Some(_), Some(file)) => self.files().get(file) == Some(&name),
                _ => false,
            };
        is_right.then(|| {
            self.extents.push(VmdkExtent {
                kind,
                file,
                name: name.to_vec(),
                is_inspected: item.flags & extent_flag::INSPECTED != 0,
                is_compressed: item.flags & extent_flag::COMPRESSED != 0,
                virtual_size_bytes: item.virtual_size_bytes,
                cluster_size_bytes: Some(item.cluster_size_bytes).filter(|&size| size != 0),
            });
        })
    }

    /// Whether everything that was announced has come.
    pub(super) fn is_complete(&self) -> bool {
        self.extents.len() == self.extent_count && self.files().len() == self.file_count
    }

    /// The names of the files besides the image's own, by number.
    #[must_use]
    pub fn files(&self) -> Vec<&[u8]> {
        let mut files = Vec::new();
        for extent in &self.extents {
            if extent.file == Some(files.len()) {
                files.push(&*extent.name);
            }
        }
        files
    }

    /// Whether all extents are of one kind, so that the image as a whole has a cluster size, or has none.
    #[must_use]
    pub fn is_uniform(&self) -> bool {
        let kind = |extent: &VmdkExtent| (extent.is_compressed, extent.cluster_size_bytes);
        self.extents.windows(2).all(|pair| kind(&pair[0]) == kind(&pair[1]))
    }
}

#[cfg(test)]
mod tests {
    use instar_abi::job::{MAX_NAME_BYTES, format};
    use instar_abi::report::{InfoReport, PayloadItem, info_flag, payload_kind};
    use proptest::prelude::*;

    use super::super::render::{render_human, render_json};
    use super::super::{FileFacts, ImageEntry, ImageInfo};
    use super::*;

    fn wire<T: Wire>(value: &T) -> Vec<u8> {
        let mut bytes = vec![0; T::SIZE_BYTES];
        value.put(&mut bytes);
        bytes
    }

    fn image(extent_count: u32, file_count: u32) -> Vec<u8> {
        let item = VmdkItem {
            cid: 0x0a0b_0c0d,
            parent_cid: 0x180e_628f,
            extent_count,
            file_count,
            create_type_length_bytes: 20,
            reserved: 0,
        };
        [wire(&item), b"twoGbMaxExtentSparse".to_vec()].concat()
    }

    fn extent(kind: u32, data_index: u32, name: &str, virtual_size_bytes: u64) -> Vec<u8> {
        let item = ExtentItem {
            kind,
            flags: extent_flag::INSPECTED,
            data_index,
            name_length_bytes: u32::try_from(name.len()).unwrap(),
            virtual_size_bytes,
            cluster_size_bytes: 65536,
        };
        [wire(&item), name.as_bytes().to_vec()].concat()
    }

    fn decode(image: &[u8], extents: &[Vec<u8>]) -> Option<VmdkInfo> {
        let mut info = VmdkInfo::decode(image)?;
        extents.iter().try_for_each(|extent| info.push(extent))?;
        info.is_complete().then_some(info)
    }

    #[test]
    fn files_are_the_names_without_repetition() {
        let flat = |index, name| extent(extent_kind::FLAT, index, name, 512);
        let info = decode(&image(3, 2), &[flat(0, "a"), flat(1, "b"), flat(0, "a")]).unwrap();
        assert_eq!(info.files(), [b"a", b"b"]);
        assert!(info.is_uniform());
    }

    #[test]
    fn refuse_extents_that_do_not_fit_each_other() {
        let flat = |index, name| extent(extent_kind::FLAT, index, name, 512);
        let own = extent(extent_kind::OWN, u32::MAX, "", 512);
        assert!(decode(&image(1, 0), std::slice::from_ref(&own)).is_some());
        for (image, extents) in [
            (image(0, 0), vec![]),
            (image(1, 2), vec![flat(0, "a")]),
            (image(1, 1), vec![]),
            (image(1, 1), vec![flat(0, "a"), flat(0, "a")]),
            (image(1, 1), vec![flat(0, "")]),
            (image(2, 2), vec![flat(1, "a"), flat(0, "b")]),
            (image(2, 1), vec![flat(0, "a"), flat(0, "b")]),
            (image(2, 0), vec![own.clone(), own.clone()]),
            (image(1, 1), vec![own]),
            (image(1, 1), vec![extent(77, 0, "a", 512)]),
        ] {
            assert_eq!(decode(&image, &extents), None);
        }
    }

    #[test]
    fn an_image_of_several_files_as_a_whole() {
        let padded = |name: &[u8]| {
            let mut field = [0; MAX_NAME_BYTES];
            field[..name.len()].copy_from_slice(name);
            field
        };
        let report = InfoReport {
            format: format::VMDK,
            flags: info_flag::HAS_BACKING | info_flag::HAS_BACKING_FORMAT,
            version: 0,
            refcount_bits: 0,
            virtual_size_bytes: 3 << 30,
            cluster_size_bytes: 65536,
            l1_entries: 96,
            backing_name_length_bytes: 9,
            backing_format_length_bytes: 4,
            data_file_name_length_bytes: 0,
            reserved: 0,
            backing_name: padded(b"base.vmdk"),
            data_file_name: [0; MAX_NAME_BYTES],
            backing_format: *b"vmdk\0\0\0\0\0\0\0\0\0\0\0\0",
        };
        let payload: Vec<u8> = [
            (payload_kind::VMDK, image(2, 2)),
            (payload_kind::EXTENT, extent(extent_kind::SPARSE, 0, "disk-s001.vmdk", 2 << 30)),
            (payload_kind::EXTENT, extent(extent_kind::SPARSE, 1, "disk-s002.vmdk", 1 << 30)),
        ]
        .into_iter()
        .flat_map(|(kind, data)| {
            let length_bytes = u32::try_from(data.len()).unwrap();
            [wire(&PayloadItem { kind, length_bytes }), data].concat()
        })
        .collect();
        let file = |name: &str, length_bytes, allocated_bytes| FileFacts {
            filename: name.into(),
            length_bytes,
            allocated_bytes,
        };
        let entry = ImageEntry {
            info: ImageInfo::decode(&wire(&report), &payload).unwrap(),
            file: file("vm/disk.vmdk", 458, 4096),
            data_file: None,
            extent_files: vec![file("vm/disk-s001.vmdk", 327_680, 12288), file("vm/disk-s002.vmdk", 196_608, 12288)],
        };
        let version = "10.0.2".parse().unwrap();
        let json = render_json(std::slice::from_ref(&entry), version, false);
        assert_eq!(String::from_utf8(json).unwrap(), include_str!("testdata/vmdk-10.0.2.json"));
        let human = render_human(&[entry], version, &|_| String::new());
        assert_eq!(human, include_str!("testdata/vmdk-10.0.2.txt"));
    }

    proptest! {
        #[test]
        fn arbitrary_items_never_panic(
            image in proptest::collection::vec(any::<u8>(), 0..64),
            extents in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..4),
        ) {
            let _ = decode(&image, &extents);
        }
    }
}
