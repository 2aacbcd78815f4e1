//! From prompts to the tensors that a UNet is conditioned on, for models with one text encoder
//! (Stable Diffusion 1.x, the SDXL refiner) and with two (SDXL).

use std::collections::HashMap;

use candle_core::Tensor;

use super::{ClipTextModel, ClipTokenizer, Cut, config::TextError};

/// A tokenizer with its encoder.
#[derive(Clone, Debug)]
pub struct TextEncoder {
    pub tokenizer: ClipTokenizer,
    pub model: ClipTextModel,
}

/// What the UNet is conditioned on, in the encoders' precision.
#[derive(Clone, Debug)]
pub struct TextConditioning {
    /// `[B, N, D]`, the encoders' states side by side
    pub context: Tensor,
    /// `[B, P]`, the projected summary by the last encoder; models without `text_time`
    /// conditioning have none
    pub pooled: Option<Tensor>,
}

/// All text encoders of a model.
#[derive(Clone, Debug)]
pub struct TextConditioner {
    encoders: Vec<TextEncoder>,
}

impl TextConditioner {
    /// From the encoders in the order of `model_index.json`. If the last one has a projection, the
    /// conditioning is SDXL's (penultimate states of every encoder, and the pooled embedding);
    /// else it is Stable Diffusion 1.x's (last state of the one encoder).
    ///
    /// # Errors
    /// No encoder, encoders that do not go together, or a tokenizer that makes longer sequences or
    /// larger ids than its encoder has embeddings for.
    pub fn new(encoders: Vec<TextEncoder>) -> Result<Self, TextError> {
        let fail = |reason: String| Err(TextError::Mismatch(reason));
        let Some(last) = encoders.last() else {
            return fail("the model has none".to_owned());
        };
        if encoders.len() > 1 && !last.model.has_projection() {
            return fail("the last of several must have a projection".to_owned());
        }
        let length = last.tokenizer.length();
        for encoder in &encoders {
            let positions = encoder.model.config().max_position_embeddings;
            if encoder.tokenizer.length() != length || length > positions {
                return fail(format!(
                    "a tokenizer makes {} ids where {} are wanted, and the encoder has {positions} positions",
                    encoder.tokenizer.length(),
                    length
                ));
            }
            let (largest, vocabulary) =
                (encoder.tokenizer.largest_id(), encoder.model.config().vocab_size);
            if largest as usize >= vocabulary {
                return fail(format!(
                    "the tokenizer's ids go up to {largest}, the encoder's vocabulary has {vocabulary}"
                ));
            }
        }
        Ok(Self { encoders })
    }

    /// Encodes prompts, each distinct one once and by itself: the result of a prompt is the same to
    /// the bit whatever stands beside it.
    ///
    /// # Errors
    /// No prompt, or those of the tokenizers and the backend.
    pub fn encode<S: AsRef<str>>(&self, prompts: &[S]) -> Result<TextConditioning, TextError> {
        let mut known: HashMap<&str, usize> = HashMap::new();
        let mut contexts = Vec::new();
        let mut pooled = Vec::new();
        let mut rows = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let prompt = prompt.as_ref();
            let row = match known.get(prompt) {
                Some(&row) => row,
                None => {
                    let one = self.encode_one(prompt)?;
                    contexts.push(one.context);
                    pooled.extend(one.pooled);
                    known.insert(prompt, contexts.len() - 1);
                    contexts.len() - 1
                }
            };
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(TextError::Mismatch("there is no prompt to encode".to_owned()));
        }
        let gather = |parts: &[Tensor]| {
            Tensor::cat(&rows.iter().map(|&row| &parts[row]).collect::<Vec<_>>(), 0)
        };
        Ok(TextConditioning {
            context: gather(&contexts)?,
            pooled: if pooled.is_empty() { None } else { Some(gather(&pooled)?) },
        })
    }

    /// What of `prompt` is cut off because it is longer than the encoders take; of the encoder that cuts
    /// most. `None` if it fits.
    ///
    /// # Errors
    /// Those of the tokenizers.
    pub fn cut(&self, prompt: &str) -> Result<Option<Cut>, TextError> {
        let cuts: Vec<_> = (self.encoders.iter())
            .map(|encoder| encoder.tokenizer.cut(prompt))
            .collect::<Result<_, _>>()?;
        Ok(cuts.into_iter().flatten().min_by_key(|cut| cut.at))
    }

    /// The encoders, in the order of their conditioning.
    #[must_use]
    pub fn encoders(&self) -> &[TextEncoder] {
        &self.encoders
    }

    /// Whether prompts get a pooled embedding (SDXL).
    #[must_use]
    pub fn has_pooled(&self) -> bool {
        self.encoders.last().is_some_and(|encoder| encoder.model.has_projection())
    }

    /// The width `D` of the context, and the width `P` of the pooled embedding where there is one.
    #[must_use]
    pub fn widths(&self) -> (usize, Option<usize>) {
        let context = self.encoders.iter().map(|encoder| encoder.model.config().hidden_size).sum();
        let pooled = self
            .encoders
            .last()
            .filter(|encoder| encoder.model.has_projection())
            .map(|encoder| encoder.model.config().projection_dim);
        (context, pooled)
    }

    /// How many bytes the weights of all encoders take, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.encoders.iter().map(|encoder| encoder.model.weight_bytes()).sum()
    }

    /// One prompt: context `[1, N, D]` and pooled `[1, P]`.
    fn encode_one(&self, prompt: &str) -> Result<TextConditioning, TextError> {
        let sdxl = self.has_pooled();
        let mut states = Vec::with_capacity(self.encoders.len());
        let mut pooled = None;
        for encoder in &self.encoders {
            let encoding = encoder.model.encode(&[encoder.tokenizer.encode(prompt)?])?;
            states.push(if sdxl { encoding.penultimate } else { encoding.last });
            pooled = sdxl.then_some(encoding.pooled);
        }
        Ok(TextConditioning { context: Tensor::cat(&states, 2)?, pooled })
    }
}
