//! What encoding one prompt takes beside the weights: [`ClipTextModel::encode`](super::ClipTextModel::encode)
//! with shapes for tensors. Prompts are encoded one at a time.

use super::{TextConditioner, config::ClipTextConfig};
use crate::backend::ops::memory::{Extent, Ledger};

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
            let y = self.layer(h, ledger);
            ledger.drop(h);
            h = y;
        }
        let last = ledger.layer_norm(h);
        for value in [last, h, embedded] {
            ledger.drop(value);
        }
    }

    /// `Layer::forward`.
    fn layer(&self, x: Extent, ledger: &mut Ledger) -> Extent {
        let normed = ledger.layer_norm(x);
        let [q, k, v] = [(); 3].map(|()| ledger.linear(normed, x.channels));
        let mixed = ledger.attention(q, x.positions(), self.num_attention_heads);
        let out = ledger.linear(mixed, x.channels);
        let after = ledger.map(x);
        ledger.drop(out);
        ledger.drop(mixed);
        let normed_again = ledger.layer_norm(after);
        let wide = ledger.linear(normed_again, self.intermediate_size);
        ledger.drop(normed_again);
        let active = ledger.map(wide);
        let narrow = ledger.linear(active, x.channels);
        let y = ledger.map(x);
        for value in [narrow, active, wide, after, v, k, q, normed] {
            ledger.drop(value);
        }
        y
    }
}
