//! What was corrected in images that were not closed properly, for the host to tell.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::report::{RepairItem, repair_kind};
use instar_abi::wire::Wire;

/// The most items that are listed of one image; what is beyond is counted.
const ITEMS_PER_IMAGE_MAX: u64 = 1024;

/// A list of corrections.
#[derive(Debug, Default)]
pub struct Repairs {
    items: Vec<RepairItem>,
    /// Corrections in the image that is being repaired.
    count: u64,
}

impl Repairs {
    /// Adds a correction.
    pub(crate) fn push(&mut self, item: RepairItem) {
        self.count += 1;
        if self.count <= ITEMS_PER_IMAGE_MAX {
            self.items.push(item);
        }
    }

    /// Everything in the image of `layer` has been corrected.
    pub(crate) fn finish(&mut self, layer: u32) {
        let unlisted = core::mem::take(&mut self.count).saturating_sub(ITEMS_PER_IMAGE_MAX);
        if unlisted != 0 {
            self.items.push(RepairItem {
                layer,
                kind: repair_kind::MORE,
                subject: unlisted,
                recorded: 0,
                references: 0,
            });
        }
    }

    /// The list as the host reads it.
    pub fn payload(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.items.len() * RepairItem::SIZE_BYTES];
        for (place, item) in bytes.chunks_exact_mut(RepairItem::SIZE_BYTES).zip(&self.items) {
            item.put(place);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_ends_with_a_count() {
        let item = RepairItem { layer: 1, kind: repair_kind::REFCOUNT, subject: 5, recorded: 0, references: 1 };
        let mut repairs = Repairs::default();
        for _ in 0..ITEMS_PER_IMAGE_MAX + 3 {
            repairs.push(item.clone());
        }
        repairs.finish(1);
        repairs.push(RepairItem { layer: 2, ..item });
        repairs.finish(2);
        let payload = repairs.payload();
        let items: Vec<RepairItem> = payload.chunks_exact(RepairItem::SIZE_BYTES).map(RepairItem::get).collect();
        assert_eq!(items.len(), 1024 + 2);
        assert_eq!((items[1024].kind, items[1024].subject), (repair_kind::MORE, 3));
        assert_eq!(items[1025].layer, 2);
    }
}
