//! Which layers of the jail hold here.

use super::finding::{Finding, Need, Trouble};
use crate::jail::{Jail, Layer, Purpose};

/// What is lost without a layer.
const ONE_WALL: Need = Need::For("one wall around the process that runs a guest, and --require-jail");

/// Closes the jail around this process, which can do little but print from then on.
pub(super) fn all(is_required: bool) -> Vec<Finding> {
    let need = if is_required { Need::Always } else { ONE_WALL };
    let jail = Jail { purpose: Purpose::Writing, ..Jail::default() };
    // Nothing is an error where nothing is demanded.
    let layers = jail.close().map(|layers| layers.all().map(|layer| finding(layer, need)).to_vec());
    layers.unwrap_or_default()
}

pub(super) fn finding(layer: &Layer, need: Need) -> Finding {
    let outcome = match layer.state() {
        Ok(detail) => Ok(detail.to_owned()),
        Err(reason) => Err(Trouble::new(reason, remedy(layer.name()))),
    };
    Finding::new(layer.name(), need, outcome)
}

fn remedy(layer: &str) -> &'static str {
    match layer {
        "landlock" => "use Linux 5.13 or newer, with landlock in the boot option lsm=",
        "seccomp" => {
            "use a kernel with CONFIG_SECCOMP_FILTER; in a container, a profile that lets prctl(2) and seccomp(2) through"
        }
        _ => "use Linux 3.5 or newer; in a container, a profile that lets prctl(2) through",
    }
}
