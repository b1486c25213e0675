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
