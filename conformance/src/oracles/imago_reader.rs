//! The content digest through the imago crate, for chains of qcow2 and raw files without subclusters, zstd and `json:` names.

use crate::digest::{BLOCK, ContentDigest};
use crate::image::MAX_PIECES;
use imago::file::File;
use imago::qcow2::Qcow2;
use imago::{FormatAccess, FormatDriverBuilder, PermissiveImplicitOpenGate};
use std::path::Path;

/// Reads the guest's view of the qcow2 file at `path`.
pub(super) fn digest(path: &Path) -> Result<String, String> {
    let image =
        Qcow2::<File>::builder_path(path).open(PermissiveImplicitOpenGate::default()).map_err(|e| e.to_string())?;
    let image = FormatAccess::new(image);
    let size = image.size();
    let mut digest = ContentDigest::default();
    let mut index = 0;
    let mut steps = 0;
    while index < size.div_ceil(BLOCK) {
        steps += 1;
        if steps > MAX_PIECES {
            return Err(format!("more than {MAX_PIECES} pieces"));
        }
        let start = index * BLOCK;
        let (mapping, length) = image.get_mapping(start, size - start).map_err(|e| e.to_string())?;
        if matches!(mapping, imago::Mapping::Zero { .. }) && length >= BLOCK {
            index += length / BLOCK;
            continue;
        }
        let mut block = vec![0; usize::try_from(BLOCK).expect("64 KiB fit")];
        let count = usize::try_from(BLOCK.min(size - start)).expect("64 KiB fit");
        image.read(&mut block[..count], start).map_err(|e| e.to_string())?;
        digest.block(index, &block);
        index += 1;
    }
    Ok(digest.finish(size))
}
