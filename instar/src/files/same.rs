//! Whether several names stand for one file.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::open::identity_of;

#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Key<'a> {
    File((u64, u64)),
    /// Nothing is known of the file but its name.
    Path(&'a [u8]),
}

/// The first path that leads to the same file as one before it, and that one; symbolic links are followed. Both are given by
/// their places in `paths`.
pub fn find_same(paths: &[&[u8]]) -> Option<(usize, usize)> {
    let mut seen = BTreeMap::new();
    paths.iter().enumerate().find_map(|(place, path)| {
        let status = fs::metadata(Path::new(OsStr::from_bytes(path)));
        let key = status.map_or(Key::Path(path), |status| Key::File(identity_of(&status)));
        seen.insert(key, place).map(|earlier| (earlier, place))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn one_file_is_found_under_all_of_its_names() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = |name: &str| directory.path().join(name).into_os_string().into_encoded_bytes();
        for name in ["a", "b"] {
            fs::write(directory.path().join(name), b"").expect("a file");
        }
        fs::hard_link(directory.path().join("a"), directory.path().join("hard")).expect("a link");
        symlink("a", directory.path().join("soft")).expect("a link");
        let same = |names: &[&str]| {
            let paths: Vec<Vec<u8>> = names.iter().map(|name| path(name)).collect();
            find_same(&paths.iter().map(Vec::as_slice).collect::<Vec<_>>())
        };
        assert_eq!(same(&["a", "b", "nothing", "none"]), None);
        assert_eq!(same(&["b", "a", "./a"]), Some((1, 2)));
        assert_eq!(same(&["hard", "b", "a"]), Some((0, 2)));
        assert_eq!(same(&["a", "soft"]), Some((0, 1)));
        assert_eq!(same(&["nothing", "a", "nothing"]), Some((0, 2)));
    }
}
