//! A worker process that is made before its work is known: it gets ready meanwhile, and waits for bytes and an open file.
//!
//! It ends with its parent, or when that has no use for it. What it gets comes through a socket that it closes before it begins.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, PipeReader, Read};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
    recvmsg, send, sendmsg,
};

use super::fork::fork;
use super::worker::{Leaving, WorkerError, be_worker, conclude};

/// What stands before the bytes of an order: their length.
const LENGTH_BYTES: usize = 8;
/// Room for one descriptor beside the bytes.
const CONTROL_BYTES: usize = rustix::cmsg_space!(ScmRights(1));

/// A worker process without work. Dropping this ends it.
#[derive(Debug)]
pub struct Spare {
    orders: UnixStream,
    answer: PipeReader,
    /// Until it has work.
    idle: Option<Leaving>,
}

impl Drop for Spare {
    fn drop(&mut self) {
        self.idle.iter().for_each(Leaving::end);
    }
}

/// Where a worker process gets its work.
#[derive(Debug)]
pub struct Orders(UnixStream);

impl Spare {
    /// Makes a process that does `work`, as [`run`](super::worker::run) does; nothing is sent back where that gives `None`. The calling process
    /// should have one thread only: others do not exist in the new one.
    ///
    /// # Errors
    /// If there can be no process, or no way to it.
    pub fn make(work: impl FnOnce(Orders) -> Option<Vec<u8>>) -> io::Result<Self> {
        let (orders, orders_end) = UnixStream::pair()?;
        let (answer, answer_end) = io::pipe()?;
        let process = fork(|| be_worker(&answer_end, || work(Orders(orders_end))))?;
        Ok(Self { orders, answer, idle: Some(Leaving(process)) })
    }

    /// Gives it its work, and gives back what that gives. `meanwhile` is done here while it works.
    ///
    /// # Errors
    /// [`WorkerError`].
    pub fn give(
        mut self,
        bytes: &[u8],
        file: &File,
        meanwhile: impl FnOnce(),
    ) -> Result<(Vec<u8>, Leaving), WorkerError> {
        order(&self.orders, bytes, file).map_err(WorkerError::Start)?;
        let process = self.idle.take().ok_or_else(|| WorkerError::Start(io::ErrorKind::NotFound.into()))?;
        meanwhile();
        conclude(&self.answer, process)
    }

    /// Ends it without waiting for that.
    pub fn dismiss(mut self) -> Option<Leaving> {
        self.idle.take().inspect(Leaving::end)
    }
}

impl Orders {
    /// The number of the descriptor that must stay open until there is work.
    #[must_use]
    pub fn descriptor(&self) -> RawFd {
        self.0.as_raw_fd()
    }

    /// Waits for work; `None` if there will be none.
    #[must_use]
    pub fn wait(mut self) -> Option<(Vec<u8>, File)> {
        let mut length = [0; LENGTH_BYTES];
        let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut pieces = [IoSliceMut::new(&mut length)];
        let received = loop {
            match recvmsg(&self.0, &mut pieces, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Err(rustix::io::Errno::INTR) => {}
                received => break received.ok()?.bytes,
            }
        };
        let descriptors = control.drain().filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let file = descriptors.flatten().next()?;
        self.0.read_exact(length.get_mut(received..)?).ok()?;
        let mut bytes = vec![0; usize::try_from(u64::from_le_bytes(length)).ok()?];
        self.0.read_exact(&mut bytes).ok()?;
        Some((bytes, File::from(file)))
    }
}

fn order(orders: &UnixStream, bytes: &[u8], file: &File) -> io::Result<()> {
    let whole = [&(bytes.len() as u64).to_le_bytes(), bytes].concat();
    let files = [file.as_fd()];
    let mut space = [MaybeUninit::uninit(); CONTROL_BYTES];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&files)) {
        return Err(io::ErrorKind::OutOfMemory.into());
    }
    let mut sent = 0;
    while sent < whole.len() {
        // The file goes with the first bytes.
        let result = match sent {
            0 => sendmsg(orders, &[IoSlice::new(&whole)], &mut control, SendFlags::NOSIGNAL),
            _ => send(orders, &whole[sent..], SendFlags::NOSIGNAL),
        };
        match result {
            Err(rustix::io::Errno::INTR) => {}
            result => sent += result?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use rustix::process::{Pid, Signal, getpid, kill_process, test_kill_process};

    use super::*;

    #[test]
    fn bytes_and_a_file_arrive_and_the_answer_comes_back() {
        let mut file = tempfile::tempfile().expect("a file");
        file.write_all(b"of the file").and_then(|()| file.rewind()).expect("written");
        let spare = Spare::make(|orders| {
            let (mut bytes, mut file) = orders.wait()?;
            file.read_to_end(&mut bytes).ok()?;
            Some(bytes)
        });
        let sent: Vec<u8> = (0..500_000u32).map(|at| (at % 251) as u8).collect();
        let (answer, _leaving) = spare.expect("a process").give(&sent, &file, || ()).expect("an answer");
        assert!(answer == [&sent[..], b"of the file"].concat());
    }

    fn number_of(spare: &Spare) -> Pid {
        spare.idle.as_ref().expect("it has no work").0
    }

    #[test]
    fn whoever_is_not_needed_ends() {
        let idle = || Spare::make(|orders| orders.wait().map(|(bytes, _)| bytes)).expect("a process");
        let dropped = idle();
        let number = number_of(&dropped);
        assert!(test_kill_process(number).is_ok());
        drop(dropped);
        assert!(test_kill_process(number).is_err());
        let dismissed = idle();
        let number = number_of(&dismissed);
        drop(dismissed.dismiss());
        assert!(test_kill_process(number).is_err());
    }

    #[test]
    fn an_early_end_is_named() {
        let null = File::open("/dev/null").expect("it exists");
        let killed = Spare::make(|orders| {
            orders.wait()?;
            let _ = kill_process(getpid(), Signal::KILL);
            None
        });
        let error = killed.expect("a process").give(b"", &null, || ()).expect_err("it is dead");
        assert_eq!(error.to_string(), "its worker process was killed by signal 9");
        let silent = Spare::make(|orders| orders.wait().and(None)).expect("a process");
        let error = silent.give(b"work", &null, || ()).expect_err("it says nothing");
        assert_eq!(error.to_string(), "its worker process ended early with status 0");
    }
}
