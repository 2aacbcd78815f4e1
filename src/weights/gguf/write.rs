//! Writer of GGUF files (version 3): first the header with the place of every tensor, then one tensor after the
//! other, so that no more than one need ever be in memory.

use std::io::{self, Write};

use candle_core::quantized::GgmlDType;

use super::read::{ALIGNMENT, MAGIC, type_id};
use crate::backend::stored_bytes;

/// Kinds of metadata values that are written.
#[derive(Clone, Debug)]
pub(super) enum Metadata {
    U32(u32),
    String(String),
}

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Planned {
    pub name: String,
    pub dtype: GgmlDType,
    /// rows first, as in PyTorch
    pub shape: Vec<usize>,
}

impl Planned {
    /// Size in bytes.
    pub fn bytes(&self) -> usize {
        stored_bytes(self.dtype, self.shape.iter().product())
            .expect("a tensor is planned in a format that takes its shape")
    }
}

/// A file whose header has been written.
pub(super) struct GgufWriter<W> {
    out: W,
    /// bytes of the tensors that are not written yet
    left: std::vec::IntoIter<usize>,
}

impl<W: Write> GgufWriter<W> {
    /// Writes the header.
    ///
    /// # Errors
    /// Those of writing.
    pub fn new(
        mut out: W,
        metadata: &[(String, Metadata)],
        tensors: &[Planned],
    ) -> io::Result<Self> {
        let mut header = Vec::new();
        header.extend(MAGIC);
        header.extend(3u32.to_le_bytes());
        header.extend((tensors.len() as u64).to_le_bytes());
        header.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            push_string(&mut header, key);
            match value {
                Metadata::U32(number) => {
                    header.extend(4u32.to_le_bytes());
                    header.extend(number.to_le_bytes());
                }
                Metadata::String(text) => {
                    header.extend(8u32.to_le_bytes());
                    push_string(&mut header, text);
                }
            }
        }
        let mut offset = 0;
        for tensor in tensors {
            push_string(&mut header, &tensor.name);
            header.extend((tensor.shape.len() as u32).to_le_bytes());
            for &dimension in tensor.shape.iter().rev() {
                header.extend((dimension as u64).to_le_bytes());
            }
            let id = type_id(tensor.dtype).expect("a tensor is planned in a type of weights");
            header.extend(id.to_le_bytes());
            header.extend((offset as u64).to_le_bytes());
            offset += tensor.bytes().next_multiple_of(ALIGNMENT);
        }
        header.resize(header.len().next_multiple_of(ALIGNMENT), 0);
        out.write_all(&header)?;
        let left: Vec<_> = tensors.iter().map(Planned::bytes).collect();
        Ok(Self { out, left: left.into_iter() })
    }

    /// Writes the next tensor, in the order of the header.
    ///
    /// # Errors
    /// Those of writing; bytes of another length than was planned.
    pub fn tensor(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.left.next() != Some(bytes.len()) {
            return Err(io::Error::other("a tensor of another length than planned"));
        }
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(ALIGNMENT) - bytes.len();
        self.out.write_all(&[0; ALIGNMENT][..padding])
    }

    /// Output, with every tensor written.
    ///
    /// # Errors
    /// A tensor that is missing, or those of writing.
    pub fn finish(mut self) -> io::Result<W> {
        if self.left.next().is_some() {
            return Err(io::Error::other("a tensor that was planned is missing"));
        }
        self.out.flush()?;
        Ok(self.out)
    }
}

fn push_string(header: &mut Vec<u8>, text: &str) {
    header.extend((text.len() as u64).to_le_bytes());
    header.extend(text.as_bytes());
}
