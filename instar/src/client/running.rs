//! The program as a child process: starts it, listens to it, and makes a report or an error of what it says.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{self, BufRead, BufReader, ErrorKind, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use super::error::{Error, Failure};
use super::progress::{Board, Progress, Updates};
use super::settings::Settings;

/// The most lines of messages that are kept, the newest ones: with `INSTAR_LOG` set there may be no end to them.
const MAX_MESSAGES: usize = 1000;

/// What the program reports of an operation.
pub(super) trait Report: Sized {
    /// Reads the program's standard output.
    ///
    /// # Errors
    /// If that is no such report.
    fn read(answer: &[u8], messages: Vec<String>) -> serde_json::Result<Self>;
}

/// An operation that was started. If this goes away, the operation goes on, and nobody learns how it ends.
#[derive(Debug)]
#[must_use = "only `wait` tells how it ends"]
pub struct Running<R> {
    child: Child,
    program: PathBuf,
    readers: Readers,
    board: Arc<Board>,
    read: fn(&[u8], Vec<String>) -> serde_json::Result<R>,
}

/// The threads that read the program's outputs to their ends.
#[derive(Debug)]
struct Readers {
    answer: JoinHandle<io::Result<Vec<u8>>>,
    messages: JoinHandle<io::Result<Vec<String>>>,
}

/// Starts the program.
///
/// # Errors
/// If that cannot be done.
pub(super) fn start<R: Report>(settings: &Settings, arguments: &[OsString]) -> Result<Running<R>, Error> {
    if let Some(refusal) = settings.refusal {
        return Err(Error::Failed(Box::new(Failure::of_usage(refusal))));
    }
    let program = settings.program();
    let mut command = Command::new(&program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    settings.directory().into_iter().for_each(|directory| _ = command.current_dir(directory));
    let mut child = command.spawn().map_err(|source| not_spawned(program.clone(), settings.directory(), source))?;
    let board = Arc::<Board>::default();
    match listen(&mut child, &board) {
        Ok(readers) => Ok(Running { child, program, readers, board, read: R::read }),
        Err(source) => {
            // Nobody would hear how it ends. What cannot be killed has ended.
            let _ = child.kill().and_then(|()| child.wait());
            Err(Error::System { doing: "Listening to", program, source })
        }
    }
}

/// Why there is no process. A directory that does not exist reads like a program that does not.
fn not_spawned(program: PathBuf, directory: Option<&Path>, source: io::Error) -> Error {
    let is_missing = source.kind() == ErrorKind::NotFound && directory.is_none_or(Path::is_dir);
    if is_missing { Error::ProgramNotFound { program } } else { Error::System { doing: "Starting", program, source } }
}

/// Reads both outputs at the same time: the program waits for whoever does not read.
fn listen(child: &mut Child, board: &Arc<Board>) -> io::Result<Readers> {
    let no_pipe = || io::Error::from(ErrorKind::BrokenPipe);
    let (mut stdout, stderr) = (child.stdout.take().ok_or_else(no_pipe)?, child.stderr.take().ok_or_else(no_pipe)?);
    let named = || thread::Builder::new().name("instar".to_owned());
    let answer = named().spawn(move || {
        let mut answer = Vec::new();
        stdout.read_to_end(&mut answer).map(|_| answer)
    })?;
    let board = Arc::clone(board);
    let messages = named().spawn(move || {
        let messages = sort(BufReader::new(stderr), &board);
        board.end();
        messages
    })?;
    Ok(Readers { answer, messages })
}

/// Sorts lines: progress goes to the board, everything else are messages.
fn sort(mut lines: impl BufRead, board: &Board) -> io::Result<Vec<String>> {
    let mut messages = VecDeque::new();
    let mut line = Vec::new();
    while lines.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        match serde_json::from_str::<Progress>(&text) {
            Ok(progress) => board.put(progress),
            Err(_) => {
                messages.truncate(MAX_MESSAGES - 1);
                messages.push_front(text.trim_end_matches('\n').to_owned());
            }
        }
        line.clear();
    }
    Ok(messages.into_iter().rev().collect())
}

impl<R> Running<R> {
    /// The number of the process.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// How far it has come; `None` until it says so. Only commits do.
    #[must_use]
    pub fn progress(&self) -> Option<Progress> {
        self.board.newest()
    }

    /// Progress as it comes, about five times a second, until the operation ends.
    ///
    /// ```no_run
    /// # use instar::client::Commit;
    /// let running = Commit::new("overlay.qcow2").start()?;
    /// for progress in running.updates() {
    ///     println!("{:.0} %", progress.percent);
    /// }
    /// let report = running.wait()?;
    /// # Ok::<(), instar::client::Error>(())
    /// ```
    pub fn updates(&self) -> Updates<'_> {
        self.board.updates()
    }

    /// Whether it has ended, so that [`wait`](Self::wait) does not wait any more.
    pub fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it at once, if it has not ended by itself. No data is lost by that, and the same operation completes what was begun.
    /// [`wait`](Self::wait) then gives [`Error::Signal`].
    ///
    /// # Errors
    /// If the system does not do it.
    pub fn kill(&mut self) -> io::Result<()> {
        self.child.kill()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// Every way in which the operation can fail.
    pub fn wait(mut self) -> Result<R, Error> {
        let status = self.child.wait();
        let (answer, messages) = (joined(self.readers.answer), joined(self.readers.messages));
        let failed = |source| Error::System { doing: "Listening to", program: self.program, source };
        match (status, answer, messages) {
            (Ok(status), Ok(answer), Ok(messages)) => conclude(status, &answer, messages, self.read),
            (Err(source), ..) | (_, Err(source), _) | (.., Err(source)) => Err(failed(source)),
        }
    }
}

fn joined<T>(reader: JoinHandle<io::Result<T>>) -> io::Result<T> {
    reader.join().unwrap_or_else(|_| Err(io::Error::other("a thread has panicked")))
}

/// What it all means.
fn conclude<R>(
    status: ExitStatus,
    answer: &[u8],
    mut messages: Vec<String>,
    read: fn(&[u8], Vec<String>) -> serde_json::Result<R>,
) -> Result<R, Error> {
    if let Some(signal) = status.signal() {
        return Err(Error::Signal { signal, messages });
    }
    if status.success() {
        return read(answer, messages).map_err(|error| Error::NotUnderstood {
            succeeded: true,
            said: String::from_utf8_lossy(answer).into_owned(),
            reason: error.to_string(),
        });
    }
    let last = messages.pop().unwrap_or_default();
    match Failure::read(&last) {
        Ok(failure) => Err(Error::Failed(Box::new(Failure { messages, ..failure }))),
        Err(error) => {
            messages.push(last);
            let reason = format!("{status}; {error}");
            Err(Error::NotUnderstood { succeeded: false, said: messages.join("\n"), reason })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_sorted_out_and_the_newest_messages_are_kept() {
        let line = |done: u64| {
            format!(
                "{{\"done_bytes\": {done}, \"total_bytes\": 9, \"percent\": 0.00, \"bytes_per_second\": 1, \
                 \"remaining_seconds\": null, \"finished\": false}}\n"
            )
        };
        let board = Board::default();
        let text = [line(1).as_bytes(), b"first\n", line(2).as_bytes(), b"\xffsecond\n{\"code\":\"x\"}"].concat();
        let messages = sort(text.as_slice(), &board).expect("read");
        assert_eq!(messages, ["first", "\u{fffd}second", "{\"code\":\"x\"}"]);
        assert_eq!(board.newest().map(|progress| progress.done_bytes), Some(2));
        let many: String = (0..MAX_MESSAGES + 5).map(|number| format!("{number}\n")).collect();
        let messages = sort(many.as_bytes(), &board).expect("read");
        assert_eq!((messages.len(), messages[1].as_str()), (MAX_MESSAGES, "6"));
    }

    #[test]
    fn status_and_words_make_report_or_error() {
        let end = |status: i32, answer: &str, messages: &[&str]| {
            let messages = messages.iter().map(ToString::to_string).collect();
            let read =
                |answer: &[u8], messages: Vec<String>| Ok((serde_json::from_slice::<u32>(answer)?, messages.join(",")));
            conclude(ExitStatus::from_raw(status), answer.as_bytes(), messages, read)
        };
        assert_eq!(end(0, "7", &["a", "b"]).expect("a report"), (7, "a,b".to_owned()));
        assert!(matches!(end(0, "x", &[]), Err(Error::NotUnderstood { succeeded: true, said, .. }) if said == "x"));
        assert!(matches!(end(9, "7", &["a"]), Err(Error::Signal { signal: 9, messages }) if messages == ["a"]));
        let told = r#"{"code":"policy","message":"m"}"#;
        assert!(matches!(end(256, "", &["a", told]), Err(Error::Failed(failure)) if failure.messages == ["a"]));
        let not_understood = |said: &str, messages: &[&str]| matches!(end(256, "", messages), Err(Error::NotUnderstood { succeeded: false, said: found, .. }) if found == said);
        assert!(not_understood("", &[]) && not_understood("a\nb", &["a", "b"]));
    }
}
