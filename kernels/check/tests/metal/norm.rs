//! Normalizations.

use kernel_check::{Arg, Buffer, Element, Mode, assert_close, f16, uniform};

use crate::{
    bar, bits, element, in_every_mode, launch,
    norm_launch::{GroupNormLaunch, layer_norm, rms_norm},
};

const EPS: f64 = 1e-5;

/// Numbers around `centre`.
fn around<T: Element>(seed: u64, len: usize, centre: f32) -> Vec<T> {
    uniform::<f32>(seed, len).into_iter().map(|x| T::round(x + centre)).collect()
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Mean and variance.
fn moments(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    (mean, values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / values.len() as f64)
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

    fn launches<T: Element>(self, then_silu: bool, aligned: bool) -> GroupNormLaunch {
        let shape = (self.samples as u32, self.positions as u32, self.channels as u32);
        GroupNormLaunch::new(element::<T>(), shape, self.groups as u32, EPS, then_silu, aligned)
    }

    fn group(self, channel: usize) -> usize {
        channel / (self.channels / self.groups)
    }

    /// Mean and variance of each group of each sample.
    fn moments<T: Element>(self, x: &[T]) -> Vec<(f64, f64)> {
        let group = |index: usize| {
            let (sample, group) = (index / self.groups, index % self.groups);
            let x = &x[sample * self.positions * self.channels..][..self.positions * self.channels];
            let is_of_group = |(index, _): &(usize, &T)| self.group(index % self.channels) == group;
            let values: Vec<f64> =
                x.iter().enumerate().filter(is_of_group).map(|(_, x)| x.widen()).collect();
            moments(&values)
        };
        (0..self.samples * self.groups).map(group).collect()
    }

    /// The norm with moments of `of`, by sample and group.
    fn reference<T: Element>(
        self,
        x: &[T],
        then_silu: bool,
        of: impl Fn(usize, usize) -> (f64, f64),
    ) -> Vec<f64> {
        let (weight, bias) = self.parameters();
        let value = |(index, x): (usize, &T)| {
            let channel = index % self.channels;
            let (mean, variance) = of(index / self.channels / self.positions, self.group(channel));
            let y = (x.widen() - mean) / (variance + EPS).sqrt() * f64::from(weight[channel])
                + f64::from(bias[channel]);
            if then_silu { silu(y) } else { y }
        };
        x.iter().enumerate().map(value).collect()
    }

    fn parameters(self) -> (Vec<f32>, Vec<f32>) {
        (around(71, self.channels, 1.5), uniform(72, self.channels))
    }
}

/// What the first two kernels write.
fn statistics<T: Element>(x: &[T], launches: &GroupNormLaunch, mode: Mode) -> Vec<[f32; 4]> {
    let mut partial = Buffer::<[f32; 2]>::unwritten(launches.partial_len);
    let mut statistics = Buffer::<[f32; 4]>::unwritten(launches.statistics_len);
    let x = &mut Buffer::new(x);
    let arguments = &mut [Arg::input(x), Arg::output(&mut partial), Arg::value(launches.sizes)];
    launch(&launches.moments, arguments, mode);
    let arguments = &mut [
        Arg::input(x),
        Arg::input(&mut partial),
        Arg::output(&mut statistics),
        Arg::value(launches.sizes),
    ];
    launch(&launches.merge, arguments, mode);
    statistics.to_vec()
}

fn applied<T: Element>(
    x: &[T],
    statistics: &[[f32; 4]],
    (weight, bias): (Vec<f32>, Vec<f32>),
    launches: &GroupNormLaunch,
    mode: Mode,
) -> Vec<T> {
    let mut y = Buffer::unwritten(x.len());
    launch(
        &launches.apply,
        &mut [
            Arg::input(&mut Buffer::new(x)),
            Arg::input(&mut Buffer::new(statistics)),
            Arg::input(&mut Buffer::new(&weight)),
            Arg::input(&mut Buffer::new(&bias)),
            Arg::output(&mut y),
            Arg::value(launches.sizes),
        ],
        mode,
    );
    y.to_vec()
}

fn group_norm<T: Element>(shape: Shape, x: &[T], how: (bool, bool), mode: Mode) -> Vec<T> {
    let launches = shape.launches::<T>(how.0, how.1);
    let statistics = statistics(x, &launches, mode);
    applied(x, &statistics, shape.parameters(), &launches, mode)
}

fn check_group_norm<T: Element>(shape: Shape, centre: f32, how: (bool, bool)) {
    let what = format!("{:?} {shape:?} around {centre} {how:?}", element::<T>());
    let x = around::<T>(5, shape.len(), centre);
    let y = in_every_mode(&what, |mode| group_norm(shape, &x, how, mode));
    let moments = shape.moments(&x);
    let of = |sample, group| moments[sample * shape.groups + group];
    assert_close(&what, &y, &shape.reference(&x, how.0, of), bar::<T>());
    let len = shape.positions * shape.channels;
    for sample in 0..shape.samples {
        let alone = Shape { samples: 1, ..shape };
        let own = group_norm(alone, &x[sample * len..][..len], how, Mode::ALL[0]);
        assert_eq!(bits(&own), bits(&y[sample * len..][..len]), "{what}: sample {sample} alone");
    }
}

#[test]
fn group_norms_of_any_shape() {
    for (samples, positions, channels, groups) in [
        (1, 1, 4, 1),
        (2, 127, 32, 32),
        (3, 128, 6, 3),
        (1, 129, 7, 1),
        (2, 300, 320, 32),
        (1, 130, 130, 13),
        (1, 9, 5, 5),
    ] {
        let shape = Shape { samples, positions, channels, groups };
        for how in [(false, true), (true, true), (true, false)] {
            check_group_norm::<f16>(shape, 0.0, how);
            check_group_norm::<f32>(shape, 0.0, how);
        }
    }
}

#[test]
fn group_norms_of_values_far_from_zero() {
    let shape = Shape { samples: 2, positions: 150, channels: 24, groups: 4 };
    check_group_norm::<f16>(shape, 30.0, (true, true));
    check_group_norm::<f32>(shape, 1000.0, (true, true));
    check_group_norm::<f32>(shape, -30_000.0, (false, true));
}

#[test]
fn many_positions_make_no_more_than_so_many_pieces() {
    let of = |positions| {
        GroupNormLaunch::new(element::<f16>(), (1, positions, 128), 32, EPS, true, true)
    };
    assert_eq!((of(128).sizes.pieces, of(129).sizes.pieces, of(1 << 24).sizes.pieces), (1, 2, 512));
    // Pieces of more than their least number of positions.
    let shape = Shape { samples: 1, positions: 66_000, channels: 4, groups: 2 };
    assert!(shape.launches::<f32>(false, true).sizes.piece > 128);
    check_group_norm::<f32>(shape, 3.0, (false, true));
}

#[test]
fn statistics_hold_the_moments() {
    let shape = Shape { samples: 2, positions: 70, channels: 12, groups: 3 };
    let x = around::<f32>(6, shape.len(), 200.0);
    let launches = shape.launches::<f32>(false, true);
    let rows = statistics(&x, &launches, Mode::ALL[0]);
    for ([base, rest, scale, variance], (mean, expected)) in rows.into_iter().zip(shape.moments(&x))
    {
        assert!((f64::from(base) + f64::from(rest) - mean).abs() < 1e-6);
        assert!((f64::from(variance) - expected).abs() < 1e-6);
        assert!((f64::from(scale) - (expected + EPS).sqrt().recip()).abs() < 1e-5);
    }
}

#[test]
fn statistics_may_be_those_of_something_else() {
    let shape = Shape { samples: 2, positions: 20, channels: 12, groups: 3 };
    let x = around::<f32>(7, shape.len(), 0.5);
    let moments = [(0.25, 2.0), (-1.0, 0.5), (0.1, 1.0)];
    let rows = moments.map(|(mean, variance): (f64, f64)| {
        [mean as f32, 0.0, (variance + EPS).sqrt().recip() as f32, 0.0]
    });
    let launches = shape.launches::<f32>(true, true).with_shared_statistics();
    assert_eq!(launches.statistics_len, rows.len());
    let y = in_every_mode("shared statistics", |mode| {
        applied(&x, &rows, shape.parameters(), &launches, mode)
    });
    let reference = shape.reference(&x, true, |_, group| moments[group]);
    assert_close("shared statistics", &y, &reference, bar::<f32>());
}

/// Layer norm, or root-mean-square norm.
#[derive(Clone, Copy, Debug, PartialEq)]
enum RowNorm {
    Layer,
    Rms,
}

fn row_norm<T: Element>(norm: RowNorm, x: &[T], width: usize, aligned: bool, mode: Mode) -> Vec<T> {
    let rows = (x.len() / width) as u32;
    let mut y = Buffer::unwritten(x.len());
    let x = &mut Buffer::new(x);
    match norm {
        RowNorm::Layer => {
            let (geometry, sizes) = layer_norm(element::<T>(), rows, width as u32, EPS, aligned);
            let (weight, bias) = (around::<f32>(8, width, 1.5), uniform::<f32>(9, width));
            let (weight, bias) = (&mut Buffer::new(&weight), &mut Buffer::new(&bias));
            let arguments = &mut [
                Arg::input(x),
                Arg::input(weight),
                Arg::input(bias),
                Arg::output(&mut y),
                Arg::value(sizes),
            ];
            launch(&geometry, arguments, mode);
        }
        RowNorm::Rms => {
            let (geometry, sizes) = rms_norm(element::<T>(), rows, width as u32, EPS, aligned);
            let weight = &mut Buffer::new(&around::<T>(8, width, 1.5));
            let arguments =
                &mut [Arg::input(x), Arg::input(weight), Arg::output(&mut y), Arg::value(sizes)];
            launch(&geometry, arguments, mode);
        }
    }
    y.to_vec()
}

fn row_reference<T: Element>(norm: RowNorm, x: &[T], width: usize) -> Vec<f64> {
    let bias = uniform::<f32>(9, width);
    let row = |x: &[T]| -> Vec<f64> {
        let x: Vec<f64> = x.iter().map(|x| x.widen()).collect();
        let (mean, variance) = moments(&x);
        match norm {
            RowNorm::Layer => (x.iter().zip(around::<f32>(8, width, 1.5)).zip(&bias))
                .map(|((x, w), b)| {
                    (x - mean) / (variance + EPS).sqrt() * f64::from(w) + f64::from(*b)
                })
                .collect(),
            RowNorm::Rms => {
                let scale = (variance + mean * mean + EPS).sqrt().recip();
                x.iter()
                    .zip(around::<T>(8, width, 1.5))
                    .map(|(x, w)| x * scale * w.widen())
                    .collect()
            }
        }
    };
    x.chunks_exact(width).flat_map(row).collect()
}

fn check_row_norm<T: Element>(norm: RowNorm, rows: usize, width: usize, centre: f32) {
    let x = around::<T>(10, rows * width, centre);
    let reference = row_reference(norm, &x, width);
    for aligned in [true, false] {
        let what = format!("{:?} {norm:?} {rows}x{width} aligned {aligned}", element::<T>());
        let y = in_every_mode(&what, |mode| row_norm(norm, &x, width, aligned, mode));
        assert_close(&what, &y, &reference, bar::<T>());
        let own = row_norm(norm, &x[width * (rows - 1)..], width, aligned, Mode::ALL[0]);
        assert_eq!(bits(&own), bits(&y[width * (rows - 1)..]), "{what}: the last row alone");
    }
}

#[test]
fn rows_of_any_width() {
    for norm in [RowNorm::Layer, RowNorm::Rms] {
        for (rows, width) in [(1, 1), (3, 5), (4, 128), (5, 130), (9, 320), (2, 1283)] {
            check_row_norm::<f16>(norm, rows, width, 0.0);
            check_row_norm::<f32>(norm, rows, width, 0.0);
        }
    }
}

#[test]
fn rows_far_from_zero() {
    check_row_norm::<f16>(RowNorm::Layer, 5, 100, 30.0);
    check_row_norm::<f32>(RowNorm::Layer, 5, 100, 1000.0);
    check_row_norm::<f32>(RowNorm::Layer, 5, 777, -30_000.0);
}

#[test]
fn rows_whose_deviation_is_near_their_rounding() {
    let width = 1000;
    let mut x = vec![30_001.37f32; width];
    for value in x.iter_mut().step_by(90) {
        *value = value.next_up();
    }
    let reference = row_reference(RowNorm::Layer, &x, width);
    let y = row_norm(RowNorm::Layer, &x, width, true, Mode::ALL[0]);
    assert_close("almost constant", &y, &reference, bar::<f32>());
}
