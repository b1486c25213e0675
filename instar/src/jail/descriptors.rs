//! Closes descriptors that nobody here opened, or that the rest of the process will not use.
#![expect(unsafe_code, reason = "closing descriptors by number has no safe interface")]

use std::os::fd::RawFd;

use rustix::fs::{Dir, Mode, OFlags};

/// Closes everything but these. Standard output and standard error are to be named as well.
pub(super) fn close_all_but(mut keeps: Vec<RawFd>) {
    keeps.sort_unstable();
    keeps.dedup();
    if close_gaps(&keeps).is_err() {
        close_listed(&keeps);
    }
}

/// Needs Linux 5.9.
fn close_gaps(keeps: &[RawFd]) -> Result<(), ()> {
    let keeps = keeps.iter().filter_map(|keep| libc::c_uint::try_from(*keep).ok());
    let mut start = 0;
    for keep in keeps {
        if keep > start {
            close_range(start, keep - 1)?;
        }
        start = keep + 1;
    }
    close_range(start, libc::c_uint::MAX)
}

fn close_range(first: libc::c_uint, last: libc::c_uint) -> Result<(), ()> {
    // SAFETY: the callers promise that whatever owns these numbers is not used any more.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    if result == 0 { Ok(()) } else { Err(()) }
}

fn close_listed(keeps: &[RawFd]) {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let listed = rustix::fs::open("/proc/self/fd", flags, Mode::empty()).and_then(|list| Dir::new(list));
    // Without a list there is nothing to be done; the other layers hold.
    let Ok(listed) = listed else { return };
    let open: Vec<RawFd> = listed
        .filter_map(|entry| entry.ok()?.file_name().to_str().ok()?.parse().ok())
        .filter(|number| !keeps.contains(number))
        .collect();
    for number in open {
        // SAFETY: as above. The list itself is closed by now, and closing it again does nothing: nothing was opened since.
        unsafe { libc::close(number) };
    }
}
