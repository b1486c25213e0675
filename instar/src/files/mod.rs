//! Everything that touches the file system for images: opening, image locks, and the gate for names that images record.
//!
//! The only place of the host that opens or removes an image. Knows names, descriptors and locks; never reads a byte of
//! one.

mod base;
pub mod chain;
pub mod driver;
mod error;
mod keys;
pub mod locks;
mod name;
mod open;
mod options;
pub mod policy;
mod removal;
mod same;
mod save;
mod siblings;
mod space;
mod walk;

pub use base::find_base;
pub use error::{Cause, OpenError, system_text};
pub use keys::{ImageKeys, LayerKey};
pub use name::{Location, Origin};
pub use open::{Access, FileFacts, ImageFile, open_again_for_reading, open_operand};
pub use options::{Operand, OperandError, parse_option_pairs};
pub use removal::Removal;
pub use same::find_same;
pub use save::save_new;
pub use siblings::{Siblings, find_siblings};
pub use space::Space;
