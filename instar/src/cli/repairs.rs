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
        let lines = wording(image);
        if lines.is_empty() {
            continue;
        }
        if depth != 0 {
            // qemu-img repairs nothing but the image on the command line, so nobody expects this.
            let name = Printable(layer.image.name());
            warn(&format!("'{name}' was not closed properly; it is repaired first:"));
        }
        complain(lines.trim_end());
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
    use std::os::unix::ffi::OsStrExt;

    use instar_abi::job::format;
    use proptest::prelude::*;

    use super::super::output::keep;
    use super::*;
    use crate::files::chain::Summary;
    use crate::files::{Access, LayerKey, Location, Origin, open_operand};

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

    /// Images whose names move the cursor, end lines and look like other lines.
    fn evil_layers(directory: &std::path::Path) -> Vec<Layer> {
        let layer = |name: &str| {
            let path = directory.join(name);
            std::fs::write(&path, b"").expect("a file");
            Layer {
                image: open_operand(path.as_os_str().as_bytes(), Access::Look).expect("opens"),
                data: None,
                extents: Vec::new(),
                summary: Summary::default(),
                given_format: format::QCOW2,
                location: Location { origin: Origin::OverlayDirectory, path: name.as_bytes().to_vec() },
                recorded: None,
                key: LayerKey::default(),
            }
        };
        ["top\u{1b}[2J", "base\nImage committed.", "third\u{202e}"].map(layer).into()
    }

    fn items() -> impl Strategy<Value = Vec<u8>> {
        let number = || prop_oneof![0..4u64, any::<u64>()];
        let known = (0..4u32, 0..6u32, number(), number(), number());
        let item = known.prop_map(|(layer, kind, subject, recorded, references)| {
            let mut bytes = vec![0; RepairItem::SIZE_BYTES];
            RepairItem { layer, kind, subject, recorded, references }.put(&mut bytes);
            bytes
        });
        let cut = prop::collection::vec(any::<u8>(), 0..RepairItem::SIZE_BYTES);
        let some = (prop::collection::vec(item, 0..20), cut).prop_map(|(items, rest)| [items.concat(), rest].concat());
        prop_oneof![some, prop::collection::vec(any::<u8>(), 0..2000)]
    }

    /// Says what the host prints of a payload.
    fn told(layers: &[Layer], payload: &[u8]) -> String {
        String::from_utf8(keep(|| tell(layers, payload)).1.err).expect("text")
    }

    #[test]
    fn a_flood_of_repairs_is_cut_off() {
        let directory = tempfile::tempdir().expect("a directory");
        let layers = evil_layers(directory.path());
        let mut one = vec![0; RepairItem::SIZE_BYTES];
        item(repair_kind::L1_FLAG, u64::MAX, u64::MAX, u64::MAX).put(&mut one);
        let said = told(&layers, &one.repeat(8 * ITEMS_MAX));
        assert_eq!(said.lines().count(), ITEMS_MAX);
    }

    proptest! {
        #[test]
        fn no_payload_puts_anything_but_numbers_between_known_words(payload in items()) {
            const BEGINNINGS: [&str; 6] =
                ["ERROR cluster ", "Leaked cluster ", "Repairing ", "Rebuilding refcount structure", "... and ", "instar: warning: '"];
            let directory = tempfile::tempdir().expect("a directory");
            let layers = evil_layers(directory.path());
            let said = told(&layers, &payload);
            for line in said.lines() {
                prop_assert!(BEGINNINGS.iter().any(|beginning| line.starts_with(beginning)), "{:?}", line);
            }
            let shown = said.replace(&directory.path().display().to_string(), "");
            prop_assert!(shown.chars().all(|one| one == '\n' || one.is_ascii_graphic() || one == ' '), "{:?}", said);
            // Two lines for each refcount, one for all of an image's lost ones, one in front of each image.
            prop_assert!(said.lines().count() <= 4 * (payload.len() / RepairItem::SIZE_BYTES));
        }
    }
}
