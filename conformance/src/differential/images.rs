//! Draws single images: format, options, and what is written.

use super::plan::{Action, Image, Range};
use fastrand::Rng;

const KIB: u64 = 1024;
const MIB: u64 = 1024 * KIB;

/// Whether something happens, in percent.
pub fn chance(rng: &mut Rng, percent: u32) -> bool {
    rng.u32(0..100) < percent
}

/// One of several.
pub fn one_of<'a, T: ?Sized>(rng: &mut Rng, choices: &[&'a T]) -> &'a T {
    choices[rng.usize(0..choices.len())]
}

/// What images of a case have in common, so that their sizes and places meet.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    /// Sizes lie around this many bytes.
    pub size: u64,
    /// No more than this many actions an image.
    pub actions: usize,
}

/// Draws a scale. Most disks have a few MiB; some are sparse and large enough for several L2 tables of 64 KiB clusters.
pub fn scale(rng: &mut Rng, small: bool) -> Scale {
    let size = match rng.u32(0..100) {
        0..50 => rng.u64(64 * KIB..2 * MIB),
        50..90 => rng.u64(MIB..9 * MIB),
        90..96 if !small => rng.u64(9 * MIB..40 * MIB),
        96..100 if !small => rng.u64(520 * MIB..1200 * MIB),
        _ => rng.u64(16 * KIB..512 * KIB),
    };
    Scale { size, actions: if small { 4 } else { 8 } }
}

/// A size near the scale's: whole MiB, sectors, or any number of bytes.
pub fn size(rng: &mut Rng, scale: Scale) -> u64 {
    let near = match rng.u32(0..10) {
        0..5 => scale.size,
        5..7 => scale.size / 4 * rng.u64(1..4),
        7..9 => scale.size + rng.u64(0..scale.size),
        _ => rng.u64(1..4 * KIB),
    };
    let unit = [64 * KIB, 4 * KIB, 512, 1][rng.usize(0..4)];
    (near / unit * unit).max(512)
}

/// A qcow2 image.
pub fn qcow2(rng: &mut Rng, name: &str, backing: Option<&str>, scale: Scale) -> Image {
    let v2 = chance(rng, 15);
    let subclusters = !v2 && chance(rng, 20);
    let cluster_bits = match rng.u32(0..10) {
        // A qemu-img that empties a large disk of small clusters takes minutes.
        _ if subclusters || scale.size > 64 * MIB => rng.u32(14..=19),
        0..3 => 16,
        3..5 => 12,
        5..7 => 9,
        _ => rng.u32(9..=21),
    };
    let mut options =
        vec![format!("compat={}", if v2 { "0.10" } else { "1.1" }), format!("cluster_size={}", 1u64 << cluster_bits)];
    let mut refcount_bits = 16;
    if !v2 {
        if subclusters {
            options.push("extended_l2=on".into());
        }
        if chance(rng, 35) {
            refcount_bits = 1u64 << rng.u32(0..=6);
            options.push(format!("refcount_bits={refcount_bits}"));
        }
        if chance(rng, 15) {
            options.push("lazy_refcounts=on".into());
        }
        if chance(rng, 25) {
            options.push("compression_type=zstd".into());
        }
    }
    let data_file = !v2 && chance(rng, 10);
    if data_file {
        options.push(format!("data_file={}", name.replace(".qcow2", ".data")));
        if backing.is_none() && chance(rng, 50) {
            options.push("data_file_raw=on".into());
        }
    }
    if (backing.is_none() || subclusters) && chance(rng, 15) && scale.size < 64 * MIB {
        options.push(format!("preallocation={}", one_of(rng, &["metadata", "falloc", "full"])));
    }
    let size = size(rng, scale);
    let mut actions = writes(rng, size, 1 << cluster_bits, scale, !data_file);
    let whole_writes = actions.len();
    if !data_file && chance(rng, 20) && refcount_bits > 1 {
        for snapshot in 0..rng.u32(1..=2) {
            actions.insert(rng.usize(0..=whole_writes), Action::Snapshot(format!("s{snapshot}")));
        }
    }
    if !v2 && chance(rng, 20) {
        for bitmap in 0..rng.u32(1..=2) {
            let granularity = 1u64 << rng.u32(9..=20);
            let place = rng.usize(0..=whole_writes);
            actions.insert(place, Action::Bitmap(format!("b{bitmap}"), granularity, chance(rng, 75)));
        }
    }
    if chance(rng, 6) && !actions.iter().any(|action| matches!(action, Action::Snapshot(_))) {
        let resized = self::size(rng, scale);
        actions.push(Action::Resize(resized));
    }
    if chance(rng, 3) {
        let range = range(rng, size, 1 << cluster_bits);
        actions.push(Action::Abandon(range, 99));
    }
    Image { name: name.into(), size, backing: backing.map(str::to_owned), options, actions }
}

/// An image of another format that may stand at the bottom.
pub fn bottom(rng: &mut Rng, stem: &str, scale: Scale) -> Image {
    let format = one_of(rng, &["raw", "raw", "raw", "vmdk", "vmdk", "vdi", "vhdx", "vpc", "qed", "qcow", "parallels"]);
    other(rng, format, stem, None, scale)
}

/// An image of a format other than qcow2.
pub fn other(rng: &mut Rng, format: &str, stem: &str, backing: Option<&str>, scale: Scale) -> Image {
    let mut options = Vec::new();
    match format {
        "vmdk" if backing.is_none() => {
            let kind = one_of(rng, &["monolithicSparse", "monolithicSparse", "streamOptimized"]);
            options.push(format!("subformat={kind}"));
            if kind == "monolithicSparse" && chance(rng, 40) {
                options.push("zeroed_grain=on".into());
            }
        }
        "qed" if chance(rng, 50) => options.push(format!("cluster_size={}", 1u64 << rng.u32(12..=18))),
        "vdi" | "vhdx" | "vpc" if chance(rng, 30) => {
            options.push(format!("{}=fixed", if format == "vdi" { "static" } else { "subformat" }));
            if format == "vdi" {
                options[0] = "static=on".into();
            }
        }
        _ => {}
    }
    let scale = Scale { size: scale.size.min(32 * MIB), ..scale };
    let size = size(rng, scale);
    let actions = writes(rng, size, 64 * KIB, scale, false);
    Image { name: format!("{stem}.{format}"), size, backing: backing.map(str::to_owned), options, actions }
}

fn range(rng: &mut Rng, size: u64, cluster: u64) -> Range {
    let mut offset = rng.u64(0..size);
    let unit = match rng.u32(0..10) {
        0..6 => cluster,
        6..8 => 4 * KIB,
        8 => 512,
        _ => 1,
    };
    offset = offset / unit * unit;
    let longest = (size / 3).clamp(512, 512 * KIB);
    let length = match rng.u32(0..10) {
        0..4 => cluster.min(2 * longest) * rng.u64(1..=3),
        4..6 => 4 * KIB * rng.u64(1..=4),
        6 => 512 * rng.u64(1..=9),
        7 => rng.u64(1..=longest),
        8 => size - offset,
        _ => rng.u64(1..=longest) / 512 * 512 + 512,
    };
    Range { offset, length: length.clamp(1, (size - offset).min(2 * MIB)) }
}

fn writes(rng: &mut Rng, size: u64, cluster: u64, scale: Scale, compresses: bool) -> Vec<Action> {
    let count = rng.usize(0..=scale.actions);
    let zeros = chance(rng, 70);
    let mut actions = Vec::new();
    for number in 0..count as u64 {
        let range = range(rng, size, cluster);
        let whole = |range: Range| {
            let offset = range.offset / cluster * cluster;
            Range { offset, length: range.length.next_multiple_of(cluster).min(4 * cluster).min(size - offset) }
        };
        actions.push(match rng.u32(0..100) {
            0..45 => Action::Write(range, number),
            45..50 => Action::WriteNoise(Range { length: range.length.min(16 * KIB), ..range }, number),
            50..55 => Action::WriteZeroBytes(range),
            55..70 if compresses => Action::WriteCompressed(whole(range), number),
            70..80 if zeros => Action::Zero(whole(range), chance(rng, 50)),
            80..88 if zeros => Action::Zero(range, chance(rng, 50)),
            88..100 if zeros => Action::Discard(whole(range)),
            _ => Action::Write(range, number),
        });
    }
    actions
}
