//! Wipes the environment: what others have put there for other programs is no business of a process that runs a guest.
#![expect(unsafe_code, reason = "the C library's environment has no safe interface that also wipes")]

use std::ffi::{CStr, c_char};
use std::ptr;

/// Variables that stay, and who reads them.
const KEPT: [(&str, &str); 4] = [
    ("TERM", "the progress bar: what the terminal understands"),
    ("NO_COLOR", "the progress bar: whether it may have colours"),
    ("CLICOLOR", "the progress bar: whether it may have colours"),
    ("CLICOLOR_FORCE", "the progress bar: whether it must have colours"),
];

unsafe extern "C" {
    static mut environ: *mut *mut c_char;
}

/// Removes all variables but [`KEPT`] and overwrites them with zeros. The process must have one thread only.
pub(super) fn wipe() {
    // SAFETY: reads a pointer of the C library, which no other thread changes.
    let table = unsafe { environ };
    if table.is_null() {
        return;
    }
    let (mut from, mut to) = (0, 0);
    loop {
        // SAFETY: the table ends with a null pointer, at which this loop ends.
        let place = unsafe { table.add(from) };
        // SAFETY: as above.
        let variable = unsafe { *place };
        if variable.is_null() {
            break;
        }
        from += 1;
        // SAFETY: every entry before the null pointer is a string of the C library's.
        let text = unsafe { CStr::from_ptr(variable) }.to_bytes();
        if is_kept(text) {
            // SAFETY: `to` is never beyond `from`.
            let place = unsafe { table.add(to) };
            // SAFETY: as above.
            unsafe { *place = variable };
            to += 1;
        } else {
            let length = text.len();
            // SAFETY: the string is that long, it can be written, and nobody reads it any more.
            unsafe { ptr::write_bytes(variable, 0, length) };
        }
    }
    // SAFETY: `to` is at most where the null pointer stood.
    let end = unsafe { table.add(to) };
    // SAFETY: as above.
    unsafe { *end = ptr::null_mut() };
}

fn is_kept(variable: &[u8]) -> bool {
    let name = variable.split(|byte| *byte == b'=').next().unwrap_or_default();
    KEPT.iter().any(|(kept, _)| kept.as_bytes() == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_names_are_kept() {
        assert!(is_kept(b"TERM=xterm") && is_kept(b"NO_COLOR="));
        assert!(!is_kept(b"TERMINAL=x") && !is_kept(b"AWS_SECRET_ACCESS_KEY=TERM") && !is_kept(b""));
    }
}
