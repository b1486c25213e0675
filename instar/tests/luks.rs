//! `instar commit` and `instar rebase` on encrypted images, through the real sandbox. What is in an image says qemu-io, or,
//! where there is none, a raw image into which it is committed.

mod common;
#[path = "../../guests/exec/tests/luks_support/mod.rs"]
mod encrypted;
#[path = "common/image.rs"]
mod image;
#[path = "common/kvm.rs"]
mod kvm;

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use common::{Ended, Folder};
use encrypted::{PASSPHRASE, encrypted_image};
use kvm::without_kvm;

/// The secrets of the tests, and how they are given: in a file, as they are, and in base64.
const SECRETS: [(&str, &str); 3] = [
    ("top", "secret,id=top,file=top.key"),
    ("base", "secret,id=base,data=commas,, and spaces"),
    ("other", "secret,id=other,data=YW5vdGhlcg==,format=base64"),
];
const KEY_FILE: &[u8] = b"ends with a line\n";

fn success(stdout: &str) -> Ended {
    Ended { status: Some(0), stdout: stdout.to_owned(), stderr: String::new() }
}

/// Whether a test must be left out, and why.
fn cannot_run(test: &str) -> bool {
    let missing =
        ["qemu-img", "qemu-io"].iter().find(|program| Command::new(program).arg("--version").output().is_err());
    if let Some(program) = missing {
        eprintln!("{test}: skipped, there is no {program}");
    }
    missing.is_some() || without_kvm(test)
}

/// The image that a command line makes. Making an encrypted one takes a second: a program measures how fast it hashes.
fn made_once(command: &[&str], make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    static MADE: Mutex<BTreeMap<String, Vec<u8>>> = Mutex::new(BTreeMap::new());
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    made.entry(command.join(" ")).or_insert_with(make).clone()
}

/// A folder with images, and everything that opens them.
struct Scene {
    folder: Folder,
}

impl Scene {
    fn new() -> Self {
        let folder = Folder::new();
        folder.file("top.key", KEY_FILE);
        Self { folder }
    }

    fn qemu(&self, program: &str, arguments: &[&str]) -> String {
        let objects = SECRETS.iter().flat_map(|(_, object)| ["--object", object]);
        let (command, rest) = if program == "qemu-img" { arguments.split_at(1) } else { arguments.split_at(0) };
        let mut run = Command::new(program);
        run.current_dir(self.folder.path()).args(command).args(objects).args(rest);
        let output = run.output().expect("it runs");
        let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{program} {arguments:?}: {text}");
        text
    }

    /// Makes an image of 4 MiB; `options` are what comes before its name, and `secret` encrypts it.
    fn create(&self, name: &str, secret: Option<&str>, backing: Option<(&str, &str)>, options: &[&str]) {
        let is_volume = options.contains(&"luks");
        let prefix = if is_volume { "" } else { "encrypt." };
        let key = secret.map_or_else(String::new, |secret| format!("{prefix}key-secret={secret}"));
        let mut all = vec!["create", "-q"];
        let encryption = format!("{}{key},{prefix}iter-time=10", if is_volume { "" } else { "encrypt.format=luks," });
        if secret.is_some() {
            all.extend(["-o", &encryption]);
        }
        if !is_volume {
            all.extend(["-f", "qcow2"]);
        }
        all.extend(options);
        self.folder.file(
            name,
            &made_once(&all, || {
                self.qemu("qemu-img", &[&all[..], &["made.img", "4M"]].concat());
                fs::read(self.folder.path().join("made.img")).expect("it was made")
            }),
        );
        if let Some((backing, format)) = backing {
            let image = format!("driver=qcow2,file.filename={name},{key}");
            let image = image.trim_end_matches(',');
            self.qemu("qemu-img", &["rebase", "-u", "-b", backing, "-F", format, "--image-opts", image]);
        }
    }

    /// Runs qemu-io commands on an image with its backing files.
    fn io(&self, options: &str, commands: &[&str]) -> String {
        let commands = commands.iter().flat_map(|command| ["-c", command]);
        let arguments: Vec<&str> = ["--image-opts", options].into_iter().chain(commands).collect();
        self.qemu("qemu-io", &arguments)
    }

    /// Checks what an image shows: bytes, and where they begin and end, in KiB.
    #[track_caller]
    fn shows(&self, options: &str, expected: &[(u8, u32, u32)]) {
        let commands: Vec<String> =
            expected.iter().map(|(byte, start, end)| format!("read -P {byte} {start}k {}k", end - start)).collect();
        let commands: Vec<&str> = commands.iter().map(String::as_str).collect();
        let said = self.io(options, &commands);
        assert!(!said.contains("Pattern verification failed"), "{options}: {said}");
    }

    #[track_caller]
    fn is_sound(&self, options: &str) {
        let said = self.qemu("qemu-img", &["check", "--image-opts", options]);
        assert!(said.contains("No errors were found"), "{options}: {said}");
    }

    fn instar(&self, command: &str, arguments: &[&str]) -> Ended {
        let objects = SECRETS.iter().flat_map(|(_, object)| ["--object", object]);
        let arguments: Vec<&str> = [command].into_iter().chain(objects).chain(arguments.iter().copied()).collect();
        self.folder.run(&arguments)
    }
}

/// An overlay on an image that is full of 0x22: 0x33 from 64 to 164 KiB, zeros from 1 to 1.125 MiB, and half a cluster at 3 MiB.
const WRITTEN: [&str; 3] = ["write -P 0x33 64k 100k", "write -z 1M 128k", "write -P 0x44 3M 32k"];
const MERGED: [(u8, u32, u32); 7] = [
    (0x22, 0, 64),
    (0x33, 64, 164),
    (0x22, 164, 1024),
    (0, 1024, 1152),
    (0x22, 1152, 3072),
    (0x44, 3072, 3104),
    (0x22, 3104, 4096),
];

/// Commits an overlay, encrypted or not, into a base, encrypted or not.
#[track_caller]
fn commits(top: Option<&str>, base: Option<&str>, base_options: &[&str]) {
    let scene = Scene::new();
    let is_volume = base_options.contains(&"luks");
    let (driver, key) = if is_volume { ("luks", "key-secret") } else { ("qcow2", "encrypt.key-secret") };
    scene.create("base.img", base, None, base_options);
    scene.create("top.qcow2", top, Some(("base.img", driver)), &[]);
    let place = |name| scene.folder.path().join(name);
    fs::copy(place("base.img"), place("fresh.img")).expect("a copy");
    let of_base = base.map_or_else(String::new, |secret| format!(",{key}={secret}"));
    let base_only = format!("driver={driver},file.filename=base.img{of_base}");
    let of_top = top.map_or_else(String::new, |secret| format!(",encrypt.key-secret={secret}"));
    let both = format!("driver=qcow2,file.filename=top.qcow2{of_top}{}", of_base.replace(',', ",backing."));
    scene.io(&base_only, &["write -P 0x22 0 4M"]);
    scene.io(&both, &WRITTEN);
    assert_eq!(scene.instar("commit", &["--image-opts", &both]), success("Image committed.\n"));
    scene.shows(&base_only, &MERGED);
    scene.shows(&both, &MERGED);
    scene.is_sound(&both);
    if !is_volume {
        scene.is_sound(&base_only);
    }
    // A base that has to take clusters, and an overlay that has been emptied once.
    fs::copy(place("fresh.img"), place("base.img")).expect("a copy");
    if is_volume {
        scene.io(&base_only, &["write -P 0 0 4M"]);
    }
    scene.io(&both, &WRITTEN);
    assert_eq!(scene.instar("commit", &["--verify", "--image-opts", &both]), success("Image committed.\n"));
    let merged: Vec<_> = MERGED.iter().map(|(byte, ..)| if *byte == 0x22 { 0 } else { *byte }).collect();
    let merged: Vec<_> = merged.into_iter().zip(MERGED).map(|(byte, (_, start, end))| (byte, start, end)).collect();
    scene.shows(&base_only, &merged);
    scene.is_sound(&both);
}

#[test]
fn an_encrypted_overlay_goes_into_a_plain_base() {
    if !cannot_run("an_encrypted_overlay_goes_into_a_plain_base") {
        commits(Some("top"), None, &[]);
    }
}

#[test]
fn a_plain_overlay_goes_into_an_encrypted_base() {
    if !cannot_run("a_plain_overlay_goes_into_an_encrypted_base") {
        commits(None, Some("base"), &[]);
    }
}

#[test]
fn overlay_and_base_have_keys_of_their_own() {
    if !cannot_run("overlay_and_base_have_keys_of_their_own") {
        commits(Some("top"), Some("other"), &[]);
    }
}

#[test]
fn an_overlay_goes_into_a_luks_volume() {
    if !cannot_run("an_overlay_goes_into_a_luks_volume") {
        commits(Some("top"), Some("base"), &["-f", "luks"]);
    }
}

#[test]
fn a_luks_volume_grows_with_zeros() {
    if cannot_run("a_luks_volume_grows_with_zeros") {
        return;
    }
    let scene = Scene::new();
    scene.create("base.luks", Some("base"), None, &["-f", "luks"]);
    let base = "driver=luks,file.filename=base.luks,key-secret=base";
    scene.io(base, &["write -P 0x22 0 4M"]);
    scene.qemu("qemu-img", &["create", "-q", "-u", "-f", "qcow2", "-b", "base.luks", "-F", "luks", "top.qcow2", "6M"]);
    let top = "driver=qcow2,file.filename=top.qcow2,backing.key-secret=base";
    scene.io(top, &["write -P 0x33 5M 64k"]);
    assert_eq!(scene.instar("commit", &["--image-opts", top]), success("Image committed.\n"));
    scene.shows(base, &[(0x22, 0, 4096), (0, 4096, 5120), (0x33, 5120, 5184), (0, 5184, 6144)]);
}

#[test]
fn ciphers_hashes_and_cluster_sizes_that_qemu_img_makes() {
    if cannot_run("ciphers_hashes_and_cluster_sizes_that_qemu_img_makes") {
        return;
    }
    for options in [
        "encrypt.cipher-alg=aes-128,encrypt.cipher-mode=cbc,encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256",
        "encrypt.cipher-alg=aes-192,encrypt.ivgen-alg=plain,encrypt.hash-alg=sha1,compat=0.10",
        "encrypt.cipher-mode=cbc,encrypt.ivgen-alg=plain64,encrypt.hash-alg=sha512,cluster_size=512",
        "extended_l2=on,cluster_size=16k,encrypt.hash-alg=sha384",
    ] {
        commits(None, Some("base"), &["-o", options]);
    }
}

#[test]
fn what_is_not_supported_is_named() {
    if cannot_run("what_is_not_supported_is_named") {
        return;
    }
    for (options, text) in [
        ("encrypt.cipher-alg=serpent-256", "Algorithm 'serpent-256' not supported"),
        ("encrypt.cipher-mode=ctr", "Cipher mode 'ctr' not supported"),
        ("encrypt.hash-alg=ripemd160", "Hash algorithm 'ripemd160' not supported"),
    ] {
        let scene = Scene::new();
        scene.create("base.qcow2", None, None, &[]);
        scene.create("top.qcow2", Some("top"), Some(("base.qcow2", "qcow2")), &["-o", options]);
        let options = "driver=qcow2,file.filename=top.qcow2,encrypt.key-secret=top";
        let ended = scene.instar("commit", &["--image-opts", options]);
        assert_eq!(ended.stderr, format!("instar: Could not open 'top.qcow2': {text}\n"));
    }
    let scene = Scene::new();
    scene.create("base.qcow2", None, None, &[]);
    let aes = "encrypt.format=aes,encrypt.key-secret=top";
    scene.create("top.qcow2", None, None, &["-b", "base.qcow2", "-F", "qcow2", "-o", aes]);
    let ended =
        scene.instar("commit", &["--image-opts", "driver=qcow2,file.filename=top.qcow2,encrypt.key-secret=top"]);
    let text = "The old AES encryption is not supported; convert the image to LUKS first (qemu-img convert)";
    assert_eq!(ended.stderr, format!("instar: Could not open 'top.qcow2': {text}\n"));
}

#[test]
fn any_key_slot_opens_an_image() {
    if cannot_run("any_key_slot_opens_an_image") {
        return;
    }
    let scene = Scene::new();
    scene.create("base.qcow2", None, None, &[]);
    scene.create("top.qcow2", Some("top"), Some(("base.qcow2", "qcow2")), &[]);
    let with = |secret: &str| format!("driver=qcow2,file.filename=top.qcow2,encrypt.key-secret={secret}");
    let amend = |options: &str| scene.qemu("qemu-img", &["amend", "-q", "--image-opts", "-o", options, &with("top")]);
    amend("encrypt.state=active,encrypt.new-secret=other,encrypt.keyslot=5,encrypt.iter-time=10");
    amend("encrypt.state=inactive,encrypt.keyslot=0");
    scene.io(&with("other"), &["write -P 0x33 64k 100k"]);
    let ended = scene.instar("commit", &["--image-opts", &with("top")]);
    assert_eq!(ended.stderr, "instar: Could not open 'top.qcow2': Invalid password, cannot unlock any keyslot\n");
    assert_eq!(scene.instar("commit", &["--image-opts", &with("other")]), success("Image committed.\n"));
    scene.shows("driver=qcow2,file.filename=base.qcow2", &[(0, 0, 64), (0x33, 64, 164), (0, 164, 4096)]);
}

#[test]
fn layers_in_between_are_encrypted_too() {
    if cannot_run("layers_in_between_are_encrypted_too") {
        return;
    }
    let scene = Scene::new();
    scene.create("base.qcow2", Some("base"), None, &[]);
    scene.create("mid.qcow2", Some("other"), Some(("base.qcow2", "qcow2")), &[]);
    scene.create("top.qcow2", None, Some(("mid.qcow2", "qcow2")), &[]);
    let below = ",backing.encrypt.key-secret=other,backing.backing.encrypt.key-secret=base";
    let all = format!("driver=qcow2,file.filename=top.qcow2{below}");
    let base = "driver=qcow2,file.filename=base.qcow2,encrypt.key-secret=base";
    scene.io(base, &["write -P 0x22 0 4M"]);
    scene.io(
        "driver=qcow2,file.filename=mid.qcow2,encrypt.key-secret=other,backing.encrypt.key-secret=base",
        &["write -P 0x33 64k 100k", "write -z 1M 128k"],
    );
    scene.io(&all, &["write -P 0x44 3M 32k"]);
    assert_eq!(scene.instar("commit", &["-b", "base.qcow2", "--image-opts", &all]), success("Image committed.\n"));
    scene.shows(base, &MERGED);
    scene.is_sound(base);
}

/// An overlay on `old`, which differs from `new` in two places.
fn rebase_scene(top: Option<&str>, old: Option<&str>, new: Option<&str>) -> Scene {
    let scene = Scene::new();
    for (name, secret) in [("old.qcow2", old), ("new.qcow2", new)] {
        scene.create(name, secret, None, &[]);
        let key = secret.map_or_else(String::new, |secret| format!(",encrypt.key-secret={secret}"));
        scene.io(&format!("driver=qcow2,file.filename={name}{key}"), &["write -P 0x22 0 4M"]);
    }
    let old_key = old.map_or_else(String::new, |secret| format!(",encrypt.key-secret={secret}"));
    scene.io(&format!("driver=qcow2,file.filename=old.qcow2{old_key}"), &WRITTEN);
    scene.create("top.qcow2", top, Some(("old.qcow2", "qcow2")), &[]);
    scene
}

#[test]
fn rebase_from_one_encrypted_image_to_another() {
    if cannot_run("rebase_from_one_encrypted_image_to_another") {
        return;
    }
    for top in [None, Some("top")] {
        let scene = rebase_scene(top, Some("base"), Some("other"));
        let top_key = top.map_or_else(String::new, |secret| format!(",encrypt.key-secret={secret}"));
        let before = format!("driver=qcow2,file.filename=top.qcow2{top_key},backing.encrypt.key-secret=base");
        let new = r#"json:{"driver":"qcow2","encrypt.key-secret":"other","file":{"filename":"new.qcow2"}}"#;
        let arguments = ["--output", "json", "--image-opts", "-b", new, "-F", "qcow2", &before];
        let ended = scene.instar("rebase", &arguments);
        assert_eq!((ended.status, ended.stderr.as_str()), (Some(0), ""), "{}", ended.stdout);
        // Clusters of 64 KiB: two at 64 KiB, two at 1 MiB, one at 3 MiB.
        assert!(ended.stdout.contains(r#""clusters_copied": 5,"#), "{}", ended.stdout);
        // The recorded name says which secret opens the new backing file.
        scene.shows(&format!("driver=qcow2,file.filename=top.qcow2{top_key}"), &MERGED);
        scene.is_sound(&format!("driver=qcow2,file.filename=top.qcow2{top_key}"));
        let again =
            scene.instar("commit", &["-d", "--image-opts", &format!("driver=qcow2,file.filename=top.qcow2{top_key}")]);
        assert_eq!(again, success("Image committed.\n"));
        scene.shows("driver=qcow2,file.filename=new.qcow2,encrypt.key-secret=other", &MERGED);
    }
}

#[test]
fn an_encrypted_overlay_is_detached() {
    if cannot_run("an_encrypted_overlay_is_detached") {
        return;
    }
    let scene = rebase_scene(Some("top"), None, None);
    let options = "driver=qcow2,file.filename=top.qcow2,encrypt.key-secret=top";
    assert_eq!(scene.instar("rebase", &["--verify", "-b", "", "--image-opts", options]), success(""));
    fs::remove_file(scene.folder.path().join("old.qcow2")).expect("removed");
    scene.shows(options, &MERGED);
    scene.is_sound(options);
}

#[test]
fn encrypted_data_is_never_stored_compressed() {
    if cannot_run("encrypted_data_is_never_stored_compressed") {
        return;
    }
    let scene = rebase_scene(Some("top"), None, None);
    let options = "driver=qcow2,file.filename=top.qcow2,encrypt.key-secret=top";
    let before = fs::read(scene.folder.path().join("top.qcow2")).expect("it is there");
    let ended = scene.instar("rebase", &["-c", "-b", "", "--image-opts", options]);
    assert_eq!(ended.stderr, "instar: 'top.qcow2': Compression and encryption not supported at the same time\n");
    assert!(before == fs::read(scene.folder.path().join("top.qcow2")).expect("it is there"));
}

#[test]
fn an_unsafe_rebase_needs_the_passphrase_too() {
    if cannot_run("an_unsafe_rebase_needs_the_passphrase_too") {
        return;
    }
    let scene = rebase_scene(Some("top"), None, None);
    let options = |secret: &str| format!("driver=qcow2,file.filename=top.qcow2,encrypt.key-secret={secret}");
    let unsafe_onto = |name| ["-u", "-b", name, "-F", "qcow2", "--image-opts"];
    let wrong = scene.instar("rebase", &[&unsafe_onto("new.qcow2")[..], &[&options("base")]].concat());
    assert_eq!(wrong.stderr, "instar: Could not open 'top.qcow2': Invalid password, cannot unlock any keyslot\n");
    let told =
        scene.instar("rebase", &[&["--errors=json"], &unsafe_onto("new.qcow2")[..], &[&options("base")]].concat());
    assert!(told.stderr.starts_with("{\"code\":\"encryption-key\","), "{told:?}");
    let right = scene.instar("rebase", &[&unsafe_onto("new.qcow2")[..], &[&options("top")]].concat());
    assert_eq!(right, success(""));
    scene.shows(&options("top"), &[(0x22, 0, 4096)]);
}

/// The stored image on a raw base, and what opens it.
fn stored() -> (Folder, String) {
    let folder = Folder::new();
    folder.file("base.raw", &[0x11; 64 << 10]);
    folder.file("enc.qcow2", &encrypted_image());
    (folder, format!("secret,id=s,data={}", String::from_utf8_lossy(PASSPHRASE)))
}

const STORED: &str = "driver=qcow2,file.filename=enc.qcow2,encrypt.key-secret=s";

#[test]
fn what_qemu_io_encrypted_long_ago_is_read() {
    if without_kvm("what_qemu_io_encrypted_long_ago_is_read") {
        return;
    }
    let (folder, secret) = stored();
    let committed = folder.run(&["commit", "--object", &secret, "--image-opts", STORED]);
    assert_eq!(committed, success("Image committed.\n"));
    let mut expected = vec![0x11; 64 << 10];
    expected[8 << 10..14 << 10].fill(0x5a);
    expected[14 << 10..16 << 10].fill(0);
    assert!(fs::read(folder.path().join("base.raw")).expect("it is there") == expected);
}

#[test]
fn what_is_encrypted_here_is_read_here() {
    if without_kvm("what_is_encrypted_here_is_read_here") {
        return;
    }
    let (folder, secret) = stored();
    // Its disk is half as long; its first cluster is 512 bytes long.
    folder.file("top.qcow2", &image::qcow2(0x77, "enc.qcow2", "qcow2"));
    let with_top = "driver=qcow2,file.filename=top.qcow2,backing.encrypt.key-secret=s";
    let encrypted = folder.run(&["commit", "-d", "--object", &secret, "--image-opts", with_top]);
    assert_eq!(encrypted, success("Image committed.\n"));
    let enc = fs::read(folder.path().join("enc.qcow2")).expect("it is there");
    assert!(!enc.windows(64).any(|bytes| bytes == [0x77; 64] || bytes == [0x5a; 64]), "plain data in the file");
    let decrypted = folder.run(&["commit", "--object", &secret, "--image-opts", STORED]);
    assert_eq!(decrypted, success("Image committed.\n"));
    let mut expected = vec![0x11; 64 << 10];
    expected[..512].fill(0x77);
    expected[8 << 10..14 << 10].fill(0x5a);
    expected[14 << 10..16 << 10].fill(0);
    assert!(fs::read(folder.path().join("base.raw")).expect("it is there") == expected);
}

#[test]
fn without_the_right_passphrase_nothing_changes() {
    if without_kvm("without_the_right_passphrase_nothing_changes") {
        return;
    }
    let (folder, secret) = stored();
    let cannot = |text: &str| format!("instar: Could not open 'enc.qcow2': {text}");
    let needed = cannot("Parameter 'encrypt.key-secret' is required for cipher");
    folder.fails(&["commit", "enc.qcow2"], &needed);
    folder.fails(&["rebase", "-u", "-b", "", "enc.qcow2"], &needed);
    folder.fails(&["rebase", "-b", "", "enc.qcow2"], &needed);
    folder.fails(&["commit", "--object", &secret, "enc.qcow2"], &needed);
    let wrong = cannot("Invalid password, cannot unlock any keyslot");
    for object in ["secret,id=s,data=open sesam", "secret,id=s,data=", "secret,id=s,data=open sesame!"] {
        folder.fails(&["commit", "--object", object, "--image-opts", STORED], &wrong);
        folder.fails(&["rebase", "-b", "", "--object", object, "--image-opts", STORED], &wrong);
        folder.fails(&["rebase", "-u", "-b", "", "--object", object, "--image-opts", STORED], &wrong);
    }
    folder.fails(&["commit", "--image-opts", STORED], &cannot("No secret with id 's'"));
    folder.fails(
        &["commit", "--object", "secret,id=s,data=//4=,format=base64", "--image-opts", STORED],
        &cannot("Data from secret s is not valid UTF-8"),
    );
    let other_format = format!("{STORED},encrypt.format=aes");
    folder.fails(
        &["commit", "--object", &secret, "--image-opts", &other_format],
        &cannot("Header reported 'luks' encryption format but options specify 'aes'"),
    );
    folder.file("top.qcow2", &image::qcow2(0x77, "enc.qcow2", "qcow2"));
    let top = "driver=qcow2,file.filename=top.qcow2,backing.encrypt.key-secret=s";
    folder.fails(
        &["commit", "--object", "secret,id=s,data=x", "--image-opts", top],
        "instar: Could not open 'top.qcow2': Could not open backing file: Invalid password, cannot unlock any keyslot",
    );
}

#[test]
fn info_needs_no_secret() {
    if without_kvm("info_needs_no_secret") {
        return;
    }
    let (folder, _) = stored();
    let ended = folder.run(&["info", "enc.qcow2"]);
    assert!(ended.stdout.contains("encrypted: yes\n"), "{ended:?}");
}
