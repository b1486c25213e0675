//! Secrets on the command line (`--object secret,…`), and which layer gets which.
//!
//! Secrets are bytes that go into the sandbox and nowhere else: no message shows one, and every copy is wiped when it goes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;

use base64ct::{Base64, Encoding};
use instar_abi::job::{SECRETS_OFFSET, SecretEntry, SecretsHeader, format};
use instar_abi::memory::JOB_BYTES;
use instar_abi::report::{error_kind, info_flag};
use instar_abi::wire::Wire;
use nix::sys::resource::{Resource, setrlimit};
use zeroize::Zeroizing;

use super::error::Failure;
use super::sandbox::Reported;
use crate::code::Code;
use crate::files::chain::Layer;
use crate::files::{parse_option_pairs, system_text};
use crate::text::Printable;

/// Bytes that nobody else sees.
type Bytes = Zeroizing<Vec<u8>>;

/// Room for a whole job, in bytes; no secret can be longer.
#[expect(clippy::cast_possible_truncation, reason = "it is far below 4 GiB")]
pub(super) const JOB_ROOM: usize = JOB_BYTES as usize;
/// Room for all secrets together.
const SECRETS_ROOM: usize = JOB_ROOM - SECRETS_OFFSET;

/// All secrets of a command line, by their ids.
#[derive(Default)]
pub(super) struct Secrets(BTreeMap<String, Bytes>);

/// The secret of one layer.
pub(super) struct LayerSecret {
    layer: u32,
    bytes: Bytes,
}

impl Secrets {
    /// Whether there is none.
    pub(super) fn are_none(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads the values of all `--object` options, in their order.
    ///
    /// # Errors
    /// Objects that are no secrets, or contradict themselves; files that cannot be read.
    pub(super) fn read(objects: &[OsString]) -> Result<Self, Failure> {
        if !objects.is_empty() {
            // A core file would show them. Where the system does not let itself be asked, there is no other way.
            let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
        }
        let mut secrets = Self::default();
        for object in objects {
            let (id, bytes) = Definition::parse(object)?.secret()?;
            if secrets.0.contains_key(&id) {
                let text = format!("attempt to add duplicate property '{id}' to object (type 'container')");
                return Err(Failure::Option(text));
            }
            secrets.0.insert(id, bytes);
        }
        Ok(secrets)
    }

    /// The secrets that the layers name; a layer without encryption needs none, whatever is said of it.
    ///
    /// # Errors
    /// A secret that does not exist, or cannot be a passphrase.
    pub(super) fn of_layers(&self, layers: &[Layer]) -> Result<Vec<LayerSecret>, Reported> {
        let mut found = Vec::new();
        let mut room = SECRETS_ROOM - SecretsHeader::SIZE_BYTES;
        for (index, layer) in layers.iter().enumerate() {
            let failed = |text: String| Reported {
                kind: error_kind::OPEN,
                layer: index,
                text: text.into_bytes(),
                errno: nix::libc::EKEYREJECTED,
            };
            let Some(id) = secret_of(layer) else { continue };
            let bytes = self.0.get(id).ok_or_else(|| failed(format!("No secret with id '{id}'")))?;
            if std::str::from_utf8(bytes).is_err() || bytes.contains(&0) {
                return Err(failed(format!("Data from secret {id} is not valid UTF-8")));
            }
            room = room.checked_sub(SecretEntry::SIZE_BYTES + bytes.len()).ok_or_else(|| {
                failed(format!("Secret {id} is too long: there is room for {SECRETS_ROOM} bytes in all"))
            })?;
            found.push(LayerSecret { layer: u32::try_from(index).unwrap_or(u32::MAX), bytes: bytes.clone() });
        }
        Ok(found)
    }
}

impl fmt::Debug for LayerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LayerSecret(layer {})", self.layer)
    }
}

/// Appends secrets to a job, in the place that is theirs. The job has the room already, so that no copy stays behind.
pub(super) fn append(job: &mut Vec<u8>, secrets: &[LayerSecret]) {
    if secrets.is_empty() {
        return;
    }
    job.resize(SECRETS_OFFSET, 0);
    let mut put = |value: &dyn Fn(&mut [u8]), size: usize| {
        let start = job.len();
        job.resize(start + size, 0);
        value(&mut job[start..]);
    };
    let header = SecretsHeader { count: u32::try_from(secrets.len()).unwrap_or(u32::MAX), reserved: 0 };
    put(&|place| header.put(place), SecretsHeader::SIZE_BYTES);
    for secret in secrets {
        let length_bytes = u32::try_from(secret.bytes.len()).unwrap_or(u32::MAX);
        let entry = SecretEntry { layer: secret.layer, length_bytes };
        put(&|place| entry.put(place), SecretEntry::SIZE_BYTES);
        put(&|place| place.copy_from_slice(&secret.bytes), secret.bytes.len());
    }
}

/// The id of the secret that a layer needs and names.
fn secret_of(layer: &Layer) -> Option<&str> {
    let key = &layer.key;
    if layer.summary.format == format::LUKS {
        return key.volume_secret.as_deref();
    }
    let is_encrypted = layer.summary.flags & (info_flag::ENCRYPT_LUKS | info_flag::ENCRYPT_AES) != 0;
    key.encrypt_secret.as_deref().filter(|_| is_encrypted)
}

/// An object as it was typed.
struct Definition(BTreeMap<String, Bytes>);

impl Definition {
    /// Reads `secret,id=…,…` or a JSON object.
    fn parse(typed: &OsStr) -> Result<Self, Failure> {
        let typed = typed.as_bytes();
        if typed.starts_with(b"{") {
            let syntax = |_| Failure::Option("--object: the JSON object could not be parsed".to_owned());
            let options: BTreeMap<String, String> = serde_json::from_slice(typed).map_err(syntax)?;
            return Ok(Self(options.into_iter().map(|(key, value)| (key, Bytes::new(value.into_bytes()))).collect()));
        }
        // The first word may stand without its key.
        let has_type =
            !typed.is_empty() && !typed.split(|byte| *byte == b',').next().is_some_and(|word| word.contains(&b'='));
        let typed = Bytes::new(if has_type { [b"qom-type=", typed].concat() } else { typed.to_vec() });
        let pairs = parse_option_pairs(&typed)
            .map_err(|key| Failure::Option(format!("Expected '=' after parameter '{}'", Printable(&key))))?;
        Ok(Self(pairs.into_iter().map(|(key, value)| (key, Bytes::new(value))).collect()))
    }

    fn text(&mut self, key: &str) -> Option<String> {
        self.0.remove(key).map(|value| String::from_utf8_lossy(&value).into_owned())
    }

    /// The secret, and its id.
    fn secret(mut self) -> Result<(String, Bytes), Failure> {
        let wrong = |text: String| Err(Failure::Option(text));
        let Some(kind) = self.text("qom-type") else { return wrong("Parameter 'qom-type' is missing".to_owned()) };
        if kind != "secret" {
            let kind = Printable(kind.as_bytes());
            return wrong(format!("Parameter 'qom-type' does not accept value '{kind}'"));
        }
        let Some(id) = self.text("id") else { return wrong("Parameter 'id' is missing".to_owned()) };
        if !is_identifier(&id) {
            return wrong(
                "Parameter 'id' expects an identifier\n\
                 Identifiers consist of letters, digits, '-', '.', '_', starting with a letter."
                    .to_owned(),
            );
        }
        let is_base64 = match self.text("format").as_deref() {
            None | Some("raw") => false,
            Some("base64") => true,
            Some(other) => {
                return wrong(format!("Parameter 'format' does not accept value '{}'", Printable(other.as_bytes())));
            }
        };
        let (data, file) = (self.0.remove("data"), self.0.remove("file"));
        if let Some((key, _)) = self.0.pop_first() {
            // Secrets that are encrypted themselves, with keyid and iv, are among these.
            return wrong(format!("Parameter '{}' is unexpected", Printable(key.as_bytes())));
        }
        let bytes = match (data, file) {
            (Some(data), None) => data,
            (None, Some(file)) => read_file(&file)?,
            (Some(_), Some(_)) => return wrong("'file' and 'data' are mutually exclusive".to_owned()),
            (None, None) => return wrong("Either 'file' or 'data' must be provided".to_owned()),
        };
        Ok((id, if is_base64 { decode(&bytes)? } else { bytes }))
    }
}

fn is_identifier(id: &str) -> bool {
    id.starts_with(|first: char| first.is_ascii_alphabetic())
        && id.chars().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '.' | '_'))
}

/// All bytes of a file, a line's end among them.
fn read_file(name: &[u8]) -> Result<Bytes, Failure> {
    let cannot = |code, text: String| {
        let text = format!("Unable to read {}: {text}", Printable(name));
        Failure::Whole { code, file: name.to_vec(), text }
    };
    let file = File::open(OsStr::from_bytes(name)).map_err(|error| {
        let text = format!("Failed to open file \u{201c}{}\u{201d}: {}", Printable(name), system_text(&error));
        cannot(Code::of_system(&error), text)
    })?;
    // With the room from the start, so that no copy stays behind.
    let mut bytes = Bytes::new(Vec::with_capacity(JOB_ROOM + 1));
    let read = file.take(JOB_BYTES).read_to_end(&mut bytes);
    read.map_err(|error| cannot(Code::of_system(&error), system_text(&error)))?;
    if bytes.len() == JOB_ROOM {
        return Err(cannot(Code::Usage, "it is too long for a secret".to_owned()));
    }
    Ok(bytes)
}

fn decode(bytes: &[u8]) -> Result<Bytes, Failure> {
    let is_known = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=' | b'\n');
    if !bytes.iter().all(is_known) {
        return Err(Failure::Option("Base64 data contains invalid characters".to_owned()));
    }
    let digits: Bytes = Bytes::new(bytes.iter().copied().filter(|byte| *byte != b'\n').collect());
    let mut decoded = Bytes::new(vec![0; digits.len()]);
    let length = Base64::decode(&*digits, &mut decoded)
        .map_err(|_| Failure::Option("Base64 data is not complete".to_owned()))?
        .len();
    decoded.truncate(length);
    Ok(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(objects: &[&str]) -> Result<BTreeMap<String, Vec<u8>>, String> {
        let objects: Vec<OsString> = objects.iter().map(OsString::from).collect();
        let secrets = Secrets::read(&objects).map_err(|failure| failure.to_string())?;
        Ok(secrets.0.into_iter().map(|(id, bytes)| (id, bytes.to_vec())).collect())
    }

    fn one(object: &str) -> String {
        match read(&[object]) {
            Ok(secrets) => String::from_utf8(secrets["s0"].clone()).expect("UTF-8"),
            Err(text) => text,
        }
    }

    #[test]
    fn secrets_come_from_data_and_files_raw_and_in_base64() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), b"ZGVm\nNDU2Cg==\n").expect("written");
        let name = file.path().to_str().expect("UTF-8");
        assert_eq!(one("secret,id=s0,data=a,,b"), "a,b");
        assert_eq!(one("qom-type=secret,id=s0,data=x,data=y"), "y");
        assert_eq!(one(r#"{"qom-type":"secret","id":"s0","data":"\u00e4"}"#), "\u{e4}");
        assert_eq!(one(&format!("secret,id=s0,file={name}")), "ZGVm\nNDU2Cg==\n");
        assert_eq!(one(&format!("secret,id=s0,file={name},format=base64")), "def456\n");
        assert_eq!(one("secret,id=s0,data=,format=base64"), "");
        assert_eq!(read(&["secret,id=a,data=1", "secret,id=b,data=2"]).expect("two").len(), 2);
    }

    #[test]
    fn what_is_wrong_is_said_as_users_know_it() {
        for (object, text) in [
            ("", "Parameter 'qom-type' is missing"),
            ("id=s0", "Parameter 'qom-type' is missing"),
            (r#"{"id":"s0"}"#, "Parameter 'qom-type' is missing"),
            (r#"{"id":"s0""#, "--object: the JSON object could not be parsed"),
            ("nosuch,id=s0,data=a", "Parameter 'qom-type' does not accept value 'nosuch'"),
            ("secret,data=a", "Parameter 'id' is missing"),
            ("secret,id=s0,data", "Expected '=' after parameter 'data'"),
            ("secret,id=s0", "Either 'file' or 'data' must be provided"),
            ("secret,id=s0,data=a,file=b", "'file' and 'data' are mutually exclusive"),
            ("secret,id=s0,data=a,format=xx", "Parameter 'format' does not accept value 'xx'"),
            ("secret,id=s0,data=a*,format=base64", "Base64 data contains invalid characters"),
            ("secret,id=s0,data=YWJ,format=base64", "Base64 data is not complete"),
            ("secret,id=s0,data=a,foo=b", "Parameter 'foo' is unexpected"),
            (
                "secret,id=s0,file=/no/such",
                "Unable to read /no/such: Failed to open file \u{201c}/no/such\u{201d}: No such file or directory",
            ),
        ] {
            assert_eq!(one(object), format!("instar: {text}"), "{object}");
        }
        assert!(one("secret,id=1 x,data=a").starts_with("instar: Parameter 'id' expects an identifier\nIdentifiers"));
        assert_eq!(
            read(&["secret,id=s0,data=a", "secret,id=s0,data=b"]).expect_err("twice"),
            "instar: attempt to add duplicate property 's0' to object (type 'container')"
        );
    }

    #[test]
    fn secrets_lie_one_behind_the_other_in_the_job() {
        let mut job = vec![1; 100];
        append(&mut job, &[]);
        assert_eq!(job.len(), 100);
        let secret = |layer, bytes: &[u8]| LayerSecret { layer, bytes: Bytes::new(bytes.to_vec()) };
        append(&mut job, &[secret(0, b"one"), secret(4, b"")]);
        assert_eq!(SecretsHeader::get(&job[SECRETS_OFFSET..]).count, 2);
        assert_eq!(&job[SECRETS_OFFSET + 8..], b"\0\0\0\0\x03\0\0\0one\x04\0\0\0\0\0\0\0");
    }
}
