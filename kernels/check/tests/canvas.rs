//! The canvas's kernels against the program's own code for the CPU, bit for bit.

use canvas::{
    fuse::Fuser,
    grid::RegionGrid,
    noise,
    weights::{Fusion, axis_sum},
};
use canvas_launch::{
    BandSizes, DiffuseNumbers, Factors, GatherSizes, NoiseField, PredictionSizes, StepNumbers,
    add_regions, canvas_step, diffuse, find_non_finite, gather_regions, noise_field,
};
use kernel_check::{Arg, Buffer, Element, Mode, backend, bf16, f16, launch, uniform};
use priors::structure::StructurePrior;
use sampler::{
    Clip, Combination, Level, Limit, PredictionForm, Schedule, SchedulerConfig, Step, Update,
    add_noise,
};

#[path = "../../../src/backend/ops/canvas/launch.rs"]
mod canvas_launch;

#[allow(dead_code)]
#[path = "."]
mod canvas {
    #[path = "../../../src/canvas/elementary.rs"]
    mod elementary;
    #[path = "../../../src/canvas/error.rs"]
    mod error;
    #[path = "../../../src/canvas/fuse.rs"]
    pub mod fuse;
    #[path = "../../../src/canvas/grid.rs"]
    pub mod grid;
    #[path = "../../../src/canvas/noise.rs"]
    pub mod noise;
    #[path = "../../../src/canvas/weights.rs"]
    pub mod weights;
}

#[allow(dead_code)]
#[path = "."]
mod priors {
    #[path = "../../../src/priors/structure.rs"]
    pub mod structure;
}

#[allow(dead_code)]
#[path = "../../../src/ranges.rs"]
mod ranges;

#[allow(dead_code, unused_imports)]
#[path = "../../../src/sampler/mod.rs"]
mod sampler;

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

#[track_caller]
fn assert_bits(what: &str, ours: &[f32], expected: &[f32]) {
    assert_eq!(ours.len(), expected.len(), "{what}");
    let differs = |(ours, expected): (&f32, &f32)| ours.to_bits() != expected.to_bits();
    if let Some(at) = ours.iter().zip(expected).position(differs) {
        panic!("{what}: {} at {at}, not {}", ours[at], expected[at]);
    }
}

fn numbers(seed: u64, len: usize) -> Vec<f32> {
    uniform::<f32>(seed, len).into_iter().map(|x| 2.5 * x).collect()
}

#[test]
fn the_noise_field_has_the_bits_of_the_cpu() {
    for (seed, draw, top, height, width, channels) in [
        (0, 0, 0, 5, 37, 4),
        (42, 1, 128, 2, 300, 3),
        (u64::MAX, 9, 4000, 3, 1, 16),
        (0x1234_5678_9abc_def0, u32::MAX, u32::MAX - 3, 2, 64, 1),
    ] {
        let band = BandSizes { height, width, channels, top };
        let field = NoiseField::new(seed, draw);
        let (rows, columns) = (top as usize..(top + height) as usize, 0..width as usize);
        let len = (height * width * channels) as usize;
        let mut expected = vec![0.0; len];
        let cpu = noise::NoiseField::new(seed);
        cpu.fill(draw, rows, columns, channels as usize, &mut expected).unwrap();
        let zl = numbers(3, len);
        let level = Level::variance_preserving(0.37);
        let mut expected_z = expected.clone();
        add_noise(level, &zl, &mut expected_z).unwrap();
        for mode in Mode::ALL {
            let mut ours = Buffer::<f32>::unwritten(len);
            let arguments = &mut [Arg::output(&mut ours), Arg::value(band), Arg::value(field)];
            launch(&noise_field(band), arguments, mode);
            assert_bits("noise", &ours.to_vec(), &expected);

            let (signal, spread) = (level.signal as f32, level.spread as f32);
            let (mut zl, mut z) = (Buffer::new(&zl), Buffer::<f32>::unwritten(len));
            let arguments = &mut [
                Arg::input(&mut zl),
                Arg::output(&mut z),
                Arg::value(DiffuseNumbers { band, noise: field, signal, spread }),
            ];
            launch(&diffuse(band), arguments, mode);
            assert_bits("diffused", &z.to_vec(), &expected_z);
        }
    }
}

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
            axis_sum(grid.ys(), &profile, grid.height()),
            axis_sum(grid.xs(), &profile, grid.width()),
        ];
        Self { grid, fusion, channels: 4, profile, sums }
    }

    fn canvas_len(&self) -> usize {
        self.grid.height() * self.grid.width() * self.channels
    }

    fn prediction_len(&self) -> usize {
        self.grid.region_side().pow(2) * self.channels
    }

    fn sizes(&self, count: usize, guidance: Option<f32>) -> PredictionSizes {
        PredictionSizes {
            side: self.grid.region_side() as u32,
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

/// Everything that a step is given, and the program's way to take it.
struct Case {
    height: usize,
    width: usize,
    top: usize,
    prediction: &'static str,
    form: PredictionForm,
    lambda: f32,
    update: Update,
}

const CHANNELS: usize = 4;
const SEED: u64 = 77;
const DRAW: u32 = 5;

impl Case {
    fn len(&self) -> usize {
        self.height * self.width * CHANNELS
    }

    fn schedule(&self) -> Schedule {
        let text = format!(
            r#"{{"_class_name": "DDIMScheduler", "prediction_type": "{}"}}"#,
            self.prediction
        );
        Schedule::new(&SchedulerConfig::from_json(&text).unwrap()).unwrap()
    }

    fn step(&self) -> Step {
        let (level, to) = (Level::variance_preserving(0.36), Level::CLEAN);
        Step { index: 0, t: 0.0, t_prev: None, level, to, form: self.form, last: false }
    }

    /// As `take_step` and `correct` of the denoising stage.
    fn on_the_cpu(
        &self,
        z: &[f32],
        output: &[f32],
        zl: &[f32],
        earlier: &[&[f32]],
    ) -> (Vec<f32>, Vec<f32>) {
        let (mut z, mut predicted) = (z.to_vec(), output.to_vec());
        let (step, row) = (self.step(), (self.width, CHANNELS));
        self.schedule().convert(&step, &z, &mut predicted).unwrap();
        let prior = StructurePrior::new(1.0).unwrap();
        match self.form {
            PredictionForm::Noise => {
                prior.apply(&mut z, &predicted, zl, step.level, self.lambda, row).unwrap();
            }
            PredictionForm::Clean => {
                let signal = step.level.signal as f32;
                z.iter_mut().zip(&predicted).for_each(|(z, x0)| *z -= signal * x0);
                prior.apply(&mut predicted, &z, zl, Level::CLEAN, self.lambda, row).unwrap();
                z.iter_mut().zip(&predicted).for_each(|(z, x0)| *z += signal * x0);
            }
        }
        let mut fresh = vec![0.0; z.len()];
        let rows = self.top..self.top + self.height;
        let noise = noise::NoiseField::new(SEED);
        noise.fill(DRAW, rows, 0..self.width, CHANNELS, &mut fresh).unwrap();
        let mut kept = vec![0.0; z.len()];
        self.update.apply_with(&mut z, &predicted, Some(&fresh), earlier, Some(&mut kept)).unwrap();
        (z, kept)
    }

    fn numbers(&self) -> StepNumbers {
        let Level { signal, spread } = self.step().level;
        let (signal, spread) = (signal as f32, spread as f32);
        let from = match (self.prediction, self.form) {
            ("v_prediction", PredictionForm::Noise) => Some((signal, spread)),
            ("v_prediction", PredictionForm::Clean) => Some((-spread, signal)),
            ("sample", PredictionForm::Noise) => Some((-signal / spread, 1.0 / spread)),
            _ => None,
        };
        let factors = |combination: Combination| Factors {
            z: combination.z,
            prediction: combination.prediction,
        };
        let update = &self.update;
        let (limit, most) = match update.clip.map(|clip| clip.limit) {
            Some(Limit::Range(most)) => (1, most),
            Some(Limit::Scaled(most)) => (2, most),
            _ => (0, 0.0),
        };
        StepNumbers {
            band: BandSizes {
                height: self.height as u32,
                width: self.width as u32,
                channels: CHANNELS as u32,
                top: self.top as u32,
            },
            converts: from.is_some().into(),
            from: from.map_or(Factors::default(), |(prediction, z)| Factors { z, prediction }),
            clean: (self.form == PredictionForm::Clean).into(),
            signal,
            spread,
            lambda: self.lambda,
            step: Factors { z: update.z, prediction: update.prediction },
            noise: update.noise,
            field: NoiseField::new(SEED, DRAW),
            keeps: update.kept.is_some().into(),
            kept: update.kept.map_or(Factors::default(), factors),
            limit,
            most,
            clean_latent: update.clip.map_or(Factors::default(), |clip| factors(clip.x0)),
            limited: update.clip.map_or(0.0, |clip| clip.factor),
            earlier: update.history.len() as u32,
            history: std::array::from_fn(|k| update.history.get(k).copied().unwrap_or(0.0)),
        }
    }

    fn check(&self, what: &str) {
        let len = self.len();
        let (z, mut sums, zl) = (numbers(51, len), numbers(52, len), numbers(53, len));
        if self.lambda == 0.0 && self.form == PredictionForm::Noise {
            // Without the prior, what is not finite stays in its place.
            sums[len / 2] = f32::INFINITY;
        }
        let earlier = [numbers(54, len), numbers(55, len)];
        let positive = |seed, len| -> Vec<f32> {
            uniform::<f32>(seed, len).into_iter().map(|x| 1.5 + x).collect()
        };
        let (sum_y, sum_x) = (positive(56, self.top + self.height), positive(57, self.width));
        let output: Vec<f32> = sums
            .iter()
            .enumerate()
            .map(|(index, sum)| {
                let pixel = index / CHANNELS;
                let (y, x) = (self.top + pixel / self.width, pixel % self.width);
                sum / (sum_y[y] * sum_x[x])
            })
            .collect();
        let all = [&*earlier[0], &*earlier[1]];
        let (expected, expected_kept) = self.on_the_cpu(&z, &output, &zl, &all);
        let numbers = self.numbers();
        for mode in Mode::ALL {
            let [mut z, mut sums, mut sum_y, mut sum_x, mut zl] =
                [&z, &sums, &sum_y, &sum_x, &zl].map(|values| Buffer::new(values));
            let [mut first, mut second] = [&earlier[0], &earlier[1]].map(|e| Buffer::new(e));
            let mut kept = Buffer::<f32>::unwritten(len);
            let mut after = Buffer::<f32>::unwritten(len);
            let reads = |count| self.update.history.len() >= count;
            let arguments = &mut [
                Arg::input(&mut z),
                Arg::input(&mut sums),
                Arg::input(&mut sum_y),
                Arg::input(&mut sum_x),
                Arg::input(&mut zl),
                Arg::maybe(reads(1).then_some(&mut first)),
                Arg::maybe(reads(2).then_some(&mut second)),
                if numbers.keeps == 1 { Arg::output(&mut kept) } else { Arg::Null },
                Arg::output(&mut after),
                Arg::value(numbers),
            ];
            launch(&canvas_step(numbers.band), arguments, mode);
            assert_bits(what, &after.to_vec(), &expected);
            if numbers.keeps == 1 {
                assert_bits(what, &kept.to_vec(), &expected_kept);
            }
        }
        assert_ne!(bits(&expected), bits(&z), "{what}: nothing is left out");
    }
}

fn linear(z: f32, prediction: f32, noise: f32) -> Update {
    Update { z, prediction, noise, history: Vec::new(), kept: None, clip: None }
}

#[test]
fn steps_of_every_kind_have_the_bits_of_the_cpu() {
    let x0 = Combination { z: 1.7, prediction: -1.3 };
    let kept = Some(Combination { z: 0.9, prediction: -0.4 });
    let clip = |limit| Some(Clip { x0, factor: 0.55, limit });
    let updates = [
        ("deterministic", linear(1.21, -0.34, 0.0)),
        ("with noise", linear(0.97, 0.11, 0.27)),
        ("with history", Update { history: vec![-0.31], kept, ..linear(0.8, 0.6, 0.0) }),
        ("with more", Update { history: vec![0.3, -0.7], kept, ..linear(0.8, 0.6, 0.2) }),
        ("clipped", Update { clip: clip(Limit::Range(1.0)), ..linear(0.5, 0.7, 0.1) }),
        ("thresholded", Update { clip: clip(Limit::Scaled(1.9)), kept, ..linear(0.5, 0.7, 0.0) }),
    ];
    for (name, update) in updates {
        for (prediction, form) in [
            ("epsilon", PredictionForm::Noise),
            ("v_prediction", PredictionForm::Noise),
            ("v_prediction", PredictionForm::Clean),
            ("sample", PredictionForm::Noise),
            ("sample", PredictionForm::Clean),
        ] {
            for lambda in [0.0, 0.173] {
                // Even as the program's canvases are, and with blocks cut short at the edges.
                for (height, width, top) in [(6, 70, 0), (7, 5, 12), (1, 1, 2)] {
                    let update = update.clone();
                    let case = Case { height, width, top, prediction, form, lambda, update };
                    case.check(&format!(
                        "{name}, {prediction}, {form:?}, λ {lambda}, {height} × {width}"
                    ));
                }
            }
        }
    }
}

#[test]
fn a_canvas_may_be_stepped_in_its_place() {
    let (height, width) = (6, 9);
    let case = Case {
        height,
        width,
        top: 0,
        prediction: "epsilon",
        form: PredictionForm::Noise,
        lambda: 0.2,
        update: linear(1.1, -0.3, 0.2),
    };
    let len = case.len();
    let (z, eps, zl) = (numbers(61, len), numbers(62, len), numbers(63, len));
    let (expected, _) = case.on_the_cpu(&z, &eps, &zl, &[]);
    let numbers = case.numbers();
    for mode in Mode::ALL {
        let mut z = z.clone();
        let place = z.as_mut_ptr().expose_provenance();
        let (mut sums, mut zl) = (Buffer::new(&eps), Buffer::new(&zl));
        let mut ones = [height, width].map(|len| Buffer::new(&vec![1f32; len]));
        let [sum_y, sum_x] = &mut ones;
        let arguments = &mut [
            Arg::value(place),
            Arg::input(&mut sums),
            Arg::input(sum_y),
            Arg::input(sum_x),
            Arg::input(&mut zl),
            Arg::Null,
            Arg::Null,
            Arg::Null,
            Arg::value(place),
            Arg::value(numbers),
        ];
        launch(&canvas_step(numbers.band), arguments, mode);
        assert_bits("in place", &z, &expected);
    }
}
