//! The complete output of `info`.

use super::human::{self, Clock};
use super::node::Node;
use super::{ImageEntry, Version, describe, json};

/// What `info --output=json` prints. `is_chain`: `--backing-chain` was given, so the images are a list, first the one named
/// on the command line; otherwise only that one is shown.
///
/// # Panics
/// If there is no image and `is_chain` is false.
#[must_use]
pub fn render_json(images: &[ImageEntry], version: Version, is_chain: bool) -> Vec<u8> {
    let mut objects = images.iter().map(|entry| Node::from(describe::image(entry, version)));
    let node = if is_chain { Node::List(objects.collect()) } else { objects.next().expect("an image is shown") };
    json::to_json(&node)
}

/// What `info` prints for people: the images one after the other. `clock` knows the user's time zone.
#[must_use]
pub fn render_human(images: &[ImageEntry], version: Version, clock: Clock<'_>) -> String {
    let texts: Vec<String> = images.iter().map(|entry| human::image(entry, version, clock)).collect();
    texts.join("\n")
}
