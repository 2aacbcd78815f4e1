//! Text conditioning: from prompts to the tensors that a denoiser is conditioned on, for models with one
//! text encoder (Stable Diffusion 1.x, the SDXL refiner, PixArt, Z-Image, FLUX.2 klein), two (SDXL) and three (Stable Diffusion 3).

use std::collections::HashMap;

use super::{
    Chunk, Prompt, TextArrangement, TextConditioning, TextEncoder, TextEncoding, TextError,
    TextTokenizer, TextTokenizers, TokenIds, weights,
};
use crate::backend::{Activation, Trace};

/// A tokenizer with its encoder.
#[derive(Clone, Debug)]
pub struct TextPart {
    pub tokenizer: TextTokenizer,
    pub encoder: TextEncoder,
}

/// All text encoders of a model.
#[derive(Clone, Debug)]
pub struct TextConditioner {
    tokenizers: TextTokenizers,
    encoders: Vec<TextEncoder>,
}

impl TextConditioner {
    /// Builds it from the encoders in the order of `model_index.json`.
    ///
    /// # Errors
    /// Encoders that are not those of the arrangement or do not go together, or a tokenizer that makes longer
    /// sequences or larger ids than its encoder has embeddings for.
    pub fn new(parts: Vec<TextPart>, arrangement: TextArrangement) -> Result<Self, TextError> {
        let (tokenizers, encoders): (Vec<_>, Vec<_>) =
            parts.into_iter().map(|part| (part.tokenizer, part.encoder)).unzip();
        let it = Self { tokenizers: TextTokenizers::new(tokenizers, arrangement), encoders };
        it.check().map_err(TextError::Mismatch)?;
        Ok(it)
    }

    /// Checks that encoders and tokenizers are what the arrangement wants; the reason if they are not.
    fn check(&self) -> Result<(), String> {
        let Some(last) = self.encoders.last() else {
            return Err("the model has none".to_owned());
        };
        let clips = self.encoders.iter().filter(|it| matches!(it, TextEncoder::Clip(_))).count();
        let (all, has_t5) = (self.encoders.len(), matches!(last, TextEncoder::T5(_)));
        let has_qwen = matches!(last, TextEncoder::Qwen3(_));
        match self.tokenizers.arrangement() {
            TextArrangement::Clip if clips < all => {
                return Err("one of them is not CLIP's".to_owned());
            }
            TextArrangement::Clip if all > 1 && last.pooled_width().is_none() => {
                return Err("the last of several must have a projection".to_owned());
            }
            TextArrangement::T5 { .. } if all != 1 || !has_t5 => {
                return Err("the model takes one, T5's".to_owned());
            }
            TextArrangement::Chat { .. } | TextArrangement::ChatLayers { .. }
                if all != 1 || !has_qwen =>
            {
                return Err("the model takes one, Qwen3's".to_owned());
            }
            TextArrangement::Joint { width, .. } => {
                let has_both = clips == 2 && all - usize::from(has_t5) == 2;
                let clips = &self.encoders[..2.min(all)];
                if !has_both || clips.iter().any(|clip| clip.pooled_width().is_none()) {
                    return Err(
                        "the model takes two of CLIP with projections, and perhaps T5's".to_owned()
                    );
                }
                let states: usize = clips.iter().map(TextEncoder::width).sum();
                if states > width || (has_t5 && last.width() != width) {
                    return Err(format!("their states do not fit a width of {width}"));
                }
            }
            TextArrangement::Clip
            | TextArrangement::T5 { .. }
            | TextArrangement::Chat { .. }
            | TextArrangement::ChatLayers { .. } => {}
        }
        let mut of_clip = None;
        for (tokenizer, encoder) in self.tokenizers.all().iter().zip(&self.encoders) {
            let (length, positions) = (tokenizer.length(), encoder.positions());
            let is_clip = matches!(tokenizer, TextTokenizer::Clip(_));
            let is_one_kind = matches!(
                (tokenizer, encoder),
                (TextTokenizer::Clip(_), TextEncoder::Clip(_))
                    | (TextTokenizer::T5(_), TextEncoder::T5(_))
                    | (TextTokenizer::Qwen(_), TextEncoder::Qwen3(_))
            );
            if !is_one_kind {
                return Err("a tokenizer is of another kind than its encoder".to_owned());
            }
            let wanted = if is_clip { *of_clip.get_or_insert(length) } else { length };
            if length != wanted || length > positions {
                return Err(format!(
                    "a tokenizer makes {length} ids where {wanted} are wanted, and the encoder has \
                     {positions} positions"
                ));
            }
            let (largest, vocabulary) = (tokenizer.largest_id(), encoder.vocabulary());
            if largest as usize >= vocabulary {
                return Err(format!(
                    "the tokenizer's ids go up to {largest}, the encoder's vocabulary has {vocabulary}"
                ));
            }
        }
        Ok(())
    }

    /// Encodes plain prompts, each distinct one once and by itself: the result of a prompt is the same to
    /// the bit whatever stands beside it.
    ///
    /// # Errors
    /// No prompt, or those of the tokenizers and the backend.
    pub fn encode<S: AsRef<str>>(&self, prompts: &[S]) -> Result<TextConditioning, TextError> {
        let prompts: Vec<_> = prompts.iter().map(|prompt| Prompt::plain(prompt.as_ref())).collect();
        self.encode_prompts(&prompts.iter().collect::<Vec<_>>(), 1)
    }

    /// Encodes prompts as [`encode`](Self::encode) does, all to as many chunks: shorter ones are filled up with chunks without text, longer
    /// ones are cut.
    ///
    /// # Errors
    /// As [`encode`](Self::encode), or a weight for an encoder that takes none.
    pub fn encode_prompts(
        &self,
        prompts: &[&Prompt],
        chunks: usize,
    ) -> Result<TextConditioning, TextError> {
        let mut known: HashMap<&Prompt, usize> = HashMap::new();
        let mut encoded = Vec::new();
        let mut rows = Vec::with_capacity(prompts.len());
        for &prompt in prompts {
            let row = match known.get(prompt) {
                Some(&row) => row,
                None => {
                    let empty = self.tokenizers.empty()?;
                    let mut own = self.tokenizers.chunks(prompt)?;
                    for ((own, empty), encoder) in own.iter_mut().zip(&empty).zip(&self.encoders) {
                        if matches!(encoder, TextEncoder::Clip(_)) {
                            own.resize_with(chunks, || empty.clone().into());
                        }
                    }
                    encoded.push(self.encode_one(own, &empty, None)?);
                    known.insert(prompt, encoded.len() - 1);
                    encoded.len() - 1
                }
            };
            rows.push(row);
        }
        gathered(&encoded, &rows)
    }

    /// Traces the encoding of so many plain prompts, no two of which are the same.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    pub fn trace(&self, prompts: usize, trace: &Trace) -> Result<TextConditioning, TextError> {
        self.trace_prompts(prompts, (1, false), trace)
    }

    /// Traces the encoding of so many prompts of as many chunks, with or without weights.
    ///
    /// # Errors
    /// As [`encode_prompts`](Self::encode_prompts).
    pub fn trace_prompts(
        &self,
        prompts: usize,
        (chunks, weighted): (usize, bool),
        trace: &Trace,
    ) -> Result<TextConditioning, TextError> {
        let full = |tokenizer: &TextTokenizer| {
            let length = tokenizer.length();
            // Filling that is encoded is put behind the rest, which takes a copy.
            let is_filled =
                matches!(self.tokenizers.arrangement(), TextArrangement::ChatLayers { .. });
            let count = if is_filled { length.div_ceil(2) } else { length };
            let tokens = TokenIds { ids: vec![0; length], count };
            let is_clip = matches!(tokenizer, TextTokenizer::Clip(_));
            let takes = !matches!(tokenizer, TextTokenizer::Qwen(_));
            let weights = (weighted && takes).then(|| vec![1.0; length]);
            vec![Chunk { tokens, weights }; if is_clip { chunks } else { 1 }]
        };
        let empty: Vec<_> = (self.tokenizers.all().iter())
            .map(|tokenizer| TokenIds { ids: vec![0; tokenizer.length()], count: 1 })
            .collect();
        let mut encoded = Vec::new();
        for _ in 0..prompts {
            let ids = self.tokenizers.all().iter().map(full).collect();
            encoded.push(self.encode_one(ids, &empty, Some(trace))?);
        }
        gathered(&encoded, &(0..prompts).collect::<Vec<_>>())
    }

    /// The tokenizers.
    #[must_use]
    pub fn tokenizers(&self) -> &TextTokenizers {
        &self.tokenizers
    }

    /// Number of tokens `N` of a plain prompt's context.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.tokens_of(1)
    }

    /// Number of tokens of the context of prompts of so many chunks.
    #[must_use]
    pub fn tokens_of(&self, chunks: usize) -> usize {
        let first = self.tokenizers.all().first().map_or(0, TextTokenizer::length);
        match self.tokenizers.arrangement() {
            TextArrangement::Clip => first * chunks,
            TextArrangement::T5 { tokens }
            | TextArrangement::Chat { tokens }
            | TextArrangement::ChatLayers { tokens, .. } => tokens,
            TextArrangement::Joint { tokens, .. } => first * chunks + tokens,
        }
    }

    /// `true` if a weighted prompt may take more than one chunk.
    #[must_use]
    pub fn has_chunks(&self) -> bool {
        let arrangement = self.tokenizers.arrangement();
        matches!(arrangement, TextArrangement::Clip | TextArrangement::Joint { .. })
    }

    /// Entries of all vocabularies together.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.encoders.iter().map(TextEncoder::vocabulary).sum()
    }

    /// `true` if prompts get a pooled embedding (SDXL, Stable Diffusion 3).
    #[must_use]
    pub fn has_pooled(&self) -> bool {
        self.widths().1.is_some()
    }

    /// `true` if it has a T5 or a Qwen3, which takes longer to load and to run than all else of the text.
    #[must_use]
    pub fn is_dear(&self) -> bool {
        self.encoders
            .iter()
            .any(|encoder| matches!(encoder, TextEncoder::T5(_) | TextEncoder::Qwen3(_)))
    }

    /// `true` if what lies behind the tokens of a prompt is masked (PixArt, Z-Image).
    #[must_use]
    pub fn has_lengths(&self) -> bool {
        let arrangement = self.tokenizers.arrangement();
        matches!(arrangement, TextArrangement::T5 { .. } | TextArrangement::Chat { .. })
    }

    /// The width `D` of the context, and the width `P` of the pooled embedding where there is one.
    #[must_use]
    pub fn widths(&self) -> (usize, Option<usize>) {
        let last = self.encoders.last();
        match self.tokenizers.arrangement() {
            TextArrangement::Clip => {
                let context = self.encoders.iter().map(TextEncoder::width).sum();
                (context, last.and_then(TextEncoder::pooled_width))
            }
            TextArrangement::T5 { .. }
            | TextArrangement::Chat { .. }
            | TextArrangement::ChatLayers { .. } => (last.map_or(0, TextEncoder::width), None),
            TextArrangement::Joint { width, .. } => {
                (width, Some(self.encoders.iter().filter_map(TextEncoder::pooled_width).sum()))
            }
        }
    }

    /// Bytes of the weights of all encoders, in memory or mapped.
    #[must_use]
    pub fn weight_bytes(&self) -> usize {
        self.encoders.iter().map(TextEncoder::weight_bytes).sum()
    }

    /// One prompt with its chunks for each encoder, and those of no text: context `[1, N, D]` and pooled `[1, P]`, which is that of
    /// the first chunk and has no weights.
    fn encode_one(
        &self,
        chunks: Vec<Vec<Chunk>>,
        empty: &[TokenIds],
        trace: Option<&Trace>,
    ) -> Result<TextConditioning, TextError> {
        let arrangement = self.tokenizers.arrangement();
        let mut states = Vec::with_capacity(self.encoders.len());
        let mut pooled = Vec::new();
        let mut lengths = None;
        let has_pooled = self.has_pooled();
        for (index, (encoder, chunks)) in self.encoders.iter().zip(chunks).enumerate() {
            let is_kept = match arrangement {
                TextArrangement::Joint { .. } => true,
                _ => has_pooled && index + 1 == self.encoders.len(),
            };
            let mut of_chunks = Vec::with_capacity(chunks.len());
            for (at, Chunk { tokens: TokenIds { mut ids, count }, weights }) in
                chunks.into_iter().enumerate()
            {
                if self.has_lengths() {
                    ids.truncate(count);
                    lengths = Some(vec![count]);
                }
                let length = ids.len();
                let TextEncoding { penultimate, last, pooled: own } =
                    encoder.encode_filled(TokenIds { ids, count }, trace)?;
                let own_states = penultimate.filter(|_| has_pooled).unwrap_or(last);
                pooled.extend(own.filter(|_| is_kept && at == 0));
                of_chunks.push(match (weights, encoder) {
                    (None, _) => own_states,
                    (Some(weights), TextEncoder::Clip(_)) => {
                        weights::multiplied(&own_states, &weights)?
                    }
                    (Some(weights), _) => {
                        let empty = empty[index].ids[..length].to_vec();
                        let empty = encoder.encode(&[empty], trace)?.last;
                        weights::from_empty(&own_states, &empty, &weights[..length])?
                    }
                });
            }
            states.push(match of_chunks.len() {
                1 => of_chunks.remove(0),
                _ => Activation::cat(&of_chunks, 1)?,
            });
        }
        let context = match arrangement {
            TextArrangement::Clip | TextArrangement::ChatLayers { .. } => {
                Activation::cat(&states, 2)?
            }
            TextArrangement::T5 { tokens } | TextArrangement::Chat { tokens } => {
                let states = Activation::cat(&states, 2)?;
                let count = states.dim(1)?;
                states.pad_with_zeros(1, 0, tokens.saturating_sub(count))?
            }
            TextArrangement::Joint { tokens, width } => {
                let of_t5 = states.split_off(2.min(states.len()));
                let clip = Activation::cat(&states, 2)?;
                drop(states);
                let own = clip.dim(2)?;
                let clip = clip.pad_with_zeros(2, 0, width.saturating_sub(own))?;
                match of_t5.as_slice() {
                    [] => clip.pad_with_zeros(1, 0, tokens)?,
                    [t5, ..] => Activation::cat(&[&clip, t5], 1)?,
                }
            }
        };
        let pooled = (!pooled.is_empty()).then(|| Activation::cat(&pooled, 1)).transpose()?;
        Ok(TextConditioning { context, pooled, lengths })
    }
}

/// The prompts with these indices.
fn gathered(encoded: &[TextConditioning], rows: &[usize]) -> Result<TextConditioning, TextError> {
    if rows.is_empty() {
        return Err(TextError::Mismatch("there is no prompt to encode".to_owned()));
    }
    let rows: Vec<_> = rows.iter().map(|&row| &encoded[row]).collect();
    Ok(TextConditioning::cat(&rows)?)
}
