//! The host program: opens files, runs the sandbox, prints. It never interprets a byte of an image.

pub mod apart;
pub mod cli;
pub mod code;
pub mod devices;
pub mod effort;
pub mod files;
pub mod jail;
pub mod series;
pub mod session;
pub mod text;
pub mod vm;
