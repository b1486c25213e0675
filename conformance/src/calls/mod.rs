//! System calls of the built program that are made to fail, one after the other, and what must come of it.
//!
//! Knows the program by its system calls alone. What holds afterwards of the images is judged by the crash harness.

mod table;
mod tracer;

pub use table::{Ending, FAILING, Failing, NEVER_FAILING, failing};
pub use tracer::{Call, Injection, run};
