//! Texts for many pictures at once. All have one prompt and pictures of one size, so their sequences
//! have one length and nothing is ever padded: the tokens before the picture are computed once and
//! shared, prompts are taken in slices, and then every step decodes one token of all rows together.
//! Rows that have ended drop out.

use std::ops::ControlFlow;

use rayon::prelude::*;

use super::cache::KvCache;
use super::picture::LlavaPicture;
use super::tokenizer::Prompt;
use super::{Llava, LlavaError};
use crate::backend::{Activation, Trace};

/// Options of text generation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GenerateOptions {
    /// Maximum number of new tokens; at least 1.
    pub max_new_tokens: usize,
    /// Sampling of tokens; `None` for the most likely one (greedy).
    pub sampling: Option<TokenSampling>,
    /// Prompts that are computed at once; at least 1, and by default [`Llava::prefill_rows`]. More take
    /// more memory, in proportion.
    pub prefill_rows: Option<usize>,
}

/// Tokens that keep a processor's or a GPU's multipliers busy: more at once are no faster, and their
/// activations leave the caches. LLaVA-1.6's 2900 tokens a region took 7.2 s on an H200 one after the
/// other and 11.5 s by fours.
const PREFILL_TOKENS: usize = 2048;

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_new_tokens: 80, sampling: None, prefill_rows: None }
    }
}

/// Random sampling of tokens. A row's draws follow from the seed, the row's own number and the token's
/// place alone, never from the batch that the row is in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TokenSampling {
    /// Divisor of the scores; above 0.
    pub temperature: f64,
    /// Nucleus sampling: the most likely tokens that together reach this probability; 0.0..=1.0.
    pub top_p: f64,
    pub seed: u64,
}

/// Progress of a generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GenerationStep {
    /// Prompts of so many rows have been computed.
    Prefilled { rows: usize },
    /// Number of tokens decoded of each row that has not ended, and number of rows that have ended.
    Decoded { tokens: usize, ended: usize },
}

/// A picture to be described, and the number that its chance draws follow from.
#[derive(Clone, Debug)]
pub struct Row<'a> {
    pub picture: LlavaPicture<'a>,
    pub number: u64,
}

impl Llava {
    /// A text for each row: its tokens, without the one that ended it. Pictures have one size.
    ///
    /// `on_step` is called between steps; breaking ends the generation.
    ///
    /// # Errors
    /// Pictures of different sizes, a prompt that is too long, [`LlavaError::Interrupted`], or those
    /// of the backend.
    pub fn generate(
        &self,
        prompt: &Prompt,
        rows: &[Row<'_>],
        options: &GenerateOptions,
        on_step: &mut dyn FnMut(GenerationStep) -> ControlFlow<()>,
    ) -> Result<Vec<Vec<u32>>, LlavaError> {
        let Some(first) = rows.first() else { return Ok(Vec::new()) };
        let (width, height) = first.picture.size();
        if let Some(other) = rows.iter().find(|row| row.picture.size() != (width, height)) {
            let (other_width, other_height) = other.picture.size();
            return Err(LlavaError::Sizes { width, height, other_width, other_height });
        }
        let new_tokens = options.max_new_tokens.max(1);
        let length = self.prompt_length(prompt, (width, height));
        let limit = self.decoder.config().max_position_embeddings;
        if length + new_tokens > limit {
            return Err(LlavaError::TooLong { prompt: length, new: new_tokens, limit });
        }
        let mut go_on = |step| match on_step(step) {
            ControlFlow::Continue(()) => Ok(()),
            ControlFlow::Break(()) => Err(LlavaError::Interrupted),
        };

        let mut cache = self.decoder.cache(rows.len(), length + new_tokens, None)?;
        self.share(&prompt.before, &cache, None)?;
        let mut states = Vec::new();
        let most = options.prefill_rows.unwrap_or_else(|| self.prefill_rows(length)).max(1);
        let slice = rows.len().div_ceil(rows.len().div_ceil(most));
        for (index, part) in rows.chunks(slice).enumerate() {
            let pictures: Vec<_> = part.iter().map(|row| &row.picture).collect();
            let part = cache.slice(index * slice, part.len())?;
            states.push(self.prefill(prompt, self.encode(&pictures)?, &part)?);
            go_on(GenerationStep::Prefilled { rows: index * slice + pictures.len() })?;
        }
        let mut state = Activation::cat(&states, 0)?;
        drop(states);

        let mut texts = vec![Vec::new(); rows.len()];
        // Owner of each row of the cache; rows that have ended stay until it is worth moving the rest.
        let mut owners: Vec<usize> = (0..rows.len()).collect();
        let mut has_ended = vec![false; rows.len()];
        for step in 0..new_tokens {
            let scores = self.decoder.logits(&state)?.into_tensor()?.to_vec2::<f32>()?;
            let tokens: Vec<u32> = scores
                .par_iter()
                .zip(&owners)
                .map(|(scores, &owner)| match options.sampling {
                    None => most_likely(scores),
                    Some(sampling) => {
                        let chance = chance(sampling.seed, rows[owner].number, step as u64);
                        sample(scores, sampling, chance)
                    }
                })
                .collect();
            for (&token, &owner) in tokens.iter().zip(&owners) {
                if self.decoder.config().end_tokens.contains(&token) {
                    has_ended[owner] = true;
                } else if !has_ended[owner] {
                    texts[owner].push(token);
                }
            }
            let ended = has_ended.iter().filter(|ended| **ended).count();
            go_on(GenerationStep::Decoded { tokens: step + 1, ended })?;
            if ended == rows.len() || step + 1 == new_tokens {
                break;
            }
            let mut tokens = tokens;
            if (rows.len() - ended) * 4 <= owners.len() * 3 {
                let kept: Vec<u32> = (0..owners.len() as u32)
                    .filter(|&row| !has_ended[owners[row as usize]])
                    .collect();
                cache = cache.compacted(&kept)?;
                tokens = kept.iter().map(|&row| tokens[row as usize]).collect();
                owners = kept.iter().map(|&row| owners[row as usize]).collect();
            }
            let tokens = self.decoder.embed(&tokens, None)?;
            state = self.decoder.step(&tokens, &cache, length + step)?;
        }
        Ok(texts)
    }

    /// The scores of the tokens behind the prompt and behind each of `given`, a row at a time as
    /// [`generate`](Self::generate) computes them: `[given + 1, vocabulary]`, f32.
    ///
    /// # Errors
    /// As [`generate`](Self::generate).
    pub fn scores(
        &self,
        prompt: &Prompt,
        picture: &LlavaPicture<'_>,
        given: &[u32],
    ) -> Result<Activation, LlavaError> {
        let length = self.prompt_length(prompt, picture.size());
        let cache = self.decoder.cache(1, length + given.len(), None)?;
        self.share(&prompt.before, &cache, None)?;
        let mut state = self.prefill(prompt, self.encode(&[picture])?, &cache)?;
        let mut scores = vec![self.decoder.logits(&state)?];
        for (index, &token) in given.iter().enumerate() {
            let token = self.decoder.embed(&[token], None)?;
            state = self.decoder.step(&token, &cache, length + index)?;
            scores.push(self.decoder.logits(&state)?);
        }
        Ok(Activation::cat(&scores, 0)?)
    }

    /// Tokens of a whole prompt with a picture of this width and height.
    #[must_use]
    pub fn prompt_length(&self, prompt: &Prompt, size: (usize, usize)) -> usize {
        prompt.before.len() + self.preprocessor.features(size) + prompt.after.len()
    }

    /// Most tokens that a text may have behind a prompt with a picture of this width and height.
    #[must_use]
    pub fn room(&self, prompt: &Prompt, size: (usize, usize)) -> usize {
        let limit = self.decoder.config().max_position_embeddings;
        limit.saturating_sub(self.prompt_length(prompt, size))
    }

    /// Default number of prompts of so many tokens that are computed at once.
    #[must_use]
    pub fn prefill_rows(&self, length: usize) -> usize {
        (PREFILL_TOKENS / length.max(1)).max(1)
    }

    /// Bytes of the cache for each row of so many tokens, prompt and text together.
    #[must_use]
    pub fn cache_bytes_per_row(&self, tokens: usize) -> usize {
        let config = self.decoder.config();
        let width = config.num_key_value_heads * config.head_dim;
        2 * config.num_hidden_layers * tokens * width * self.dtype.size_in_bytes()
    }

    /// Computes the tokens before the picture, once for all rows.
    pub(super) fn share(
        &self,
        before: &[u32],
        cache: &KvCache,
        trace: Option<&Trace>,
    ) -> Result<(), LlavaError> {
        if before.is_empty() {
            return Ok(());
        }
        let shared = self.decoder.cache(1, before.len(), trace)?;
        self.decoder.prefill(&self.decoder.embed(before, trace)?.unsqueeze(0)?, &shared, 0)?;
        Ok(cache.begin_with(&shared, before.len())?)
    }

    /// Computes pictures, of which `features` `[B, N, D]` are what the decoder sees, and the tokens
    /// behind them → the state of the last token, `[B, D]`.
    pub(super) fn prefill(
        &self,
        prompt: &Prompt,
        features: Activation,
        cache: &KvCache,
    ) -> Result<Activation, LlavaError> {
        let mut x = features;
        if !prompt.after.is_empty() {
            let after = self.decoder.embed(&prompt.after, x.trace())?.unsqueeze(0)?;
            x = Activation::cat(&[&x, &after.repeat((cache.rows(), 1, 1))?], 1)?;
        }
        let states = self.decoder.prefill(&x, cache, prompt.before.len())?;
        let last = states.dim(1)? - 1;
        // A copy even of a single row, of which a view would keep the states of its whole prompt.
        Ok(states.index_select(&[last as u32], 1)?.squeeze(1)?)
    }
}

/// The first of the tokens with the highest score.
fn most_likely(scores: &[f32]) -> u32 {
    let mut best = 0;
    for (token, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = token;
        }
    }
    best as u32
}

/// Samples a token by `chance` in 0.0..1.0: likely tokens first, each as wide as it is likely
/// (transformers' `TemperatureLogitsWarper` and `TopPLogitsWarper`).
fn sample(scores: &[f32], sampling: TokenSampling, chance: f64) -> u32 {
    let mut order: Vec<u32> = (0..scores.len() as u32).collect();
    order.sort_unstable_by(|&a, &b| {
        scores[b as usize].total_cmp(&scores[a as usize]).then(a.cmp(&b))
    });
    let temperature = sampling.temperature.max(1e-6);
    let most = order.first().map_or(0.0, |&token| f64::from(scores[token as usize]));
    let weight = |token: u32| ((f64::from(scores[token as usize]) - most) / temperature).exp();
    let total: f64 = order.iter().map(|&token| weight(token)).sum();
    let mut nucleus = 0.0;
    let mut count = 0;
    for &token in &order {
        nucleus += weight(token);
        count += 1;
        if nucleus >= sampling.top_p * total {
            break;
        }
    }
    let mut left = chance * nucleus;
    for &token in &order[..count] {
        left -= weight(token);
        if left < 0.0 {
            return token;
        }
    }
    order.first().copied().unwrap_or(0)
}

/// Hash of its three arguments to a number in 0.0..1.0 (the finalizer of SplitMix64, Steele et
/// al., OOPSLA 2014, over each in turn).
fn chance(seed: u64, row: u64, token: u64) -> f64 {
    let mut state = 0;
    for part in [seed, row, token] {
        let mut mixed = (state ^ part).wrapping_add(0x9E37_79B9_7F4A_7C15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        state = mixed ^ (mixed >> 31);
    }
    (state >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLING: TokenSampling = TokenSampling { temperature: 1.0, top_p: 1.0, seed: 0 };

    #[test]
    fn tokens_are_drawn_as_often_as_they_are_likely() {
        let likely = [0.5f64, 0.05, 0.3, 0.15];
        let scores: Vec<f32> = likely.iter().map(|p| p.ln() as f32).collect();
        let mut drawn = [0u32; 4];
        for row in 0..20_000 {
            drawn[sample(&scores, SAMPLING, chance(1, row, 3)) as usize] += 1;
        }
        for (count, likely) in drawn.iter().zip(likely) {
            assert!((f64::from(*count) / 20_000.0 - likely).abs() < 0.01, "{drawn:?}");
        }
    }

    #[test]
    fn the_nucleus_is_the_fewest_tokens_that_reach_top_p() {
        let scores: Vec<f32> = [0.5f32, 0.05, 0.3, 0.15].iter().map(|p| p.ln()).collect();
        let drawn = |top_p: f64| -> Vec<u32> {
            let sampling = TokenSampling { top_p, ..SAMPLING };
            let mut tokens: Vec<u32> =
                (0..1000).map(|row| sample(&scores, sampling, chance(2, row, 0))).collect();
            tokens.sort_unstable();
            tokens.dedup();
            tokens
        };
        assert_eq!(drawn(0.0), [0]);
        assert_eq!(drawn(0.7), [0, 2]);
        assert_eq!(drawn(0.94), [0, 2, 3]);
        assert_eq!(drawn(1.0), [0, 1, 2, 3]);
    }

    #[test]
    fn of_equal_scores_the_first_wins() {
        assert_eq!(most_likely(&[0.0, 2.0, 1.0, 2.0]), 1);
        assert_eq!(most_likely(&[f32::NEG_INFINITY, f32::NAN, -1.0]), 2);
    }
}
