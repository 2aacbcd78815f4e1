//! Normalizations against sums in f64.

use backend::launch::ElementType;
use kernel_check::{Arg, Buffer, Element, Mode, assert_close, backend, bf16, f16, launch, uniform};
use norm_launch::{GroupNormLaunch, RowNormSizes, layer_norm, rms_norm, statistics};

#[path = "../../../src/backend/ops/norm/launch.rs"]
mod norm_launch;

const EPS: f64 = 1e-5;

/// Share of the largest value that a result may be off by.
fn bar<T: Element>() -> f64 {
    if T::TYPE == ElementType::F32 { 1e-5 } else { 2e-3 }
}

/// Numbers around `centre`.
fn around<T: Element>(seed: u64, len: usize, centre: f32) -> Vec<T> {
    uniform::<f32>(seed, len).into_iter().map(|x| T::round(x + centre)).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

#[derive(Clone, Copy, Debug)]
struct Shape {
    samples: usize,
    positions: usize,
    channels: usize,
    groups: usize,
}

impl Shape {
    fn len(self) -> usize {
        self.samples * self.positions * self.channels
    }

    fn launch<T: Element>(self, then_silu: bool, aligned: bool) -> GroupNormLaunch {
        let shape = (self.samples as u32, self.positions as u64, self.channels as u32);
        GroupNormLaunch::new(T::TYPE, shape, self.groups as u32, EPS, then_silu, aligned)
    }

    /// Mean and variance of a group of a sample, or of all samples.
    fn moments<T: Element>(self, x: &[T], sample: Option<usize>, group: usize) -> (f64, f64) {
        let width = self.channels / self.groups;
        let sample_len = self.positions * self.channels;
        let x = sample.map_or(x, |sample| &x[sample * sample_len..][..sample_len]);
        let members = || {
            x.chunks_exact(self.channels)
                .flat_map(|p| &p[group * width..][..width])
                .map(|x| x.widen())
        };
        let count = (x.len() / self.groups) as f64;
        let mean = members().sum::<f64>() / count;
        (mean, members().map(|x| (x - mean).powi(2)).sum::<f64>() / count)
    }

    /// The norm in f64, with moments from `of`, by sample and group.
    fn reference<T: Element>(
        self,
        x: &[T],
        (weight, bias): (&[f32], &[f32]),
        then_silu: bool,
        of: impl Fn(usize, usize) -> (f64, f64),
    ) -> Vec<f64> {
        let width = self.channels / self.groups;
        let moments: Vec<(f64, f64)> = (0..self.samples * self.groups)
            .map(|index| of(index / self.groups, index % self.groups))
            .collect();
        let value = |(index, x): (usize, &T)| {
            let (position, channel) = (index / self.channels, index % self.channels);
            let sample = position / self.positions;
            let (mean, variance) = moments[sample * self.groups + channel / width];
            let y = (x.widen() - mean) / (variance + EPS).sqrt() * f64::from(weight[channel])
                + f64::from(bias[channel]);
            if then_silu { silu(y) } else { y }
        };
        x.iter().enumerate().map(value).collect()
    }

    fn parameters(self) -> (Vec<f32>, Vec<f32>) {
        let weight = uniform::<f32>(71, self.channels).into_iter().map(|w| 1.0 + w / 2.0).collect();
        (weight, uniform(72, self.channels))
    }
}

/// The three launches.
fn group_norm<T: Element>(
    shape: Shape,
    x: &[T],
    (weight, bias): (&[f32], &[f32]),
    (then_silu, aligned): (bool, bool),
    mode: Mode,
) -> Vec<T> {
    let launches = shape.launch::<T>(then_silu, aligned);
    let sizes = launches.sizes;
    let (mut x, mut weight, mut bias) = (Buffer::new(x), Buffer::new(weight), Buffer::new(bias));
    let mut partial = Buffer::<[f32; 2]>::unwritten(launches.partial_len());
    let mut statistics = Buffer::<[f32; 4]>::unwritten(launches.statistics_len());
    let mut y = Buffer::<T>::unwritten(shape.len());
    let moments = &mut [Arg::input(&mut x), Arg::output(&mut partial), Arg::value(sizes)];
    launch(&launches.moments, moments, mode);
    let merge = &mut [
        Arg::input(&mut x),
        Arg::input(&mut partial),
        Arg::output(&mut statistics),
        Arg::value(sizes),
    ];
    launch(&launches.merge, merge, mode);
    let apply = &mut [
        Arg::input(&mut x),
        Arg::input(&mut statistics),
        Arg::input(&mut weight),
        Arg::input(&mut bias),
        Arg::output(&mut y),
        Arg::value(sizes),
    ];
    launch(&launches.apply, apply, mode);
    y.to_vec()
}

/// Values that are not numbers are equal, too.
fn bits<T: Element>(x: &[T]) -> Vec<u64> {
    x.iter().map(|x| x.widen().to_bits()).collect()
}

fn check_group_norm<T: Element>(shape: Shape, x: &[T], then_silu: bool, aligned: bool) {
    let (weight, bias) = shape.parameters();
    let parameters = (&*weight, &*bias);
    let how = (then_silu, aligned);
    let what = format!("{:?} {shape:?} {how:?}", T::TYPE);
    let y = group_norm(shape, x, parameters, how, Mode::ALL[0]);
    let reference = shape
        .reference(x, parameters, then_silu, |sample, group| shape.moments(x, Some(sample), group));
    assert_close(&what, &y, &reference, bar::<T>());
    for mode in &Mode::ALL[1..] {
        let again = group_norm(shape, x, parameters, how, *mode);
        assert_eq!(bits(&again), bits(&y), "{what} {mode:?}");
    }
    let sample = shape.positions * shape.channels;
    let alone = Shape { samples: 1, ..shape };
    for (x, y) in x.chunks_exact(sample).zip(y.chunks_exact(sample)) {
        let own = group_norm(alone, x, parameters, how, Mode::ALL[0]);
        assert_eq!(bits(&own), bits(y), "{what}: a sample alone");
    }
}

/// Groups of ten, of five and of one channel, rows of 16-byte vectors and others, one position, several pieces, several
/// tiles of channels.
const SHAPES: [(usize, usize, usize, usize); 10] = [
    (2, 35, 320, 32),
    (3, 1, 64, 64),
    (1, 257, 37, 37),
    (2, 77, 36, 4),
    (1, 5, 3, 1),
    (2, 900, 128, 32),
    (1, 9, 2560, 32),
    (1, 33, 4096, 32),
    (1, 70, 1920, 15),
    (2, 19, 120, 24),
];

fn shapes() -> impl Iterator<Item = Shape> {
    SHAPES.into_iter().map(|(samples, positions, channels, groups)| Shape {
        samples,
        positions,
        channels,
        groups,
    })
}

fn group_norms_of<T: Element>() {
    for (index, shape) in shapes().enumerate() {
        let x = around::<T>(index as u64, shape.len(), 0.3);
        check_group_norm(shape, &x, index % 2 == 0, true);
        check_group_norm(shape, &x, index % 2 == 1, false);
    }
}

#[test]
fn group_norm_in_bf16() {
    group_norms_of::<bf16>();
}

#[test]
fn group_norm_in_f16() {
    group_norms_of::<f16>();
}

#[test]
fn group_norm_in_f32() {
    group_norms_of::<f32>();
}

#[test]
fn pieces_of_a_sample_are_several_and_the_last_one_is_shorter() {
    let shape = Shape { samples: 1, positions: 900, channels: 128, groups: 32 };
    let sizes = shape.launch::<bf16>(false, true).sizes;
    assert_eq!((sizes.piece, sizes.pieces), (256, 4));
    let large = Shape { positions: 1 << 20, ..shape }.launch::<bf16>(false, true).sizes;
    assert_eq!((large.piece, large.pieces), (2048, 512));
}

#[test]
fn a_mean_far_from_zero_costs_no_digits() {
    let shape = Shape { samples: 2, positions: 700, channels: 64, groups: 8 };
    check_group_norm(shape, &around::<f32>(5, shape.len(), 1000.0), false, true);
    check_group_norm(shape, &around::<f32>(5, shape.len(), -1000.0), true, false);
    check_group_norm(shape, &around::<f16>(6, shape.len(), 100.0), false, true);
    check_group_norm(shape, &around::<bf16>(7, shape.len(), 16.0), false, true);
    // The value from which the others are counted is unlike them.
    let mut x = around::<f32>(8, shape.len(), 1000.0);
    x[..shape.channels].fill(0.0);
    check_group_norm(shape, &x, false, true);
}

#[test]
fn what_is_not_a_number_stays_in_its_group_and_does_not_vanish() {
    let shape = Shape { samples: 1, positions: 60, channels: 32, groups: 4 };
    let (weight, bias) = shape.parameters();
    for broken in [f32::NAN, f32::INFINITY, 3e38] {
        let mut x = uniform::<f32>(9, shape.len());
        x[33 * 32 + 9] = broken;
        let y = group_norm(shape, &x, (&weight, &bias), (false, true), Mode::ALL[0]);
        for (index, y) in y.iter().enumerate() {
            assert_eq!(y.is_nan(), index % 32 / 8 == 1, "{broken} gives {y} at {index}");
        }
    }
}

fn check_shared_moments<T: Element>(shape: Shape, centre: f32) {
    let what = format!("{:?} {shape:?}", T::TYPE);
    let (weight, bias) = shape.parameters();
    let x = around::<T>(11, shape.len(), centre);
    let launches = shape.launch::<T>(true, true).with_shared_statistics();
    let groups = shape.groups;
    for mode in Mode::ALL {
        let mut input = Buffer::new(&x);
        let mut partial = Buffer::<[f32; 2]>::unwritten(launches.partial_len());
        let mut pooled = Buffer::<f64>::unwritten(2 * groups);
        let sizes = launches.sizes;
        let moments = &mut [Arg::input(&mut input), Arg::output(&mut partial), Arg::value(sizes)];
        launch(&launches.moments, moments, mode);
        let pool = &mut [
            Arg::input(&mut input),
            Arg::input(&mut partial),
            Arg::output(&mut pooled),
            Arg::value(sizes),
        ];
        launch(&launches.pool, pool, mode);
        let pooled = pooled.to_vec();
        let (means, variances) = pooled.split_at(groups);
        for group in 0..groups {
            let (mean, variance) = shape.moments(&x, None, group);
            let off = (means[group] - mean).abs() / variance.sqrt();
            assert!(off < 1e-6, "{what}: mean {} for {mean}", means[group]);
            let off = (variances[group] - variance).abs() / variance;
            assert!(off < 1e-6, "{what}: variance {} for {variance}", variances[group]);
        }

        // Moments of another picture, as a tile takes them.
        let other = |group: usize| (0.3 * group as f64 + f64::from(centre), 0.5 + group as f64);
        let rows: Vec<[f32; 4]> = (0..groups)
            .map(other)
            .map(|(mean, variance)| statistics(mean, variance, EPS))
            .collect();
        assert_eq!(rows.len(), launches.statistics_len());
        let mut y = Buffer::<T>::unwritten(shape.len());
        let mut rows = Buffer::new(&rows);
        let (mut weight_values, mut bias_values) = (Buffer::new(&weight), Buffer::new(&bias));
        let apply = &mut [
            Arg::input(&mut input),
            Arg::input(&mut rows),
            Arg::input(&mut weight_values),
            Arg::input(&mut bias_values),
            Arg::output(&mut y),
            Arg::value(sizes),
        ];
        launch(&launches.apply, apply, mode);
        let reference = shape.reference(&x, (&weight, &bias), true, |_, group| other(group));
        assert_close(&what, &y.to_vec(), &reference, bar::<T>());
    }
}

#[test]
fn moments_of_all_samples_together_and_tiles_that_share_some() {
    let shape = Shape { samples: 3, positions: 650, channels: 128, groups: 32 };
    check_shared_moments::<bf16>(shape, 2.0);
    check_shared_moments::<f16>(shape, 2.0);
    check_shared_moments::<f32>(shape, 1000.0);
    check_shared_moments::<f32>(Shape { channels: 33, groups: 3, ..shape }, 0.0);
}

fn normalized_rows<T: Element>(
    centred: bool,
    x: &[T],
    (weight, bias): (&[f32], &[f32]),
    aligned: bool,
    mode: Mode,
) -> Vec<T> {
    let width = weight.len();
    let rows = (x.len() / width) as u64;
    let of = if centred { layer_norm } else { rms_norm };
    let (geometry, sizes) = of(T::TYPE, rows, width as u32, EPS, aligned).unwrap();
    let (mut x, mut weight, mut bias) = (Buffer::new(x), Buffer::new(weight), Buffer::new(bias));
    let mut y = Buffer::<T>::unwritten(x.len());
    let mut arguments = vec![Arg::input(&mut x), Arg::input(&mut weight)];
    if centred {
        arguments.push(Arg::input(&mut bias));
    }
    arguments.extend([Arg::output(&mut y), Arg::value(sizes)]);
    launch(&geometry, &mut arguments, mode);
    drop(arguments);
    y.to_vec()
}

fn check_rows<T: Element>(centred: bool, rows: usize, width: usize, centre: f32, aligned: bool) {
    let what = format!("{:?} {rows} × {width}, centred {centred}, aligned {aligned}", T::TYPE);
    let x = around::<T>(rows as u64, rows * width, centre);
    let weight: Vec<f32> = uniform::<f32>(21, width).into_iter().map(|w| 1.0 + w / 2.0).collect();
    let bias = uniform::<f32>(22, width);
    let y = normalized_rows(centred, &x, (&weight, &bias), aligned, Mode::ALL[0]);
    let mut reference = Vec::new();
    for x in x.chunks_exact(width) {
        let mean_of =
            |f: &dyn Fn(f64) -> f64| x.iter().map(|x| f(x.widen())).sum::<f64>() / width as f64;
        let mean = if centred { mean_of(&|x| x) } else { 0.0 };
        let scale = (mean_of(&|x| (x - mean).powi(2)) + EPS).sqrt().recip();
        reference.extend(x.iter().zip(&weight).zip(&bias).map(|((x, weight), bias)| {
            (x.widen() - mean) * scale * f64::from(*weight)
                + if centred { f64::from(*bias) } else { 0.0 }
        }));
    }
    assert_close(&what, &y, &reference, bar::<T>());
    for mode in &Mode::ALL[1..] {
        let again = normalized_rows(centred, &x, (&weight, &bias), aligned, *mode);
        assert_eq!(bits(&again), bits(&y), "{what} {mode:?}");
    }
    for (x, y) in x.chunks_exact(width).zip(y.chunks_exact(width)) {
        let own = normalized_rows(centred, x, (&weight, &bias), aligned, Mode::ALL[0]);
        assert_eq!(bits(&own), bits(y), "{what}: a row alone");
    }
}

fn rows_of<T: Element>(centred: bool) {
    for width in
        [1, 2, 7, 32, 64, 77, 513, 640, 768, 1000, 1024, 1025, 1280, 4095, 4096, 8191, 8192]
    {
        for aligned in [true, false] {
            // One warp has a row up to 512 or 1024 values; blocks then have four rows.
            let rows = if width <= 1024 { 5 } else { 2 };
            check_rows::<T>(centred, rows, width, 0.2, aligned);
        }
    }
    check_rows::<T>(centred, 1, 320, 0.2, true);
    check_rows::<T>(centred, 3, 320, 0.2, true);
}

#[test]
fn layer_norm_in_bf16() {
    rows_of::<bf16>(true);
}

#[test]
fn layer_norm_in_f16() {
    rows_of::<f16>(true);
}

#[test]
fn layer_norm_in_f32() {
    rows_of::<f32>(true);
    check_rows::<f32>(true, 5, 640, 1000.0, true);
    check_rows::<f32>(true, 2, 8192, -1000.0, true);
}

#[test]
fn rms_norm_in_bf16() {
    rows_of::<bf16>(false);
}

#[test]
fn rms_norm_in_f16() {
    rows_of::<f16>(false);
}

#[test]
fn rms_norm_in_f32() {
    rows_of::<f32>(false);
}

#[test]
fn rows_that_do_not_fit_into_registers_have_no_launch() {
    let of = |rows, width| layer_norm(f32::TYPE, rows, width, EPS, true);
    assert!(of(1, norm_launch::WIDTH_MAX + 1).is_none());
    assert!(of(u64::from(u32::MAX), 1024).is_none());
    let (launch, RowNormSizes { warps, vector, .. }) = of(1, 8192).unwrap();
    assert_eq!((launch.block, warps, vector), (512, 16, 4));
}
