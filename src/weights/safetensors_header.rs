//! The header of a safetensors file. The `safetensors` crate has a reader of its own, which is not used here: it
//! buffers the whole header as a tree before it looks at it, so that a file of 100 MB takes gigabytes; of a name that
//! occurs twice it takes one; and its messages repeat what the file holds, however long.
//!
//! Source: huggingface/safetensors `README.md` (Format) and `tensor.rs` (`Metadata::validate`).

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::ops::Range;

use safetensors::Dtype;
use serde::de::value::{BorrowedStrDeserializer, Error as ValueError};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::quoted::quoted;

/// Longest header in bytes: the largest have some MiB, most of it notes on the training of a LoRA.
const LONGEST: usize = 1 << 26;
/// Most tensors of a file, and most entries of its `__metadata__`.
const MOST_ENTRIES: usize = 1 << 16;
/// Longest name of a tensor.
const LONGEST_NAME: usize = 512;
/// Most dimensions of a tensor.
const MOST_DIMENSIONS: usize = 8;
/// Characters of a text of the file in a message, and of a message about it.
const LONGEST_QUOTE: usize = 80;
const LONGEST_REASON: usize = 240;

/// Contents of the header.
#[derive(Debug, Default)]
pub(super) struct SafetensorsHeader {
    pub tensors: Vec<(String, StoredTensor)>,
    /// `__metadata__`
    pub metadata: HashMap<String, String>,
}

/// Place of a tensor.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct StoredTensor {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    /// bytes of the file
    pub range: Range<usize>,
}

impl SafetensorsHeader {
    /// Reads and checks the header of a whole file.
    ///
    /// # Errors
    /// A damaged file, in one line without its name.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, String> {
        const LENGTH: usize = size_of::<u64>();
        let Some((length, rest)) = bytes.split_first_chunk::<LENGTH>() else {
            return Err(format!("{} bytes", bytes.len()));
        };
        let length = u64::from_le_bytes(*length);
        let header = usize::try_from(length).ok().filter(|&length| length <= LONGEST);
        let header = header.ok_or_else(|| format!("a header of {length} bytes"))?;
        let json = rest.get(..header).ok_or_else(|| {
            format!("the header ends at byte {}, the file at {}", LENGTH + header, bytes.len())
        })?;
        let mut json = serde_json::Deserializer::from_slice(json);
        let mut read =
            Self::deserialize(&mut json).and_then(|read| json.end().map(|()| read)).map_err(
                |error| format!("its header: {}", quoted(&error.to_string(), LONGEST_REASON)),
            )?;
        read.place(LENGTH + header, bytes.len())?;
        Ok(read)
    }

    /// Makes offsets within the data places within the file, and checks that the tensors fill it without gaps.
    fn place(&mut self, data: usize, length: usize) -> Result<(), String> {
        self.tensors.sort_by(|(_, a), (_, b)| {
            (a.range.start, a.range.end).cmp(&(b.range.start, b.range.end))
        });
        let mut end = 0;
        for (name, tensor) in &mut self.tensors {
            let StoredTensor { dtype, shape, range } = tensor;
            let fail = |reason: String| Err(format!("tensor `{name}`: {reason}"));
            if range.start != end || range.end < end {
                return fail(format!("its bytes {range:?} do not follow byte {end} of the data"));
            }
            let Some(size) = size_of_numbers(shape, *dtype) else {
                return fail(format!("{dtype:?} {shape:?} is no possible shape"));
            };
            if size != range.len() {
                return fail(format!(
                    "{dtype:?} {shape:?} takes {size} bytes, not {}",
                    range.len()
                ));
            }
            end = range.end;
            let Some(last) = data.checked_add(end).filter(|&last| last <= length) else {
                return fail(format!(
                    "ends at byte {end} of the data, the file has {}: it is cut short",
                    length - data
                ));
            };
            *range = data + range.start..last;
        }
        match length - data - end {
            0 => Ok(()),
            more => Err(format!("{more} bytes after the last tensor")),
        }
    }
}

/// Bytes of so many numbers; `None` where no file can hold them or they end within a byte.
fn size_of_numbers(shape: &[usize], dtype: Dtype) -> Option<usize> {
    // A dimension of 0 must not hide others whose product no number holds.
    let possible = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size.max(1)));
    let count = possible.map(|_| shape.iter().product::<usize>())?;
    let bits = count.checked_mul(dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

impl<'de> Deserialize<'de> for SafetensorsHeader {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = SafetensorsHeader;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object with tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut header = SafetensorsHeader::default();
        let mut names = HashSet::new();
        while let Some(Name(name)) = map.next_key()? {
            if name == "__metadata__" {
                header.metadata = map.next_value::<Notes>()?.0;
                continue;
            }
            if !names.insert(name.clone()) {
                return Err(A::Error::custom(format!("tensor `{name}` is there twice")));
            }
            if header.tensors.len() == MOST_ENTRIES {
                return Err(A::Error::custom(format!("more than {MOST_ENTRIES} tensors")));
            }
            let Entry { dtype, shape: Shape(shape), data_offsets: (start, end) } =
                map.next_value()?;
            let known = Dtype::deserialize(BorrowedStrDeserializer::<ValueError>::new(&dtype));
            let dtype = known.map_err(|_| {
                A::Error::custom(format!(
                    "tensor `{name}`: type `{}` is not known",
                    quoted(&dtype, LONGEST_QUOTE)
                ))
            })?;
            header.tensors.push((name, StoredTensor { dtype, shape, range: start..end }));
        }
        Ok(header)
    }
}

/// Description of a tensor as it is written.
#[derive(serde::Deserialize)]
struct Entry<'a> {
    #[serde(borrow)]
    dtype: Cow<'a, str>,
    shape: Shape,
    data_offsets: (usize, usize),
}

/// Name of a tensor.
struct Name(String);

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameVisitor;

        impl Visitor<'_> for NameVisitor {
            type Value = Name;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a name")
            }

            fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Name, E> {
                if name.len() > LONGEST_NAME || name.contains(char::is_control) {
                    return Err(E::custom(format!(
                        "`{}` is no tensor's name",
                        quoted(name, LONGEST_QUOTE)
                    )));
                }
                Ok(Name(name.to_owned()))
            }
        }

        deserializer.deserialize_str(NameVisitor)
    }
}

/// Shape of a tensor.
struct Shape(Vec<usize>);

impl<'de> Deserialize<'de> for Shape {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ShapeVisitor;

        impl<'de> Visitor<'de> for ShapeVisitor {
            type Value = Shape;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("a shape")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sizes: A) -> Result<Shape, A::Error> {
                let mut shape = Vec::new();
                while let Some(size) = sizes.next_element()? {
                    if shape.len() == MOST_DIMENSIONS {
                        return Err(A::Error::custom(format!(
                            "more than {MOST_DIMENSIONS} dimensions"
                        )));
                    }
                    shape.push(size);
                }
                Ok(Shape(shape))
            }
        }

        deserializer.deserialize_seq(ShapeVisitor)
    }
}

/// `__metadata__`, of which nobody writes many entries.
struct Notes(HashMap<String, String>);

impl<'de> Deserialize<'de> for Notes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NotesVisitor;

        impl<'de> Visitor<'de> for NotesVisitor {
            type Value = Notes;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("texts by name")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Notes, A::Error> {
                let mut notes = HashMap::new();
                while let Some((key, text)) = map.next_entry()? {
                    if notes.len() == MOST_ENTRIES {
                        return Err(A::Error::custom(format!("more than {MOST_ENTRIES} notes")));
                    }
                    notes.insert(key, text);
                }
                Ok(Notes(notes))
            }
        }

        deserializer.deserialize_map(NotesVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: usize) -> Vec<u8> {
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    }

    fn reason(header: &str, data: usize) -> String {
        let reason = SafetensorsHeader::read(&file(header, data)).unwrap_err();
        assert!(reason.len() < 400 && !reason.contains(char::is_control), "{reason}");
        reason
    }

    #[test]
    fn tensors_have_their_places_in_the_order_of_the_file() {
        let header = r#"{"b": {"dtype": "F16", "shape": [2, 1], "data_offsets": [4, 8]},
            "__metadata__": {"format": "pt"}, "more": {"dtype": "I64", "shape": [0], "data_offsets": [8, 8]},
            "a\u0041": {"dtype": "F32", "shape": [], "data_offsets": [0, 4], "of": "later"}}  "#;
        let read = SafetensorsHeader::read(&file(header, 8)).unwrap();
        let data = 8 + header.len();
        let places: Vec<_> = read
            .tensors
            .iter()
            .map(|(name, it)| (name.as_str(), it.dtype, it.range.clone()))
            .collect();
        assert_eq!(
            places,
            [
                ("aA", Dtype::F32, data..data + 4),
                ("b", Dtype::F16, data + 4..data + 8),
                ("more", Dtype::I64, data + 8..data + 8),
            ]
        );
        assert_eq!(read.tensors[1].1.shape, [2, 1]);
        assert_eq!(read.metadata["format"], "pt");
    }

    #[test]
    fn what_the_crate_writes_is_read_as_the_crate_reads_it() {
        let data = [0u8; 24];
        let view = |dtype, shape: &[usize], bytes| {
            safetensors::tensor::TensorView::new(dtype, shape.to_vec(), &data[..bytes]).unwrap()
        };
        let tensors = [
            ("x", view(Dtype::F32, &[2, 3], 24)),
            ("y", view(Dtype::BF16, &[1], 2)),
            ("z", view(Dtype::F8_E4M3, &[4, 1, 2], 8)),
        ];
        let bytes = safetensors::serialize(tensors, None).unwrap();
        let theirs = safetensors::SafeTensors::read_metadata(&bytes).unwrap().1;
        let ours = SafetensorsHeader::read(&bytes).unwrap().tensors;
        assert_eq!(ours.len(), theirs.tensors().len());
        let data = bytes.len() - theirs.data_len();
        for (name, tensor) in ours {
            let info = theirs.info(&name).unwrap();
            let range = data + info.data_offsets.0..data + info.data_offsets.1;
            let expected = StoredTensor { dtype: info.dtype, shape: info.shape.clone(), range };
            assert_eq!(tensor, expected, "{name}");
        }
    }

    #[test]
    fn lies_are_refused_in_a_short_line() {
        let one = |fields: &str| format!(r#"{{"a": {{{fields}}}}}"#);
        let long = "x".repeat(1 << 20);
        for (header, data, expected) in [
            (one(r#""dtype": "F32", "shape": [1], "data_offsets": [0, 4]"#), 3, "it is cut short"),
            (one(r#""dtype": "F32", "shape": [1], "data_offsets": [0, 4]"#), 5, "1 bytes after the last tensor"),
            (one(r#""dtype": "F32", "shape": [2], "data_offsets": [0, 4]"#), 4, "takes 8 bytes, not 4"),
            (one(r#""dtype": "F32", "shape": [1], "data_offsets": [4, 0]"#), 4, "do not follow byte 0"),
            (one(r#""dtype": "F32", "shape": [1], "data_offsets": [4, 8]"#), 8, "do not follow byte 0"),
            (one(r#""dtype": "F32", "shape": [1], "data_offsets": [0, 18446744073709551615]"#), 4, "takes 4 bytes"),
            (one(r#""dtype": "F32", "shape": [-1], "data_offsets": [0, 4]"#), 4, "its header: "),
            (one(r#""dtype": "F32", "shape": [0, 4294967296, 4294967296], "data_offsets": [0, 0]"#), 0, "no possible shape"),
            (one(r#""dtype": "F4", "shape": [1], "data_offsets": [0, 1]"#), 1, "no possible shape"),
            (one(r#""dtype": "F32", "shape": [1,1,1,1,1,1,1,1,1], "data_offsets": [0, 4]"#), 4, "more than 8 dimensions"),
            (one(r#""dtype": "Q4_0", "shape": [1], "data_offsets": [0, 4]"#), 4, "type `Q4_0` is not known"),
            (one(&format!(r#""dtype": "{long}", "shape": [], "data_offsets": [0, 4]"#)), 4, "type `xxx"),
            (one(&format!(r#""dtype": "F32", "shape": "{long}", "data_offsets": [0, 4]"#)), 4, "its header: "),
            (format!(r#"{{"{long}": 1}}"#), 0, "is no tensor's name"),
            (r#"{"a\u001b[31m": 1}"#.to_owned(), 0, "`a\\u{1b}[31m` is no tensor's name"),
            (r#"{"__metadata__": {"a": 1}}"#.to_owned(), 0, "its header: "),
            (r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]}}"#.to_owned(), 4, "tensor `a` is there twice"),
            (r"{} x".to_owned(), 0, "its header: "),
            (r"[]".to_owned(), 0, "its header: "),
        ] {
            let reason = reason(&header, data);
            assert!(reason.contains(expected), "{reason} / {expected}");
        }
        for (bytes, expected) in [
            (&b""[..], "0 bytes"),
            (b"\x10\0\0\0\0\0\0\0{}", "the header ends at byte 24, the file at 10"),
            (b"\xff\xff\xff\xff\xff\xff\xff\xff{}", "a header of 18446744073709551615 bytes"),
        ] {
            assert_eq!(SafetensorsHeader::read(bytes).unwrap_err(), expected);
        }
    }

    #[test]
    fn no_more_tensors_and_notes_are_kept_than_any_file_has() {
        let tensor = r#"{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
        let many = |count: usize, value: &str| {
            let entries: Vec<_> = (0..count).map(|index| format!("\"{index}\":{value}")).collect();
            format!("{{{}}}", entries.join(","))
        };
        assert!(SafetensorsHeader::read(&file(&many(MOST_ENTRIES, tensor), 0)).is_ok());
        assert!(reason(&many(MOST_ENTRIES + 1, tensor), 0).contains("more than 65536 tensors"));
        let notes = format!(r#"{{"__metadata__": {}}}"#, many(MOST_ENTRIES + 1, "\"\""));
        assert!(reason(&notes, 0).contains("more than 65536 notes"));
    }
}
