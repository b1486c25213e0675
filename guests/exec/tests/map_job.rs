//! The map of a chain: what a layer holds, column by column, counted a second time from what was put into it.
#![expect(clippy::cast_possible_truncation, reason = "the images of these tests are small")]

mod support;

use instar_abi::job::{JobHeader, MapJob, RebaseJob, format, operation, rebase_flag};
use instar_abi::report::{MapCell, MapReport, ReportHeader, outcome};
use instar_abi::wire::Wire;
use instar_exec::job::OPERATION_PART_OFFSET;
use instar_exec::memory::MemoryStorage;
use instar_plan::extent::{Extent, Source};
use proptest::prelude::*;
use support::{Shape, empty_image, job, write};

const CLUSTER_BYTES: u64 = 512;
const FORMATS: [u32; 2] = [format::QCOW2, format::QCOW2];
/// Device of bytes that extents are filled from; no layer of any job.
const PATTERN: u32 = 2;

fn image(clusters: u64, has_backing: bool) -> Vec<u8> {
    let size_bytes = clusters * CLUSTER_BYTES;
    empty_image(&Shape { version: 3, cluster_bits: 9, refcount_order: 4, extended_l2: false, size_bytes, has_backing })
}

/// The report and its cells, a row for each layer; nothing if the job failed.
fn map(storage: &mut MemoryStorage, columns: u32) -> Option<(MapReport, Vec<Vec<MapCell>>)> {
    map_of(storage, &FORMATS, columns)
}

fn map_of(storage: &mut MemoryStorage, formats: &[u32], columns: u32) -> Option<(MapReport, Vec<Vec<MapCell>>)> {
    let mut bytes = job(formats, 0, 0);
    bytes.truncate(OPERATION_PART_OFFSET);
    bytes.resize(OPERATION_PART_OFFSET + MapJob::SIZE_BYTES, 0);
    JobHeader { operation: operation::MAP, ..JobHeader::get(&bytes) }.put(&mut bytes);
    MapJob { columns, reserved: 0 }.put(&mut bytes[OPERATION_PART_OFFSET..]);
    let mut report = vec![0; 1 << 20];
    instar_exec::map::run(&bytes, storage, &mut report);
    let header = ReportHeader::get(&report);
    if header.outcome != outcome::DONE {
        return None;
    }
    let rest = &report[ReportHeader::SIZE_BYTES..];
    let map = MapReport::get(rest);
    let cells = &rest[MapReport::SIZE_BYTES..][..header.payload_length_bytes as usize];
    let cells: Vec<MapCell> = cells.chunks_exact(MapCell::SIZE_BYTES).map(MapCell::get).collect();
    let rows = cells.chunks_exact(map.column_count as usize).map(<[MapCell]>::to_vec).collect();
    Some((map, rows))
}

/// Puts whole clusters of data or zeros into a layer; gives what each cluster then is.
fn fill(storage: &mut MemoryStorage, layer: u32, clusters: u64, puts: &[(u64, u64, bool)]) -> Vec<Option<bool>> {
    let mut holds = vec![None; clusters as usize];
    for (first, count, is_zero) in puts {
        let (first, count) = (first % clusters, (count % 20 + 1).min(clusters - first % clusters));
        let source = if *is_zero { Source::Zero } else { Source::Data { device: PATTERN, host_offset: 0 } };
        let extent = Extent { guest_offset: first * CLUSTER_BYTES, length_bytes: count * CLUSTER_BYTES, source };
        write(storage, &FORMATS, layer, &[extent]);
        holds[first as usize..(first + count) as usize].fill(Some(*is_zero));
    }
    holds
}

proptest! {
    #[test]
    fn every_cluster_is_counted_in_its_column(
        sizes in (1..3000u64, 1..3000u64),
        columns in 1..=512u32,
        above in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..6),
        below in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..6),
    ) {
        let devices = vec![image(sizes.0, true), image(sizes.1, false), vec![0x5a; 20 * CLUSTER_BYTES as usize]];
        let mut storage = MemoryStorage { devices };
        let holds = [
            fill(&mut storage, 0, sizes.0, &above),
            fill(&mut storage, 1, sizes.1, &below),
        ];
        let (report, rows) = map(&mut storage, columns).expect("a map");
        prop_assert_eq!(report.size_bytes, sizes.0.max(sizes.1) * CLUSTER_BYTES);
        prop_assert!(report.column_count <= columns && report.column_bytes % CLUSTER_BYTES == 0);
        prop_assert_eq!((report.layer_count as usize, rows.len()), (2, 2));
        let per_column = (report.column_bytes / CLUSTER_BYTES) as usize;
        for (row, holds) in rows.iter().zip(&holds) {
            for (column, cell) in row.iter().enumerate() {
                let own: Vec<_> = holds.iter().skip(column * per_column).take(per_column).collect();
                let bytes = |what| own.iter().filter(|held| ***held == what).count() as u64 * CLUSTER_BYTES;
                let found = (cell.data_bytes, cell.compressed_bytes);
                prop_assert_eq!(found, (bytes(Some(false)), 0), "column {}", column);
                // A cluster of zeros over nothing may be left out of the tables.
                let counts_zeros = cell.zero_bytes == bytes(Some(true));
                prop_assert!(counts_zeros || cell.zero_bytes < bytes(Some(true)), "column {}", column);
            }
        }
    }
}

#[test]
fn only_widths_that_fit_into_a_report_are_drawn() {
    let mut storage = MemoryStorage { devices: vec![image(600, true), image(1, false), Vec::new()] };
    for (columns, is_drawn) in [(0, false), (1, true), (512, true), (513, false), (u32::MAX, false)] {
        assert_eq!(map(&mut storage, columns).is_some(), is_drawn, "{columns} columns");
    }
}

#[test]
fn zeros_that_hide_something_are_counted() {
    let devices = vec![image(64, true), image(64, false), vec![0x5a; 64 * CLUSTER_BYTES as usize]];
    let mut storage = MemoryStorage { devices };
    fill(&mut storage, 1, 64, &[(0, 19, false)]);
    fill(&mut storage, 0, 64, &[(4, 3, true)]);
    let (_, rows) = map(&mut storage, 64).expect("a map");
    let zeros: Vec<u64> = rows[0].iter().map(|cell| cell.zero_bytes).collect();
    assert_eq!(zeros.iter().sum::<u64>(), 4 * CLUSTER_BYTES);
    assert_eq!(&zeros[4..8], &[CLUSTER_BYTES; 4]);
}

#[test]
fn disks_of_many_windows_are_drawn_to_their_end() {
    const GIB: u64 = 1 << 30;
    let size_bytes = 200 * GIB;
    let shape =
        Shape { version: 3, cluster_bits: 16, refcount_order: 4, extended_l2: false, size_bytes, has_backing: true };
    let devices = vec![empty_image(&shape), image(1, false), vec![0x5a; 1 << 20]];
    let mut storage = MemoryStorage { devices };
    let places = [0, GIB, 20 * GIB, 63 * GIB + (1 << 20), 129 * GIB, size_bytes - (64 << 10)];
    for guest_offset in places {
        let source = Source::Data { device: PATTERN, host_offset: 0 };
        write(&mut storage, &FORMATS, 0, &[Extent { guest_offset, length_bytes: 64 << 10, source }]);
    }
    let (report, rows) = map(&mut storage, 200).expect("a map");
    assert_eq!((report.size_bytes, report.column_bytes), (size_bytes, GIB));
    for (column, cell) in rows[0].iter().enumerate() {
        let held = places.iter().filter(|place| **place / GIB == column as u64).count() as u64;
        assert_eq!(cell.data_bytes, held * (64 << 10), "column {column}");
    }
}

#[test]
fn packed_clusters_are_counted_apart() {
    // An overlay that was detached with compression from a raw disk holds all of it packed.
    let clusters = 40;
    let mut storage =
        MemoryStorage { devices: vec![image(clusters, true), vec![7; (clusters * CLUSTER_BYTES) as usize]] };
    let mut bytes = job(&[format::QCOW2, format::RAW], 0, 0);
    bytes.truncate(OPERATION_PART_OFFSET);
    bytes.resize(OPERATION_PART_OFFSET + RebaseJob::SIZE_BYTES, 0);
    JobHeader { operation: operation::REBASE, ..JobHeader::get(&bytes) }.put(&mut bytes);
    let part = RebaseJob {
        flags: rebase_flag::COMPRESS,
        old_layers: 1,
        join_layer: 2,
        name_length_bytes: 0,
        name: [0; 1024],
        format_name: [0; 16],
    };
    part.put(&mut bytes[OPERATION_PART_OFFSET..]);
    let mut report = vec![0; 1 << 16];
    instar_exec::rebase::run(&bytes, &mut storage, &mut report);
    assert_eq!(ReportHeader::get(&report).outcome, outcome::DONE);
    let (_, rows) = map_of(&mut storage, &[format::QCOW2], 4).expect("a map");
    let packed: Vec<u64> = rows[0].iter().map(|cell| cell.compressed_bytes).collect();
    assert_eq!(packed, [10 * CLUSTER_BYTES; 4]);
    assert!(rows[0].iter().all(|cell| (cell.data_bytes, cell.zero_bytes) == (0, 0)));
}
