//! Draws a whole case from a seed: the chain, perhaps siblings for rebase, and the command. The same seed gives the same case.

use super::commands;
use super::images::{self, chance, one_of};
use super::plan::{Image, Plan};
use crate::case::Operation;
use fastrand::Rng;

/// The case of this seed; `small` keeps disks and writes short, for cases that are to be stored.
pub fn generate(seed: u64, small: bool) -> Plan {
    let mut rng = Rng::with_seed(seed);
    let rng = &mut rng;
    let scale = images::scale(rng, small);
    let op = if chance(rng, 55) { Operation::Commit } else { Operation::Rebase };
    let depth = 2 + [0, 0, 0, 1, 1, 2, 3][rng.usize(0..7)];
    let mut list = chain(rng, depth, scale);
    let top = list.last().expect("at least two").name.clone();
    let members: Vec<String> = list.iter().map(|image| image.name.clone()).collect();
    let argv = match op {
        Operation::Commit => commands::commit(rng, &members),
        Operation::Rebase => {
            let others = siblings(rng, &members, scale);
            let argv = commands::rebase(rng, &members, &others);
            list.extend(others.into_iter().filter(|other| argv.contains(&other.name)));
            argv
        }
    };
    debug_assert!(argv.contains(&top));
    Plan { images: list, op, argv }
}

/// Images from the bottom up.
fn chain(rng: &mut Rng, depth: usize, scale: images::Scale) -> Vec<Image> {
    let names = ["base", "low", "mid", "high"];
    let mut list: Vec<Image> = Vec::new();
    if chance(rng, 35) {
        list.push(images::bottom(rng, "base", scale));
    } else {
        list.push(images::qcow2(rng, "base.qcow2", None, scale));
    }
    for level in 1..depth {
        let stem = if level + 1 == depth { "top" } else { names[level] };
        let below = list[level - 1].clone();
        // vmdk files lie on vmdk files only.
        let format = match below.format() {
            "vmdk" if chance(rng, 40) && level == 1 && !below.options.iter().any(|o| o.contains("stream")) => "vmdk",
            _ if chance(rng, 4) => one_of(rng, &["qed", "qcow"]),
            _ => "qcow2",
        };
        let backing = Some(below.name.as_str());
        list.push(match format {
            "qcow2" => images::qcow2(rng, &format!("{stem}.qcow2"), backing, scale),
            _ => images::other(rng, format, stem, backing, scale),
        });
    }
    list
}

/// Images beside the chain that a rebase may move to: alone, or on a member of the chain.
fn siblings(rng: &mut Rng, members: &[String], scale: images::Scale) -> Vec<Image> {
    let alone = if chance(rng, 30) {
        images::bottom(rng, "other", scale)
    } else {
        images::qcow2(rng, "other.qcow2", None, scale)
    };
    let below = members[rng.usize(0..members.len() - 1)].clone();
    let beside = images::qcow2(rng, "beside.qcow2", Some(&below), scale);
    vec![alone, beside]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_always_gives_the_same_case() {
        for seed in 0..200 {
            assert_eq!(generate(seed, false), generate(seed, false), "seed {seed}");
        }
    }

    #[test]
    fn every_image_stands_behind_its_backing_file() {
        for seed in 0..500 {
            let plan = generate(seed, seed % 2 == 0);
            for (index, image) in plan.images.iter().enumerate() {
                let below = image.backing.as_ref();
                assert!(
                    below.is_none_or(|b| plan.images[..index].iter().any(|i| i.name == *b)),
                    "seed {seed}: {plan:?}"
                );
            }
        }
    }
}
