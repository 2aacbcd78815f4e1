//! Convolution.

use kernel_check::{
    Arg, Buffer, Element, Mode, assert_close, backend::launch::Launch, f16, uniform,
};

use crate::{
    bar, bits,
    conv2d_launch::{Bias, Conv2dForm, Conv2dShape, conv2d},
    element, in_every_mode, launch,
};

const PLAIN: Conv2dShape = Conv2dShape {
    batch: 1,
    size: (5, 7),
    channels: 8,
    outputs: 12,
    side: 3,
    stride: 1,
    padding: 1,
    doubled: None,
    bias: Bias::None,
    other: false,
};

/// Kernel of a convolution with its inputs.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kernel {
    Large,
    Small,
    Plain,
}

struct Inputs<T> {
    x: Vec<T>,
    weight: Vec<T>,
    bias: Vec<T>,
    other: Vec<T>,
}

fn picture(shape: &Conv2dShape) -> (u32, u32) {
    shape.doubled.unwrap_or(shape.size)
}

fn out_size(shape: &Conv2dShape) -> (usize, usize) {
    let places = |length| ((length + 2 * shape.padding - shape.side) / shape.stride + 1) as usize;
    let (height, width) = picture(shape);
    (places(height), places(width))
}

fn inputs<T: Element>(shape: &Conv2dShape) -> Inputs<T> {
    let Conv2dShape { batch, size, channels, outputs, side, .. } = *shape;
    let (out_height, out_width) = out_size(shape);
    let samples = batch as usize;
    let pixels = (size.0 * size.1) as usize;
    let biases = if shape.bias == Bias::OfSample { samples } else { 1 };
    Inputs {
        x: uniform(1, samples * pixels * channels as usize),
        weight: uniform(2, (side * side * channels * outputs) as usize),
        bias: uniform(3, biases * outputs as usize),
        other: uniform(4, samples * out_height * out_width * outputs as usize),
    }
}

impl<T: Element> Inputs<T> {
    fn run(&self, shape: &Conv2dShape, kernel: Kernel, aligned: bool, mode: Mode) -> Vec<T> {
        let form = if kernel == Kernel::Plain { Conv2dForm::Plain } else { Conv2dForm::Matrices };
        let (own, sizes) = conv2d(element::<T>(), form, shape, aligned);
        let pixels = sizes.out_height * sizes.out_width;
        let tiled = |tile: u32, names| Launch {
            kernel: element::<T>().kernel(names),
            grid: [shape.outputs.div_ceil(tile), pixels.div_ceil(tile), shape.batch],
            ..own
        };
        // The program takes small tiles for all but large pictures.
        let geometry = match kernel {
            Kernel::Plain => own,
            Kernel::Large => tiled(64, ["conv2d_64_f16", "conv2d_64_f32"]),
            Kernel::Small => tiled(32, ["conv2d_32_f16", "conv2d_32_f32"]),
        };
        let len = shape.batch as usize * pixels as usize * shape.outputs as usize;
        let mut y = Buffer::unwritten(len);
        // What is not there is not touched.
        let bias = if shape.bias == Bias::None { &[][..] } else { &self.bias };
        let other = if shape.other { &self.other[..] } else { &[] };
        launch(
            &geometry,
            &mut [
                Arg::input(&mut Buffer::new(&self.x)),
                Arg::input(&mut Buffer::new(&self.weight)),
                Arg::input(&mut Buffer::new(bias)),
                Arg::input(&mut Buffer::new(other)),
                Arg::output(&mut y),
                Arg::value(sizes),
            ],
            mode,
        );
        y.to_vec()
    }

    fn reference(&self, shape: &Conv2dShape) -> Vec<f64> {
        let (rows, columns) = out_size(shape);
        let (height, width) = (shape.size.0 as usize, shape.size.1 as usize);
        let (picture_height, picture_width) = picture(shape);
        let [channels, outputs, side, stride] =
            [shape.channels, shape.outputs, shape.side, shape.stride].map(|n| n as usize);
        let factor = if shape.doubled.is_some() { 2 } else { 1 };
        // Row or column of the input under a tap, if it is there.
        let under = |at: usize, tap: usize, length: u32| {
            let place = (at * stride + tap).checked_sub(shape.padding as usize)?;
            (place < length as usize).then_some(place / factor)
        };
        let mut y = Vec::new();
        for sample in 0..shape.batch as usize {
            for place in 0..rows * columns {
                let (row, column) = (place / columns, place % columns);
                for output in 0..outputs {
                    let mut sum = match shape.bias {
                        Bias::None => 0.0,
                        Bias::OfLayer => self.bias[output].widen(),
                        Bias::OfSample => self.bias[sample * outputs + output].widen(),
                    };
                    for tap in 0..side * side {
                        let at_row = under(row, tap / side, picture_height);
                        let at_column = under(column, tap % side, picture_width);
                        let (Some(i), Some(j)) = (at_row, at_column) else { continue };
                        let pixel = &self.x[((sample * height + i) * width + j) * channels..];
                        for (channel, x) in pixel[..channels].iter().enumerate() {
                            let weight = self.weight[(tap * channels + channel) * outputs + output];
                            sum += x.widen() * weight.widen();
                        }
                    }
                    if shape.other {
                        sum += self.other[y.len()].widen();
                    }
                    y.push(sum);
                }
            }
        }
        y
    }
}

fn check<T: Element>(shape: &Conv2dShape, kernel: Kernel, aligned: bool) {
    let what = format!("{:?} {kernel:?} {shape:?} aligned {aligned}", element::<T>());
    let inputs = inputs::<T>(shape);
    let y = in_every_mode(&what, |mode| inputs.run(shape, kernel, aligned, mode));
    assert_close(&what, &y, &inputs.reference(shape), bar::<T>());
}

fn check_all(shape: &Conv2dShape) {
    for kernel in [Kernel::Large, Kernel::Small, Kernel::Plain] {
        check::<f16>(shape, kernel, true);
        check::<f32>(shape, kernel, true);
    }
}

#[test]
fn whole_tiles_and_tails_of_pixels_and_channels() {
    for (size, channels, outputs) in
        [((8, 8), 32, 64), ((9, 15), 36, 68), ((1, 1), 4, 4), ((13, 5), 44, 100)]
    {
        check_all(&Conv2dShape { size, channels, outputs, bias: Bias::OfLayer, ..PLAIN });
    }
}

#[test]
fn channels_that_are_no_whole_runs() {
    for (channels, outputs) in [(3, 5), (1, 1), (5, 8), (8, 3), (37, 66)] {
        check_all(&Conv2dShape { channels, outputs, other: true, ..PLAIN });
    }
}

#[test]
fn buffers_that_begin_anywhere_give_the_same_bytes() {
    let shape = Conv2dShape { bias: Bias::OfLayer, other: true, channels: 20, ..PLAIN };
    let inputs = inputs::<f16>(&shape);
    for kernel in [Kernel::Large, Kernel::Small, Kernel::Plain] {
        check::<f16>(&shape, kernel, false);
        let of = |aligned| inputs.run(&shape, kernel, aligned, Mode::ALL[0]);
        assert_eq!(bits(&of(false)), bits(&of(true)));
    }
}

#[test]
fn kernels_of_any_side_stride_and_padding() {
    for (side, stride, padding) in
        [(3, 2, 1), (3, 2, 0), (1, 1, 0), (1, 2, 0), (2, 2, 0), (5, 1, 2), (4, 3, 2), (7, 2, 5)]
    {
        let shape = Conv2dShape { size: (10, 9), side, stride, padding, ..PLAIN };
        check_all(&Conv2dShape { bias: Bias::OfLayer, ..shape });
    }
}

#[test]
fn a_doubled_picture_whole_and_without_its_last_lines() {
    for doubled in [(10, 14), (9, 13), (10, 13), (9, 14)] {
        for (side, stride, padding) in [(3, 1, 1), (3, 2, 1), (1, 1, 0)] {
            let doubled = Some(doubled);
            check_all(&Conv2dShape { doubled, side, stride, padding, ..PLAIN });
        }
    }
}

#[test]
fn a_sample_has_the_same_bytes_alone_and_in_a_batch() {
    for (bias, other) in [(Bias::OfSample, true), (Bias::OfLayer, false)] {
        let shape = Conv2dShape { batch: 3, size: (9, 8), outputs: 70, bias, other, ..PLAIN };
        check_all(&shape);
        let all = inputs::<f16>(&shape);
        for kernel in [Kernel::Large, Kernel::Small, Kernel::Plain] {
            let y = all.run(&shape, kernel, true, Mode::ALL[0]);
            for sample in 0..3 {
                let part = |values: &[f16]| {
                    let len = values.len() / 3;
                    values[sample * len..][..len].to_vec()
                };
                let own = Inputs {
                    x: part(&all.x),
                    weight: all.weight.clone(),
                    bias: if bias == Bias::OfSample { part(&all.bias) } else { all.bias.clone() },
                    other: part(&all.other),
                };
                let alone = own.run(&Conv2dShape { batch: 1, ..shape }, kernel, true, Mode::ALL[0]);
                assert_eq!(bits(&alone), bits(&part(&y)), "{kernel:?}, sample {sample}");
            }
        }
    }
}

#[test]
fn large_pictures_take_large_tiles_whatever_the_batch() {
    let of = |shape: &Conv2dShape| conv2d(element::<f16>(), Conv2dForm::Matrices, shape, true).0;
    let wide = Conv2dShape { size: (64, 64), channels: 320, outputs: 320, ..PLAIN };
    for batch in [1, 8] {
        let large = of(&Conv2dShape { batch, ..wide });
        assert_eq!((large.kernel, large.grid), ("conv2d_64_f16", [5, 64, batch]));
        let small = of(&Conv2dShape { batch, size: (8, 8), ..wide });
        assert_eq!((small.kernel, small.grid), ("conv2d_32_f16", [10, 2, batch]));
        let few = of(&Conv2dShape { batch, outputs: 4, ..wide });
        assert_eq!((few.kernel, few.grid), ("conv2d_32_f16", [1, 128, batch]));
    }
}
