//! Texture without lines, as sand and gravel have it. A network that cannot know where each grain lies draws worms and scales of one
//! size instead. Where the input has such a texture, most of the guess gives way to noise whose strength is that of the input's
//! own differences: textures of nature are about as rough at a quarter of the size.
//!
//! What is drawn out of an input is told from its structure alone, so that letters, edges, lines, and what is soft (skin, fur,
//! a face out of focus) keep the network's guess.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    blend::light,
    grain,
    protect::{LEVEL, ramp},
    structure::{Cells, NOISE, Structure, coherence, gaussian},
};
use crate::canvas::NoiseField;

/// A draw that no canvas and no grid has, and no grain.
const DRAW: u32 = u32::MAX - 2;
/// Deviation of the neighbourhood that is a texture or none, in cells, of the one that its strength is taken from, and of the
/// one of which most has to be one.
const WIDE: f32 = 5.0;
const NEAR: f32 = 2.0;
const AROUND: f32 = 8.0;
/// The square of the mean difference over the mean of its square: less where a few edges stand in what is even.
const DENSE: (f32, f32) = (0.55, 0.7);
/// Coherence from which there are lines.
const COHERENT: (f32, f32) = (0.25, 0.4);
/// Steps from cell to cell over the tensor's trace: 1 on an even slope, 2.3 in what is soft (fur, leaves, fruit), 2.9 in sand, 4 in
/// gravel, 8.7 in white noise.
const FINE: (f32, f32) = (2.4, 2.8);
/// Differences that are more than noise, in each channel.
const WEAK: (f32, f32) = (4.0 * LEVEL, 8.0 * LEVEL);
/// Differences that are those of things and no more of a texture.
const STRONG: (f32, f32) = (15.0 * LEVEL, 30.0 * LEVEL);
/// The share of what is [`AROUND`] that has to be texture, fine and of some strength: a patch in something else is none, and what
/// is less fine in the midst of it is one too.
const MOST: (f32, f32) = (0.45, 0.7);
/// Share of the guess that gives way where all is texture.
const GIVES_WAY: f32 = 0.7;
/// The noise's deviation over the input's differences from cell to cell.
const ROUGHNESS: f32 = 1.2;
/// The most that the noise's deviation is of the light there beyond what is dark: a dark place beside a bright texture has none.
const OF_LIGHT: f32 = 0.3;
const DARK: f32 = 15.0 * LEVEL;
/// Deviation of the noise's smoothing, in pixels of the output.
const SMOOTH: f32 = 0.9;

/// The texture of an output.
#[derive(Clone, Copy, Debug)]
pub(super) struct Texture {
    structure: Structure,
    /// In 0..=1.
    amount: f32,
    seed: u64,
}

/// How much of a texture without lines there is at a pixel.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rough {
    /// In 0..=1.
    share: f32,
    /// Deviation of its noise, in −1…1.
    deviation: f32,
}

impl Texture {
    /// Cells on each side of one on which its texture depends: the neighbourhoods, and one for differences.
    pub const CELLS: usize = (2.0 * (WIDE + AROUND)) as usize + 1;

    /// For an input and an output of these widths and heights; `None` where nothing is done. `amount` is in 0..=1, as far as the
    /// output is larger than the input ([`Structure::new`]).
    pub fn new(
        input: (usize, usize),
        output: (usize, usize),
        amount: f64,
        seed: u64,
    ) -> Option<Self> {
        let (structure, share) = Structure::new(input, output);
        let amount = (amount * share) as f32;
        (amount > 0.0).then_some(Self { structure, amount, seed })
    }

    /// The textures of the pixels in these columns and rows of the output, from the input's tensors, of which those are right
    /// that lie [`CELLS`](Self::CELLS) around them; `None` where there are none.
    pub fn rough(
        self,
        tensors: &Cells<4>,
        columns: &Range<usize>,
        rows: &Range<usize>,
    ) -> Option<Vec<Rough>> {
        let energy = |tensor: [f32; 3]| tensor[0] + tensor[2];
        let of_channel = |energy: f32| (energy / 3.0).sqrt();
        let wide = tensors.map(|[a, b, c, steps]| [a, b, c, (a + c).sqrt(), steps]);
        let wide = wide.smoothed(&gaussian(WIDE));
        let near = tensors.map(|[a, _, c, _]| [a + c]).smoothed(&gaussian(NEAR));
        let disordered = wide.map(|[a, b, c, difference, _]| {
            let tensor = [a, b, c];
            let dense = ramp(difference * difference / (energy(tensor) + NOISE), DENSE);
            let has_lines = ramp(coherence(tensor), COHERENT);
            let is_strong = ramp(of_channel(energy(tensor)), STRONG);
            [dense * (1.0 - has_lines) * (1.0 - is_strong)]
        });
        let around = disordered.with(&wide, |[disordered], [a, _, c, _, steps]| {
            let fine = ramp(steps / (a + c + NOISE), FINE);
            [disordered * fine * ramp(of_channel(a + c), WEAK)]
        });
        let around = around.smoothed(&gaussian(AROUND));
        let share = disordered.with(&around, |[own], [around]| [own * ramp(around, MOST)]);
        let strength = wide.with(&near, |[a, _, c, _, _], [near]| [of_channel((a + c).min(near))]);
        let textures = share.with(&strength, |[share], [strength]| [share, strength]);
        let rough = self.structure.at_pixels(&textures, columns, rows, |[share, difference]| {
            let share = self.amount * share;
            Rough { share, deviation: ROUGHNESS * share * difference }
        });
        rough.iter().any(|rough| rough.share > 0.0).then_some(rough)
    }

    /// Gives `picture`, `[height, width, 3]` in −1…1, whose first pixel is at this row and column of the output, its textures in
    /// the place of what it differs there from `source`, the resized input in the same window.
    pub fn apply(
        self,
        picture: &mut [f32],
        source: &[f32],
        rough: &[Rough],
        (top, left): (usize, usize),
        width: usize,
    ) {
        let weights = gaussian(SMOOTH);
        // The weights' squares are what becomes of the variance, along both axes.
        let unit = 1.0 / weights.iter().map(|weight| weight * weight).sum::<f32>();
        let radius = weights.len() / 2;
        let field = NoiseField::new(self.seed);
        let rows = picture.par_chunks_mut(3 * width).zip(source.par_chunks(3 * width));
        let rows = rows.zip(rough.par_chunks(width)).enumerate();
        rows.for_each(|(y, ((picture, source), rough))| {
            let Some(first) = rough.iter().position(|rough| rough.share > 0.0) else { return };
            let last = rough.iter().rposition(|rough| rough.share > 0.0).unwrap_or(first);
            // Smoothed down, with what smoothing across will look at. Rows and columns before the first wrap around, as
            // numbers: each place has its own noise.
            let at = |start: usize, by: usize| (start + by).wrapping_sub(radius) as u32;
            let down: Vec<f32> = (0..last - first + 1 + 2 * radius)
                .map(|x| {
                    let x = at(left + first, x);
                    let value = |i: usize| field.at(DRAW, 0, at(top + y, i), x);
                    weights.iter().enumerate().map(|(i, weight)| weight * value(i)).sum()
                })
                .collect();
            for x in first..=last {
                let Rough { share, deviation } = rough[x];
                if share == 0.0 {
                    continue;
                }
                let (pixel, source) = (&mut picture[3 * x..][..3], &source[3 * x..][..3]);
                for (value, source) in pixel.iter_mut().zip(source) {
                    *value -= GIVES_WAY * share * (*value - source);
                }
                let light = light([source[0], source[1], source[2]]) + 1.0 - DARK;
                let deviation = deviation.min(share * OF_LIGHT * light.max(0.0));
                let around = &down[x - first..][..weights.len()];
                let noise: f32 = weights.iter().zip(around).map(|(w, value)| w * value).sum();
                grain::add_within_room(pixel, deviation * unit * noise);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::reference::{WIDTH, close, tensor};

    const SIDE: usize = 288;

    fn texture(amount: f64, seed: u64) -> Texture {
        Texture::new((SIDE / 4, SIDE / 4), (SIDE, SIDE), amount, seed).unwrap()
    }

    /// The textures of a whole picture of this width.
    fn rough(texture: Texture, source: &[f32], width: usize) -> Vec<Rough> {
        let (columns, rows) = (0..width, 0..source.len() / 3 / width);
        let tensors = texture.structure.tensors(source, &columns, &rows);
        let none = || vec![Rough::default(); source.len() / 3];
        texture.rough(&tensors, &columns, &rows).unwrap_or_else(none)
    }

    /// A picture whose cells of 4 px are grey: of the cell at each column and row.
    fn cells(of: impl Fn(usize, usize) -> f32) -> Vec<f32> {
        let pixel = |at: usize| [of(at % SIDE / 4, at / SIDE / 4); 3];
        (0..SIDE * SIDE).flat_map(pixel).collect()
    }

    /// Sand: each cell a value of its own.
    fn sand(strength: f32) -> Vec<f32> {
        let field = NoiseField::new(1);
        cells(|x, y| strength * field.at(0, 0, y as u32, x as u32))
    }

    #[test]
    fn sand_is_texture_and_letters_lines_edges_what_is_soft_and_what_is_even_are_none() {
        let mean = |source: &[f32]| {
            let shares: Vec<f32> =
                rough(texture(1.0, 0), source, SIDE).iter().map(|rough| rough.share).collect();
            shares.iter().sum::<f32>() / shares.len() as f32
        };
        assert!(mean(&sand(0.08)) > 0.9, "{}", mean(&sand(0.08)));
        let stripes = cells(|x, y| if (x + y) % 5 < 2 { 0.05 } else { -0.05 });
        let letters = cells(|x, y| if x % 9 < 2 || y % 11 < 2 { 0.8 } else { -0.8 });
        let edge = cells(|x, _| if x < 24 { 0.1 } else { -0.1 });
        let soft = {
            const BINOMIAL: [f32; 5] = [1.0, 4.0, 6.0, 4.0, 1.0];
            let sand = sand(0.3);
            let grain = |x: usize, y: usize| sand[3 * 4 * (y % (SIDE / 4) * SIDE + x % (SIDE / 4))];
            let weighted = |x: usize, y: usize, i: usize| {
                BINOMIAL[i % 5] * BINOMIAL[i / 5] * grain(x + i % 5, y + i / 5)
            };
            cells(|x, y| (0..25).map(|i| weighted(x, y, i)).sum::<f32>() / 256.0)
        };
        let patch = {
            let sand = sand(0.08);
            let within = 30..42;
            let is_sand = |x: usize, y: usize| within.contains(&x) && within.contains(&y);
            cells(|x, y| if is_sand(x, y) { sand[3 * 4 * (y * SIDE + x)] } else { 0.0 })
        };
        let none = [stripes, letters, edge, soft, patch, sand(0.0005), sand(0.5)];
        let shares = none.map(|source| mean(&source));
        assert!(shares.iter().all(|share| *share < 0.02), "{shares:?}");
    }

    #[test]
    fn the_texture_is_that_of_the_reference() {
        let source = tensor("grains");
        // Of 1.39 times the size: cells of a pixel, and 9/23 of the amount.
        let texture = Texture::new((28, 23), (WIDTH, source.len() / 3 / WIDTH), 1.0, 0).unwrap();
        let rough = rough(texture, &source, WIDTH);
        let of = |value: fn(&Rough) -> f32| rough.iter().map(value).collect::<Vec<f32>>();
        let shares = of(|rough| rough.share);
        let some = shares.iter().filter(|share| (0.01..0.39).contains(*share)).count();
        assert!(some > shares.len() / 4, "{some}");
        close(&shares, &tensor("texture_share"), 1e-5);
        close(&of(|rough| rough.deviation), &tensor("texture_deviation"), 1e-5);
    }

    #[test]
    fn the_guess_gives_way_to_noise_of_the_strength_that_was_asked_for() {
        let source = vec![0.1f32; 3 * SIDE * SIDE];
        let guess = vec![0.3; 3 * SIDE * SIDE];
        let all = vec![Rough { share: 1.0, deviation: 0.05 }; SIDE * SIDE];
        let mut made = guess.clone();
        texture(1.0, 7).apply(&mut made, &source, &all, (0, 0), SIDE);
        let count = made.len() as f32;
        let mean = made.iter().sum::<f32>() / count;
        let deviation = (made.iter().map(|v| (v - mean).powi(2)).sum::<f32>() / count).sqrt();
        assert!(
            (mean - 0.16).abs() < 1e-3 && (deviation - 0.05).abs() < 2e-3,
            "{mean} {deviation}"
        );
        assert!(made.chunks(3).all(|rgb| rgb[0] == rgb[1] && rgb[1] == rgb[2]));
        let dark = vec![-0.9; 3 * SIDE * SIDE];
        let mut less = dark.clone();
        texture(1.0, 7).apply(&mut less, &dark, &all, (0, 0), SIDE);
        assert_eq!(less, dark);
        let mut none = guess.clone();
        let nothing = vec![Rough::default(); SIDE * SIDE];
        texture(1.0, 7).apply(&mut none, &source, &nothing, (0, 0), SIDE);
        assert_eq!(none, guess);
        let mut other = guess;
        texture(1.0, 8).apply(&mut other, &source, &all, (0, 0), SIDE);
        assert_ne!(other, made);
    }

    #[test]
    fn a_window_has_the_values_of_the_whole() {
        let source = sand(0.08);
        let guess: Vec<f32> = source.iter().rev().copied().collect();
        let texture = texture(0.9, 3);
        let mut expected = guess.clone();
        texture.apply(&mut expected, &source, &rough(texture, &source, SIDE), (0, 0), SIDE);
        assert!(expected.iter().zip(&guess).filter(|(a, b)| a != b).count() > guess.len() / 2);
        for (columns, rows) in [(0..50, 30..99), (161..SIDE, 0..44), (120..SIDE - 120, 201..SIDE)] {
            let cut = |picture: &[f32], columns: &Range<usize>, rows: &Range<usize>| {
                let row = |y: usize| &picture[3 * (y * SIDE + columns.start)..];
                let row = |y: usize| row(y)[..3 * columns.len()].to_vec();
                rows.clone().flat_map(row).collect::<Vec<f32>>()
            };
            let (across, down) = texture.structure.around(Texture::CELLS, &columns, &rows);
            let tensors = texture.structure.tensors(&cut(&source, &across, &down), &across, &down);
            let rough = texture.rough(&tensors, &columns, &rows).unwrap();
            let mut window = cut(&guess, &columns, &rows);
            let source = cut(&source, &columns, &rows);
            let place = (rows.start, columns.start);
            texture.apply(&mut window, &source, &rough, place, columns.len());
            assert_eq!(window, cut(&expected, &columns, &rows));
        }
    }
}
