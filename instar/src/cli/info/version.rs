//! Versions of qemu-img, and what differs between them in the output of `info`.

use std::fmt;
use std::str::FromStr;

/// The versions whose output was recorded, oldest first.
pub const RECORDED: [Version; 20] = [
    Version::new(6, 0, 0),
    Version::new(6, 1, 0),
    Version::new(6, 2, 0),
    Version::new(7, 0, 0),
    Version::new(7, 1, 0),
    Version::new(7, 2, 0),
    Version::new(7, 2, 22),
    Version::new(8, 0, 0),
    Version::new(8, 1, 0),
    Version::new(8, 2, 0),
    Version::new(9, 0, 0),
    Version::new(9, 1, 0),
    Version::new(9, 2, 0),
    Version::new(10, 0, 0),
    Version::new(10, 0, 2),
    Version::new(10, 0, 13),
    Version::new(10, 1, 0),
    Version::new(10, 2, 0),
    Version::new(10, 2, 2),
    Version::new(11, 1, 3),
];

/// A version of qemu-img. Any version is possible; [`RECORDED`] are those that were looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    major: u16,
    minor: u16,
    patch: u16,
}

impl Version {
    /// The version with these three numbers.
    #[must_use]
    pub const fn new(major: u16, minor: u16, patch: u16) -> Self {
        Self { major, minor, patch }
    }

    /// Whether this version's output was recorded.
    #[must_use]
    pub fn is_recorded(self) -> bool {
        RECORDED.contains(&self)
    }

    /// A dirty qcow2 image is reported as dirty.
    pub(super) fn reports_dirty_qcow2(self) -> bool {
        self >= Self::new(6, 1, 0)
    }

    /// The nodes below an image are listed.
    pub(super) fn lists_children(self) -> bool {
        self >= Self::new(8, 0, 0)
    }

    /// An external data file is opened, listed as a child, and counted in the image's size on disk.
    pub(super) fn lists_data_file(self) -> bool {
        self.lists_children() && self < Self::new(9, 1, 0)
    }

    /// The snapshot table says `VM_SIZE`, has wider clocks, and `--` where no instructions were counted.
    pub(super) fn has_wide_snapshot_table(self) -> bool {
        self >= Self::new(9, 0, 0)
    }

    /// A LUKS header can be detached, so it is said whether it is.
    pub(super) fn says_detached_header(self) -> bool {
        self >= Self::new(9, 0, 0)
    }
}

/// The newest recorded version.
impl Default for Version {
    fn default() -> Self {
        RECORDED[RECORDED.len() - 1]
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

/// A text that is no version of the form `10.0.2`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParseVersionError;

impl fmt::Display for ParseVersionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a version has three numbers, as in 10.0.2")
    }
}

impl std::error::Error for ParseVersionError {}

impl FromStr for Version {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = |part: &str| {
            let is_decimal = part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse().ok().filter(|_| is_decimal).ok_or(ParseVersionError)
        };
        let parts: Vec<&str> = text.split('.').collect();
        let [major, minor, patch] = parts[..] else { return Err(ParseVersionError) };
        Ok(Self::new(number(major)?, number(minor)?, number(patch)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recorded_versions_are_in_order_and_read_back() {
        assert!(RECORDED.is_sorted());
        for version in RECORDED {
            assert_eq!(version.to_string().parse(), Ok(version));
        }
        assert_eq!(Version::default(), Version::new(11, 1, 3));
    }

    #[test]
    fn order_by_number_and_not_by_digit() {
        assert!(Version::new(10, 0, 13) > Version::new(10, 0, 2));
        assert!(Version::new(10, 0, 0) > Version::new(9, 2, 0));
    }

    #[test]
    fn refuse_what_is_no_version() {
        for text in ["", "10", "10.0", "10.0.2.1", "10.0.x", "10.0.+2", "-1.0.0", "10.0.70000", " 10.0.2"] {
            assert_eq!(text.parse::<Version>(), Err(ParseVersionError), "{text}");
        }
    }
}
