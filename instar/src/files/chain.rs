//! Finds the images below an overlay, one after the other: inspect one, ask the gate, open the next.
//!
//! Knows links and locks. What an image says about itself comes from the sandbox, through [`Inspect`].

use instar_abi::job::{MAX_DEVICES, format};
use instar_abi::report::info_flag;
use tracing::info;

use super::driver;
use super::error::{Cause, OpenError};
use super::keys::{ImageKeys, LayerKey};
use super::name::{self, Location};
use super::open::{Access, ImageFile, open_found};
use super::policy::Gate;
use crate::code::Code;
use crate::text::Printable;

/// The most images in one chain. The contract's device table leaves room for some external data files besides.
pub const MAX_LAYERS: usize = 200;

/// What the sandbox says about one image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// One of [`mod@format`], never [`format::PROBE`].
    pub format: u32,
    /// Bits of [`info_flag`].
    pub flags: u32,
    /// Size of the disk that a guest sees, in bytes.
    pub virtual_size_bytes: u64,
    /// Entries of the active L1 table.
    pub l1_entries: u64,
    /// The recorded backing name.
    pub backing_name: Option<Vec<u8>>,
    /// The recorded format of the backing image.
    pub backing_format: Option<Vec<u8>>,
    /// The recorded name of the external data file.
    pub data_file_name: Option<Vec<u8>>,
    /// The recorded names of the extent files (vmdk), by number.
    pub extent_names: Vec<Vec<u8>>,
    /// The operation's report as it came, for those who print it.
    pub report: Vec<u8>,
    /// What stood behind the report.
    pub payload: Vec<u8>,
}

/// Why an image could not be inspected.
#[derive(Debug)]
pub enum Finding<E> {
    /// It is about the image.
    Image(Cause),
    /// It is about the sandbox.
    Sandbox(E),
}

/// Reads one image's metadata in the sandbox.
pub trait Inspect {
    /// What can go wrong with the sandbox itself.
    type Error;

    /// Inspects an open image. `format` is one of [`mod@format`].
    ///
    /// # Errors
    /// What is wrong with the image, or with the sandbox.
    fn inspect(&mut self, image: &ImageFile, format: u32) -> Result<Summary, Finding<Self::Error>>;

    /// Inspects an open image once more, together with its extent files, which say more than the image alone.
    ///
    /// # Errors
    /// As [`Inspect::inspect`].
    fn inspect_extents(
        &mut self,
        image: &ImageFile,
        _extents: &[ImageFile],
        format: u32,
    ) -> Result<Summary, Finding<Self::Error>> {
        self.inspect(image, format)
    }
}

/// Whose words a failing link is reported in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Links {
    /// Each link is part of opening the overlay.
    OfOverlay,
    /// Each link is opened for itself, and without its external data file.
    EachAlone,
}

/// One image of a chain.
#[derive(Debug)]
pub struct Layer {
    /// Its file.
    pub image: ImageFile,
    /// Its external data file.
    pub data: Option<ImageFile>,
    /// Its extent files (vmdk), by number.
    pub extents: Vec<ImageFile>,
    /// What it says about itself.
    pub summary: Summary,
    /// The format that was given or recorded, or [`format::PROBE`].
    pub given_format: u32,
    /// Where its name leads.
    pub location: Location,
    /// The name under which the image above records it; `None` for the overlay.
    pub recorded: Option<Vec<u8>>,
    /// Which secret opens it.
    pub key: LayerKey,
}

impl Layer {
    /// All its files.
    pub fn files(&self) -> impl Iterator<Item = &ImageFile> {
        [&self.image].into_iter().chain(&self.data).chain(&self.extents)
    }

    /// All its files, to be changed.
    pub fn files_mut(&mut self) -> impl Iterator<Item = &mut ImageFile> {
        [&mut self.image].into_iter().chain(&mut self.data).chain(&mut self.extents)
    }
}

/// Why a chain could not be opened.
#[derive(Debug)]
pub enum ChainError<E> {
    /// A file.
    Open(OpenError),
    /// The sandbox, at work on one image.
    Sandbox {
        /// The image's name as messages show it.
        image: Vec<u8>,
        /// What happened.
        error: E,
    },
}

/// Opens the chain of an overlay that is already open. Everything below it is opened read-only. `keys` says which secrets
/// open the images; whether these are the right ones is not asked here.
///
/// # Errors
/// Anything that keeps a link from being opened: every link must open, also those that nobody will read.
pub fn discover<I: Inspect>(
    gate: &Gate,
    overlay: ImageFile,
    given_format: u32,
    keys: ImageKeys,
    links: Links,
    inspect: &mut I,
) -> Result<Vec<Layer>, ChainError<I::Error>> {
    let below = if overlay.is_writable() { Access::Read } else { overlay.access() };
    let location = Location::of_overlay(overlay.name());
    follow(gate, Next { image: overlay, given_format, location, recorded: None, keys }, below, links, inspect)
}

/// Opens an image that the user names as backing image of `overlay`, and everything below it, with `access`. `given_format`
/// is what the user says of it, or [`format::PROBE`].
///
/// # Errors
/// As [`discover`]; links are counted from the named image.
pub fn discover_named<I: Inspect>(
    gate: &Gate,
    overlay: &Layer,
    name: &[u8],
    given_format: u32,
    access: Access,
    inspect: &mut I,
) -> Result<Vec<Layer>, ChainError<I::Error>> {
    let driver = driver::name(given_format).map(str::as_bytes);
    let (opened, shown) = open_backing(gate, &overlay.location, name, driver, access);
    let first = opened.map_err(|cause| ChainError::Open(OpenError { image: shown, backing_depth: 0, cause }))?;
    follow(gate, first, access, Links::OfOverlay, inspect)
}

/// As [`discover_named`] for the named image alone: nothing that it names is opened.
///
/// # Errors
/// As [`discover`].
pub fn open_named<I: Inspect>(
    gate: &Gate,
    overlay: &Layer,
    name: &[u8],
    given_format: u32,
    access: Access,
    inspect: &mut I,
) -> Result<Layer, ChainError<I::Error>> {
    let driver = driver::name(given_format).map(str::as_bytes);
    let (opened, shown) = open_backing(gate, &overlay.location, name, driver, access);
    let failed = |cause| ChainError::Open(OpenError { image: shown.clone(), backing_depth: 0, cause });
    let Next { image, given_format, location, recorded, .. } = opened.map_err(failed)?;
    let summary = inspect.inspect(&image, given_format).map_err(|finding| match finding {
        Finding::Image(cause) => failed(cause),
        Finding::Sandbox(error) => ChainError::Sandbox { image: shown.clone(), error },
    })?;
    Ok(Layer {
        image,
        data: None,
        extents: Vec::new(),
        summary,
        given_format,
        location,
        recorded,
        key: LayerKey::default(),
    })
}

/// Opens everything below `first`, with the access `below`.
fn follow<I: Inspect>(
    gate: &Gate,
    first: Next,
    below: Access,
    links: Links,
    inspect: &mut I,
) -> Result<Vec<Layer>, ChainError<I::Error>> {
    let typed = first.image.name().to_vec();
    let mut layers: Vec<Layer> = Vec::new();
    let mut next = Some(first);
    while let Some(link) = next.take() {
        let depth = layers.len();
        let shown = link.image.name().to_vec();
        let failed = |at: &[u8], depth: usize, cause| {
            ChainError::Open(match links {
                Links::OfOverlay => OpenError { image: typed.clone(), backing_depth: depth, cause },
                Links::EachAlone => OpenError { image: at.to_vec(), backing_depth: 0, cause },
            })
        };
        let found = inspect_whole(gate, &link.image, &link.location, link.given_format, inspect);
        let (summary, extents) = found.map_err(|finding| match finding {
            Finding::Image(cause) => failed(&shown, depth, cause),
            Finding::Sandbox(error) => ChainError::Sandbox { image: shown.clone(), error },
        })?;
        let seen = layers.iter().flat_map(Layer::files).chain([&link.image]);
        check_extents(seen, &extents).map_err(|cause| failed(&shown, depth, cause))?;
        let Next { image, given_format, location, recorded, keys } = link;
        let (key, keys_below) = keys.split();
        let data = match links {
            Links::OfOverlay => {
                check_use(&image, &summary, &key).and_then(|()| open_data(gate, &location, &summary, image.access()))
            }
            Links::EachAlone => Ok(None),
        }
        .map_err(|cause| failed(&shown, depth, cause))?;
        let files = layers.iter().map(|layer| layer.files().count()).sum::<usize>() + 2 + extents.len();
        if depth >= MAX_LAYERS || files > MAX_DEVICES {
            // Of the whole chain: where it lies is of no use.
            return Err(failed(&shown, 0, Cause::TooDeep(depth.min(MAX_LAYERS))));
        }
        if let Some(recorded) = &summary.backing_name {
            let (opened, at) = open_backing(gate, &location, recorded, summary.backing_format.as_deref(), below);
            let mut opened = opened.map_err(|cause| failed(&at, depth + 1, cause))?;
            opened.keys = keys_below.or(opened.keys);
            let seen = layers.iter().flat_map(Layer::files).chain([&image]).chain(&extents);
            if seen.map(ImageFile::identity).any(|identity| identity == opened.image.identity()) {
                return Err(failed(&at, depth + 1, Cause::Loop(at.clone())));
            }
            next = Some(opened);
        }
        layers.push(Layer { image, data, extents, summary, given_format, location, recorded, key });
    }
    for (depth, layer) in layers.iter().enumerate() {
        let format = driver::name(layer.summary.format).unwrap_or("unknown");
        info!(depth, file = %Printable(layer.image.name()), format, "layer of the chain");
    }
    Ok(layers)
}

/// Inspects an image; where it names extent files, opens these and inspects it together with them.
///
/// # Errors
/// As [`Inspect::inspect`]; an extent file that the gate refuses, or that cannot be opened.
pub fn inspect_whole<I: Inspect>(
    gate: &Gate,
    image: &ImageFile,
    location: &Location,
    given_format: u32,
    inspect: &mut I,
) -> Result<(Summary, Vec<ImageFile>), Finding<I::Error>> {
    let summary = inspect.inspect(image, given_format)?;
    if summary.extent_names.is_empty() {
        return Ok((summary, Vec::new()));
    }
    if summary.extent_names.len() >= MAX_DEVICES {
        let text = b"the image has more extent files than can be opened".to_vec();
        let (code, name) = (Code::UnsupportedFormat, image.name().to_vec());
        return Err(Finding::Image(Cause::Image { code, name, text }));
    }
    let open = |recorded: &Vec<u8>| {
        let at = location.join(&name::parse(recorded)?);
        let shown = at.shown(gate.overlay_directory());
        open_found(gate.admit(&at, recorded)?, &shown, image.access())
    };
    let extents = summary.extent_names.iter().map(open).collect::<Result<Vec<_>, _>>().map_err(Finding::Image)?;
    let summary = inspect.inspect_extents(image, &extents, given_format)?;
    Ok((summary, extents))
}

/// Refuses extents that are files which the chain has already, or the same file twice under two names.
fn check_extents<'a>(seen: impl Iterator<Item = &'a ImageFile>, extents: &[ImageFile]) -> Result<(), Cause> {
    let mut seen: Vec<(u64, u64)> = seen.map(ImageFile::identity).collect();
    for extent in extents {
        if seen.contains(&extent.identity()) {
            return Err(Cause::Loop(extent.name().to_vec()));
        }
        seen.push(extent.identity());
    }
    Ok(())
}

/// A link that is open and not yet inspected.
struct Next {
    image: ImageFile,
    given_format: u32,
    location: Location,
    recorded: Option<Vec<u8>>,
    keys: ImageKeys,
}

/// Refuses what cannot be read or written at all: an image without a key, and for a writer one that is marked corrupt.
fn check_use(image: &ImageFile, summary: &Summary, key: &LayerKey) -> Result<(), Cause> {
    let refused =
        |code, text: &str| Err(Cause::Image { code, name: image.name().to_vec(), text: text.as_bytes().to_vec() });
    if image.is_writable() && summary.flags & info_flag::CORRUPT != 0 {
        return refused(Code::CorruptImage, "qcow2: Image is corrupt; cannot be opened read/write");
    }
    if summary.format == format::LUKS && key.volume_secret.is_none() {
        return refused(Code::EncryptionKey, "Parameter 'key-secret' is required for cipher");
    }
    let method = match summary.flags & (info_flag::ENCRYPT_LUKS | info_flag::ENCRYPT_AES) {
        0 => return Ok(()),
        info_flag::ENCRYPT_LUKS => "luks",
        _ => "aes",
    };
    if let Some(other) = key.encrypt_format.as_deref().filter(|format| *format != method) {
        let text = format!("Header reported '{method}' encryption format but options specify '{other}'");
        return refused(Code::EncryptionKey, &text);
    }
    if key.encrypt_secret.is_none() {
        return refused(Code::EncryptionKey, "Parameter 'encrypt.key-secret' is required for cipher");
    }
    Ok(())
}

fn open_backing(
    gate: &Gate,
    holder: &Location,
    recorded: &[u8],
    recorded_format: Option<&[u8]>,
    access: Access,
) -> (Result<Next, Cause>, Vec<u8>) {
    let parsed = match name::parse(recorded) {
        Ok(parsed) => parsed,
        Err(cause) => return (Err(cause), recorded.to_vec()),
    };
    let location = holder.join(&parsed);
    let shown = location.shown(gate.overlay_directory());
    // A driver in the name itself stands above the format recorded beside it.
    let driver = parsed.driver.as_deref().map(str::as_bytes).or(recorded_format);
    let given_format = match driver {
        None => format::PROBE,
        Some(driver) => match driver::number(driver) {
            Some(number) => number,
            None => return (Err(Cause::UnknownDriver(driver.to_vec())), shown),
        },
    };
    let opened = gate
        .admit(&location, recorded)
        .and_then(|found| open_found(found, &shown, access))
        .map(|image| Next { image, given_format, location, recorded: Some(recorded.to_vec()), keys: parsed.keys });
    (opened, shown)
}

/// Opens the external data file of an image, if it has one. A relative name starts from the working directory, as other
/// tools have it.
///
/// # Errors
/// A name that is not recorded, that the gate refuses, or that cannot be opened.
pub fn open_data(
    gate: &Gate,
    holder: &Location,
    summary: &Summary,
    access: Access,
) -> Result<Option<ImageFile>, Cause> {
    if summary.flags & info_flag::DATA_FILE == 0 {
        return Ok(None);
    }
    let Some(recorded) = &summary.data_file_name else {
        let (code, text) = (Code::InvalidImage, b"'data-file' is required for this image".to_vec());
        return Err(Cause::Image { code, name: holder.shown(gate.overlay_directory()), text });
    };
    let mut parsed = name::parse(recorded)?;
    parsed.from_working_directory = true;
    let location = holder.join(&parsed);
    let shown = location.shown(gate.overlay_directory());
    let found = gate.admit(&location, recorded)?;
    open_found(found, &shown, access).map(Some)
}
