//! What each layer holds in each part of the disk: asked of the sandbox, and taken for hostile.

use instar_abi::job::{MapJob, operation};
use instar_abi::report::{MapCell, MapReport, error_kind};
use instar_abi::wire::Wire;
use serde::Serialize;

use super::{Subject, rehearse};
use crate::cli::error::Failure;
use crate::cli::job::Devices;
use crate::cli::sandbox::Sandbox;
use crate::code::Code;
use crate::files::OpenError;
use crate::vm::VmError;

/// Into how many parts the disk is cut.
const COLUMNS: u32 = 64;

/// The map of a chain.
#[derive(Debug, Serialize)]
pub(super) struct Map {
    /// Size of the largest disk.
    pub(super) size_bytes: u64,
    /// How much of it a cell stands for; the last one may stand for less.
    pub(super) column_bytes: u64,
    /// One row a layer.
    pub(super) rows: Vec<Vec<Cell>>,
}

/// What one layer holds in one part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Cell {
    pub(super) data_bytes: u64,
    pub(super) compressed_bytes: u64,
    pub(super) zero_bytes: u64,
}

impl Map {
    fn decode(own: &[u8], payload: &[u8], layers: usize) -> Option<Self> {
        let report = (own.len() >= MapReport::SIZE_BYTES).then(|| MapReport::get(own))?;
        let columns = usize::try_from(report.column_count).ok().filter(|columns| *columns <= COLUMNS as usize)?;
        let covered = report.column_bytes.checked_mul(report.column_count.into())?;
        let covers = covered >= report.size_bytes && covered - report.size_bytes < report.column_bytes.max(1);
        let fits = usize::try_from(report.layer_count).is_ok_and(|count| count == layers)
            && payload.len() == layers * columns * MapCell::SIZE_BYTES;
        if !covers || !fits {
            return None;
        }
        let cells: Vec<Cell> =
            payload.chunks_exact(MapCell::SIZE_BYTES).map(|cell| Cell::from(&MapCell::get(cell))).collect();
        let rows =
            if columns == 0 { vec![Vec::new(); layers] } else { cells.chunks(columns).map(<[Cell]>::to_vec).collect() };
        Some(Self { size_bytes: report.size_bytes, column_bytes: report.column_bytes, rows })
    }

    /// How much of the disk a column stands for.
    pub(super) fn bytes_of_column(&self, column: usize) -> u64 {
        let start = self.column_bytes.saturating_mul(column as u64);
        self.size_bytes.saturating_sub(start).min(self.column_bytes)
    }
}

impl From<&MapCell> for Cell {
    fn from(cell: &MapCell) -> Self {
        let MapCell { data_bytes, compressed_bytes, zero_bytes } = *cell;
        Self { data_bytes, compressed_bytes, zero_bytes }
    }
}

impl Cell {
    /// How many eighths of a column of this length are stored, rounded up.
    pub(super) fn stored_eighths(&self, column_bytes: u64) -> u64 {
        let stored = u128::from(self.data_bytes) + u128::from(self.compressed_bytes);
        u64::try_from((stored * 8).div_ceil(u128::from(column_bytes.max(1)))).unwrap_or(8).min(8)
    }
}

/// Has the sandbox look at all layers. Images that would be repaired are looked at as repaired.
///
/// # Errors
/// If they cannot be looked at.
pub(super) fn draw(subject: &Subject<'_>, devices: &Devices<'_>, sandbox: &mut impl Sandbox) -> Result<Map, Failure> {
    let job = devices.job(operation::MAP, &MapJob { columns: COLUMNS, reserved: 0 });
    let rehearsed = rehearse(subject.layers, operation::MAP, devices, &job, sandbox)?;
    let answer = &rehearsed.answer;
    let name = |layer: usize| subject.layers.get(layer).unwrap_or(&subject.layers[0]).image.name().to_vec();
    if let Some(error) = answer.error() {
        let (image, code) = (name(error.layer), error.code(Code::InvalidImage));
        return Err(match error.kind {
            error_kind::OPEN => {
                let cause = error.into_cause(&image);
                Failure::Open(OpenError { image, backing_depth: 0, cause })
            }
            error_kind::INTERNAL => Failure::Sandbox { image, error: error.into_stop() },
            _ => Failure::Image { code, image, text: error.text },
        });
    }
    Map::decode(&answer.operation, &answer.payload, subject.layers.len())
        .ok_or_else(|| Failure::Sandbox { image: name(0), error: VmError::Report("its map makes no sense".to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn report(size_bytes: u64, column_bytes: u64, column_count: u32, layer_count: u32) -> Vec<u8> {
        let mut bytes = vec![0; MapReport::SIZE_BYTES];
        MapReport { size_bytes, column_bytes, column_count, layer_count }.put(&mut bytes);
        bytes
    }

    #[test]
    fn a_map_of_another_shape_is_none() {
        let cells = |count: usize| vec![1; count * MapCell::SIZE_BYTES];
        let map = Map::decode(&report(1500, 1024, 2, 2), &cells(4), 2).expect("a map");
        assert_eq!((map.rows.len(), map.rows[1].len(), map.bytes_of_column(1)), (2, 2, 476));
        assert_eq!(Map::decode(&report(0, 512, 0, 2), &[], 2).expect("an empty one").rows, [vec![], vec![]]);
        for (own, payload) in [
            (report(1500, 1024, 2, 3), cells(4)),
            (report(1500, 1024, 2, 2), cells(3)),
            (report(1500, 1024, 3, 2), cells(6)),
            (report(1500, 1024, 1, 2), cells(2)),
            (report(u64::MAX, u64::MAX, 2, 2), cells(4)),
            (report(65 * 512, 512, 65, 2), cells(130)),
            (vec![0; 23], Vec::new()),
        ] {
            assert!(Map::decode(&own, &payload, 2).is_none(), "{own:?}");
        }
    }

    proptest! {
        #[test]
        fn no_cell_is_more_than_full(data_bytes: u64, compressed_bytes: u64, column_bytes: u64) {
            let cell = Cell { data_bytes, compressed_bytes, zero_bytes: 0 };
            prop_assert!(cell.stored_eighths(column_bytes) <= 8);
        }
    }
}
