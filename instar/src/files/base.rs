//! Which image of a chain the user means by the name of a base.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::chain::Layer;
use super::keys::ImageKeys;
use super::name::{LocalName, protocol};
use super::policy::Gate;

/// The layer that `operand` names: its index in the chain, never 0.
///
/// The operand is compared with each link's recorded name, both taken from the directory of the image that holds the
/// link and with symbolic links resolved. Where a protocol stands in front of one of them only the same words match.
pub fn find_base(gate: &Gate, layers: &[Layer], operand: &[u8]) -> Option<usize> {
    layers.windows(2).position(|pair| names(gate, &pair[0], &pair[1], operand)).map(|holder| holder + 1)
}

fn names(gate: &Gate, holder: &Layer, link: &Layer, operand: &[u8]) -> bool {
    let Some(recorded) = &link.recorded else { return false };
    if protocol(operand).is_some() || protocol(recorded).is_some() {
        return operand == recorded;
    }
    let operand =
        LocalName { path: operand.to_vec(), from_working_directory: false, driver: None, keys: ImageKeys::default() };
    let named = holder.location.join(&operand).shown(gate.overlay_directory());
    fs::canonicalize(Path::new(OsStr::from_bytes(&named))).is_ok_and(|path| path == *link.image.canonical())
}
