//! What a rule may ask about a case: words that hold for its files, read from the fixture by this crate's readers.
//!
//! `ROLE:WORD`, where ROLE is `top` (FILE), `base` (where commit writes, or the new backing file of rebase) or `any`, and WORD is a format or
//! a feature of a qcow2 image (`inconsistent`: a check finds corruptions). Of two images tell `base:shorter`, `base:long-enough` and
//! `top:larger-clusters` (than some other image has).

use crate::case::Case;
use crate::fixture::Workspace;
use crate::image::qcow2::{Qcow2, check};
use crate::image::{Chain, Layer};
use crate::roles;
use std::collections::BTreeSet;
use std::path::Path;

/// The facts of a case.
pub fn of(case: &Case) -> BTreeSet<String> {
    let Ok(workspace) = Workspace::unpack(&case.fixture) else { return BTreeSet::new() };
    let folder = workspace.path();
    let roles = roles::of(case, folder);
    let mut facts = BTreeSet::new();
    let Ok(files) = crate::folder::read(folder) else { return facts };
    for name in files.keys() {
        for word in words(folder, name) {
            facts.insert(format!("any:{word}"));
            if roles.overlay.as_deref() == Some(name) {
                facts.insert(format!("top:{word}"));
            }
            if roles.backing.as_deref() == Some(name) {
                facts.insert(format!("base:{word}"));
            }
        }
    }
    let size = |name: &Option<String>| virtual_size(&folder.join(name.as_ref()?));
    if let (Some(top), Some(base)) = (size(&roles.overlay), size(&roles.backing)) {
        facts.insert(if top > base { "base:shorter" } else { "base:long-enough" }.into());
    }
    let clusters = |name: &str| Some(Qcow2::open(&folder.join(name)).ok()?.cluster_size());
    if let Some(top) = roles.overlay.as_deref().and_then(clusters)
        && files.keys().filter_map(|name| clusters(name)).any(|other| other < top)
    {
        facts.insert("top:larger-clusters".into());
    }
    facts
}

/// Size of the disk, whatever lies below it.
fn virtual_size(path: &Path) -> Option<u64> {
    if let Ok(image) = Qcow2::open(path) {
        return Some(image.virtual_size());
    }
    Some(Chain::open(path, path.extension()?.to_str()).ok()?.virtual_size())
}

fn words(folder: &Path, name: &str) -> Vec<String> {
    let Some((_, format)) = name.rsplit_once('.') else { return Vec::new() };
    let mut words = vec![format.to_owned()];
    if format == "qcow2"
        && let Ok(image) = Qcow2::open(&folder.join(name))
    {
        words.extend(image.features().into_iter().map(str::to_owned));
        if check(&folder.join(name)).is_ok_and(|result| result.corruptions > 0) {
            words.push("inconsistent".to_owned());
        }
    }
    words
}
