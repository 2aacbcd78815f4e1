//! Prompts become the tensors that a denoiser is conditioned on, for models with one text encoder
//! (Stable Diffusion 1.x, the SDXL refiner) and with two (SDXL).

use std::collections::HashMap;

use super::{Cut, TextEncoder, TextError, TextTokenizer};
use crate::backend::{Activation, Trace};

/// A tokenizer with its encoder.
#[derive(Clone, Debug)]
pub struct TextPart {
    pub tokenizer: TextTokenizer,
    pub encoder: TextEncoder,
}

/// The encoded prompts of a denoiser's call, in the encoders' precision.
#[derive(Clone, Debug)]
pub struct TextConditioning {
    /// `[B, N, D]`, the encoders' states side by side
    pub context: Activation,
    /// `[B, P]`, the projected summary by the last encoder; models without `text_time`
    /// conditioning have none
    pub pooled: Option<Activation>,
}

impl TextConditioning {
    /// Zeros in place of everything that the encoders said (diffusers'
    /// `force_zeros_for_empty_prompt`).
    ///
    /// # Errors
    /// Those of the backend.
    pub fn zeros_like(&self) -> candle_core::Result<Self> {
        Ok(Self {
            context: self.context.zeros_like()?,
            pooled: self.pooled.as_ref().map(Activation::zeros_like).transpose()?,
        })
    }
}

/// All text encoders of a model.
#[derive(Clone, Debug)]
pub struct TextConditioner {
    parts: Vec<TextPart>,
}

impl TextConditioner {
    /// From the encoders in the order of `model_index.json`. If the last one has a projection, the
    /// conditioning is SDXL's (penultimate states of every encoder, and the pooled embedding);
    /// else it is Stable Diffusion 1.x's (last state of the one encoder).
    ///
    /// # Errors
    /// No encoder, encoders that do not go together, or a tokenizer that makes longer sequences or
    /// larger ids than its encoder has embeddings for.
    pub fn new(parts: Vec<TextPart>) -> Result<Self, TextError> {
        let fail = |reason: String| Err(TextError::Mismatch(reason));
        let Some(last) = parts.last() else {
            return fail("the model has none".to_owned());
        };
        if parts.len() > 1 && last.encoder.pooled_width().is_none() {
            return fail("the last of several must have a projection".to_owned());
        }
        let wanted = last.tokenizer.length();
        for TextPart { tokenizer, encoder } in &parts {
            let (length, positions) = (tokenizer.length(), encoder.positions());
            if length != wanted || length > positions {
                return fail(format!(
                    "a tokenizer makes {length} ids where {wanted} are wanted, and the encoder has \
                     {positions} positions"
                ));
            }
            let (largest, vocabulary) = (tokenizer.largest_id(), encoder.vocabulary());
            if largest as usize >= vocabulary {
                return fail(format!(
                    "the tokenizer's ids go up to {largest}, the encoder's vocabulary has {vocabulary}"
                ));
            }
        }
        Ok(Self { parts })
    }

    /// Encodes prompts, each distinct one once and by itself: the result of a prompt is the same to
    /// the bit whatever stands beside it.
    ///
    /// # Errors
    /// No prompt, or those of the tokenizers and the backend.
    pub fn encode<S: AsRef<str>>(&self, prompts: &[S]) -> Result<TextConditioning, TextError> {
        let mut known: HashMap<&str, usize> = HashMap::new();
        let mut encoded = Encoded::default();
        let mut rows = Vec::with_capacity(prompts.len());
        for prompt in prompts {
            let prompt = prompt.as_ref();
            let row = match known.get(prompt) {
                Some(&row) => row,
                None => {
                    let ids = |part: &TextPart| part.tokenizer.encode(prompt);
                    let row = encoded.push(self.encode_one(ids, None)?);
                    known.insert(prompt, row);
                    row
                }
            };
            rows.push(row);
        }
        encoded.gathered(&rows)
    }

    /// Traces the encoding of so many prompts, no two of which are the same.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn trace(&self, prompts: usize, trace: &Trace) -> Result<TextConditioning, TextError> {
        let mut encoded = Encoded::default();
        for _ in 0..prompts {
            let ids = |part: &TextPart| Ok(vec![0; part.tokenizer.length()]);
            encoded.push(self.encode_one(ids, Some(trace))?);
        }
        encoded.gathered(&(0..prompts).collect::<Vec<_>>())
    }

    /// Truncation of a `prompt` that is longer than the encoders take, by the encoder that cuts most; `None`
    /// if it fits.
    ///
    /// # Errors
    /// Those of the tokenizers.
    pub fn cut(&self, prompt: &str) -> Result<Option<Cut>, TextError> {
        let cuts: Vec<_> =
            (self.parts.iter()).map(|part| part.tokenizer.cut(prompt)).collect::<Result<_, _>>()?;
        Ok(cuts.into_iter().flatten().min_by_key(|cut| cut.at))
    }

    /// The length of every prompt in tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.parts.first().map_or(0, |part| part.tokenizer.length())
    }

    /// Entries of all vocabularies together.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.parts.iter().map(|part| part.encoder.vocabulary()).sum()
    }

    /// `true` if prompts get a pooled embedding (SDXL).
    #[must_use]
    pub fn has_pooled(&self) -> bool {
        self.widths().1.is_some()
    }

    /// The width `D` of the context, and the width `P` of the pooled embedding where there is one.
    #[must_use]
    pub fn widths(&self) -> (usize, Option<usize>) {
        let context = self.parts.iter().map(|part| part.encoder.width()).sum();
        (context, self.parts.last().and_then(|part| part.encoder.pooled_width()))
    }

    /// Bytes of the weights of all encoders, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.parts.iter().map(|part| part.encoder.weight_bytes()).sum()
    }

    /// One prompt, whose ids `ids` gives for each part: context `[1, N, D]` and pooled `[1, P]`.
    fn encode_one(
        &self,
        ids: impl Fn(&TextPart) -> Result<Vec<u32>, TextError>,
        trace: Option<&Trace>,
    ) -> Result<TextConditioning, TextError> {
        let sdxl = self.has_pooled();
        let mut states = Vec::with_capacity(self.parts.len());
        let mut pooled = None;
        for part in &self.parts {
            let encoding = part.encoder.encode(&[ids(part)?], trace)?;
            states.push(if sdxl { encoding.penultimate } else { encoding.last });
            pooled = sdxl.then_some(encoding.pooled);
        }
        Ok(TextConditioning { context: Activation::cat(&states, 2)?, pooled })
    }
}

/// Prompts that have been encoded, one by one.
#[derive(Default)]
struct Encoded {
    contexts: Vec<Activation>,
    pooled: Vec<Activation>,
}

impl Encoded {
    /// Takes one more and gives its number.
    fn push(&mut self, one: TextConditioning) -> usize {
        self.contexts.push(one.context);
        self.pooled.extend(one.pooled);
        self.contexts.len() - 1
    }

    /// The prompts of these numbers, one after the other.
    fn gathered(&self, rows: &[usize]) -> Result<TextConditioning, TextError> {
        if rows.is_empty() {
            return Err(TextError::Mismatch("there is no prompt to encode".to_owned()));
        }
        let gather = |parts: &[Activation]| {
            Activation::cat(&rows.iter().map(|&row| &parts[row]).collect::<Vec<_>>(), 0)
        };
        let pooled = (!self.pooled.is_empty()).then(|| gather(&self.pooled)).transpose()?;
        Ok(TextConditioning { context: gather(&self.contexts)?, pooled })
    }
}
