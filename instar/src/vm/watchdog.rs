//! Interrupts a guest that runs for too long without an exit.
//!
//! A timer sends this thread a signal again and again. The signal's handler does nothing, but it ends the call that runs
//! the guest, so that the run loop can look at the clock. A signal that arrives just before that call is lost; the next one
//! is not. No second thread is needed.
#![expect(unsafe_code, reason = "signals and timers with thread targets have no safe interface")]

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::time::{Duration, Instant};

use super::error::VmError;

/// The shortest time between two signals.
const MIN_PERIOD: Duration = Duration::from_millis(10);

/// A clock, and as a rule a running timer, which ends when this is dropped.
#[derive(Debug)]
pub struct Watchdog {
    timer: Option<libc::timer_t>,
    limit: Duration,
    last_request: Instant,
}

extern "C" fn interrupt_only(_signal: libc::c_int) {}

fn signal_number() -> libc::c_int {
    // The lowest ones are used by some C libraries and debuggers.
    libc::SIGRTMIN() + 7
}

impl Watchdog {
    /// Starts watching the calling thread: a guest may run for `limit` without a request.
    ///
    /// # Errors
    /// [`VmError::Setup`].
    pub fn start(limit: Duration) -> Result<Self, VmError> {
        install_handler().map_err(|error| VmError::setup("installing the watchdog's signal handler", error))?;
        let timer = create_timer().map_err(|error| VmError::setup("making the watchdog's timer", error))?;
        let watchdog = Self { timer: Some(timer), ..Self::without_timer(limit) };
        arm(timer, limit).map_err(|error| VmError::setup("starting the watchdog's timer", error))?;
        Ok(watchdog)
    }

    /// The clock alone, for guests that are interrupted by somebody else.
    pub(crate) fn without_timer(limit: Duration) -> Self {
        Self { timer: None, limit, last_request: Instant::now() }
    }

    /// The guest made a request, and the host has answered it: time counts from here.
    pub(crate) fn restart(&mut self) {
        self.last_request = Instant::now();
    }

    /// Whether the guest has had its time.
    pub(crate) fn check(&self) -> Result<(), VmError> {
        if self.last_request.elapsed() >= self.limit { Err(VmError::Stuck(self.limit)) } else { Ok(()) }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(timer) = self.timer {
            // SAFETY: the timer was made by this value and is deleted once.
            unsafe { libc::timer_delete(timer) };
        }
    }
}

fn install_handler() -> io::Result<()> {
    let mut action = MaybeUninit::<libc::sigaction>::zeroed();
    let action = {
        let handler: extern "C" fn(libc::c_int) = interrupt_only;
        let fields = action.as_mut_ptr();
        // SAFETY: a sigaction of zeros is a valid one, and the pointer is to our own variable.
        let fields = unsafe { &mut *fields };
        fields.sa_sigaction = handler as usize;
        // Host calls go on by themselves; running a guest is never restarted.
        fields.sa_flags = libc::SA_RESTART;
        *fields
    };
    // SAFETY: the handler does nothing, so it is safe at any moment, and the action outlives the call.
    let result = unsafe { libc::sigaction(signal_number(), &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Has the timer send its signal again and again.
fn arm(timer: libc::timer_t, limit: Duration) -> io::Result<()> {
    let period = (limit / 8).max(MIN_PERIOD);
    let seconds = libc::time_t::try_from(period.as_secs()).unwrap_or(libc::time_t::MAX);
    let time = libc::timespec { tv_sec: seconds, tv_nsec: libc::c_long::from(period.subsec_nanos()) };
    let setting = libc::itimerspec { it_interval: time, it_value: time };
    // SAFETY: the timer exists until its watchdog is dropped, and the setting outlives the call.
    let result = unsafe { libc::timer_settime(timer, 0, &raw const setting, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn create_timer() -> io::Result<libc::timer_t> {
    let mut event = MaybeUninit::<libc::sigevent>::zeroed();
    let event = {
        let fields = event.as_mut_ptr();
        // SAFETY: a sigevent of zeros is a valid one, and the pointer is to our own variable.
        let fields = unsafe { &mut *fields };
        fields.sigev_notify = libc::SIGEV_THREAD_ID;
        fields.sigev_signo = signal_number();
        // SAFETY: asks for a number and changes nothing.
        fields.sigev_notify_thread_id = unsafe { libc::gettid() };
        fields
    };
    let mut timer: libc::timer_t = ptr::null_mut();
    // SAFETY: both pointers are to our own variables, which outlive the call.
    let result = unsafe { libc::timer_create(libc::CLOCK_MONOTONIC, event, &raw mut timer) };
    if result == 0 { Ok(timer) } else { Err(io::Error::last_os_error()) }
}
