//! What must hold whatever the input is. A violation panics.

pub mod bounded;
pub mod image;
pub mod program;
pub mod report;
pub mod secret;
