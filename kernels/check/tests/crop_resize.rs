//! The attention prior of regions against bilinear samples in f64.

use backend::launch::ElementType;
use crop_resize_launch::{AxisSample, BlendSizes, axis_samples, blend_prior};
use kernel_check::{Arg, Buffer, Element, Mode, assert_close, backend, bf16, f16, launch, uniform};

#[path = "../../../src/backend/ops/crop_resize/launch.rs"]
mod crop_resize_launch;

#[derive(Clone, Copy, Debug)]
struct Shape {
    height: usize,
    width: usize,
    channels: usize,
    map: (usize, usize),
    /// 2 with guidance.
    maps: usize,
    weight: f32,
}

/// Top, left, height and width of a region, as shares of the map.
type Rect = [f64; 4];

/// Inside the map, with a border of it on each side, all of it, and beyond it.
const RECTS: [Rect; 4] =
    [[0.25, 0.125, 0.5, 0.375], [0.0, 0.6, 0.4, 0.4], [0.0, 0.0, 1.0, 1.0], [0.7, 0.8, 0.5, 0.4]];

impl Shape {
    fn len(self) -> usize {
        self.height * self.width * self.channels
    }

    fn map_len(self) -> usize {
        self.map.0 * self.map.1 * self.channels
    }

    /// `grid_sample(mode="bilinear", padding_mode="border", align_corners=False)` at one place of an output.
    fn prior<T: Element>(self, map: &[T], rect: Rect, place: usize) -> f64 {
        let (pixel, channel) = (place / self.channels, place % self.channels);
        let at = |start: f64, extent: f64, index: usize, of: usize, len: usize| {
            let centre = start + extent * (index as f64 + 0.5) / of as f64;
            (centre * len as f64 - 0.5).clamp(0.0, (len - 1) as f64)
        };
        let [top, left, height, width] = rect;
        let y = at(top, height, pixel / self.width, self.height, self.map.0);
        let x = at(left, width, pixel % self.width, self.width, self.map.1);
        let mut sum = 0.0;
        for row in 0..self.map.0 {
            for column in 0..self.map.1 {
                let weight = |distance: f64| (1.0 - distance.abs()).max(0.0);
                let share = weight(y - row as f64) * weight(x - column as f64);
                let value = map[(row * self.map.1 + column) * self.channels + channel];
                sum += share * value.widen();
            }
        }
        sum
    }

    fn blended<T: Element>(self, own: &[T], maps: &[T], rects: &[Rect], mode: Mode) -> Vec<T> {
        let samples = rects.len() * self.maps;
        let shape = (samples as u32, self.height as u32, self.width as u32, self.channels as u32);
        let map = (self.map.0 as u32, self.map.1 as u32);
        let regions = rects.len() as u32;
        let (geometry, sizes) = blend_prior(T::TYPE, shape, map, regions, self.weight).unwrap();
        let along = |start: usize, input: u32, output: usize| -> Vec<AxisSample> {
            let of_rect =
                |rect: &Rect| axis_samples(rect[start], rect[start + 2], input, output as u32);
            rects.iter().flat_map(of_rect).collect()
        };
        let mut rows = Buffer::new(&along(0, map.0, self.height));
        let mut columns = Buffer::new(&along(1, map.1, self.width));
        let (mut own, mut maps) = (Buffer::new(own), Buffer::new(maps));
        let mut out = Buffer::<T>::unwritten(own.len());
        let arguments = &mut [
            Arg::input(&mut own),
            Arg::input(&mut maps),
            Arg::input(&mut rows),
            Arg::input(&mut columns),
            Arg::output(&mut out),
            Arg::value(sizes),
        ];
        launch(&geometry, arguments, mode);
        out.to_vec()
    }

    fn check<T: Element>(self) {
        let what = format!("{:?} {self:?}", T::TYPE);
        let samples = RECTS.len() * self.maps;
        let own: Vec<T> = uniform(1, samples * self.len());
        let maps: Vec<T> = uniform(2, self.maps * self.map_len());
        let out = self.blended(&own, &maps, &RECTS, Mode::ALL[0]);
        let weight = f64::from(self.weight);
        let reference: Vec<f64> = own
            .iter()
            .enumerate()
            .map(|(index, own)| {
                let (sample, place) = (index / self.len(), index % self.len());
                let map = &maps[sample / RECTS.len() * self.map_len()..][..self.map_len()];
                let prior = self.prior(map, RECTS[sample % RECTS.len()], place);
                (1.0 - weight) * own.widen() + weight * prior
            })
            .collect();
        let bar = if T::TYPE == ElementType::F32 { 1e-5 } else { 2e-3 };
        assert_close(&what, &out, &reference, bar);
        for mode in &Mode::ALL[1..] {
            assert_eq!(self.blended(&own, &maps, &RECTS, *mode), out, "{what} {mode:?}");
        }
        // A region alone, of the first map, gives the same bytes.
        let alone = Shape { maps: 1, ..self };
        for (region, rect) in RECTS.iter().enumerate() {
            let values = region * self.len()..(region + 1) * self.len();
            let map = &maps[..self.map_len()];
            let own = alone.blended(&own[values.clone()], map, &[*rect], Mode::ALL[0]);
            assert_eq!(own, out[values], "{what}: region {region} alone");
        }
    }
}

fn every_shape<T: Element>() {
    let shape = Shape { height: 8, width: 8, channels: 64, map: (6, 9), maps: 1, weight: 0.5 };
    shape.check::<T>();
    Shape { maps: 2, weight: 0.3, ..shape }.check::<T>();
    Shape { channels: 37, height: 3, width: 5, weight: 1.0, ..shape }.check::<T>();
    Shape { channels: 20, map: (1, 1), weight: 0.8, ..shape }.check::<T>();
    Shape { height: 1, width: 1, channels: 1, maps: 2, ..shape }.check::<T>();
    Shape { channels: 640, height: 2, width: 3, map: (4, 4), ..shape }.check::<T>();
}

/// Maps of the output's size are blended pixel by pixel, without tables of places.
fn in_place<T: Element>(channels: usize) {
    let (samples, maps, height, width) = (4, 2, 3, 5);
    let len = height * width * channels;
    let (own, prior): (Vec<T>, Vec<T>) = (uniform(1, samples * len), uniform(2, maps * len));
    let shape = (samples as u32, height as u32, width as u32, channels as u32);
    let map = (height as u32, width as u32);
    let regions = (samples / maps) as u32;
    let (geometry, sizes) = blend_prior(T::TYPE, shape, map, regions, 0.3).unwrap();
    let sizes = BlendSizes { in_place: 1, ..sizes };
    let run = |mode| {
        let (mut own, mut prior) = (Buffer::new(&own), Buffer::new(&prior));
        let mut out = Buffer::<T>::unwritten(own.len());
        let arguments = &mut [
            Arg::input(&mut own),
            Arg::input(&mut prior),
            Arg::Null,
            Arg::Null,
            Arg::output(&mut out),
            Arg::value(sizes),
        ];
        launch(&geometry, arguments, mode);
        out.to_vec()
    };
    let out = run(Mode::ALL[0]);
    let reference: Vec<f64> = (0..samples * len)
        .map(|at| {
            let map = at / len / (samples / maps);
            0.7 * own[at].widen() + 0.3 * prior[map * len + at % len].widen()
        })
        .collect();
    let bar = if T::TYPE == ElementType::F32 { 1e-6 } else { 2e-3 };
    assert_close(&format!("in place, {channels} channels"), &out, &reference, bar);
    for mode in &Mode::ALL[1..] {
        assert_eq!(run(*mode), out, "{mode:?}");
    }
}

#[test]
fn maps_of_the_outputs_size_are_blended_in_place() {
    for channels in [64, 9] {
        in_place::<bf16>(channels);
        in_place::<f16>(channels);
        in_place::<f32>(channels);
    }
}

#[test]
fn priors_are_bilinear_samples_of_their_map_in_bf16() {
    every_shape::<bf16>();
}

#[test]
fn priors_are_bilinear_samples_of_their_map_in_f16() {
    every_shape::<f16>();
}

#[test]
fn priors_are_bilinear_samples_of_their_map_in_f32() {
    every_shape::<f32>();
}

#[test]
fn what_a_grid_cannot_count_has_no_launch() {
    let of = |samples, height| {
        blend_prior(ElementType::Bf16, (samples, height, 1 << 10, 1 << 10), (8, 8), 1, 0.5)
    };
    assert!(of(1, 1 << 10).is_some());
    assert!(of(65536, 1).is_none() && of(1, 1 << 11).is_none());
}
