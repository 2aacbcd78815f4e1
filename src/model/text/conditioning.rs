//! Output of a model's text encoders for a denoiser.

use candle_core::{Device, Result};

use crate::backend::Activation;

/// The encoded prompts of a denoiser's call, in the encoders' precision.
#[derive(Clone, Debug)]
pub struct TextConditioning {
    /// `[B, N, D]`, the encoders' states as the model arranges them
    pub context: Activation,
    /// `[B, P]`, the projected summary, for models that have one
    pub pooled: Option<Activation>,
    /// Number of valid tokens of each row, which are its first, for models that mask what follows (it is zero
    /// then); without it nothing is masked.
    pub lengths: Option<Vec<usize>>,
}

impl TextConditioning {
    /// Zeros in place of all encoder outputs (diffusers'
    /// `force_zeros_for_empty_prompt`).
    ///
    /// # Errors
    /// Those of the backend.
    pub fn zeros_like(&self) -> Result<Self> {
        Ok(Self {
            context: self.context.zeros_like()?,
            pooled: self.pooled.as_ref().map(Activation::zeros_like).transpose()?,
            lengths: self.lengths.clone(),
        })
    }

    /// The same on `device`.
    ///
    /// # Errors
    /// Those of the backend.
    pub fn to_device(&self, device: &Device) -> Result<Self> {
        Ok(Self {
            context: self.context.to_device(device)?,
            pooled: self.pooled.as_ref().map(|pooled| pooled.to_device(device)).transpose()?,
            lengths: self.lengths.clone(),
        })
    }

    /// The bytes that it takes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.context.bytes() + self.pooled.as_ref().map_or(0, Activation::bytes)
    }

    /// The rows of several, one after the other, which are of one model.
    ///
    /// # Errors
    /// None at all, or those of the backend.
    pub fn cat(rows: &[&Self]) -> Result<Self> {
        let joined = |of: fn(&Self) -> Option<&Activation>| -> Result<Option<Activation>> {
            let parts: Vec<_> = rows.iter().filter_map(|row| of(row)).collect();
            (!parts.is_empty()).then(|| Activation::cat(&parts, 0)).transpose()
        };
        let Some(context) = joined(|row| Some(&row.context))? else {
            candle_core::bail!("text encoders: there is no prompt to encode");
        };
        let lengths = rows.iter().map(|row| row.lengths.as_deref());
        Ok(Self {
            context,
            pooled: joined(|row| row.pooled.as_ref())?,
            lengths: lengths.collect::<Option<Vec<_>>>().map(|lengths| lengths.concat()),
        })
    }
}
