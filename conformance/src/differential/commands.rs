//! Draws the command line.

use super::images::{chance, one_of};
use super::plan::Image;
use fastrand::Rng;

fn format(name: &str) -> &str {
    name.rsplit_once('.').map_or("raw", |(_, extension)| extension)
}

fn common(rng: &mut Rng, argv: &mut Vec<String>, top: &str) {
    if chance(rng, 20) {
        argv.extend(["-f".into(), format(top).into()]);
    }
    if chance(rng, 10) {
        argv.push("-p".into());
    }
    if chance(rng, 10) {
        argv.push("-q".into());
    }
    argv.push(top.into());
}

/// `commit` of the last member, into any other.
pub fn commit(rng: &mut Rng, members: &[String]) -> Vec<String> {
    let (top, below) = members.split_last().expect("a chain");
    let mut argv = Vec::new();
    if chance(rng, 40) {
        argv.extend(["-b".into(), below[rng.usize(0..below.len())].clone()]);
    }
    if chance(rng, 20) {
        argv.push("-d".into());
    }
    if chance(rng, 5) {
        argv.extend(["-r".into(), "512M".into()]);
    }
    common(rng, &mut argv, top);
    argv
}

/// `rebase` of the last member: unsafe, detaching, onto a member of the chain, or onto one of `others`.
pub fn rebase(rng: &mut Rng, members: &[String], others: &[Image]) -> Vec<String> {
    let (top, below) = members.split_last().expect("a chain");
    let mut argv: Vec<String> = Vec::new();
    if chance(rng, 12) {
        argv.push("-u".into());
    }
    if chance(rng, 15) {
        argv.push("-c".into());
    }
    let target = match rng.u32(0..10) {
        0..2 => String::new(),
        2..5 => below[rng.usize(0..below.len())].clone(),
        _ => others[rng.usize(0..others.len())].name.clone(),
    };
    let option = one_of(rng, &["-F", "-F", "-F", "-F", "-F", "-F", "-F", "-F", "-F", ""]);
    if !target.is_empty() && !option.is_empty() {
        argv.extend([option.into(), format(&target).into()]);
    }
    argv.extend(["-b".into(), target]);
    common(rng, &mut argv, top);
    argv
}
