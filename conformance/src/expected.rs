//! `instar-testdata/expected-outputs`: info JSON per case and output profile, derived from the recordings.
//!
//! A profile is a group of versions that printed the same bytes for a case; it bears the name of its oldest version.
//! `version-map.json` of each set names the profile of every version (null: that version's info failed).

use crate::case::{self, Case, DataError, Operation};
use crate::fixture::Workspace;
use crate::roles;
use serde::Serialize;
use std::collections::BTreeMap;

/// Relative path to bytes.
pub type Files = BTreeMap<String, Vec<u8>>;

#[derive(Serialize)]
struct MappedCase {
    file: String,
    profiles: serde_json::Map<String, serde_json::Value>,
}

/// One of the three sets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Set {
    CommitOverlay,
    CommitBacking,
    Rebase,
}

impl Set {
    const ALL: [Self; 3] = [Self::CommitOverlay, Self::CommitBacking, Self::Rebase];

    fn folder(self) -> &'static str {
        match self {
            Self::CommitOverlay => "commit-overlay-info-json",
            Self::CommitBacking => "commit-backing-info-json",
            Self::Rebase => "rebase-info-json",
        }
    }

    fn operation(self) -> Operation {
        if self == Self::Rebase { Operation::Rebase } else { Operation::Commit }
    }
}

/// All files of `expected-outputs`, by path relative to it.
pub fn generate() -> Result<Files, DataError> {
    let versions = case::versions()?;
    let mut files = Files::new();
    for op in [Operation::Commit, Operation::Rebase] {
        let mut maps: BTreeMap<&str, BTreeMap<String, MappedCase>> = BTreeMap::new();
        for case in case::load_all(op)? {
            let workspace = Workspace::unpack(&case.fixture)?;
            let roles = roles::of(&case, workspace.path());
            for set in Set::ALL.into_iter().filter(|set| set.operation() == op) {
                let file = if set == Set::CommitBacking { &roles.backing } else { &roles.overlay };
                let Some(file) = file else { continue };
                let profiles = profiles(&case, file, &versions, set.folder(), &mut files);
                let mapped = MappedCase { file: file.clone(), profiles };
                maps.entry(set.folder()).or_default().insert(case.name.clone(), mapped);
            }
        }
        for (folder, map) in maps {
            let path = format!("{folder}/version-map.json");
            let mut text = serde_json::to_string_pretty(&map).map_err(|e| DataError::new(path.as_ref(), e))?;
            text.push('\n');
            files.insert(path, text.into_bytes());
        }
    }
    Ok(files)
}

fn profiles(
    case: &Case,
    file: &str,
    versions: &[String],
    folder: &str,
    files: &mut Files,
) -> serde_json::Map<String, serde_json::Value> {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut map = serde_json::Map::new();
    for version in versions {
        let info =
            case.outcome(version).and_then(|outcome| outcome.files.get(file)).and_then(|state| state.info.as_deref());
        let profile = info.map(|info| *names.entry(info).or_insert(version));
        if let (Some(info), Some(profile)) = (info, profile) {
            files.insert(format!("{folder}/{}/{profile}.json", case.name), info.as_bytes().to_vec());
        }
        map.insert(version.clone(), profile.into());
    }
    map
}
