//! What a generation takes beside the weights: [`Llava::generate`] with shapes for tensors, each
//! function the twin of the one whose values it counts.

use super::config::DecoderConfig;
use super::{Llava, Prompt, TILES_AT_ONCE};
use crate::backend::ops::memory::{Extent, Ledger};
use crate::model::clip_layer::play_layer;

/// What a generation's memory follows from.
#[derive(Clone, Copy, Debug)]
pub struct Batch {
    /// texts that are written together
    pub rows: usize,
    /// prompts that are computed together
    pub prefill_rows: usize,
    /// width and height of the pictures
    pub size: (usize, usize),
    /// the longest text
    pub new_tokens: usize,
}

impl Llava {
    /// Entries of its vocabulary.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.tokenizer.vocabulary()
    }

    /// Plays [`generate`](Self::generate) with `prompt` into `ledger`; nothing is held at the end.
    pub fn play(&self, prompt: &Prompt, batch: Batch, ledger: &mut Ledger) {
        let config = self.decoder.config();
        let Batch { rows, size, .. } = batch;
        let length = self.prompt_length(prompt, size);
        let at_once = batch.prefill_rows.clamp(1, rows.max(1));
        let cached = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim;
        // All of it from the beginning: whether an allocator's zeros are pages that nobody has touched
        // depends on what it has to reuse.
        let cache = ledger.hold(tokens(rows, length + batch.new_tokens, cached));
        let states = ledger.hold(tokens(rows, 2, config.hidden_size));
        self.play_prefill(prompt, size, at_once, ledger);
        // A batch of single tokens; scores twice: the tensor, and the host's.
        let x = ledger.hold(tokens(1, rows.max(2), config.hidden_size));
        let scores = ledger.hold(tokens(2, rows, config.vocab_size));
        ledger.drop(scores);
        play_layers(config, x, length, ledger);
        for value in [x, cache, states] {
            ledger.drop(value);
        }
    }

    /// The prompts of so many rows.
    fn play_prefill(
        &self,
        prompt: &Prompt,
        size: (usize, usize),
        rows: usize,
        ledger: &mut Ledger,
    ) {
        let config = self.decoder.config();
        let features = self.play_encode(size, rows, ledger);
        let length = self.prompt_length(prompt, size);
        let x = ledger.hold(tokens(rows, length - prompt.before.len(), config.hidden_size));
        ledger.drop(features);
        play_layers(config, x, length, ledger);
        ledger.drop(x);
    }

    /// [`encode`](Self::encode) of so many pictures of this size.
    fn play_encode(&self, size: (usize, usize), pictures: usize, ledger: &mut Ledger) -> Extent {
        let (vision, width) = (&self.vision, self.decoder.config().hidden_size);
        let shape = vision.config();
        let per_picture = self.preprocessor.tiles_of(size);
        let count = pictures * per_picture;
        let pixels = |tiles: usize| tokens(tiles, 3, shape.image_size.pow(2));
        // By picture, and together.
        let tiles = [ledger.hold(pixels(count)), ledger.hold(pixels(count))];
        let patches = shape.side().pow(2) + usize::from(vision.class_token());
        let mut features = ledger.hold(tokens(0, patches, width));
        for first in (0..count).step_by(TILES_AT_ONCE) {
            let part = TILES_AT_ONCE.min(count - first);
            let flat = ledger.hold(pixels(part));
            let embedded = ledger.hold(tokens(part, shape.side().pow(2) + 1, shape.hidden_size));
            // The sum with the positions, normed.
            let mut x = ledger.map(embedded);
            ledger.pass(ledger.bytes(x));
            for _ in 0..vision.depth() {
                let y = play_layer(x, shape.intermediate_size, shape.num_attention_heads, ledger);
                ledger.drop(x);
                x = y;
            }
            let states = ledger.hold(x.with_channels(x.channels * vision.states()));
            for value in [x, embedded, flat] {
                ledger.drop(value);
            }
            let hidden = ledger.linear(states.with_size(1, patches), width);
            let active = ledger.map(hidden);
            let projected = ledger.linear(active, width);
            for value in [active, hidden, states, projected] {
                ledger.drop(value);
            }
            ledger.drop(features);
            features = ledger.hold(tokens(first + part, patches, width));
        }
        // Put together from the parts.
        if count > TILES_AT_ONCE {
            ledger.pass(ledger.bytes(features));
        }
        tiles.into_iter().for_each(|value| ledger.drop(value));
        if self.newline.is_none() {
            return features;
        }
        let packed = tokens(pictures, self.preprocessor.features(size), width);
        let [parts, together] = [ledger.hold(packed), ledger.hold(packed)];
        ledger.drop(features);
        ledger.drop(parts);
        together
    }
}

/// `count` tokens of each of `batch` sequences.
fn tokens(batch: usize, count: usize, channels: usize) -> Extent {
    Extent { batch, height: 1, width: count, channels }
}

/// All layers of the decoder on `x`, which stays its caller's; queries see `keys` tokens.
fn play_layers(config: &DecoderConfig, x: Extent, keys: usize, ledger: &mut Ledger) {
    let (queries, seen) = (
        config.num_attention_heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    );
    // What goes into a layer, behind the first one.
    let own = ledger.map(x);
    for _ in 0..config.num_hidden_layers {
        let normed = ledger.layer_norm(x);
        let rotated = |width: usize, ledger: &mut Ledger| {
            let plain = ledger.linear(normed, width);
            let turned = ledger.map(plain);
            if config.rope_interleaved {
                ledger.pass(ledger.bytes(plain));
            }
            ledger.drop(plain);
            turned
        };
        let q = rotated(queries, ledger);
        let k = rotated(seen, ledger);
        let v = ledger.linear(normed, seen);
        let mixed = ledger.attention(q, keys, config.num_attention_heads);
        let after = ledger.linear_add(mixed, x.channels);
        for value in [mixed, v, k, q, normed] {
            ledger.drop(value);
        }

        let normed = ledger.layer_norm(after);
        let gate = ledger.linear(normed, config.intermediate_size);
        let up = ledger.linear(normed, config.intermediate_size);
        let product = ledger.swiglu(up);
        for value in [up, gate] {
            ledger.drop(value);
        }
        let y = ledger.linear_add(product, x.channels);
        for value in [product, normed, after, y] {
            ledger.drop(value);
        }
    }
    ledger.drop(own);
}
