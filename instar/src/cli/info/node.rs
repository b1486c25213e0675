//! A tree of named values in fixed order: what both forms of output are made from.

use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};

use super::utf8;

/// One value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    /// A string of unknown encoding.
    Bytes(Vec<u8>),
    List(Vec<Node>),
    Object(Object),
}

/// Named values in the order in which they are printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Object(pub(super) Vec<(&'static str, Node)>);

impl Object {
    /// Appends a member.
    pub(super) fn set(&mut self, name: &'static str, value: impl Into<Node>) {
        self.0.push((name, value.into()));
    }

    /// Appends a member if there is a value for it.
    pub(super) fn set_some(&mut self, name: &'static str, value: Option<impl Into<Node>>) {
        if let Some(value) = value {
            self.set(name, value);
        }
    }
}

impl From<bool> for Node {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<u32> for Node {
    fn from(value: u32) -> Self {
        Self::Unsigned(value.into())
    }
}

impl From<u64> for Node {
    fn from(value: u64) -> Self {
        Self::Unsigned(value)
    }
}

impl From<i64> for Node {
    fn from(value: i64) -> Self {
        Self::Signed(value)
    }
}

impl From<&str> for Node {
    fn from(value: &str) -> Self {
        Self::Bytes(value.as_bytes().to_vec())
    }
}

impl From<&[u8]> for Node {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl From<Vec<Node>> for Node {
    fn from(value: Vec<Node>) -> Self {
        Self::List(value)
    }
}

impl From<Object> for Node {
    fn from(value: Object) -> Self {
        Self::Object(value)
    }
}

impl Serialize for Node {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Unsigned(value) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Bytes(value) => serializer.serialize_str(&utf8::decode(value)),
            Self::List(values) => {
                let mut sequence = serializer.serialize_seq(Some(values.len()))?;
                values.iter().try_for_each(|value| sequence.serialize_element(value))?;
                sequence.end()
            }
            Self::Object(object) => {
                let mut map = serializer.serialize_map(Some(object.0.len()))?;
                object.0.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
                map.end()
            }
        }
    }
}
