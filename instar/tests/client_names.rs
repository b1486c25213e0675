//! The library against the built program: names that are not what they look like, and secrets.

#[path = "common/client.rs"]
mod client;
mod common;
#[path = "../../guests/exec/tests/luks_support/mod.rs"]
mod encrypted;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;

use client::{chain, code, content, here};
use common::Folder;
use image::qcow2;
use instar::client::{Afterwards, BackingName, Commit, Encryption, FormatSpecific, Info, Rebase, Secret};
use instar::code::Code;
use kvm::without_kvm;

/// Names that could be taken for options, for names of other kinds, for the end of a line, or for no text at all.
const ODD_NAMES: [&[u8]; 9] =
    [b"-b", b"--", b"--output=human", b"nbd:host:x", b"json:{}", b"new\nline", b"\xff\xfe", b"a,,b=c", b" "];

#[test]
fn a_path_is_a_path_whatever_it_looks_like() {
    if without_kvm("a_path_is_a_path_whatever_it_looks_like") {
        return;
    }
    for name in ODD_NAMES.map(OsStr::from_bytes) {
        let folder = chain();
        let file = |name: &OsStr, bytes: &[u8]| fs::write(folder.path().join(name), bytes).expect("a file");
        file(name, &qcow2(0x55, "middle.qcow2", "qcow2"));
        file(OsStr::new("key"), b"x");
        let commit = here!(folder, Commit::new(name)).afterwards(Afterwards::Keep);
        commit.run().unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(content(&folder, "middle.qcow2"), 0x55, "{name:?}");
        // As one of several options.
        let keyed = here!(folder, Commit::new(name)).secret(Secret::file("s", "key")).key(0, "s").format("qcow2");
        keyed.base("base.qcow2").run().unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!(content(&folder, "base.qcow2"), 0x55, "{name:?}");

        // As the name of a backing file, recorded and then followed and found again.
        let (below, above) = (name, "above.qcow2");
        let rebase = here!(folder, Rebase::onto("top.qcow2", below, "qcow2"));
        rebase.run().unwrap_or_else(|error| panic!("{name:?}: {error}"));
        fs::rename(folder.path().join("top.qcow2"), folder.path().join(above)).expect("renamed");
        let chain = here!(folder, Info::new(above)).backing_chain(true).run().expect("a chain");
        assert_eq!(chain.images.len(), 4, "{name:?}");
        assert!(chain.images[1].filename.ends_with(&*name.to_string_lossy()), "{name:?}: {:?}", chain.images[1]);
        let report = here!(folder, Commit::new(above)).base(below).run();
        let report = report.unwrap_or_else(|error| panic!("{name:?}: {error}"));
        assert_eq!((content(&folder, name), report.backing), (0x33, chain.images[1].filename.clone()), "{name:?}");
    }
}

#[test]
fn a_recorded_name_that_is_no_path_is_given_exactly() {
    if without_kvm("a_recorded_name_that_is_no_path_is_given_exactly") {
        return;
    }
    let folder = chain();
    let name = BackingName::exactly(r#"json:{"driver":"qcow2","file.filename":"base.qcow2"}"#);
    here!(folder, Rebase::onto("top.qcow2", name.clone(), "qcow2")).unsafe_mode(true).run().expect("recorded");
    // Such a name starts in the working directory.
    let report = here!(folder, Commit::new("top.qcow2")).base(name).allow_dir(".").run().expect("committed");
    assert_eq!((report.clusters_committed, content(&folder, "base.qcow2")), (1, 0x33));
}

#[test]
fn a_secret_opens_the_image_that_it_is_the_key_of() {
    if without_kvm("a_secret_opens_the_image_that_it_is_the_key_of") {
        return;
    }
    let folder = Folder::new();
    folder.file("base.raw", &[0x11; 64 << 10]);
    folder.file("enc.qcow2", &encrypted::encrypted_image());
    folder.file("a,key", encrypted::PASSPHRASE);
    let locked = here!(folder, Commit::new("enc.qcow2"));
    assert_eq!(code(locked.run()), Code::EncryptionKey);
    let commit = locked.secret(Secret::file("s", "a,key"));
    assert_eq!(code(commit.clone().key(1, "s").run()), Code::EncryptionKey, "it is not for the image below");
    let report = commit.key(0, "s").run().expect("committed");
    assert_eq!(report.bytes_committed, 8 << 10);
    let base = fs::read(folder.path().join("base.raw")).expect("a file");
    assert!(base[8 << 10..14 << 10].iter().all(|byte| *byte == 0x5a), "what was encrypted is in the base");
    let image = here!(folder, Info::new("enc.qcow2")).run().expect("an image").images.remove(0);
    let Some(FormatSpecific::Qcow2(qcow2)) = image.format_specific else { panic!("{:?}", image.format_specific) };
    let Some(Encryption::Luks(luks)) = qcow2.encrypt else { panic!("{:?}", qcow2.encrypt) };
    assert_eq!((image.encrypted, luks.slots.len()), (true, 8));
    assert!(luks.slots[0].active && luks.slots[0].iters.is_some() && luks.slots[1].iters.is_none(), "{luks:?}");
}
