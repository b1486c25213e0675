//! A file with everything below it, and what a guest reads through it.

use super::parallels::Parallels;
use super::qcow1::Qcow1;
use super::qcow2::{Qcow2, Snapshot};
use super::qed::Qed;
use super::raw::Raw;
use super::vdi::Vdi;
use super::vhdx::Vhdx;
use super::vmdk::Vmdk;
use super::vpc::Vpc;
use super::{Backing, Extent, Files, ImageError, Kind, Layer, OnDisk, bad};
use std::cell::RefCell;
use std::path::{Path, PathBuf};

/// More layers than this are a loop.
const MAX_DEPTH: usize = 32;

/// Damaged sizes must not keep the readers busy for ever; every real case needs far fewer steps.
pub const MAX_PIECES: u64 = 1 << 18;

/// A guest range and the layer that supplies it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// First guest byte.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// 0 is the top file.
    pub depth: usize,
    /// `Absent`: no layer holds it, it reads as zero.
    pub kind: Kind,
}

/// Layers from the top down.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Box<dyn Layer>>,
    files: Vec<PathBuf>,
    /// The extent of each layer that was found last, and where it starts: layers are walked from front to back.
    recent: RefCell<Vec<Option<(u64, Extent)>>>,
}

/// Opens one file; without a format it is probed.
fn open_layer(files: &dyn Files, path: &Path, format: Option<&str>) -> Result<Box<dyn Layer>, ImageError> {
    let source = files.open(path)?;
    let format = match format {
        Some(format) => format,
        None => match source.bytes(0, 4)?.as_slice() {
            b"QFI\xfb" if source.bytes(4, 4)?[3] == 1 => "qcow",
            b"QFI\xfb" => "qcow2",
            b"KDMV" => "vmdk",
            b"QED\0" => "qed",
            b"vhdx" => "vhdx",
            b"With" => "parallels",
            b"cone" => "vpc",
            _ if source.bytes(0x40, 4)? == [0x7f, 0x10, 0xda, 0xbe] => "vdi",
            _ => "raw",
        },
    };
    Ok(match format {
        "qcow2" => Box::new(Qcow2::open_in(files, path)?),
        "qcow" => Box::new(Qcow1::open(source)?),
        "raw" => Box::new(Raw(source)),
        "vmdk" => Box::new(Vmdk::open(source)?),
        "qed" => Box::new(Qed::open(source)?),
        "vdi" => Box::new(Vdi::open(source)?),
        "vhdx" => Box::new(Vhdx::open(source)?),
        "parallels" => Box::new(Parallels::open(source)?),
        "vpc" => Box::new(Vpc::open(source)?),
        other => return bad(format!("unknown format {other:?}")),
    })
}

/// Where a recorded backing name points: beside the file that records it; `json:` and `file:` reduce to a plain name.
pub fn resolve_name(file: &Path, name: &str) -> Result<PathBuf, ImageError> {
    let plain = if let Some(json) = name.strip_prefix("json:") {
        let value: serde_json::Value = serde_json::from_str(json).map_err(|e| ImageError(e.to_string()))?;
        let found = value.pointer("/file/filename").or_else(|| value.pointer("/filename"));
        match found.and_then(|v| v.as_str()) {
            // Names inside of json: forms are relative to the working directory, which is the file's folder here.
            Some(name) => name.to_owned(),
            None => return bad(format!("backing name {name}")),
        }
    } else {
        name.strip_prefix("file:").unwrap_or(name).to_owned()
    };
    Ok(file.parent().unwrap_or(Path::new("")).join(plain))
}

impl Chain {
    /// Opens `path` as `format` with all backing files.
    pub fn open(path: &Path, format: Option<&str>) -> Result<Self, ImageError> {
        Self::open_in(&OnDisk, path, format)
    }

    /// As [`Chain::open`], with every file looked up in `among`.
    pub fn open_in(among: &dyn Files, path: &Path, format: Option<&str>) -> Result<Self, ImageError> {
        let mut layers: Vec<Box<dyn Layer>> = Vec::new();
        let mut files = Vec::new();
        let mut next = Some((path.to_path_buf(), format.map(str::to_owned)));
        while let Some((path, format)) = next.take() {
            if layers.len() == MAX_DEPTH {
                return bad("the backing chain does not end");
            }
            let layer = open_layer(among, &path, format.as_deref())
                .map_err(|error| ImageError(format!("{}: {error}", path.display())))?;
            if let Some(backing) = layer.backing() {
                next = Some((resolve_name(&path, &backing.name)?, backing.format.clone()));
            }
            layers.push(layer);
            files.push(path);
        }
        let recent = RefCell::new(vec![None; layers.len()]);
        Ok(Self { layers, files, recent })
    }

    /// The chain of the qcow2 file at `path`, as one of its internal snapshots shows it.
    pub fn open_at(path: &Path, snapshot: &Snapshot) -> Result<Self, ImageError> {
        let mut chain = Self::open(path, Some("qcow2"))?;
        chain.layers[0] = Box::new(Qcow2::open_at(path, snapshot)?);
        Ok(chain)
    }

    /// Size in bytes that a guest sees.
    pub fn virtual_size(&self) -> u64 {
        self.layers[0].virtual_size()
    }

    /// The files from the top down.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// The external data file of the top file, as recorded.
    pub fn top_data_file(&self) -> Option<&str> {
        self.layers[0].data_file()
    }

    /// The backing file that the top file names.
    pub fn top_backing(&self) -> Option<&Backing> {
        self.layers[0].backing()
    }

    /// Whether the imago crate can read the whole chain.
    pub fn imago_reads(&self) -> bool {
        self.files[0].extension().is_some_and(|e| e == "qcow2") && self.layers.iter().all(|layer| layer.imago_reads())
    }

    /// Whether a raw file or an external data file takes part, so that holes of the file system decide what a map shows.
    pub fn depends_on_holes(&self) -> bool {
        self.layers
            .iter()
            .zip(&self.files)
            .any(|(layer, file)| layer.data_file().is_some() || file.extension().is_some_and(|e| e == "raw"))
    }

    /// The piece that starts at `start`.
    pub fn piece_at(&self, start: u64) -> Result<Piece, ImageError> {
        let piece = self.mapped_at(start)?;
        for pair in self.layers[..=piece.depth].windows(2) {
            if let (Some((_, wanted)), Some((own, _))) = (pair[0].parent_link(), pair[1].parent_link())
                && wanted != own
            {
                return bad("the parent's content identifier does not match");
            }
        }
        Ok(piece)
    }

    /// As [`Chain::piece_at`], whether or not the images belong together: that is only asked by those who read.
    fn mapped_at(&self, start: u64) -> Result<Piece, ImageError> {
        let mut length = self.virtual_size() - start;
        for (depth, layer) in self.layers.iter().enumerate() {
            if start >= layer.virtual_size() {
                // A backing file that ends earlier reads as zero from there on; a map shows that at the layer above it.
                return Ok(Piece { start, length, depth: depth - 1, kind: Kind::Absent });
            }
            let extent = self.extent_at(depth, start)?;
            if extent.length == 0 {
                return bad("empty extent");
            }
            length = length.min(extent.length);
            if extent.kind != Kind::Absent {
                return Ok(Piece { start, length, depth, kind: extent.kind });
            }
        }
        Ok(Piece { start, length, depth: self.layers.len() - 1, kind: Kind::Absent })
    }

    fn extent_at(&self, depth: usize, start: u64) -> Result<Extent, ImageError> {
        let recent = &mut self.recent.borrow_mut()[depth];
        if let Some((first, extent)) = recent
            && (*first..*first + extent.length).contains(&start)
        {
            return Ok(Extent { length: *first + extent.length - start, kind: extent.kind });
        }
        let extent = self.layers[depth].extent_at(start)?;
        *recent = Some((start, extent));
        Ok(extent)
    }

    /// Reads guest bytes; all of them must lie inside of the image.
    pub fn read(&self, start: u64, buf: &mut [u8]) -> Result<(), ImageError> {
        let mut done = 0;
        while done < buf.len() {
            let piece = self.piece_at(start + done as u64)?;
            let count = usize::try_from(piece.length).unwrap_or(usize::MAX).min(buf.len() - done);
            let part = &mut buf[done..done + count];
            if piece.kind == Kind::Data {
                self.layers[piece.depth].read_data(piece.start, part)?;
            } else {
                part.fill(0);
            }
            done += count;
        }
        Ok(())
    }

    /// The whole image as merged pieces.
    pub fn map(&self) -> Result<Vec<Piece>, ImageError> {
        let mut pieces: Vec<Piece> = Vec::new();
        let mut start = 0;
        for _ in 0..MAX_PIECES {
            if start >= self.virtual_size() {
                return Ok(pieces);
            }
            let piece = self.mapped_at(start)?;
            start += piece.length;
            match pieces.last_mut() {
                Some(last) if (last.depth, last.kind) == (piece.depth, piece.kind) => last.length += piece.length,
                _ => pieces.push(piece),
            }
        }
        bad(format!("more than {MAX_PIECES} pieces"))
    }
}
