//! Extent files of vmdk images go through the gate like backing files. The stand-in for the sandbox takes each line of a
//! file as the name of an extent.

use std::cell::Cell;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use instar::files::chain::{ChainError, Finding, Inspect, Layer, Links, Summary, discover};
use instar::files::policy::{Gate, GateOptions};
use instar::files::{Access, ImageFile, ImageKeys, open_operand};
use instar_abi::job::format;

#[derive(Default)]
struct LinesAreExtents {
    extents_seen: Cell<usize>,
}

impl Inspect for LinesAreExtents {
    type Error = std::convert::Infallible;

    fn inspect(&mut self, image: &ImageFile, _: u32) -> Result<Summary, Finding<Self::Error>> {
        let text = fs::read(image.canonical()).expect("the file can be read");
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let extent_names = lines.map(<[u8]>::to_vec).collect();
        Ok(Summary { format: format::VMDK, extent_names, ..Summary::default() })
    }

    fn inspect_extents(
        &mut self,
        image: &ImageFile,
        extents: &[ImageFile],
        format: u32,
    ) -> Result<Summary, Finding<Self::Error>> {
        self.extents_seen.set(extents.len());
        self.inspect(image, format)
    }
}

fn open(root: &Path, extents: &str, access: Access) -> Result<(Layer, usize), String> {
    let image = root.join("vm/disk.vmdk");
    fs::write(&image, extents).expect("an image");
    let name = image.as_os_str().as_bytes();
    let gate = Gate::new(name, &GateOptions::default()).map_err(|cause| cause.to_string())?;
    let operand = open_operand(name, access).map_err(|cause| cause.to_string())?;
    let mut inspect = LinesAreExtents::default();
    let layers = discover(&gate, operand, format::VMDK, ImageKeys::default(), Links::OfOverlay, &mut inspect).map_err(
        |error| match error {
            ChainError::Open(error) => error.to_string().replace(root.to_str().expect("UTF-8"), "ROOT"),
            ChainError::Sandbox { error, .. } => match error {},
        },
    )?;
    let seen = inspect.extents_seen.get();
    Ok((layers.into_iter().next().expect("the image"), seen))
}

fn place() -> tempfile::TempDir {
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::create_dir_all(directory.path().join("vm/parts")).expect("directories");
    for name in ["vm/a", "vm/parts/b", "outside"] {
        fs::write(directory.path().join(name), b"x").expect("a file");
    }
    fs::hard_link(directory.path().join("vm/a"), directory.path().join("vm/same")).expect("a link");
    directory
}

#[test]
fn extents_beside_the_image_are_opened_as_it_is() {
    let place = place();
    for access in [Access::Read, Access::Write, Access::Look] {
        let (layer, seen) = open(place.path(), "a\nparts/b\n", access).expect("allowed");
        assert_eq!((layer.extents.len(), seen), (2, 2));
        assert!(layer.extents.iter().all(|extent| extent.access() == access));
        assert_eq!(layer.files().count(), 3);
    }
}

#[test]
fn extents_elsewhere_are_refused_whether_they_exist_or_not() {
    let place = place();
    for name in ["../outside", "../absent", "/etc/passwd", "/absent"] {
        let text = open(place.path(), name, Access::Read).expect_err("refused");
        assert!(text.contains(&format!("The image names '{name}', which is outside")), "{text}");
    }
    let text = open(place.path(), "nbd:localhost:10809", Access::Read).expect_err("refused");
    assert!(text.contains("nbd"), "{text}");
}

#[test]
fn an_extent_is_no_other_file_of_the_image() {
    let place = place();
    for extents in ["disk.vmdk", "a\n./a", "a\nsame"] {
        let text = open(place.path(), extents, Access::Read).expect_err("refused");
        assert!(text.contains("creates an infinite loop"), "{text}");
    }
}

#[test]
fn a_missing_extent_is_named() {
    let place = place();
    let text = open(place.path(), "parts/c", Access::Read).expect_err("refused");
    assert_eq!(text, "Could not open 'ROOT/vm/disk.vmdk': Could not open 'ROOT/vm/parts/c': No such file or directory");
}

#[test]
fn more_extents_than_devices_are_refused() {
    let place = place();
    let text = open(place.path(), &"a\n".repeat(256), Access::Read).expect_err("refused");
    assert!(text.contains("the image has more extent files than can be opened"), "{text}");
}
