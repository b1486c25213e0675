//! Names of cache modes.

/// True for the name of a cache mode. What is written is flushed at each of the promised points in every mode.
pub(super) fn is_mode(name: &[u8]) -> bool {
    matches!(name, b"none" | b"off" | b"directsync" | b"writeback" | b"writethrough" | b"unsafe")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_six_names_are_known_and_no_other() {
        for name in ["none", "off", "directsync", "writeback", "writethrough", "unsafe"] {
            assert!(is_mode(name.as_bytes()));
        }
        for name in ["", "bogus", "None", "writeback "] {
            assert!(!is_mode(name.as_bytes()));
        }
    }
}
