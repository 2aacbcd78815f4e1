//! The canvas and the attention prior. The kernels for CUDA are held to the CPU's bits by tests of their own and take the
//! same arguments, so here each Metal kernel gives the bits of its twin.

use kernel_check::{Arg, Buffer, Element, Mode, backend::launch::Launch, f16, uniform};

use crate::{
    canvas_launch::{
        BandSizes, DiffuseNumbers, Factors, GatherSizes, NoiseField, PredictionSizes, StepNumbers,
        add_regions, canvas_step, diffuse, find_non_finite, gather_regions,
    },
    crop_resize_launch::{AxisSample, BlendSizes, axis_samples, blend_prior},
    launch,
};

/// Which of two kernels.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Twin {
    Cuda,
    Metal,
}

impl Twin {
    #[track_caller]
    fn launch(self, geometry: &Launch, arguments: &mut [Arg], mode: Mode) {
        match self {
            Self::Cuda => kernel_check::launch(geometry, arguments, mode),
            Self::Metal => launch(geometry, arguments, mode),
        }
    }
}

/// Compares the bytes that both give, in every mode.
#[track_caller]
fn assert_twins(what: &str, run: impl Fn(Twin, Mode) -> Vec<u8>) {
    let expected = run(Twin::Cuda, Mode::ALL[0]);
    for mode in Mode::ALL {
        assert!(run(Twin::Metal, mode) == expected, "{what}: other bytes in {mode:?}");
    }
}

fn values<T: Element>(seed: u64, len: usize) -> Vec<T> {
    uniform::<f32>(seed, len).into_iter().map(|x| T::round(3.0 * x)).collect()
}

fn check_gathered<T: Element>() {
    for (height, width, channels, region, places) in [
        (20, 24, 4, (8, 8), vec![[0u32, 0], [12, 16], [3, 7]]),
        (5, 3, 4, (16, 12), vec![[0, 0], [2, 1]]),
        (1, 1, 3, (4, 2), vec![[0, 0]]),
    ] {
        let canvas = values::<f32>(1, (height * width * channels) as usize);
        for (pixel, first) in [(channels, 0), (2 * channels, channels)] {
            let (region_height, region_width) = region;
            let sizes =
                GatherSizes { height, width, channels, region_height, region_width, pixel, first };
            let len = places.len() * (region_height * region_width * pixel) as usize;
            assert_twins(&format!("{sizes:?}"), |twin, mode| {
                let mut out = Buffer::new(&vec![T::round(-7.0); len]);
                twin.launch(
                    &gather_regions(T::TYPE, sizes, places.len() as u32),
                    &mut [
                        Arg::input(&mut Buffer::new(&canvas)),
                        Arg::input(&mut Buffer::new(&places)),
                        Arg::output(&mut out),
                        Arg::value(sizes),
                    ],
                    mode,
                );
                out.bytes().to_vec()
            });
        }
    }
}

#[test]
fn gathered_regions() {
    check_gathered::<f16>();
    check_gathered::<f32>();
}

fn check_fused<T: Element>() {
    let (side, channels) = (8u32, 4u32);
    for (height, width, ys, xs) in [
        (17u32, 20u32, vec![0u32, 4, 9], vec![0u32, 6, 12]),
        (8, 13, vec![0], vec![0, 5]),
        (5, 3, vec![0], vec![0]),
    ] {
        let columns = xs.len() as u32;
        let regions = ys.len() as u32 * columns;
        for (guided, batch) in [(0, regions), (1, regions), (1, 2), (0, 1)] {
            assert_twins(&format!("{height}x{width}, {guided}, {batch}"), |twin, mode| {
                let mut sums = Buffer::new(&values::<f32>(2, (height * width * channels) as usize));
                for first in (0..regions).step_by(batch as usize) {
                    let count = batch.min(regions - first);
                    let of = PredictionSizes { side, channels, count, guided, guidance: 3.5 };
                    let len = (count * (1 + guided) * side * side * channels) as usize;
                    let canvas = (height, width);
                    let (geometry, sizes) = add_regions(T::TYPE, of, first, canvas, &ys, columns);
                    twin.launch(
                        &geometry,
                        &mut [
                            Arg::input(&mut Buffer::new(&values::<T>(3 + u64::from(first), len))),
                            Arg::input(&mut Buffer::new(&ys)),
                            Arg::input(&mut Buffer::new(&xs)),
                            Arg::input(&mut Buffer::new(&values::<f32>(4, side as usize))),
                            Arg::output(&mut sums),
                            Arg::value(sizes),
                        ],
                        mode,
                    );
                }
                sums.bytes().to_vec()
            });
        }
    }
}

#[test]
fn fused_regions() {
    check_fused::<f16>();
    check_fused::<f32>();
}

fn check_flags<T: Element>(wrong: f32) {
    let of = PredictionSizes { side: 19, channels: 4, count: 3, guided: 1, guidance: 2.0 };
    let len = (of.side * of.side * of.channels) as usize;
    for place in [None, Some(len), Some(2 * len - 1), Some(5 * len + 700)] {
        let mut predictions = values::<T>(5, 6 * len);
        if let Some(place) = place {
            predictions[place] = T::round(wrong);
        }
        for mode in Mode::ALL {
            let mut flags = Buffer::<u32>::unwritten(3);
            let predictions = &mut Buffer::new(&predictions);
            let arguments = &mut [Arg::input(predictions), Arg::output(&mut flags), Arg::value(of)];
            launch(&find_non_finite(T::TYPE, of), arguments, mode);
            let is_wrong = |region| place.is_some_and(|place| place / len % 3 == region);
            assert_eq!(flags.to_vec(), [0, 1, 2].map(|region| u32::from(is_wrong(region))));
        }
    }
}

#[test]
fn regions_that_are_not_finite_are_flagged() {
    for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        check_flags::<f16>(wrong);
        check_flags::<f32>(wrong);
    }
}

#[test]
fn a_canvas_is_diffused_with_the_noise_that_it_holds() {
    let band = BandSizes { height: 5, width: 67, channels: 4, top: 2 };
    let len = (band.height * band.width * band.channels) as usize;
    let numbers = DiffuseNumbers { band, noise: NoiseField::default(), signal: 0.8, spread: 0.6 };
    let (zl, noise) = (values::<f32>(6, len), values::<f32>(7, len));
    let expected: Vec<f32> = zl.iter().zip(&noise).map(|(zl, n)| 0.8 * zl + 0.6 * n).collect();
    for mode in Mode::ALL {
        let (mut zl, mut z) = (Buffer::new(&zl), Buffer::new(&noise));
        let arguments = &mut [Arg::input(&mut zl), Arg::output(&mut z), Arg::value(numbers)];
        launch(&diffuse(band), arguments, mode);
        assert_eq!(z.to_vec(), expected);
    }
}

fn step(numbers: StepNumbers, twin: Twin, mode: Mode) -> Vec<u8> {
    let BandSizes { height, width, channels, top } = numbers.band;
    let len = (height * width * channels) as usize;
    let [mut before, mut sums, mut zl, mut first, mut second, mut fresh] =
        [11, 12, 13, 14, 15, 16].map(|seed| Buffer::new(&values::<f32>(seed, len)));
    let positive = |seed, len: u32| -> Buffer<f32> {
        let values = uniform::<f32>(seed, len as usize).into_iter().map(|x| 1.5 + x);
        Buffer::new(&values.collect::<Vec<f32>>())
    };
    let (mut sum_y, mut sum_x) = (positive(17, top + height), positive(18, width));
    let (mut kept, mut after) = (Buffer::<f32>::unwritten(len), Buffer::<f32>::unwritten(len));
    let mut arguments = vec![
        Arg::input(&mut before),
        Arg::input(&mut sums),
        Arg::input(&mut sum_y),
        Arg::input(&mut sum_x),
        Arg::input(&mut zl),
        Arg::input(&mut first),
        Arg::input(&mut second),
        Arg::output(&mut kept),
        Arg::output(&mut after),
        Arg::value(numbers),
    ];
    if twin == Twin::Metal {
        arguments.push(Arg::input(&mut fresh));
    }
    twin.launch(&canvas_step(numbers.band), &mut arguments, mode);
    drop(arguments);
    [after.bytes(), kept.bytes()].concat()
}

#[test]
fn steps_of_every_kind() {
    let factors = |z, prediction| Factors { z, prediction };
    for (height, width, top) in [(6, 70, 0), (7, 5, 12), (1, 1, 2)] {
        let plain = StepNumbers {
            band: BandSizes { height, width, channels: 4, top },
            signal: 0.6,
            spread: 0.8,
            step: factors(1.21, -0.34),
            ..StepNumbers::default()
        };
        let prior = StepNumbers { lambda: 0.173, ..plain };
        let clean = StepNumbers { clean: 1, converts: 1, from: factors(0.6, -0.8), ..prior };
        let clipped = StepNumbers {
            limit: 1,
            most: 1.0,
            clean_latent: factors(1.7, -1.3),
            limited: 0.55,
            ..prior
        };
        let history = StepNumbers {
            keeps: 1,
            kept: factors(0.9, -0.4),
            earlier: 1,
            history: [-0.31, 0.7],
            ..prior
        };
        for numbers in [
            plain,
            prior,
            clean,
            clipped,
            StepNumbers { limit: 2, most: 1.9, keeps: 1, kept: factors(0.9, -0.4), ..clipped },
            history,
            StepNumbers { earlier: 2, ..history },
        ] {
            assert_twins(&format!("{numbers:?}"), |twin, mode| step(numbers, twin, mode));
        }
    }
}

#[test]
fn a_step_adds_its_noise() {
    let band = BandSizes { height: 3, width: 5, channels: 4, top: 0 };
    let one = Factors { z: 1.0, prediction: 0.0 };
    let numbers = StepNumbers { band, step: one, noise: 0.25, ..StepNumbers::default() };
    let (z, fresh) = (values::<f32>(11, 60), values::<f32>(16, 60));
    let expected: Vec<f32> = z.iter().zip(&fresh).map(|(z, n)| z + 0.25 * n).collect();
    for mode in Mode::ALL {
        let bytes = step(numbers, Twin::Metal, mode);
        let after: Vec<f32> = bytes[..240]
            .chunks_exact(4)
            .map(|b| f32::from_ne_bytes(b.try_into().unwrap()))
            .collect();
        assert_eq!(after, expected);
    }
}

fn check_blended<T: Element>() {
    for (height, width, channels, map, maps, weight, in_place) in [
        (8u32, 6u32, 20u32, (5u32, 7u32), 1u32, 0.5f32, 0),
        (4, 9, 7, (9, 3), 2, 0.25, 0),
        (3, 2, 1300, (1, 1), 2, 1.0, 0),
        (4, 9, 7, (4, 9), 2, 0.25, 1),
    ] {
        let rects = [[0.25, 0.125, 0.5, 0.375], [0.0, 0.6, 0.4, 0.4], [0.7, 0.8, 0.5, 0.4]];
        let regions = rects.len() as u32;
        let shape = (regions * maps, height, width, channels);
        let (geometry, sizes) = blend_prior(T::TYPE, shape, map, regions, weight).unwrap();
        let sizes = BlendSizes { in_place, ..sizes };
        let along = |start: usize, input: u32, output: u32| -> Vec<AxisSample> {
            rects
                .iter()
                .flat_map(|rect| axis_samples(rect[start], rect[start + 2], input, output))
                .collect()
        };
        let (rows, columns) = (along(0, map.0, height), along(1, map.1, width));
        let own = values::<T>(21, (regions * maps * height * width * channels) as usize);
        let of_maps = values::<T>(22, (maps * map.0 * map.1 * channels) as usize);
        assert_twins(&format!("{sizes:?}"), |twin, mode| {
            let mut out = Buffer::<T>::unwritten(own.len());
            twin.launch(
                &geometry,
                &mut [
                    Arg::input(&mut Buffer::new(&own)),
                    Arg::input(&mut Buffer::new(&of_maps)),
                    Arg::input(&mut Buffer::new(&rows)),
                    Arg::input(&mut Buffer::new(&columns)),
                    Arg::output(&mut out),
                    Arg::value(sizes),
                ],
                mode,
            );
            out.bytes().to_vec()
        });
    }
}

#[test]
fn blended_priors() {
    check_blended::<f16>();
    check_blended::<f32>();
}
