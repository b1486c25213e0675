//! The tree as JSON, byte for byte in qemu-img's layout.

use std::io::{self, Write};

use serde::Serialize;
use serde_json::ser::{CharEscape, Formatter, Serializer};

use super::node::Node;

/// `node` as JSON, and a newline.
pub(super) fn to_json(node: &Node) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut serializer = Serializer::with_formatter(&mut bytes, Layout::default());
    // Neither a vector nor the tree can fail.
    let _ = node.serialize(&mut serializer);
    bytes.push(b'\n');
    bytes
}

/// Four blanks a level, every element on a line of its own, brackets of empty values on two lines, nothing but ASCII.
#[derive(Default)]
struct Layout {
    level: usize,
}

impl Layout {
    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b"\n")?;
        (0..self.level).try_for_each(|_| writer.write_all(b"    "))
    }

    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level += 1;
        writer.write_all(bracket)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.level -= 1;
        self.new_line(writer)?;
        writer.write_all(bracket)
    }

    fn separate<W: ?Sized + Write>(&self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(b",")?;
        }
        self.new_line(writer)
    }
}

impl Formatter for Layout {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.separate(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(b": ")
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut units = [0; 2];
        fragment.chars().try_for_each(|character| match character {
            ' '..='~' => writer.write_all(&[character as u8]),
            _ => character.encode_utf16(&mut units).iter().try_for_each(|unit| write!(writer, "\\u{unit:04X}")),
        })
    }

    fn write_char_escape<W: ?Sized + Write>(&mut self, writer: &mut W, escape: CharEscape) -> io::Result<()> {
        let short: &[u8] = match escape {
            CharEscape::Quote => b"\\\"",
            CharEscape::ReverseSolidus => b"\\\\",
            CharEscape::Solidus => b"/",
            CharEscape::Backspace => b"\\b",
            CharEscape::FormFeed => b"\\f",
            CharEscape::LineFeed => b"\\n",
            CharEscape::CarriageReturn => b"\\r",
            CharEscape::Tab => b"\\t",
            CharEscape::AsciiControl(byte) => return write!(writer, "\\u{byte:04X}"),
        };
        writer.write_all(short)
    }
}

#[cfg(test)]
mod tests {
    use super::super::node::Object;
    use super::*;

    #[test]
    fn empty_values_take_two_lines() {
        let mut object = Object::default();
        object.set("flags", Vec::new());
        object.set("data", Object::default());
        object.set("sizes", vec![Node::Unsigned(u64::MAX), Node::Signed(-1), Node::Bool(true)]);
        let expected = "{\n    \"flags\": [\n    ],\n    \"data\": {\n    },\n    \"sizes\": [\n        \
                        18446744073709551615,\n        -1,\n        true\n    ]\n}\n";
        assert_eq!(String::from_utf8(to_json(&object.into())).unwrap(), expected);
    }

    #[test]
    fn escape_everything_but_printable_ascii() {
        let json = to_json(&Node::from("a/\"\\\u{8}\u{c}\n\r\t\u{1}\u{1f}\u{7f}ä€😀"));
        let expected = concat!(r#""a/\"\\\b\f\n\r\t\u0001\u001F\u007F\u00E4\u20AC\uD83D\uDE00""#, "\n");
        assert_eq!(String::from_utf8(json).unwrap(), expected);
    }
}
