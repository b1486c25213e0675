//! Tells what the sandbox has corrected in images that were not closed properly, in qemu-img's words where it has any.

use std::fmt::Write;

use instar_abi::report::{RepairItem, repair_kind};
use instar_abi::wire::Wire;

use super::output::{complain, warn};
use crate::files::chain::Layer;
use crate::text::Printable;

/// The most corrections that are told, whatever the sandbox says: it tells no more of a chain itself.
const ITEMS_MAX: usize = 4096;

/// Prints what a payload says about the layers of a chain.
pub(super) fn tell(layers: &[Layer], payload: &[u8]) {
    let items = payload.chunks_exact(RepairItem::SIZE_BYTES).take(ITEMS_MAX).map(RepairItem::get);
    let items: Vec<RepairItem> = items.collect();
    for image in items.chunk_by(|left, right| left.layer == right.layer) {
        let depth = usize::try_from(image[0].layer).unwrap_or(usize::MAX);
        let Some(layer) = layers.get(depth) else { continue };
        if depth != 0 {
            // qemu-img repairs nothing but the image on the command line, so nobody expects this.
            let name = Printable(layer.image.name());
            warn(&format!("'{name}' was not closed properly; it is repaired first:"));
        }
        complain(wording(image).trim_end());
    }
}

/// The lines about one image.
fn wording(items: &[RepairItem]) -> String {
    let mut found = String::new();
    let mut corrected = String::new();
    let mut flags = String::new();
    let mut has_lost = false;
    // Writing to a string cannot fail.
    for RepairItem { kind, subject, recorded, references, .. } in items {
        let _ = match *kind {
            repair_kind::REFCOUNT => {
                has_lost |= *recorded == 0;
                let word = if recorded < references { "ERROR" } else { "Leaked" };
                let what = format!("cluster {subject} refcount={recorded} reference={references}");
                writeln!(found, "{word} {what}").and_then(|()| writeln!(corrected, "Repairing {what}"))
            }
            repair_kind::L1_FLAG => writeln!(
                flags,
                "Repairing OFLAG_COPIED L2 cluster: l1_index={subject} l1_entry={recorded:x} refcount={references}"
            ),
            repair_kind::L2_FLAG => {
                writeln!(flags, "Repairing OFLAG_COPIED data cluster: l2_entry={recorded:x} refcount={references}")
            }
            repair_kind::MORE => writeln!(flags, "... and {subject} more"),
            _ => Ok(()),
        };
    }
    if has_lost {
        "Rebuilding refcount structure\n".clone_into(&mut corrected);
    }
    found + &corrected + &flags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(kind: u32, subject: u64, recorded: u64, references: u64) -> RepairItem {
        RepairItem { layer: 0, kind, subject, recorded, references }
    }

    #[test]
    fn refcounts_are_told_as_qemu_img_tells_them() {
        let items = [
            item(repair_kind::REFCOUNT, 5, 1, 2),
            item(repair_kind::REFCOUNT, 7, 3, 1),
            item(repair_kind::L2_FLAG, 0, 0x8000_0000_0005_0000, 2),
            item(repair_kind::L1_FLAG, 0, 0x40000, 1),
            item(99, 0, 0, 0),
        ];
        let expected = "ERROR cluster 5 refcount=1 reference=2\n\
            Leaked cluster 7 refcount=3 reference=1\n\
            Repairing cluster 5 refcount=1 reference=2\n\
            Repairing cluster 7 refcount=3 reference=1\n\
            Repairing OFLAG_COPIED data cluster: l2_entry=8000000000050000 refcount=2\n\
            Repairing OFLAG_COPIED L2 cluster: l1_index=0 l1_entry=40000 refcount=1\n";
        assert_eq!(wording(&items), expected);
    }

    #[test]
    fn clusters_without_a_refcount_are_told_in_one() {
        let items = [item(repair_kind::REFCOUNT, 5, 0, 1), item(repair_kind::MORE, 2, 0, 0)];
        let expected = "ERROR cluster 5 refcount=0 reference=1\nRebuilding refcount structure\n... and 2 more\n";
        assert_eq!(wording(&items), expected);
    }
}
