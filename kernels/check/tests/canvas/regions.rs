//! Regions: gathered, fused, and looked at for values that are not finite.

use kernel_check::{Arg, Buffer, Element, Mode, bf16, f16, launch, uniform};

use crate::{
    assert_bits,
    canvas::{
        fuse::Fuser,
        grid::RegionGrid,
        weights::{Fusion, axis_sum},
    },
    canvas_launch::{GatherSizes, PredictionSizes, add_regions, find_non_finite, gather_regions},
    numbers,
};

/// Index on an axis that is mirrored without repeating its ends, as `pad(mode="reflect")` of numpy.
fn mirrored(place: usize, len: usize) -> usize {
    let line: Vec<usize> = (0..len).chain((1..len.saturating_sub(1)).rev()).collect();
    line[place % line.len()]
}

fn gathered<T: Element>() {
    for (height, width, channels, region, places) in [
        (20, 24, 4, (8, 8), vec![[0, 0], [12, 16], [3, 7]]),
        // Regions that reach past the canvas, once and several times its side.
        (5, 3, 4, (16, 12), vec![[0, 0], [2, 1]]),
        (1, 1, 3, (4, 2), vec![[0, 0]]),
        (9, 33, 5, (7, 33), vec![[2, 0], [1, 0]]),
    ] {
        let canvas = numbers(11, height * width * channels);
        // Both latents of a model that sees the low resolution: side by side in one pixel.
        for (pixel, first) in [(channels, 0), (2 * channels, 0), (2 * channels, channels)] {
            let sizes = GatherSizes {
                height: height as u32,
                width: width as u32,
                channels: channels as u32,
                region_height: region.0,
                region_width: region.1,
                pixel: pixel as u32,
                first: first as u32,
            };
            let pixels = (region.0 * region.1) as usize;
            let before = vec![T::round(-7.0); places.len() * pixels * pixel];
            for mode in Mode::ALL {
                let (mut input, mut out) = (Buffer::new(&canvas), Buffer::new(&before));
                let mut corners: Buffer<[u32; 2]> = Buffer::new(&places);
                let arguments = &mut [
                    Arg::input(&mut input),
                    Arg::input(&mut corners),
                    Arg::output(&mut out),
                    Arg::value(sizes),
                ];
                launch(&gather_regions(T::TYPE, sizes, places.len() as u32), arguments, mode);
                for (index, value) in out.to_vec().into_iter().enumerate() {
                    let (place, channel) = (index / pixel, index % pixel);
                    let [top, left] = places[place / pixels];
                    let (row, column) =
                        (place % pixels / region.1 as usize, place % region.1 as usize);
                    let y = mirrored(top as usize + row, height);
                    let x = mirrored(left as usize + column, width);
                    let expected = match channel.checked_sub(first) {
                        Some(c) if c < channels => T::round(canvas[(y * width + x) * channels + c]),
                        _ => T::round(-7.0),
                    };
                    assert_eq!(value, expected, "{:?} at {index} of {sizes:?}", T::TYPE);
                }
            }
        }
    }
}

#[test]
fn gathered_regions_are_windows_mirrored_at_the_edge() {
    gathered::<bf16>();
    gathered::<f16>();
    gathered::<f32>();
}

/// A grid, what it is fused with, and predictions for it.
struct Fused {
    grid: RegionGrid,
    fusion: Fusion,
    channels: usize,
    profile: Vec<f32>,
    sums: [Vec<f32>; 2],
}

impl Fused {
    fn new(height: usize, width: usize, side: usize, overlap: usize, fusion: Fusion) -> Self {
        let grid = RegionGrid::new(height, width, side, overlap).unwrap();
        let profile = fusion.profile(side, overlap);
        let sums = [
            axis_sum(grid.tops(), &profile, grid.height()),
            axis_sum(grid.lefts(), &profile, grid.width()),
        ];
        Self { grid, fusion, channels: 4, profile, sums }
    }

    fn canvas_len(&self) -> usize {
        self.grid.height() * self.grid.width() * self.channels
    }

    /// Side of a region, which a grid of several has alike in both axes.
    fn side(&self) -> usize {
        self.grid.region_size().0
    }

    fn prediction_len(&self) -> usize {
        self.side().pow(2) * self.channels
    }

    fn sizes(&self, count: usize, guidance: Option<f32>) -> PredictionSizes {
        PredictionSizes {
            side: self.side() as u32,
            channels: self.channels as u32,
            count: count as u32,
            guided: guidance.is_some().into(),
            guidance: guidance.unwrap_or_default(),
        }
    }

    /// Σ w·ε of predictions that come in batches; with guidance a batch is its negative half, then the other.
    fn summed<T: Element>(
        &self,
        batch: usize,
        guidance: Option<f32>,
        predictions: impl Fn(std::ops::Range<usize>) -> Vec<T>,
        mode: Mode,
    ) -> Vec<f32> {
        let starts = |starts: &[usize]| starts.iter().map(|&start| start as u32).collect();
        let (ys, xs): (Vec<u32>, Vec<u32>) = (starts(self.grid.ys()), starts(self.grid.xs()));
        let mut sums = Buffer::new(&vec![0f32; self.canvas_len()]);
        for first in (0..self.grid.len()).step_by(batch) {
            let regions = first..(first + batch).min(self.grid.len());
            let of = self.sizes(regions.len(), guidance);
            let canvas = (self.grid.height() as u32, self.grid.width() as u32);
            let (geometry, sizes) =
                add_regions(T::TYPE, of, first as u32, canvas, &ys, xs.len() as u32);
            let mut values = Buffer::new(&predictions(regions));
            let (mut ys, mut xs) = (Buffer::new(&ys), Buffer::new(&xs));
            let mut profile = Buffer::new(&self.profile);
            let arguments = &mut [
                Arg::input(&mut values),
                Arg::input(&mut ys),
                Arg::input(&mut xs),
                Arg::input(&mut profile),
                Arg::output(&mut sums),
                Arg::value(sizes),
            ];
            launch(&geometry, arguments, mode);
        }
        sums.to_vec()
    }

    /// The program's mean of predictions.
    fn mean(&self, predictions: &[f32]) -> Vec<f32> {
        let fuser = Fuser::new(self.fusion, &self.grid, self.channels);
        assert_eq!(fuser.prediction_len(), self.prediction_len());
        let mut mean = vec![0.0; self.canvas_len()];
        fuser.band(0..self.grid.height(), predictions, &mut mean).unwrap();
        mean
    }

    /// Sums divided by the weights, as the step does it.
    fn divided(&self, sums: &[f32]) -> Vec<f32> {
        let width = self.grid.width();
        let [of_y, of_x] = &self.sums;
        let pixels = sums.chunks_exact(self.channels).enumerate();
        pixels
            .flat_map(|(pixel, sums)| {
                let weight = of_y[pixel / width] * of_x[pixel % width];
                sums.iter().map(move |sum| sum / weight)
            })
            .collect()
    }
}

/// Canvases of several regions, of odd sides, smaller than a region, of one.
fn grids() -> Vec<Fused> {
    vec![
        Fused::new(30, 26, 12, 5, Fusion::Feather),
        Fused::new(17, 41, 8, 4, Fusion::Average),
        Fused::new(9, 21, 16, 8, Fusion::Feather),
        Fused::new(5, 3, 8, 2, Fusion::Feather),
        Fused::new(40, 13, 10, 9, Fusion::Feather),
    ]
}

#[test]
fn regions_are_fused_to_the_bits_of_the_cpu_whatever_the_batch() {
    for fused in grids() {
        let size = fused.prediction_len();
        let predictions = numbers(21, fused.grid.len() * size);
        let expected = fused.mean(&predictions);
        for batch in [1, 3, fused.grid.len()] {
            for mode in Mode::ALL {
                let of = |regions: std::ops::Range<usize>| {
                    predictions[regions.start * size..regions.end * size].to_vec()
                };
                let sums = fused.summed(batch, None, of, mode);
                assert_bits("mean", &fused.divided(&sums), &expected);
            }
        }
    }
}

fn guided<T: Element>() {
    let fused = Fused::new(17, 20, 8, 4, Fusion::Feather);
    let (size, guidance) = (fused.prediction_len(), 3.5);
    let [negative, text] = [31, 32].map(|seed| -> Vec<T> {
        numbers(seed, fused.grid.len() * size).into_iter().map(T::round).collect()
    });
    let pairs = negative.iter().zip(&text);
    let eps: Vec<f32> = pairs
        .map(|(negative, text)| {
            let (negative, text) = (negative.widen() as f32, text.widen() as f32);
            negative + guidance * (text - negative)
        })
        .collect();
    let expected = fused.mean(&eps);
    for batch in [2, fused.grid.len()] {
        let of = |regions: std::ops::Range<usize>| {
            let values = regions.start * size..regions.end * size;
            [&negative[values.clone()], &text[values]].concat()
        };
        let sums = fused.summed(batch, Some(guidance), of, Mode::ALL[2]);
        assert_bits("guided mean", &fused.divided(&sums), &expected);
    }
}

#[test]
fn guidance_is_taken_where_regions_are_fused() {
    guided::<bf16>();
    guided::<f16>();
    guided::<f32>();
}

fn flagged<T: Element>() {
    let sizes = |count: u32, guidance: Option<f32>| PredictionSizes {
        side: 9,
        channels: 3,
        count,
        guided: guidance.is_some().into(),
        guidance: guidance.unwrap_or_default(),
    };
    let size = 9 * 9 * 3;
    for broken in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        for guidance in [None, Some(7.5)] {
            let halves = if guidance.is_some() { 2 } else { 1 };
            let mut values: Vec<T> = uniform(41, 3 * size * halves);
            // The last value of the second region, in whichever half is the last.
            values[(3 * halves - 1) * size - 1] = T::round(broken);
            for mode in Mode::ALL {
                let mut input = Buffer::new(&values);
                let mut flags = Buffer::<u32>::unwritten(3);
                let sizes = sizes(3, guidance);
                let arguments =
                    &mut [Arg::input(&mut input), Arg::output(&mut flags), Arg::value(sizes)];
                launch(&find_non_finite(T::TYPE, sizes), arguments, mode);
                assert_eq!(flags.to_vec(), [0, 1, 0], "{broken} {guidance:?} {:?}", T::TYPE);
            }
        }
    }
}

#[test]
fn regions_that_are_not_finite_are_flagged_each_by_itself() {
    flagged::<bf16>();
    flagged::<f16>();
    flagged::<f32>();
}
