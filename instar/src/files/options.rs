//! Image descriptions that are more than a name: `json:{…}` and `--image-opts`, reduced to a driver and a local file.
//!
//! Pure. Whatever does not reduce to exactly that is an error.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use super::error::Cause;
use super::keys::{ImageKeys, KeyOption};
use super::name;

/// A local file and, if it was said, the driver to read it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operand {
    /// The path of the file.
    pub path: Vec<u8>,
    /// The driver's name.
    pub driver: Option<String>,
    /// Which secrets open the image and the images below it.
    pub keys: ImageKeys,
}

/// Why a description does not reduce to a driver and a file. Its text continues a sentence about the description.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OperandError {
    /// Not a JSON object, or not `key=value` pairs.
    Syntax,
    /// There is no file in it.
    NoFile,
    /// It has an option that this program does not know.
    Option(String),
}

impl fmt::Display for OperandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Syntax => f.write_str("could not be parsed"),
            Self::NoFile => f.write_str("does not say which file it stands for"),
            Self::Option(key) => write!(f, "sets '{}'", crate::text::Printable(key.as_bytes())),
        }
    }
}

/// The most nested objects in a `json:` name.
const MAX_NESTING: usize = 8;

/// Reads what follows `json:` in a name.
pub(super) fn from_json(text: &[u8]) -> Result<Operand, OperandError> {
    let Ok(Value::Object(object)) = serde_json::from_slice(text) else { return Err(OperandError::Syntax) };
    let mut options = BTreeMap::new();
    flatten("", object, MAX_NESTING, &mut options)?;
    reduce(options)
}

fn flatten(
    prefix: &str,
    object: serde_json::Map<String, Value>,
    room: usize,
    options: &mut BTreeMap<String, Vec<u8>>,
) -> Result<(), OperandError> {
    for (key, value) in object {
        let key = if prefix.is_empty() { key } else { format!("{prefix}.{key}") };
        let duplicate = match value {
            Value::Object(inner) if room > 0 => {
                flatten(&key, inner, room - 1, options)?;
                None
            }
            Value::String(text) => options.insert(key.clone(), text.into_bytes()),
            _ => return Err(OperandError::Option(key)),
        };
        if duplicate.is_some() {
            return Err(OperandError::Option(key));
        }
    }
    Ok(())
}

impl Operand {
    /// Reads the name of an image on the command line: a path, `file:` and a path, or a `json:` form of these.
    ///
    /// # Errors
    /// Names that stand for anything else.
    pub fn from_name(name: &[u8]) -> Result<Self, Cause> {
        let local = name::parse(name)?;
        Ok(Self { path: local.path, driver: local.driver, keys: local.keys })
    }

    /// Reads the operand of `--image-opts`: `key=value` pairs between commas, a doubled comma standing for one.
    ///
    /// # Errors
    /// Anything that is not a driver and a local file.
    pub fn from_image_options(text: &[u8]) -> Result<Self, OperandError> {
        reduce(parse_option_pairs(text).map_err(|_| OperandError::Syntax)?)
    }
}

/// Reads `key=value` pairs between commas, a doubled comma standing for one; of a repeated key the last value counts.
///
/// # Errors
/// A key without a value, or one that is not UTF-8.
pub fn parse_option_pairs(text: &[u8]) -> Result<BTreeMap<String, Vec<u8>>, Vec<u8>> {
    let mut options = BTreeMap::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (mut key, tail) = split_pair(rest);
        rest = tail;
        let Some(equals) = key.iter().position(|&byte| byte == b'=') else { return Err(key) };
        let value = key.split_off(equals + 1);
        key.truncate(equals);
        options.insert(String::from_utf8(key).map_err(std::string::FromUtf8Error::into_bytes)?, value);
    }
    Ok(options)
}

/// The first pair with its doubled commas undone, and what follows the comma behind it.
fn split_pair(text: &[u8]) -> (Vec<u8>, &[u8]) {
    let mut pair = Vec::new();
    let mut index = 0;
    while index < text.len() {
        if text[index] == b',' {
            if text.get(index + 1) != Some(&b',') {
                return (pair, &text[index + 1..]);
            }
            index += 1;
        }
        pair.push(text[index]);
        index += 1;
    }
    (pair, &[])
}

fn reduce(mut options: BTreeMap<String, Vec<u8>>) -> Result<Operand, OperandError> {
    let driver = options.remove("driver");
    let file_driver = options.remove("file.driver");
    let path = options.remove("file.filename");
    let text = |key: &str, value| String::from_utf8(value).map_err(|_| OperandError::Option(key.to_owned()));
    let mut keys = ImageKeys::default();
    for (key, value) in options {
        let Some((depth, option)) = KeyOption::named(&key) else { return Err(OperandError::Option(key)) };
        keys.set(depth, option, text(&key, value)?);
    }
    if file_driver.is_some_and(|name| name != b"file") {
        return Err(OperandError::Option("file.driver".to_owned()));
    }
    let driver = driver.map(|name| text("driver", name)).transpose()?;
    match path {
        Some(path) if !path.is_empty() => Ok(Operand { path, driver, keys }),
        _ => Err(OperandError::NoFile),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn json(text: &str) -> Result<(String, Option<String>), OperandError> {
        let operand = from_json(text.as_bytes())?;
        Ok((String::from_utf8(operand.path).expect("UTF-8"), operand.driver))
    }

    #[test]
    fn nested_and_dotted_forms_mean_the_same() {
        let expected = Ok(("b".to_owned(), Some("qcow2".to_owned())));
        assert_eq!(json(r#"{"driver":"qcow2","file":{"driver":"file","filename":"b"}}"#), expected);
        assert_eq!(json(r#"{"driver":"qcow2","file.driver":"file","file.filename":"b"}"#), expected);
        assert_eq!(json(r#"{"file.filename":"b"}"#), Ok(("b".to_owned(), None)));
    }

    #[test]
    fn anything_more_than_a_local_file_is_refused() {
        for text in [
            r#"{"driver":"nbd","host":"h"}"#,
            r#"{"driver":"qcow2","file":{"driver":"nbd","host":"h"}}"#,
            r#"{"driver":"qcow2","file":{"driver":"host_device","filename":"/dev/sda"}}"#,
            r#"{"driver":"qcow2","file":"node"}"#,
            r#"{"driver":"qcow2","file":{"driver":"file","filename":"b","locking":"off"}}"#,
            r#"{"driver":"qcow2","file.filename":"b","backing":null}"#,
            r#"{"driver":"qcow2","file.filename":"b","file":{"filename":"c"}}"#,
            r#"{"driver":"qcow2"}"#,
            r#"{"file.filename":""}"#,
            "[]",
            "{",
            "",
        ] {
            assert!(json(text).is_err(), "{text}");
        }
    }

    #[test]
    fn image_options_reduce_like_json() {
        let operand =
            Operand::from_image_options(b"driver=qcow2,file.driver=file,file.filename=a,,b=c").expect("local");
        assert_eq!(operand.path, b"a,b=c");
        assert_eq!(operand.driver.as_deref(), Some("qcow2"));
        assert_eq!(Operand::from_image_options(b"filename=x"), Err(OperandError::Option("filename".to_owned())));
        assert_eq!(Operand::from_image_options(b""), Err(OperandError::NoFile));
        assert_eq!(Operand::from_image_options(b"x"), Err(OperandError::Syntax));
    }
}
