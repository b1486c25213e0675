//! What is known of an image, or of a whole chain.

use std::path::PathBuf;

use super::image_info::ImageInfo;
use super::running::Report;
use super::settings::{Settings, Words, builder};

/// Looks at an image, or at its whole chain.
///
/// ```no_run
/// # use instar::client::Info;
/// let report = Info::new("overlay.qcow2").backing_chain(true).run()?;
/// for image in &report.images {
///     println!("{}: {} bytes of disk", image.filename, image.virtual_size);
/// }
/// # Ok::<(), instar::client::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Info {
    settings: Settings,
    shows_chain: bool,
    shares: bool,
    qemu_version: Option<String>,
    counts: bool,
}

builder!(Info, InfoReport);

impl Info {
    /// Looks at this image.
    #[must_use]
    pub fn new(image: impl Into<PathBuf>) -> Self {
        Self {
            settings: Settings::of(image.into()),
            shows_chain: false,
            shares: false,
            qemu_version: None,
            counts: false,
        }
    }

    /// Looks at the images below it too.
    #[must_use]
    pub fn backing_chain(mut self, shows_chain: bool) -> Self {
        self.shows_chain = shows_chain;
        self
    }

    /// Looks even while somebody writes to the image.
    #[must_use]
    pub fn force_share(mut self, shares: bool) -> Self {
        self.shares = shares;
        self
    }

    /// Reports what qemu-img of this version shows, such as `8.2.0`; without it, what the newest known one does.
    #[must_use]
    pub fn qemu_version(mut self, version: impl Into<String>) -> Self {
        self.qemu_version = Some(version.into());
        self
    }

    /// Tells what it took, in words among the [messages](InfoReport::messages).
    #[must_use]
    pub fn stats(mut self, is_wanted: bool) -> Self {
        self.counts = is_wanted;
        self
    }

    fn words(&self) -> Words {
        let mut words = Words::of(&["info"]);
        words.flag("--backing-chain", self.shows_chain);
        words.flag("--force-share", self.shares);
        words.option("--qemu-version", self.qemu_version.as_ref());
        words.flag("--stats", self.counts);
        words
    }
}

/// What is known of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InfoReport {
    /// The image; where the chain was asked for, it is the first, and what lies below it follows.
    pub images: Vec<ImageInfo>,
    /// Warnings, and whatever else the program has said, line by line.
    pub messages: Vec<String>,
}

impl InfoReport {
    /// The image that was asked about.
    #[must_use]
    pub fn image(&self) -> &ImageInfo {
        // A report without an image is not read at all.
        &self.images[0]
    }
}

impl Report for InfoReport {
    fn read(answer: &[u8], messages: Vec<String>) -> serde_json::Result<Self> {
        let is_list = answer.trim_ascii_start().first() == Some(&b'[');
        let images: Vec<ImageInfo> =
            if is_list { serde_json::from_slice(answer)? } else { vec![serde_json::from_slice(answer)?] };
        if images.is_empty() {
            return Err(serde::de::Error::custom("there is no image in it"));
        }
        Ok(Self { images, messages })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::FormatSpecific;

    const IMAGE: &str = r#"{"filename":"a","format":"raw","virtual-size":1,"actual-size":2,"new":[]}"#;

    #[test]
    fn one_image_and_a_list_are_read_and_an_empty_list_is_not() {
        let read = |text: &str| InfoReport::read(text.as_bytes(), Vec::new());
        assert_eq!(read(IMAGE).expect("an image").images.len(), 1);
        let two = read(&format!(" [{IMAGE},{IMAGE}]")).expect("a list");
        assert_eq!((two.images.len(), two.image().filename.as_str()), (2, "a"));
        assert!(read("[]").is_err());
        assert!(read("{}").is_err());
    }

    #[test]
    fn a_kind_that_is_not_known_here_is_no_failure() {
        let newer = IMAGE.replace("\"new\":[]", r#""format-specific":{"type":"new","data":{"x":[1]}}"#);
        let report = InfoReport::read(newer.as_bytes(), Vec::new()).expect("an image");
        assert_eq!(report.image().format_specific, Some(FormatSpecific::Other("new".to_owned())));
        let broken = newer.replace("\"type\":\"new\"", "\"type\":\"qcow2\"");
        assert!(InfoReport::read(broken.as_bytes(), Vec::new()).is_err());
    }
}
