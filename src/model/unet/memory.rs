//! What one call of the UNet takes beside its weights: [`forward`](super::UNet2DConditionModel::forward)
//! block by block with shapes for tensors, each function the twin of the one whose values it counts.

use super::config::{TransformerConfig, UNetConfig};
use crate::backend::ops::memory::{Extent, Kernel, Ledger};

/// What is done with the outputs of the cross-attention layers
/// ([`Prior`](super::Prior) without its tensors).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PriorUse {
    None,
    /// They are kept.
    Record,
    /// They are averaged with others, which the caller holds.
    Blend,
}

/// The text that a call attends to, and what it does beside.
#[derive(Clone, Copy)]
struct Call {
    tokens: usize,
    prior: PriorUse,
}

impl UNetConfig {
    /// Plays one call into `ledger`: `sample` is `[B, h, w, in_channels]`, the context has so many
    /// `tokens`. The caller holds sample and context; the result is held at the end, and with
    /// [`PriorUse::Record`] all that was recorded.
    pub fn play(
        &self,
        sample: Extent,
        tokens: usize,
        prior: PriorUse,
        ledger: &mut Ledger,
    ) -> Extent {
        let call = Call { tokens, prior };
        let square = |side: usize| Kernel { side, stride: 1, padding: side / 2 };
        let first = self.down.first().map_or(0, |level| level.channels);
        let emb = ledger.hold(vector(sample.batch, self.time.width));
        let mut x = ledger.conv(sample, first, square(self.conv_in_kernel));
        let mut skips = vec![x];
        // The skips hold every `x` of the encoder.
        for (index, level) in self.down.iter().enumerate() {
            for _ in 0..level.resnets {
                x = self.layer(x, level.channels, level.transformer.as_ref(), call, ledger);
                skips.push(x);
            }
            if index + 1 < self.down.len() {
                x = self.downsample(x, ledger);
                skips.push(x);
            }
        }
        if let Some(mid) = &self.mid {
            let before = resnet(x, mid.channels, ledger);
            let mixed = self.transformer(before, &mid.transformer, call, ledger);
            let after = resnet(mixed, mid.channels, ledger);
            ledger.drop(before);
            ledger.drop(mixed);
            x = after;
        }
        // A block's input is its caller's until the block is done.
        let mut own = self.mid.is_some();
        for level in &self.up {
            let input = (x, own);
            for index in 0..level.resnets {
                let Some(skip) = skips.pop() else { return x };
                let joined = ledger.map(x.with_channels(x.channels + skip.channels));
                let y =
                    self.layer(joined, level.channels, level.transformer.as_ref(), call, ledger);
                ledger.drop(joined);
                ledger.drop(skip);
                if index > 0 {
                    ledger.drop(x);
                }
                x = y;
            }
            if let Some(&next) = skips.last() {
                let doubled = ledger.map(x.with_size(next.height, next.width));
                let y = ledger.conv(doubled, x.channels, Kernel::SAME);
                ledger.drop(doubled);
                ledger.drop(x);
                x = y;
            }
            if let (input, true) = input {
                ledger.drop(input);
            }
            own = true;
        }
        let normed = ledger.group_norm(x);
        let y = ledger.conv(normed, self.out_channels, square(self.conv_out_kernel));
        for value in [normed, x, emb] {
            ledger.drop(value);
        }
        y
    }

    /// A residual block and the transformer after it; `x` stays its caller's.
    fn layer(
        &self,
        x: Extent,
        channels: usize,
        transformer: Option<&TransformerConfig>,
        call: Call,
        ledger: &mut Ledger,
    ) -> Extent {
        let hidden = resnet(x, channels, ledger);
        let Some(transformer) = transformer else { return hidden };
        let y = self.transformer(hidden, transformer, call, ledger);
        ledger.drop(hidden);
        y
    }

    fn downsample(&self, x: Extent, ledger: &mut Ledger) -> Extent {
        if self.downsample_padding > 0 {
            return ledger.conv(x, x.channels, Kernel { stride: 2, ..Kernel::SAME });
        }
        let tall = ledger.map(x.with_size(x.height + 1, x.width));
        let padded = ledger.map(x.with_size(x.height + 1, x.width + 1));
        let y = ledger.conv(padded, x.channels, Kernel { side: 3, stride: 2, padding: 0 });
        ledger.drop(padded);
        ledger.drop(tall);
        y
    }

    /// `SpatialTransformer::forward`.
    fn transformer(
        &self,
        x: Extent,
        config: &TransformerConfig,
        call: Call,
        ledger: &mut Ledger,
    ) -> Extent {
        let normed = ledger.group_norm(x);
        let mut hidden = ledger.linear(normed, x.channels);
        ledger.drop(normed);
        for _ in 0..config.depth {
            let y = block(hidden, config, call, ledger);
            ledger.drop(hidden);
            hidden = y;
        }
        let projected = ledger.linear(hidden, x.channels);
        let y = ledger.map(x);
        ledger.drop(projected);
        ledger.drop(hidden);
        y
    }
}

/// One vector a sample.
fn vector(batch: usize, channels: usize) -> Extent {
    Extent { batch, height: 1, width: 1, channels }
}

/// `ResnetBlock::forward`.
fn resnet(x: Extent, output: usize, ledger: &mut Ledger) -> Extent {
    let normed = ledger.group_norm(x);
    let first = ledger.conv(normed, output, Kernel::SAME);
    let hidden = ledger.map(first);
    ledger.drop(first);
    ledger.drop(normed);
    let normed = ledger.group_norm(hidden);
    let second = ledger.conv(normed, output, Kernel::SAME);
    ledger.drop(normed);
    let shortcut = (x.channels != output).then(|| ledger.linear(x, output));
    let y = ledger.map(second);
    for value in [second, hidden].into_iter().chain(shortcut) {
        ledger.drop(value);
    }
    y
}

/// `Block::forward` of the transformer.
fn block(x: Extent, config: &TransformerConfig, call: Call, ledger: &mut Ledger) -> Extent {
    let heads = config.heads;
    let normed = ledger.layer_norm(x);
    let mixed = attend(normed, x.positions(), heads, ledger);
    let after_self = ledger.map(x);
    ledger.drop(mixed);

    let normed_again = ledger.layer_norm(after_self);
    let cross = attend(normed_again, call.tokens, heads, ledger);
    ledger.drop(normed_again);
    match call.prior {
        PriorUse::None => {}
        // One more that stays.
        PriorUse::Record => {
            ledger.hold(cross);
        }
        // Both sides weighted, and their sum.
        PriorUse::Blend => ledger.pass(2 * ledger.bytes(cross)),
    }
    let after_cross = ledger.map(x);
    ledger.drop(cross);

    let gated = {
        let normed = ledger.layer_norm(after_cross);
        let wide = ledger.linear(normed, 8 * x.channels);
        let gated = ledger.geglu(wide);
        ledger.drop(wide);
        ledger.drop(normed);
        gated
    };
    let narrow = ledger.linear(gated, x.channels);
    let y = ledger.map(x);
    for value in [narrow, gated, after_cross, after_self, normed] {
        ledger.drop(value);
    }
    y
}

/// `Attention::forward`.
fn attend(x: Extent, keys: usize, heads: usize, ledger: &mut Ledger) -> Extent {
    let queries = ledger.linear(x, x.channels);
    let seen = x.with_size(1, keys);
    let [keys_seen, values] = [ledger.map(seen), ledger.map(seen)];
    let mixed = ledger.attention(queries, keys, heads);
    let y = ledger.linear(mixed, x.channels);
    for value in [mixed, values, keys_seen, queries] {
        ledger.drop(value);
    }
    y
}
