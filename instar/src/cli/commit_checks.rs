//! What is asked of a chain before `commit` changes anything: what may happen to the overlay, and who else would notice.

use instar_abi::job::format;

use super::arguments::CommitArguments;
use super::error::Failure;
use super::info::ImageInfo;
use super::inspector::Inspector;
use super::operand::gate_options;
use super::output::warn;
use super::sandbox::Sandbox;
use crate::code::Code;
use crate::files::chain::Layer;
use crate::files::{driver, find_siblings};
use crate::text::Printable;

/// What becomes of the overlay once the base has what it held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Afterwards {
    /// It stays as it is.
    Keep,
    /// It is emptied, where its format can be.
    Empty,
    /// It is deleted.
    Delete,
}

impl Afterwards {
    /// What the options ask for.
    ///
    /// # Errors
    /// Options that contradict each other.
    pub(super) fn choose(arguments: &CommitArguments) -> Result<Self, Failure> {
        let exclusive = |options: &str| Err(Failure::Option(format!("{options} are mutually exclusive")));
        match (arguments.empty, arguments.delete_overlay, arguments.drop) {
            (true, true, _) => exclusive("--empty and --delete-overlay"),
            (true, _, true) => exclusive("--empty and --drop"),
            (_, true, _) => Ok(Self::Delete),
            (true, ..) => Ok(Self::Empty),
            (.., drop) => Ok(if drop || arguments.base.is_some() { Self::Keep } else { Self::Empty }),
        }
    }

    /// Refuses what would lose data, or cannot be done with this overlay. `base` is the base's place in the chain.
    ///
    /// # Errors
    /// The refusals.
    pub(super) fn check(self, arguments: &CommitArguments, layers: &[Layer], base: usize) -> Result<(), Failure> {
        let overlay = &layers[0];
        let name = |layer: usize| Printable(layers[layer].image.name());
        let refused = |text: String| {
            let (image, text) = (overlay.image.name().to_vec(), text.into_bytes());
            Err(Failure::Image { code: Code::Refused, image, text })
        };
        match self {
            Self::Empty if arguments.empty && base != 1 => refused(format!(
                "--empty: it would show '{}' again, which is older than what '{}' receives; it can only be emptied into the \
                 image right below it",
                name(1),
                name(base)
            )),
            Self::Empty if arguments.empty && !can_be_emptied(overlay) => {
                let name = driver::name(overlay.summary.format).unwrap_or("this");
                refused(format!("--empty: images of format {name} cannot be emptied"))
            }
            Self::Delete if overlay.image.is_block_device() => {
                refused("--delete-overlay: it is a block device, which cannot be deleted".to_owned())
            }
            Self::Delete if overlay.files().count() > 1 => {
                refused("--delete-overlay: it consists of several files, of which only one would go".to_owned())
            }
            Self::Delete if has_snapshots(overlay) && !arguments.force => refused(
                "--delete-overlay: its internal snapshots would be lost; --force deletes it all the same".to_owned(),
            ),
            _ => Ok(()),
        }
    }
}

/// Whether the sandbox knows how to empty an image.
fn can_be_emptied(layer: &Layer) -> bool {
    matches!(layer.summary.format, format::QCOW2 | format::QCOW | format::VMDK)
}

/// Warns of internal snapshots that will show something else afterwards: where they hold nothing themselves, they read from
/// the base.
pub(super) fn warn_of_snapshots(layers: &[Layer], base: usize) {
    for layer in layers[..base].iter().filter(|layer| has_snapshots(layer)) {
        warn(&format!(
            "'{}' has internal snapshots; where they read from '{}', they will show the changed data",
            Printable(layer.image.name()),
            Printable(layers[base].image.name())
        ));
    }
}

fn has_snapshots(layer: &Layer) -> bool {
    ImageInfo::decode(&layer.summary.report, &layer.summary.payload).is_ok_and(|info| !info.snapshots.is_empty())
}

/// Looks for other overlays in the directories that the user has named.
///
/// # Errors
/// A directory that cannot be read; other overlays, unless they are to be passed over.
pub(super) fn check_siblings(
    arguments: &CommitArguments,
    layers: &[Layer],
    base: usize,
    sandbox: &mut impl Sandbox,
) -> Result<(), Failure> {
    let options = gate_options(&arguments.gate, None);
    let mut overlays = Vec::new();
    for directory in &arguments.sibling_directories {
        let found = find_siblings(directory, &options, layers, base, &mut Inspector(sandbox)).map_err(Failure::File)?;
        for (name, reason) in found.unknown {
            let (name, reason) = (Printable(&name), Printable(reason.as_bytes()));
            warn(&format!("Could not tell what '{name}' is based on: {reason}"));
        }
        overlays.extend(found.overlays);
    }
    if overlays.is_empty() {
        return Ok(());
    }
    let base = layers[base].image.name().to_vec();
    if !arguments.force {
        return Err(Failure::Siblings { base, overlays });
    }
    for overlay in overlays {
        let (base, overlay) = (Printable(&base), Printable(&overlay));
        warn(&format!("'{overlay}' reads from '{base}' too and will show the changed data"));
    }
    Ok(())
}
