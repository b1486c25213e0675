//! A random case before it is built: images, what is written into them, and the command. Plain data, so that it can be shrunk.

use crate::case::Operation;
use serde::Serialize;

/// Guest bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Range {
    /// First byte.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// What is done to an image after it was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub enum Action {
    /// Bytes that name their place; the number tells writes apart.
    Write(Range, u64),
    /// Bytes that do not compress.
    WriteNoise(Range, u64),
    /// Zeros as data.
    WriteZeroBytes(Range),
    /// Compressed clusters.
    WriteCompressed(Range, u64),
    /// Zeros by metadata; with the flag, clusters may be freed.
    Zero(Range, bool),
    /// A discard.
    Discard(Range),
    /// An internal snapshot.
    Snapshot(String),
    /// A persistent bitmap: name, granularity in bytes, whether it records writes.
    Bitmap(String, u64, bool),
    /// The virtual size changes.
    Resize(u64),
    /// A last write, after which the program dies without closing the image.
    Abandon(Range, u64),
}

/// One image file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    /// File name; its extension is the format.
    pub name: String,
    /// Virtual size in bytes.
    pub size: u64,
    /// Name of the backing file.
    pub backing: Option<String>,
    /// Options of `create -o`, as `name=value`.
    pub options: Vec<String>,
    /// In order.
    pub actions: Vec<Action>,
}

impl Image {
    /// The format, which is the extension of the name.
    pub fn format(&self) -> &str {
        self.name.rsplit_once('.').map_or("raw", |(_, extension)| extension)
    }
}

/// A whole case.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Every image stands behind its backing file.
    pub images: Vec<Image>,
    /// The command.
    pub op: Operation,
    /// Its arguments.
    pub argv: Vec<String>,
}

impl Plan {
    /// Whether the command line names this file.
    pub fn names(&self, file: &str) -> bool {
        self.argv.iter().any(|argument| argument == file)
    }

    /// Whether another image lies on this file.
    pub fn is_backing(&self, file: &str) -> bool {
        self.images.iter().any(|image| image.backing.as_deref() == Some(file))
    }
}
