//! What one call of an autoencoder takes beside its weights: encoder and decoder of either kind, played
//! with shapes for tensors; each function is the twin of the one whose values it counts.

use super::config::{KlConfig, TinyConfig, VaeConfig};
use crate::backend::ops::memory::{Extent, Kernel, Ledger};

impl VaeConfig {
    /// Plays the encoding of `image`, `[B, H, W, 3]`, which is alive throughout, into `ledger`.
    pub fn play_encode(&self, image: Extent, ledger: &mut Ledger) {
        let image = ledger.hold(image);
        match self {
            Self::Kl(config) => config.encode(image, ledger),
            Self::Tiny(config) => config.encode(image, ledger),
        }
        ledger.drop(image);
    }

    /// Plays the decoding of `z`, `[B, h, w, C]`, which is alive throughout, into `ledger`.
    pub fn play_decode(&self, z: Extent, ledger: &mut Ledger) {
        let z = ledger.hold(z);
        let scaled = ledger.map(z);
        match self {
            Self::Kl(config) => config.decode(scaled, ledger),
            Self::Tiny(config) => config.decode(scaled, ledger),
        }
        ledger.drop(scaled);
        ledger.drop(z);
    }
}

impl KlConfig {
    fn encode(&self, image: Extent, ledger: &mut Ledger) {
        let widths = &self.block_out_channels;
        let mut h = ledger.conv(image, widths[0], Kernel::SAME);
        for (level, &width) in widths.iter().enumerate() {
            for _ in 0..self.layers_per_block {
                h = resnet(h, width, ledger);
            }
            if level + 1 < widths.len() {
                let tall = ledger.map(h.with_size(h.height + 1, h.width));
                let padded = ledger.map(h.with_size(h.height + 1, h.width + 1));
                let halved = ledger.conv(padded, width, Kernel { padding: 0, stride: 2, side: 3 });
                for value in [tall, padded, h] {
                    ledger.drop(value);
                }
                h = halved;
            }
        }
        let mixed = self.middle(h, ledger);
        ledger.drop(h);
        finish(mixed, 2 * self.latent_channels, ledger);
    }

    fn decode(&self, z: Extent, ledger: &mut Ledger) {
        let widths = &self.block_out_channels;
        let first = ledger.conv(z, widths[widths.len() - 1], Kernel::SAME);
        let mut h = self.middle(first, ledger);
        ledger.drop(first);
        for (level, &width) in widths.iter().rev().enumerate() {
            for _ in 0..=self.layers_per_block {
                h = resnet(h, width, ledger);
            }
            if level + 1 < widths.len() {
                let doubled = ledger.upsample(h);
                let y = ledger.conv(doubled, width, Kernel::SAME);
                ledger.drop(doubled);
                ledger.drop(h);
                h = y;
            }
        }
        finish(h, self.out_channels, ledger);
    }

    /// `MidBlock::forward`; `x` stays its caller's.
    fn middle(&self, x: Extent, ledger: &mut Ledger) -> Extent {
        let mut h = residual(x, x.channels, ledger);
        if self.mid_block_add_attention {
            let normed = ledger.group_norm(h);
            let [q, k, v] = [(); 3].map(|()| ledger.linear(normed, h.channels));
            let mixed = ledger.attention(q, h.positions(), 1);
            let out = ledger.linear(mixed, h.channels);
            ledger.drop(mixed);
            let y = ledger.map(h);
            for value in [out, v, k, q, normed, h] {
                ledger.drop(value);
            }
            h = y;
        }
        resnet(h, x.channels, ledger)
    }
}

/// The last norm and convolution, which `h` does not outlive.
fn finish(h: Extent, output: usize, ledger: &mut Ledger) {
    let normed = ledger.group_norm(h);
    let y = ledger.conv(normed, output, Kernel::SAME);
    for value in [y, normed, h] {
        ledger.drop(value);
    }
}

/// `ResnetBlock::forward` where nobody needs `x` any more.
fn resnet(x: Extent, output: usize, ledger: &mut Ledger) -> Extent {
    let y = residual(x, output, ledger);
    ledger.drop(x);
    y
}

/// `ResnetBlock::forward`.
fn residual(x: Extent, output: usize, ledger: &mut Ledger) -> Extent {
    let normed = ledger.group_norm(x);
    let first = ledger.conv(normed, output, Kernel::SAME);
    ledger.drop(normed);
    let normed = ledger.group_norm(first);
    let second = ledger.conv(normed, output, Kernel::SAME);
    ledger.drop(normed);
    let shortcut = (x.channels != output).then(|| ledger.linear(x, output));
    let y = ledger.map(second);
    for value in [second, first].into_iter().chain(shortcut) {
        ledger.drop(value);
    }
    y
}

impl TinyConfig {
    fn encode(&self, image: Extent, ledger: &mut Ledger) {
        // Brought to 0..=1 in two steps.
        let shifted = ledger.map(image);
        let mut x = ledger.map(shifted);
        ledger.drop(shifted);
        let widths = &self.encoder_block_out_channels;
        for (level, (&width, &blocks)) in widths.iter().zip(&self.num_encoder_blocks).enumerate() {
            let stride = if level == 0 { 1 } else { 2 };
            x = step(x, ledger, |x, ledger| {
                ledger.conv(x, width, Kernel { stride, ..Kernel::SAME })
            });
            for _ in 0..blocks {
                x = step(x, ledger, tiny_block);
            }
        }
        let y = ledger.conv(x, self.latent_channels, Kernel::SAME);
        ledger.drop(x);
        ledger.drop(y);
    }

    fn decode(&self, z: Extent, ledger: &mut Ledger) {
        let mut x = ledger.map(z);
        let widths = &self.decoder_block_out_channels;
        x = step(x, ledger, |x, ledger| ledger.conv(x, widths[0], Kernel::SAME));
        x = step(x, ledger, |x, ledger| ledger.map(x));
        for (level, (&width, &blocks)) in widths.iter().zip(&self.num_decoder_blocks).enumerate() {
            for _ in 0..blocks {
                x = step(x, ledger, tiny_block);
            }
            if level + 1 < widths.len() {
                for _ in 0..self.upsampling_scaling_factor.trailing_zeros() {
                    x = step(x, ledger, |x, ledger| ledger.upsample(x));
                }
                x = step(x, ledger, |x, ledger| ledger.conv(x, width, Kernel::SAME));
            }
        }
        x = step(x, ledger, |x, ledger| ledger.conv(x, self.out_channels, Kernel::SAME));
        // Brought to −1..=1 in two steps.
        x = step(x, ledger, |x, ledger| ledger.map(x));
        x = step(x, ledger, |x, ledger| ledger.map(x));
        ledger.drop(x);
    }
}

/// A layer whose input ends with it.
fn step(
    x: Extent,
    ledger: &mut Ledger,
    layer: impl FnOnce(Extent, &mut Ledger) -> Extent,
) -> Extent {
    let y = layer(x, ledger);
    ledger.drop(x);
    y
}

/// `Block::forward` of `AutoencoderTiny`.
fn tiny_block(x: Extent, ledger: &mut Ledger) -> Extent {
    let mut activated = Vec::new();
    let mut h = x;
    for _ in 0..2 {
        let y = ledger.conv(h, x.channels, Kernel::SAME);
        h = ledger.map(y);
        ledger.drop(y);
        activated.push(h);
    }
    let third = ledger.conv(h, x.channels, Kernel::SAME);
    let sum = ledger.map(third);
    ledger.drop(third);
    let y = ledger.map(sum);
    for value in activated.into_iter().chain([sum]) {
        ledger.drop(value);
    }
    y
}
