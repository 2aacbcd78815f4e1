//! The header of a GGUF file: metadata, and the place of each tensor. Every length is checked against the bytes
//! that are there before anything is allocated or read by it, because the file comes from somewhere else.
//!
//! Source: ggml `docs/gguf.md` (versions 2 and 3, which differ in byte order alone).

use std::collections::HashMap;

use candle_core::quantized::GgmlDType;

use crate::backend::stored_bytes;
use crate::weights::quoted::quoted;
use crate::weights::tensors::TensorInfo;

/// First bytes of every file.
pub(super) const MAGIC: [u8; 4] = *b"GGUF";
/// Alignment of tensors in bytes, unless the file says otherwise.
pub(super) const ALIGNMENT: usize = 32;
/// Longest header in bytes: the largest, with vocabularies of language models, have some ten MiB.
const LONGEST_HEADER: usize = 1 << 26;
/// Most tensors, and most metadata entries, of a file.
const MOST_ENTRIES: u64 = 1 << 16;
/// Longest array that is read unless it is asked for: vocabularies of language models are skipped.
const LONGEST_ARRAY: u64 = 64;
/// Longest vocabulary.
const LONGEST_VOCABULARY: u64 = 1 << 19;
/// Most values of arrays that are kept in all: each takes thirty times its bytes in the file.
const MOST_VALUES: usize = 1 << 21;
/// Longest name of a tensor: ggml's own limit is 64, and those of checkpoints are longer.
const LONGEST_NAME: usize = 512;
/// Characters of a text of the file in a message, and of a message about it.
const LONGEST_QUOTE: usize = 80;
const LONGEST_REASON: usize = 800;
/// Most dimensions of a tensor: ggml's own limit.
const MOST_DIMENSIONS: u32 = 4;
/// Deepest nesting of arrays: nobody's metadata has more.
const DEEPEST: u32 = 4;

/// A metadata value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Integer(i128),
    Float(f64),
    Bool(bool),
    String(String),
    Array(Vec<Self>),
    /// an array that is too long to be of interest
    PassedOver,
}

/// Contents of the header.
#[derive(Debug)]
pub(super) struct Header {
    pub metadata: HashMap<String, Value>,
    pub tensors: Vec<TensorInfo>,
}

impl Header {
    /// Text of a metadata key.
    pub fn string(&self, key: &str) -> Option<&str> {
        match self.metadata.get(key)? {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// Whole number of a metadata key, if it has one.
    pub fn optional(&self, key: &str) -> Option<u64> {
        match self.metadata.get(key)? {
            Value::Integer(number) => u64::try_from(*number).ok(),
            _ => None,
        }
    }

    /// Number of a metadata key, if it has one.
    pub fn float(&self, key: &str) -> Option<f64> {
        match self.metadata.get(key)? {
            Value::Float(number) => Some(*number),
            _ => None,
        }
    }

    /// Truth value of a metadata key, if it has one.
    pub fn flag(&self, key: &str) -> Option<bool> {
        match self.metadata.get(key)? {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Array of a metadata key, if it has one that was read.
    pub fn array(&self, key: &str) -> Option<&[Value]> {
        match self.metadata.get(key)? {
            Value::Array(values) => Some(values),
            _ => None,
        }
    }

    /// Array of whole numbers.
    pub fn integers(&self, key: &str) -> Option<Vec<i128>> {
        let integer = |value: &Value| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        };
        self.array(key)?.iter().map(integer).collect()
    }

    /// Array of numbers.
    pub fn floats(&self, key: &str) -> Option<Vec<f64>> {
        let float = |value: &Value| match value {
            Value::Float(number) => Some(*number),
            _ => None,
        };
        self.array(key)?.iter().map(float).collect()
    }

    /// Reads and checks the header of a whole file.
    ///
    /// # Errors
    /// A damaged file, in one line without its name.
    pub fn read(bytes: &[u8]) -> Result<Self, String> {
        Self::read_with(bytes, |_| false)
    }

    /// Reads a file as [`read`](Self::read) does, with the long arrays of the metadata keys that `wanted` selects.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_with(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, String> {
        Self::read_all(bytes, wanted).map_err(|reason| quoted(&reason, LONGEST_REASON))
    }

    fn read_all(bytes: &[u8], wanted: impl Fn(&str) -> bool) -> Result<Self, String> {
        let mut cursor = HeaderReader {
            bytes: &bytes[..bytes.len().min(LONGEST_HEADER)],
            at: 0,
            values_left: MOST_VALUES,
        };
        if cursor.take(MAGIC.len())? != MAGIC {
            return Err("it does not begin with `GGUF`".to_owned());
        }
        let version = cursor.u32()?;
        if !(2..=3).contains(&version) {
            return Err(if (2..=3).contains(&version.swap_bytes()) {
                "its numbers have the most significant byte first".to_owned()
            } else {
                format!("version {version}; 2 and 3 are known")
            });
        }
        let tensor_count = cursor.u64()?;
        let metadata_count = cursor.u64()?;
        if tensor_count > MOST_ENTRIES || metadata_count > MOST_ENTRIES {
            return Err(format!("{tensor_count} tensors and {metadata_count} metadata entries"));
        }

        let mut metadata = HashMap::new();
        for _ in 0..metadata_count {
            let key = cursor.string()?;
            let kind = cursor.u32()?;
            let longest = if wanted(&key) { LONGEST_VOCABULARY } else { LONGEST_ARRAY };
            let value =
                cursor.value(kind, 0, longest).map_err(|error| format!("`{key}`: {error}"))?;
            if metadata.contains_key(&key) {
                return Err(format!("`{key}` is there twice"));
            }
            metadata.insert(key, value);
        }
        let alignment = match metadata.get("general.alignment") {
            None => ALIGNMENT,
            Some(Value::Integer(alignment)) => usize::try_from(*alignment)
                .ok()
                .filter(|alignment| alignment.is_power_of_two())
                .ok_or_else(|| format!("`general.alignment` = {alignment}"))?,
            Some(_) => return Err("`general.alignment` is no number".to_owned()),
        };

        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(cursor.tensor_info()?);
        }
        let data = cursor
            .at
            .checked_next_multiple_of(alignment)
            .ok_or_else(|| "the header has no end".to_owned())?;
        for tensor in &mut tensors {
            place(tensor, data, alignment, bytes.len())
                .map_err(|error| format!("tensor `{}`: {error}", tensor.name))?;
        }
        check_apart(&tensors)?;
        Ok(Self { metadata, tensors })
    }
}

/// Checks that no two tensors have the same name or share bytes, as none of a written file do: a small file would
/// stand for any number of weights.
fn check_apart(tensors: &[TensorInfo]) -> Result<(), String> {
    let mut sorted: Vec<_> = tensors.iter().collect();
    sorted.sort_unstable_by_key(|tensor| &tensor.name);
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(format!("tensor `{}` is there twice", pair[0].name));
    }
    sorted.sort_unstable_by_key(|tensor| (tensor.range.start, tensor.range.end));
    match sorted.windows(2).find(|pair| pair[0].range.end > pair[1].range.start) {
        Some(pair) => Err(format!("tensors `{}` and `{}` share bytes", pair[0].name, pair[1].name)),
        None => Ok(()),
    }
}

/// Replaces a tensor's offset from the beginning of the data, which `range.start` holds so far, by its range
/// within the file.
fn place(
    tensor: &mut TensorInfo,
    data: usize,
    alignment: usize,
    length: usize,
) -> Result<(), String> {
    let offset = tensor.range.start;
    if !offset.is_multiple_of(alignment) {
        return Err(format!("begins at {offset}, no multiple of {alignment}"));
    }
    let columns = tensor.shape.last().copied().unwrap_or(1);
    let block = tensor.dtype.block_size();
    if !columns.is_multiple_of(block) {
        return Err(format!("{:?} rows of {columns} are no whole blocks", tensor.dtype));
    }
    let count =
        tensor.shape.iter().try_fold(1usize, |count, &dimension| count.checked_mul(dimension));
    let size = count.and_then(|count| stored_bytes(tensor.dtype, count));
    let start = data.checked_add(offset);
    let end = start.zip(size).and_then(|(start, size)| start.checked_add(size));
    match start.zip(end) {
        Some((start, end)) if end <= length => {
            tensor.range = start..end;
            Ok(())
        }
        Some((_, end)) => Err(format!("ends at byte {end}, the file at {length}: it is cut short")),
        None => Err(format!("{:?} is no possible shape", tensor.shape)),
    }
}

/// Tensor types that weights can have (ggml `include/ggml.h`, `enum ggml_type`).
const TYPES: [(u32, GgmlDType); 13] = [
    (0, GgmlDType::F32),
    (1, GgmlDType::F16),
    (2, GgmlDType::Q4_0),
    (3, GgmlDType::Q4_1),
    (6, GgmlDType::Q5_0),
    (7, GgmlDType::Q5_1),
    (8, GgmlDType::Q8_0),
    (10, GgmlDType::Q2K),
    (11, GgmlDType::Q3K),
    (12, GgmlDType::Q4K),
    (13, GgmlDType::Q5K),
    (14, GgmlDType::Q6K),
    (30, GgmlDType::BF16),
];

/// Number by which a file names a tensor's type.
pub(super) fn type_id(dtype: GgmlDType) -> Option<u32> {
    TYPES.iter().find(|(_, known)| *known == dtype).map(|(id, _)| *id)
}

/// The unread rest of a file's header.
struct HeaderReader<'a> {
    bytes: &'a [u8],
    at: usize,
    /// values of arrays that may still be kept
    values_left: usize,
}

impl<'a> HeaderReader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let taken = self.at.checked_add(count).and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or_else(|| format!("the header is cut short at byte {}", self.at))?;
        self.at += count;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    fn string(&mut self) -> Result<String, String> {
        let at = self.at;
        let length = self.u64()?;
        let length = usize::try_from(length).map_err(|_| format!("a text of {length} bytes"))?;
        let text = std::str::from_utf8(self.take(length)?);
        text.map(str::to_owned).map_err(|_| format!("the text at byte {at} is not UTF-8"))
    }

    fn value(&mut self, kind: u32, depth: u32, longest: u64) -> Result<Value, String> {
        Ok(match kind {
            0 => Value::Integer(u8::from_le_bytes(self.array()?).into()),
            1 => Value::Integer(i8::from_le_bytes(self.array()?).into()),
            2 => Value::Integer(u16::from_le_bytes(self.array()?).into()),
            3 => Value::Integer(i16::from_le_bytes(self.array()?).into()),
            4 => Value::Integer(self.u32()?.into()),
            5 => Value::Integer(i32::from_le_bytes(self.array()?).into()),
            6 => Value::Float(f32::from_le_bytes(self.array()?).into()),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::String(self.string()?),
            9 if depth < DEEPEST => {
                let kind = self.u32()?;
                let count = self.u64()?;
                if count > longest {
                    self.pass_over(kind, count, depth + 1)?;
                    return Ok(Value::PassedOver);
                }
                let mut values = Vec::new();
                for _ in 0..count {
                    self.values_left = self
                        .values_left
                        .checked_sub(1)
                        .ok_or_else(|| format!("more than {MOST_VALUES} values"))?;
                    values.push(self.value(kind, depth + 1, LONGEST_ARRAY)?);
                }
                Value::Array(values)
            }
            9 => return Err("arrays within arrays".to_owned()),
            10 => Value::Integer(self.u64()?.into()),
            11 => Value::Integer(i64::from_le_bytes(self.array()?).into()),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            other => return Err(format!("a value of the unknown kind {other}")),
        })
    }

    /// Skips the values of an array.
    fn pass_over(&mut self, kind: u32, count: u64, depth: u32) -> Result<(), String> {
        let size = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            10..=12 => 8,
            _ => {
                // Each of these takes bytes of its own, so the file's end bounds the count.
                for _ in 0..count {
                    self.value(kind, depth, LONGEST_ARRAY)?;
                }
                return Ok(());
            }
        };
        let length = count.checked_mul(size).and_then(|length| usize::try_from(length).ok());
        self.take(length.ok_or_else(|| format!("an array of {count} values"))?)?;
        Ok(())
    }

    /// Reads the description of a tensor; its range holds only the offset yet.
    fn tensor_info(&mut self) -> Result<TensorInfo, String> {
        let name = self.string()?;
        if name.len() > LONGEST_NAME || name.contains(char::is_control) {
            return Err(format!("`{}` is no tensor's name", quoted(&name, LONGEST_QUOTE)));
        }
        let rank = self.u32()?;
        if rank > MOST_DIMENSIONS {
            return Err(format!("tensor `{name}`: {rank} dimensions"));
        }
        let mut shape = Vec::new();
        for _ in 0..rank {
            let dimension = self.u64()?;
            let dimension = usize::try_from(dimension).ok().filter(|&dimension| dimension > 0);
            shape.push(dimension.ok_or_else(|| format!("tensor `{name}`: an impossible shape"))?);
        }
        shape.reverse();
        let id = self.u32()?;
        let Some((_, dtype)) = TYPES.iter().find(|(known, _)| *known == id) else {
            return Err(format!(
                "tensor `{name}`: type {id} is not supported (F32, F16, BF16, Q4_0, Q4_1, Q5_0, \
                 Q5_1, Q8_0, Q2_K to Q6_K)"
            ));
        };
        let offset = self.u64()?;
        let offset = usize::try_from(offset)
            .map_err(|_| format!("tensor `{name}`: begins at byte {offset} of the data"))?;
        Ok(TensorInfo { name, dtype: *dtype, shape, range: offset..offset })
    }
}
