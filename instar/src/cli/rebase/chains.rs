//! The images of a rebase: the overlay and its old chain, and behind them what only the new chain has.

use instar_abi::job::{MAX_DEVICES, format};

use super::RebaseFailure;
use crate::cli::error::Failure;
use crate::cli::inspector::Inspector;
use crate::cli::sandbox::Sandbox;
use crate::files::chain::{ChainError, Layer, discover_named, open_named};
use crate::files::policy::Gate;
use crate::files::{Access, Cause, driver, find_base};

/// All layers, in the order of the job.
pub(super) struct Chains {
    /// The overlay, its old chain, and what only the new chain has.
    pub(super) layers: Vec<Layer>,
    /// Number of layers in the old chain.
    pub(super) old_layers: usize,
    /// The layer of the old chain in which the new chain goes on; one behind its last where it does not.
    pub(super) join_layer: usize,
}

/// The new backing file as the user names it.
#[derive(Clone, Copy)]
pub(super) struct Named<'a> {
    /// Its name, never empty.
    pub(super) name: &'a [u8],
    /// Its format, or [`format::PROBE`].
    pub(super) format: u32,
    /// How to open it.
    pub(super) access: Access,
}

impl Chains {
    /// An overlay with its old chain, which is to have no backing file any more.
    pub(super) fn detached(layers: Vec<Layer>) -> Self {
        Self { old_layers: layers.len() - 1, join_layer: layers.len(), layers }
    }

    /// A vmdk overlay alone, and the new backing file if that is a vmdk image that can be read: the overlay records its
    /// content identifier.
    pub(super) fn with_parent_of_vmdk(
        layers: Vec<Layer>,
        gate: &Gate,
        named: Named<'_>,
        sandbox: &mut impl Sandbox,
    ) -> Self {
        let mut chains = Self::detached(layers);
        // The file need not exist, and may even be the overlay; what is known of it is better than nothing.
        let overlay = &chains.layers[0];
        let opened = open_named(gate, overlay, named.name, named.format, named.access, &mut Inspector(sandbox));
        let is_known = |parent: &Layer| {
            parent.summary.format == format::VMDK && parent.image.identity() != overlay.image.identity()
        };
        let parent = opened.ok().filter(is_known);
        chains.layers.extend(parent);
        chains
    }

    /// An overlay with its old chain, which is to have the new backing file.
    ///
    /// # Errors
    /// If the new backing file cannot be opened with everything below it, or leads back to the overlay.
    pub(super) fn with_new_backing(
        layers: Vec<Layer>,
        gate: &Gate,
        named: Named<'_>,
        sandbox: &mut impl Sandbox,
    ) -> Result<Self, Failure> {
        let mut chains = Self::detached(layers);
        if let Some(layer) = find_base(gate, &chains.layers, named.name) {
            chains.check_format(layer, named)?;
            chains.join_layer = layer;
            return Ok(chains);
        }
        let opened =
            discover_named(gate, &chains.layers[0], named.name, named.format, named.access, &mut Inspector(sandbox));
        let new = opened.map_err(|error| match error {
            ChainError::Open(error) => not_opened(named, error.backing_depth, error.cause),
            ChainError::Sandbox { image, error } => Failure::Sandbox { image, error },
        })?;
        for (depth, layer) in new.into_iter().enumerate() {
            let identity = layer.image.identity();
            let known = chains.layers[..=chains.old_layers].iter().position(|old| old.image.identity() == identity);
            match known {
                Some(0) => {
                    let cause = Cause::Loop(layer.image.name().to_vec());
                    return Err(not_opened(named, depth, cause));
                }
                // The same file in another format is another image.
                Some(old) if chains.layers[old].summary.format == layer.summary.format => {
                    chains.join_layer = old;
                    break;
                }
                _ => chains.layers.push(layer),
            }
        }
        let devices: usize = chains.layers.iter().map(|layer| layer.files().count()).sum();
        if devices > MAX_DEVICES {
            return Err(not_opened(named, 0, Cause::TooDeep(MAX_DEVICES)));
        }
        Ok(chains)
    }

    /// Refuses a format for an image of the old chain that is open in another one: the header would name it, and the
    /// overlay would read as something else from then on.
    fn check_format(&self, layer: usize, named: Named<'_>) -> Result<(), Failure> {
        let open = self.layers[layer].summary.format;
        if named.format == format::PROBE || named.format == open {
            return Ok(());
        }
        let name = |number| driver::name(number).unwrap_or("another format");
        let text = format!("The image is part of the present chain as {}, not {}", name(open), name(named.format));
        Err(Failure::Rebase(RebaseFailure::Header { name: Some(named.name.to_vec()), text: text.into_bytes() }))
    }
}

fn not_opened(named: Named<'_>, backing_depth: usize, cause: Cause) -> Failure {
    Failure::Rebase(RebaseFailure::NewBacking { name: named.name.to_vec(), backing_depth, cause })
}
