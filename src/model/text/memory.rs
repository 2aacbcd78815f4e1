//! What encoding one prompt takes beside the weights: [`ClipTextModel::encode`](super::ClipTextModel::encode)
//! with shapes for tensors. Prompts are encoded one at a time.

use super::{TextConditioner, config::ClipTextConfig};
use crate::backend::ops::memory::{Extent, Ledger};
use crate::model::clip_layer::play_layer;

impl TextConditioner {
    /// The length of every prompt in tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.encoders().first().map_or(0, |encoder| encoder.tokenizer.length())
    }

    /// Entries of all vocabularies.
    #[must_use]
    pub fn vocabulary(&self) -> usize {
        self.encoders().iter().map(|encoder| encoder.model.config().vocab_size).sum()
    }

    /// Plays the encoding of one prompt into `ledger`.
    pub fn play(&self, ledger: &mut Ledger) {
        for encoder in self.encoders() {
            encoder.model.config().play(encoder.tokenizer.length(), ledger);
        }
    }
}

impl ClipTextConfig {
    fn play(&self, tokens: usize, ledger: &mut Ledger) {
        let embedded =
            ledger.hold(Extent { batch: 1, height: 1, width: tokens, channels: self.hidden_size });
        let mut h = ledger.map(embedded);
        for _ in 0..self.num_hidden_layers {
            let y = play_layer(h, self.intermediate_size, self.num_attention_heads, ledger);
            ledger.drop(h);
            h = y;
        }
        let last = ledger.layer_norm(h);
        for value in [last, h, embedded] {
            ledger.drop(value);
        }
    }
}
