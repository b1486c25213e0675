//! Says what each layer of a chain holds in each part of the disk: for pictures. Images that were not closed properly are
//! repaired first where the job may write to them, as in the jobs that this one is run beside.

use alloc::vec;
use alloc::vec::Vec;

use instar_abi::job::{MAX_MAP_COLUMNS, MapJob};
use instar_abi::report::{MapCell, MapReport, error_kind};
use instar_abi::wire::Wire;
use instar_plan::extent::{Extent, Source};

use crate::bytes::to_index;
use crate::crypt::unlock_layers;
use crate::job::Job;
use crate::layer::{Layer, Result};
use crate::open::{open_layer, repair_layer};
use crate::repairs::Repairs;
use crate::report::{self, Failure};
use crate::storage::Storage;

/// So much of the disk is looked at together, or so many clusters, whichever is more: what bounds the list of extents.
const WINDOW_BYTES: u64 = 16 << 20;
const WINDOW_CLUSTERS: u64 = 4096;
/// Columns are cut between these.
const SECTOR_BYTES: u64 = 512;
const NOTHING: MapCell = MapCell { data_bytes: 0, compressed_bytes: 0, zero_bytes: 0 };

/// Makes the map that `job` asks for, and reports. See [`crate::job`] and [`crate::report`] for the layouts.
pub fn run(job: &[u8], storage: &mut dyn Storage, report: &mut [u8]) {
    match map(job, storage) {
        Ok((result, cells)) => report::done(report, &result, &cells),
        Err(failure) => report::failed(report, &failure),
    }
}

fn map(job: &[u8], storage: &mut dyn Storage) -> Result<(MapReport, Vec<u8>)> {
    let job = Job::parse(job)?;
    let part: MapJob = job.operation_part()?;
    if part.columns == 0 || part.columns > MAX_MAP_COLUMNS {
        return Err(Failure::new(error_kind::INTERNAL, 0, "the job asks for a map of another width"));
    }
    let storage: &mut dyn Storage = &mut unlock_layers(storage, &job)?;
    let mut layers = Vec::new();
    for layer in 0..job.layer_count {
        repair_layer(storage, &job, layer, &mut Repairs::default())?;
        layers.push(open_layer(storage, &job, layer)?);
    }
    let size_bytes = layers.iter().map(|layer| layer.size_bytes()).max().unwrap_or(0);
    let column_bytes = size_bytes.div_ceil(part.columns.into()).next_multiple_of(SECTOR_BYTES).max(SECTOR_BYTES);
    let column_count = size_bytes.div_ceil(column_bytes);
    let mut cells = Vec::new();
    for layer in &mut layers {
        for cell in row(layer.as_mut(), storage, column_bytes, column_count)? {
            let start = cells.len();
            cells.resize(start + MapCell::SIZE_BYTES, 0);
            cell.put(&mut cells[start..]);
        }
    }
    let column_count = u32::try_from(column_count).unwrap_or(part.columns);
    Ok((MapReport { size_bytes, column_bytes, column_count, layer_count: job.layer_count }, cells))
}

/// What a layer holds, column by column.
fn row(layer: &mut dyn Layer, storage: &mut dyn Storage, column_bytes: u64, columns: u64) -> Result<Vec<MapCell>> {
    let size_bytes = layer.size_bytes();
    let window_bytes = layer.cluster_size_bytes().saturating_mul(WINDOW_CLUSTERS).max(WINDOW_BYTES);
    let mut cells = vec![NOTHING; to_index(columns)];
    let mut extents = Vec::new();
    let mut next = layer.next_mapped(0);
    while next < size_bytes {
        let end = (next / window_bytes * window_bytes).saturating_add(window_bytes).min(size_bytes);
        extents.clear();
        layer.map(storage, next, end, &mut extents)?;
        extents.iter().for_each(|extent| add(&mut cells, column_bytes, extent));
        next = if end < size_bytes { layer.next_mapped(end) } else { u64::MAX };
    }
    Ok(cells)
}

/// Adds an extent to the columns that it touches.
fn add(cells: &mut [MapCell], column_bytes: u64, extent: &Extent) {
    let mut at = extent.guest_offset;
    while at < extent.end() {
        let column = at / column_bytes;
        let end = (column * column_bytes).saturating_add(column_bytes).min(extent.end());
        let cell = &mut cells[to_index(column)];
        match extent.source {
            Source::Absent => {}
            Source::Zero => cell.zero_bytes += end - at,
            Source::Data { .. } => cell.data_bytes += end - at,
            Source::Compressed(_) => cell.compressed_bytes += end - at,
        }
        at = end;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extent_is_shared_out_among_its_columns() {
        let mut cells = vec![NOTHING; 3];
        let extent = |guest_offset, length_bytes, source| Extent { guest_offset, length_bytes, source };
        add(&mut cells, 1024, &extent(512, 2048, Source::Data { device: 0, host_offset: 0 }));
        add(&mut cells, 1024, &extent(2560, 512, Source::Zero));
        add(&mut cells, 1024, &extent(0, 512, Source::Absent));
        let found: Vec<(u64, u64)> = cells.iter().map(|cell| (cell.data_bytes, cell.zero_bytes)).collect();
        assert_eq!(found, [(512, 0), (1024, 0), (512, 512)]);
    }
}
