//! The library's types have a place for everything that a report says: whatever qemu-img printed of images is read, and where
//! one of its members is of another type, it is not.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use instar::client::{CommitReport, ImageInfo, PlanReport, RebaseReport, Stats};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

/// Every recorded output of `info`.
fn recordings() -> Vec<Value> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../instar-testdata/expected-outputs");
    let paths = files_below(&folder).into_iter().filter(|path| !path.ends_with("version-map.json"));
    paths.map(|path| serde_json::from_slice(&fs::read(path).expect("a recording")).expect("JSON")).collect()
}

/// The places of all members of a value.
fn members(value: &Value, place: &str, found: &mut Vec<String>) {
    let items: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => return,
    };
    for (name, value) in items {
        let place = format!("{place}/{name}");
        members(value, &place, found);
        found.push(place);
    }
}

/// A place, with the same name for all items of a list.
fn kind(place: &str) -> String {
    let names = place.split('/').map(|name| if name.parse::<usize>().is_ok() { "*" } else { name });
    names.collect::<Vec<_>>().join("/")
}

/// Reads a value as `T`, and fails where `T` takes no notice of one of its members. Each kind of member is tried once.
#[track_caller]
fn has_a_place_for_all<T: DeserializeOwned>(value: &Value, seen: &mut BTreeSet<String>) {
    serde_json::from_value::<T>(value.clone()).unwrap_or_else(|error| panic!("{error}: {value}"));
    let mut places = Vec::new();
    members(value, "", &mut places);
    for place in places {
        if seen.insert(kind(&place)) {
            let mut other = value.clone();
            let member = other.pointer_mut(&place).expect("a member");
            *member = if member.is_object() { json!("of another type") } else { json!({ "of": "another type" }) };
            assert!(serde_json::from_value::<T>(other).is_err(), "nobody looks at {place}: {value}");
        }
    }
}

#[test]
fn every_recorded_image_is_read_whole() {
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let recordings = recordings();
    for recording in &recordings {
        let images = recording.as_array().map_or(std::slice::from_ref(recording), Vec::as_slice);
        for image in images {
            let specific = image["format-specific"]["type"].as_str().unwrap_or_default();
            has_a_place_for_all::<ImageInfo>(image, seen.entry(specific.to_owned()).or_default());
        }
    }
    assert!(recordings.len() > 500, "only {} recordings were found", recordings.len());
    for (specific, kinds) in [("qcow2", 30), ("vmdk", 20), ("", 4)] {
        let found = seen.get(specific).map_or(0, BTreeSet::len);
        assert!(found >= kinds, "{specific}: only {found} kinds of members were found");
    }
}

#[test]
fn every_other_report_is_read_whole() {
    let stats = json!({
        "total_seconds": 0.5, "exits": 7, "reads": 1, "writes": 2, "copies": 3, "compares": 4, "zeroes": 5, "discards": 6,
        "resizes": 7, "barriers": 8, "failures": 9, "read_bytes": 10, "written_bytes": 11, "copied_bytes": 12,
        "compared_bytes": 13, "zeroed_bytes": u64::MAX, "unpacks": 14, "unpacked_bytes": 15, "packs": 16, "packed_bytes": 17,
        "sandboxes": [{ "job": "info", "start_seconds": 0.1, "run_seconds": 0.2, "exits": 7 }],
    });
    let names = instar::devices::Counters::default().fields().map(|(name, _)| name);
    assert!(names.iter().all(|name| stats[name].is_u64()), "a count is missing: {names:?}");
    has_a_place_for_all::<Stats>(&stats, &mut BTreeSet::new());
    let commit = json!({
        "overlay": "a", "overlay_format": "qcow2", "backing": "b", "backing_format": "raw", "clusters_committed": 1,
        "bytes_committed": 2, "overlay_clusters_cleared": 3, "overlay_deleted": true, "verified": true, "stats": stats,
    });
    has_a_place_for_all::<CommitReport>(&commit, &mut BTreeSet::new());
    let rebase = json!({
        "overlay": "a", "overlay_format": "qcow2", "mode": "safe", "clusters_copied": 1, "bytes_copied": 2,
        "new_backing": "b", "verified": true, "stats": stats,
    });
    has_a_place_for_all::<RebaseReport>(&rebase, &mut BTreeSet::new());
    let amount = json!({ "bytes": 1, "extents": 2 });
    let plan = json!({
        "command": "commit",
        "moves": { "bytes": 1, "clusters": 2, "cleared_clusters": 3, "deletes_overlay": false },
        "layers": [{ "filename": "a", "format": "qcow2", "virtual_size_bytes": 1, "is_target": true, "repairs": 0 }],
        "files": [{
            "filename": "a", "layer": 0, "length_bytes": 1, "planned_length_bytes": 2, "copied": amount, "written": amount,
            "zeroed": amount, "released": amount, "newly_stored_bytes": 3, "freed_bytes": 4,
        }],
        "map": {
            "size_bytes": 1, "column_bytes": 1,
            "rows": [[{ "data_bytes": 1, "compressed_bytes": 0, "zero_bytes": 0 }]],
        },
    });
    has_a_place_for_all::<PlanReport>(&plan, &mut BTreeSet::new());
}
