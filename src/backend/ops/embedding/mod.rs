//! Rows of a table by their numbers: the embeddings of tokens.

use candle_core::{DType, Device, Result, Tensor};

use crate::backend::{
    Activation, Params, Trace, Weight, WeightUse,
    rows::StoredRows,
    weight::{Values, WeightStorage},
};

/// `torch.nn.Embedding`. On the CPU the table may be kept as it is stored; only the rows that are
/// asked for are brought to f32.
#[derive(Clone, Debug)]
pub struct Embedding(Weight);

impl Embedding {
    /// Reads `weight`, `[count, width]`, below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(count: usize, width: usize, vb: &Params) -> Result<Self> {
        vb.weight((count, width), "weight", WeightUse::Table).map(Self)
    }

    /// Reads the table `name`, `[1, count, width]`, below `vb`: positions, as diffusers has them.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub fn load_named(count: usize, width: usize, name: &str, vb: &Params) -> Result<Self> {
        vb.weight((1, count, width), name, WeightUse::Table).map(Self)
    }

    /// The rows of these numbers, `[N, width]`; within `trace` their shape.
    ///
    /// # Errors
    /// A number outside the table, or those of the backend.
    pub fn forward(&self, ids: &[u32], trace: Option<&Trace>) -> Result<Activation> {
        let (count, width) = self.0.dims();
        if let Some(id) = ids.iter().find(|&&id| id as usize >= count) {
            candle_core::bail!("embedding: {id} is outside a table of {count}");
        }
        match (trace, self.0.storage()) {
            (None, _) => match self.0.values() {
                Values::Dense(table) => Activation::from(table).index_select(ids, 0),
                Values::Rows(rows) => unpack(rows, ids).map(Activation::from),
                _ => candle_core::bail!("embedding: a table without rows"),
            },
            (Some(trace), WeightStorage::Dense(dtype)) => {
                trace.held_elsewhere((count, width), dtype).index_select(ids, 0)
            }
            (Some(trace), _) => Ok(trace.activation((ids.len(), width), DType::F32)),
        }
    }
}

/// Rows of these valid indices, in f32.
fn unpack(rows: &StoredRows, ids: &[u32]) -> Result<Tensor> {
    let width = rows.input;
    let mut values = vec![0f32; ids.len() * width];
    for (values, &id) in values.chunks_exact_mut(width).zip(ids) {
        rows.unpack_run(id as usize, 0..width, values);
    }
    Tensor::from_vec(values, (ids.len(), width), &Device::Cpu)
}
