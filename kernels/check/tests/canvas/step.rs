//! The structure prior and the sampler's step.

use kernel_check::{Arg, Buffer, Mode, launch, uniform};

use crate::{
    assert_bits, bits,
    canvas::noise,
    canvas_launch::{BandSizes, Factors, NoiseField, StepNumbers, canvas_step},
    numbers,
    priors::structure::StructurePrior,
    sampler::{
        Clip, Combination, Level, Limit, PredictionForm, Schedule, SchedulerConfig, Step, Update,
    },
};

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
