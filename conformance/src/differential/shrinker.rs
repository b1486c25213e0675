//! Makes a failing plan small: fewer images, actions, options and arguments, shorter writes and disks, while the same oracle complains.

use super::plan::{Action, Plan, Range};
use super::trial::{Bench, Trial};
use std::collections::BTreeSet;

/// Attempts before the smallest plan so far has to do.
const MAX_ATTEMPTS: usize = 160;

fn complaining(trial: &Trial) -> BTreeSet<&'static str> {
    trial.sorted.open.iter().map(|finding| finding.oracle).collect()
}

/// The smallest plan found that still fails like `trial`, and its trial.
pub fn shrink(bench: &Bench, mut plan: Plan, mut trial: Trial) -> (Plan, Trial) {
    let wanted = complaining(&trial);
    let name = trial.case.name.clone();
    let mut attempts = 0;
    'again: loop {
        for candidate in candidates(&plan) {
            attempts += 1;
            if attempts > MAX_ATTEMPTS {
                return (plan, trial);
            }
            if let Ok(found) = bench.run(&candidate, &name)
                && !complaining(&found).is_disjoint(&wanted)
            {
                (plan, trial) = (candidate, found);
                continue 'again;
            }
        }
        return (plan, trial);
    }
}

/// Smaller plans, the boldest first.
fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut found = Vec::new();
    for index in 0..plan.images.len() {
        found.extend(without_image(plan, index));
    }
    for flag in ["-p", "-q", "-d", "-c"] {
        let mut smaller = plan.clone();
        smaller.argv.retain(|argument| argument != flag);
        found.push(smaller);
    }
    for index in 0..plan.images.len() {
        let actions = &plan.images[index].actions;
        if actions.len() > 2 {
            let half = actions.len() / 2;
            found.push(edited(plan, index, |image| image.actions.truncate(half)));
            found.push(edited(plan, index, |image| drop(image.actions.drain(..half))));
        }
        for action in (0..actions.len()).rev() {
            found.push(edited(plan, index, |image| drop(image.actions.remove(action))));
        }
        for option in (0..plan.images[index].options.len()).rev() {
            found.push(edited(plan, index, |image| drop(image.options.remove(option))));
        }
    }
    for index in 0..plan.images.len() {
        let image = &plan.images[index];
        for (at, action) in image.actions.iter().enumerate() {
            if let Some(shorter) = halved(action) {
                found.push(edited(plan, index, |image| image.actions[at] = shorter));
            }
        }
        let end = image.actions.iter().filter_map(reach).max().unwrap_or(512);
        for size in [end, image.size.next_multiple_of(1 << 20), image.size / 2] {
            if size >= end && size != image.size && size.trailing_zeros() >= image.size.trailing_zeros() {
                found.push(edited(plan, index, |image| image.size = size));
            }
        }
    }
    found.retain(|candidate| candidate != plan);
    found
}

fn edited(plan: &Plan, index: usize, edit: impl FnOnce(&mut super::plan::Image)) -> Plan {
    let mut smaller = plan.clone();
    edit(&mut smaller.images[index]);
    smaller
}

/// Without an image that the command does not name; what lay on it lies on what it lay on.
fn without_image(plan: &Plan, index: usize) -> Option<Plan> {
    let image = &plan.images[index];
    if plan.names(&image.name) || (image.backing.is_none() && plan.is_backing(&image.name) && plan.images.len() <= 2) {
        return None;
    }
    let mut smaller = plan.clone();
    let removed = smaller.images.remove(index);
    for other in &mut smaller.images {
        if other.backing.as_deref() == Some(&removed.name) {
            other.backing.clone_from(&removed.backing);
        }
    }
    Some(smaller)
}

fn span(action: &Action) -> Option<Range> {
    match action {
        Action::Write(range, _)
        | Action::WriteNoise(range, _)
        | Action::WriteZeroBytes(range)
        | Action::WriteCompressed(range, _)
        | Action::Zero(range, _)
        | Action::Discard(range)
        | Action::Abandon(range, _) => Some(*range),
        Action::Snapshot(_) | Action::Bitmap(..) | Action::Resize(_) => None,
    }
}

fn reach(action: &Action) -> Option<u64> {
    span(action).map(|range| range.offset + range.length)
}

fn halved(action: &Action) -> Option<Action> {
    let range = span(action).filter(|range| range.length > 512)?;
    let half = Range { length: (range.length / 2).next_multiple_of(512).min(range.length - 1), ..range };
    Some(match action {
        Action::Write(_, write) => Action::Write(half, *write),
        Action::WriteNoise(_, write) => Action::WriteNoise(half, *write),
        Action::WriteZeroBytes(_) => Action::WriteZeroBytes(half),
        Action::Zero(_, unmap) => Action::Zero(half, *unmap),
        Action::Discard(_) => Action::Discard(half),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::generator::generate;
    use super::*;

    #[test]
    fn candidates_keep_every_file_that_is_named() {
        for seed in 0..200 {
            let plan = generate(seed, false);
            let kept: Vec<&str> =
                plan.images.iter().map(|image| image.name.as_str()).filter(|name| plan.names(name)).collect();
            for candidate in candidates(&plan) {
                assert!(kept.iter().all(|name| candidate.images.iter().any(|i| i.name == *name)), "seed {seed}");
                assert!(candidate != plan, "seed {seed}");
            }
        }
    }
}
