//! Rows of a table by their numbers: the embeddings of tokens.

use candle_core::{DType, Result, Tensor};

use super::{Products, Weight};
use crate::backend::Params;

/// `torch.nn.Embedding`. On the CPU the table may be kept as it is stored; only the rows that are
/// asked for are brought to f32.
#[derive(Clone, Debug)]
pub struct Embedding {
    table: Table,
    count: usize,
}

#[derive(Clone, Debug)]
enum Table {
    /// `[count, width]`
    Rows(Tensor),
    Kept(Weight),
}

impl Embedding {
    /// Reads `weight`, `[count, width]`, below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(count: usize, width: usize, vb: &Params) -> Result<Self> {
        let table = if vb.device().is_cpu() && vb.dtype() == DType::F32 {
            // Whatever products are rounded to, nothing is multiplied here.
            Table::Kept(vb.with_products(Products::F32).matrix((count, width), "weight")?)
        } else {
            Table::Rows(vb.get((count, width), "weight")?)
        };
        Ok(Self { table, count })
    }

    /// The rows of these numbers, `[N, width]`.
    ///
    /// # Errors
    /// A number outside the table, or those of the backend.
    pub fn forward(&self, ids: &[u32]) -> Result<Tensor> {
        if let Some(id) = ids.iter().find(|&&id| id as usize >= self.count) {
            candle_core::bail!("embedding: {id} is outside a table of {}", self.count);
        }
        match &self.table {
            Table::Rows(rows) => rows.index_select(&Tensor::new(ids, rows.device())?, 0),
            Table::Kept(weight) => weight.unpack_rows(ids),
        }
    }
}
