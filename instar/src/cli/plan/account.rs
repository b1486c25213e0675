//! A plan as data, and as JSON: what would become of every file that may be written.

use instar_abi::report::{RepairItem, repair_kind};
use instar_abi::wire::Wire;
use serde::Serialize;

use super::map::Map;
use crate::cli::job::Devices;
use crate::cli::sandbox::Rehearsed;
use crate::devices::Effects;
use crate::files::chain::Layer;
use crate::files::driver;

/// What a plan is about.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Subject<'a> {
    /// The planned command.
    pub(in crate::cli) command: &'static str,
    /// All layers that take part, in the order of the job.
    pub(in crate::cli) layers: &'a [Layer],
    /// The layer that receives data.
    pub(in crate::cli) target: usize,
}

/// What the command itself would report.
#[derive(Clone, Copy, Debug, Serialize)]
pub(in crate::cli) struct Moves {
    /// Bytes of the disk that the target would receive.
    pub(in crate::cli) bytes: u64,
    /// Clusters that they lie in.
    pub(in crate::cli) clusters: u64,
    /// Clusters that the overlay would give up.
    pub(in crate::cli) cleared_clusters: u64,
    /// Whether the overlay would be deleted.
    pub(in crate::cli) deletes_overlay: bool,
}

/// A plan.
#[derive(Debug, Serialize)]
pub(super) struct Account {
    pub(super) command: &'static str,
    pub(super) moves: Moves,
    pub(super) layers: Vec<PlannedLayer>,
    /// Every file that may be written.
    pub(super) files: Vec<PlannedFile>,
}

/// An image that takes part.
#[derive(Debug, Serialize)]
pub(super) struct PlannedLayer {
    pub(super) filename: String,
    pub(super) format: &'static str,
    pub(super) virtual_size_bytes: u64,
    /// Whether it receives data.
    pub(super) is_target: bool,
    /// Entries of its tables that would be corrected first, because it was not closed properly.
    pub(super) repairs: u64,
}

/// What would become of a file.
#[derive(Debug, Serialize)]
pub(super) struct PlannedFile {
    pub(super) filename: String,
    /// The number of its layer.
    pub(super) layer: usize,
    pub(super) length_bytes: u64,
    pub(super) planned_length_bytes: u64,
    pub(super) copied: Amount,
    pub(super) written: Amount,
    pub(super) zeroed: Amount,
    pub(super) released: Amount,
    pub(super) newly_stored_bytes: u64,
    pub(super) freed_bytes: u64,
}

/// How much, and in how many pieces.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Amount {
    pub(super) bytes: u64,
    pub(super) extents: u64,
}

/// What only has to do with the lengths of files.
#[derive(Serialize)]
struct Measure<'a> {
    filename: &'a str,
    length_bytes: u64,
    planned_length_bytes: u64,
    newly_stored_bytes: u64,
}

#[derive(Serialize)]
struct Whole<'a> {
    #[serde(flatten)]
    account: &'a Account,
    /// `null` where the layers could not be looked at.
    map: Option<&'a Map>,
}

impl Account {
    pub(super) fn new(subject: &Subject<'_>, moves: &Moves, rehearsed: &Rehearsed, devices: &Devices<'_>) -> Self {
        let layers = subject.layers.iter().enumerate().map(|(index, layer)| PlannedLayer {
            filename: text(layer.image.name()),
            format: driver::name(layer.summary.format).unwrap_or("unknown"),
            virtual_size_bytes: layer.summary.virtual_size_bytes,
            is_target: index == subject.target,
            repairs: repairs(&rehearsed.answer.payload, index),
        });
        let files = (0..).zip(subject.layers).flat_map(|(index, layer)| layer.files().map(move |file| (index, file)));
        let files = files.zip(devices.files()).zip(&rehearsed.effects).filter(|((_, device), _)| device.writable);
        Self {
            command: subject.command,
            moves: *moves,
            layers: layers.collect(),
            files: files.map(|(((layer, file), _), effects)| PlannedFile::new(layer, file.name(), effects)).collect(),
        }
    }

    /// The files of the image that receives data.
    pub(super) fn target_files(&self) -> impl Iterator<Item = &PlannedFile> {
        self.files.iter().filter(|file| self.layers.get(file.layer).is_some_and(|layer| layer.is_target))
    }

    pub(super) fn as_json(&self, map: Option<&Map>) -> String {
        json(&Whole { account: self, map })
    }

    pub(super) fn measure_as_json(&self) -> String {
        let measures = self.target_files().map(|file| Measure {
            filename: &file.filename,
            length_bytes: file.length_bytes,
            planned_length_bytes: file.planned_length_bytes,
            newly_stored_bytes: file.newly_stored_bytes,
        });
        json(&measures.collect::<Vec<_>>())
    }
}

impl PlannedFile {
    fn new(layer: usize, name: &[u8], effects: &Effects) -> Self {
        let amount = |bytes, extents| Amount { bytes, extents };
        Self {
            filename: text(name),
            layer,
            length_bytes: effects.length_before,
            planned_length_bytes: effects.length_after,
            copied: amount(effects.copied_bytes, effects.copied_extents),
            written: amount(effects.written_bytes, effects.written_extents),
            zeroed: amount(effects.zeroed_bytes, effects.zeroed_extents),
            released: amount(effects.released_bytes, effects.released_extents),
            newly_stored_bytes: effects.newly_stored_bytes,
            freed_bytes: effects.freed_bytes,
        }
    }
}

fn text(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}

/// How many corrections of a layer a payload lists.
fn repairs(payload: &[u8], layer: usize) -> u64 {
    let items = payload
        .chunks_exact(RepairItem::SIZE_BYTES)
        .map(RepairItem::get)
        .filter(|item| usize::try_from(item.layer).is_ok_and(|own| own == layer));
    let counts = items.map(|item| if item.kind == repair_kind::MORE { item.subject } else { 1 });
    counts.fold(0, u64::saturating_add)
}

/// Indented by four spaces, as all results of this program are.
fn json(value: &impl Serialize) -> String {
    let mut bytes = Vec::new();
    let formatter = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    // Maps with text for keys, numbers and text can always be written to memory.
    let _ = value.serialize(&mut serializer);
    bytes.push(b'\n');
    String::from_utf8_lossy(&bytes).into_owned()
}
