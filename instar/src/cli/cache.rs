//! Cache modes: their names, and what each means for files and flushes.

use crate::devices::Flushing;

/// What a cache mode stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct CacheMode {
    /// Reading and writing go past the system's page cache.
    pub(super) direct: bool,
    /// When what was written becomes durable.
    pub(super) flushing: Flushing,
}

impl CacheMode {
    /// The mode with a name.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        let (direct, flushing) = match name {
            b"none" | b"off" => (true, Flushing::OnRequest),
            b"directsync" => (true, Flushing::AfterEachBatch),
            b"writeback" => (false, Flushing::OnRequest),
            b"writethrough" => (false, Flushing::AfterEachBatch),
            b"unsafe" => (false, Flushing::Never),
            _ => return None,
        };
        Some(Self { direct, flushing })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_six_names_are_known_and_no_other() {
        for name in ["none", "off", "directsync", "writeback", "writethrough", "unsafe"] {
            assert!(CacheMode::named(name.as_bytes()).is_some());
        }
        for name in ["", "bogus", "None", "writeback "] {
            assert!(CacheMode::named(name.as_bytes()).is_none());
        }
        assert_eq!(CacheMode::named(b"writeback"), Some(CacheMode::default()));
        assert_eq!(CacheMode::named(b"none"), CacheMode::named(b"off"));
    }
}
