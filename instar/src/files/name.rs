//! Names as text: protocol prefixes, joining with the directory of the image that holds them.
//!
//! Pure: nothing here touches a file.

use super::error::Cause;
use super::keys::ImageKeys;
use super::options;

/// Where a relative name starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The directory of the image named on the command line.
    OverlayDirectory,
    /// The directory that the program was started in.
    WorkingDirectory,
    /// The root of the file system.
    Root,
}

/// A file's place as names, before any of them is looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// What `path` starts from.
    pub origin: Origin,
    /// The name from there on; not normalised.
    pub path: Vec<u8>,
}

/// A recorded name that stands for a local file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalName {
    /// The path in it.
    pub(super) path: Vec<u8>,
    /// True where a relative path starts from the working directory, not from the image's directory.
    pub(super) from_working_directory: bool,
    /// The driver that the name itself asks for.
    pub(super) driver: Option<String>,
    /// The secrets that the name itself asks for.
    pub(super) keys: ImageKeys,
}

/// Protocols that image tools know: the answer names them as what they are.
const REMOTE_PROTOCOLS: &[&str] = &[
    "blkdebug",
    "blklogwrites",
    "blkverify",
    "dmg",
    "fat",
    "ftp",
    "ftps",
    "gluster",
    "host_cdrom",
    "host_device",
    "http",
    "https",
    "iscsi",
    "iser",
    "nbd",
    "nbd+tcp",
    "nbd+unix",
    "nbds",
    "nfs",
    "null-aio",
    "null-co",
    "nvme",
    "quorum",
    "rbd",
    "sheepdog",
    "ssh",
    "vhdx",
    "vvfat",
    "vxhs",
];

/// The protocol in front of a name: what comes before a colon that no slash precedes.
pub(super) fn protocol(name: &[u8]) -> Option<&[u8]> {
    let end = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    (name[end] == b':').then(|| &name[..end])
}

/// Reads a name as an image tool does, and keeps it only if it stands for a local file.
///
/// # Errors
/// Names of other protocols, `json:` forms that are more than a driver and a file, the empty name.
pub(super) fn parse(name: &[u8]) -> Result<LocalName, Cause> {
    let Some(protocol) = protocol(name) else {
        return if name.is_empty() { Err(Cause::EmptyName) } else { Ok(plain(name, false)) };
    };
    match protocol {
        b"file" => match &name[b"file:".len()..] {
            [] => Err(Cause::EmptyName),
            path => Ok(plain(path, true)),
        },
        b"json" => {
            let operand = options::from_json(&name[b"json:".len()..])
                .map_err(|error| Cause::NotLocal { name: name.to_vec(), finding: error.to_string() })?;
            Ok(LocalName {
                path: operand.path,
                from_working_directory: true,
                driver: operand.driver,
                keys: operand.keys,
            })
        }
        known if is_remote(known) => {
            let finding = format!("uses the protocol '{}'", String::from_utf8_lossy(known));
            Err(Cause::NotLocal { name: name.to_vec(), finding })
        }
        unknown => Err(Cause::UnknownProtocol(unknown.to_vec())),
    }
}

fn is_remote(protocol: &[u8]) -> bool {
    REMOTE_PROTOCOLS.iter().any(|known| known.as_bytes() == protocol)
}

fn plain(path: &[u8], from_working_directory: bool) -> LocalName {
    LocalName { path: path.to_vec(), from_working_directory, driver: None, keys: ImageKeys::default() }
}

impl Location {
    /// The place of the image named on the command line: its last component below its own directory.
    pub fn of_overlay(typed: &[u8]) -> Self {
        Self { origin: Origin::OverlayDirectory, path: typed[directory(typed).len()..].to_vec() }
    }

    /// The place that `name`, recorded in the image at `self`, stands for.
    pub(super) fn join(&self, name: &LocalName) -> Self {
        if name.path.starts_with(b"/") {
            return Self { origin: Origin::Root, path: name.path.clone() };
        }
        if name.from_working_directory {
            return Self { origin: Origin::WorkingDirectory, path: name.path.clone() };
        }
        Self { origin: self.origin, path: [directory(&self.path), &name.path].concat() }
    }

    /// The name as messages show it: the overlay's directory as typed, then the recorded names.
    pub fn shown(&self, overlay_directory: &[u8]) -> Vec<u8> {
        match self.origin {
            Origin::OverlayDirectory => [overlay_directory, &self.path].concat(),
            Origin::WorkingDirectory | Origin::Root => self.path.clone(),
        }
    }
}

/// A path up to and including its last slash; empty if there is none.
pub(super) fn directory(path: &[u8]) -> &[u8] {
    path.iter().rposition(|&byte| byte == b'/').map_or(&[], |last| &path[..=last])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &[u8]) -> String {
        parse(name).expect_err("refused").to_string()
    }

    #[test]
    fn a_colon_behind_a_slash_is_no_protocol() {
        assert_eq!(protocol(b"sub/x:y"), None);
        assert_eq!(protocol(b"nbd:unix:/x"), Some(&b"nbd"[..]));
        assert_eq!(parse(b"sub/x:y").expect("a path").path, b"sub/x:y");
    }

    #[test]
    fn the_file_protocol_starts_from_the_working_directory() {
        let name = parse(b"file:base.qcow2").expect("local");
        assert!(name.from_working_directory);
        assert_eq!(name.path, b"base.qcow2");
        assert_eq!(parse(b"file:///a/b").expect("local").path, b"///a/b");
    }

    #[test]
    fn every_other_protocol_is_refused() {
        assert_eq!(shown(b"nosuch:base"), "Unknown protocol 'nosuch'");
        assert_eq!(shown(b"fd:3"), "Unknown protocol 'fd'");
        assert_eq!(shown(b":x"), "Unknown protocol ''");
        assert_eq!(
            shown(b"nbd:localhost:10809"),
            "'nbd:localhost:10809' uses the protocol 'nbd'; only names of local files are followed"
        );
        for protocol in REMOTE_PROTOCOLS {
            assert!(parse(format!("{protocol}:x").as_bytes()).is_err());
        }
    }

    #[test]
    fn json_names_keep_their_driver() {
        let name = parse(br#"json:{"driver":"qcow2","file":{"driver":"file","filename":"b"}}"#).expect("local");
        assert_eq!(name.driver.as_deref(), Some("qcow2"));
        assert_eq!(name.path, b"b");
    }

    #[test]
    fn relative_names_start_in_the_directory_of_their_image() {
        let overlay = Location::of_overlay(b"./vm/top.qcow2");
        assert_eq!(overlay.path, b"top.qcow2");
        let mid = overlay.join(&plain(b"sub/mid.qcow2", false));
        let base = mid.join(&plain(b"../base.qcow2", false));
        assert_eq!(base.shown(b"./vm/"), b"./vm/sub/../base.qcow2");
        let absolute = base.join(&plain(b"/srv/b.qcow2", false));
        assert_eq!(absolute.shown(b"./vm/"), b"/srv/b.qcow2");
        assert_eq!(absolute.join(&plain(b"c.qcow2", false)).shown(b"./vm/"), b"/srv/c.qcow2");
    }
}
