//! The convolution's kernels against sums in f64.

#[path = "../../../src/backend/ops/conv2d/launch.rs"]
mod conv2d_launch;

use conv2d_launch::{Conv2dShape, Cut, Tile};
use kernel_check::{
    Arg, Buffer, Element, Mode, assert_close, backend, bf16, f16, launch, take_conflicts, uniform,
};

const BAR: f64 = 2e-3;

/// A convolution with all its tensors; `other` may be left out, and the bias.
struct Case<T> {
    shape: Conv2dShape,
    x: Vec<T>,
    weight: Vec<T>,
    bias: Option<Vec<T>>,
    other: Option<Vec<T>>,
}

fn shape(
    batch: usize,
    (height, width): (usize, usize),
    channels: usize,
    outputs: usize,
) -> Conv2dShape {
    Conv2dShape {
        batch,
        height,
        width,
        channels,
        outputs,
        kernel: 3,
        stride: 1,
        padding: 1,
        doubled: None,
        own_bias: false,
    }
}

impl<T: Element> Case<T> {
    /// With a bias and a residual.
    fn new(shape: Conv2dShape) -> Self {
        let Conv2dShape { batch, height, width, channels, outputs, kernel, .. } = shape;
        let (out_height, out_width) = shape.output();
        let biases = if shape.own_bias { batch * outputs } else { outputs };
        Self {
            shape,
            x: uniform(1, batch * height * width * channels),
            weight: uniform(2, kernel * kernel * channels * outputs),
            bias: Some(uniform(3, biases)),
            other: Some(uniform(4, batch * out_height * out_width * outputs)),
        }
    }

    /// The sample alone.
    fn sample(&self, index: usize) -> Self {
        let shape = Conv2dShape { batch: 1, ..self.shape };
        let part = |all: &Vec<T>| {
            let len = all.len() / self.shape.batch;
            all[index * len..][..len].to_vec()
        };
        let bias =
            self.bias.as_ref().map(|bias| if shape.own_bias { part(bias) } else { bias.clone() });
        let other = self.other.as_ref().map(part);
        Self { shape, x: part(&self.x), weight: self.weight.clone(), bias, other }
    }

    fn reference(&self) -> Vec<f64> {
        let Conv2dShape {
            batch, height, width, channels, outputs, kernel, stride, padding, ..
        } = self.shape;
        let (out_height, out_width) = self.shape.output();
        let (picture_height, picture_width) = self.shape.doubled.unwrap_or((height, width));
        let shrink = if self.shape.doubled.is_some() { 2 } else { 1 };
        let x: Vec<f64> = self.x.iter().map(|x| x.widen()).collect();
        let weight: Vec<f64> = self.weight.iter().map(|w| w.widen()).collect();
        let mut y = vec![0.0; batch * out_height * out_width * outputs];
        for (row, sums) in y.chunks_mut(outputs).enumerate() {
            let (sample, pixel) = (row / (out_height * out_width), row % (out_height * out_width));
            for tap in 0..kernel * kernel {
                let line = (pixel / out_width * stride + tap / kernel).wrapping_sub(padding);
                let column = (pixel % out_width * stride + tap % kernel).wrapping_sub(padding);
                if line >= picture_height || column >= picture_width {
                    continue;
                }
                let at = (sample * height + line / shrink) * width + column / shrink;
                for channel in 0..channels {
                    let x = x[at * channels + channel];
                    let weights = &weight[(tap * channels + channel) * outputs..][..outputs];
                    for (sum, weight) in sums.iter_mut().zip(weights) {
                        *sum += x * weight;
                    }
                }
            }
            let bias_row = if self.shape.own_bias { sample } else { 0 };
            for (output, sum) in sums.iter_mut().enumerate() {
                *sum += self.bias.as_ref().map_or(0.0, |b| b[bias_row * outputs + output].widen());
                *sum += self.other.as_ref().map_or(0.0, |o| o[row * outputs + output].widen());
            }
        }
        y
    }

    /// The kernels' output.
    fn compute(&self, cut: Cut, mode: Mode) -> Vec<T> {
        let launched = self.shape.launch_cut(cut, T::TYPE).expect("a launch");
        let (out_height, out_width) = self.shape.output();
        let mut x = Buffer::new(&self.x);
        let mut weight = Buffer::new(&self.weight);
        let mut bias = self.bias.as_ref().map(|bias| Buffer::new(bias));
        let mut other = self.other.as_ref().map(|other| Buffer::new(other));
        let mut y =
            Buffer::<T>::unwritten(self.shape.batch * out_height * out_width * self.shape.outputs);
        let mut partial =
            (launched.workspace > 0).then(|| Buffer::<f32>::unwritten(launched.workspace));
        let mut arguments = [
            Arg::input(&mut x),
            Arg::input(&mut weight),
            Arg::maybe(bias.as_mut()),
            Arg::maybe(other.as_mut()),
            Arg::output(&mut y),
            partial.as_mut().map_or(Arg::Null, Arg::output),
            Arg::value(launched.sizes),
        ];
        launch(&launched.conv, &mut arguments, mode);
        if let Some(sum) = launched.sum {
            let mut arguments = [
                Arg::maybe(partial.as_mut()),
                Arg::maybe(bias.as_mut()),
                Arg::maybe(other.as_mut()),
                Arg::output(&mut y),
                Arg::value(launched.sizes),
            ];
            launch(&sum, &mut arguments, mode);
        }
        y.to_vec()
    }

    /// Holds the output of every mode to the reference, and to one another in bytes.
    fn check_cut(&self, cut: Cut) {
        let what = format!("{:?} in {cut:?}", self.shape);
        let first = self.compute(cut, Mode::ALL[0]);
        assert_close(&what, &first, &self.reference(), BAR);
        for mode in &Mode::ALL[1..] {
            assert!(self.compute(cut, *mode) == first, "{what}: other bytes in {mode:?}");
        }
    }

    fn check(&self) {
        self.check_cut(self.shape.cut());
    }
}

const LARGE: Cut = Cut { tile: Tile::Large, parts: 1 };
const SMALL: Cut = Cut { tile: Tile::Small, parts: 1 };

#[test]
fn whole_tiles_and_tails_of_rows_columns_and_words() {
    // 128 pixels and channels are one large tile; 9 · 8 = 72 words leave a tail of either depth.
    for (size, channels, outputs) in [
        ((8, 16), 32, 128),
        ((7, 9), 8, 136),
        ((11, 13), 24, 40),
        ((5, 27), 40, 200),
        ((1, 1), 8, 8),
    ] {
        for cut in [LARGE, SMALL] {
            Case::<bf16>::new(shape(1, size, channels, outputs)).check_cut(cut);
            Case::<f16>::new(shape(2, size, channels, outputs)).check_cut(cut);
        }
    }
}

#[test]
fn channels_that_are_no_multiples_of_eight() {
    for (channels, outputs) in
        [(3, 64), (4, 72), (9, 8), (16, 3), (72, 4), (8, 5), (3, 3), (4, 9), (17, 70)]
    {
        Case::<bf16>::new(shape(2, (6, 11), channels, outputs)).check();
        Case::<f16>::new(shape(1, (9, 9), channels, outputs)).check();
    }
}

#[test]
fn kernels_strides_and_paddings() {
    let base = shape(2, (14, 17), 16, 24);
    let narrow = Conv2dShape { channels: 3, outputs: 10, ..base };
    for (kernel, stride, padding) in
        [(3, 2, 1), (3, 2, 0), (1, 2, 0), (1, 1, 0), (5, 1, 2), (5, 2, 1), (3, 1, 0), (7, 3, 3)]
    {
        for shape in [base, narrow] {
            let case = Case::<bf16>::new(Conv2dShape { kernel, stride, padding, ..shape });
            case.check();
            if shape == base {
                case.check_cut(LARGE);
            }
        }
    }
}

#[test]
fn a_patch_embedding_of_clip() {
    let shape = shape(1, (42, 57), 3, 136);
    Case::<f16>::new(Conv2dShape { kernel: 14, stride: 14, padding: 0, ..shape }).check();
}

#[test]
fn a_doubled_picture() {
    for (channels, outputs) in [(16, 24), (3, 8), (8, 5)] {
        let base = shape(2, (5, 6), channels, outputs);
        for doubled in [(10, 12), (9, 12), (10, 11), (9, 11)] {
            let case = Case::<bf16>::new(Conv2dShape { doubled: Some(doubled), ..base });
            case.check();
            if base.cut() == SMALL && channels == 16 {
                case.check_cut(LARGE);
            }
        }
    }
}

#[test]
fn what_is_added() {
    for (channels, outputs) in [(16, 40), (16, 5)] {
        for own_bias in [false, true] {
            let case = || {
                Case::<bf16>::new(Conv2dShape { own_bias, ..shape(3, (5, 7), channels, outputs) })
            };
            case().check();
            Case { other: None, ..case() }.check();
            Case { bias: None, ..case() }.check();
            Case { bias: None, other: None, ..case() }.check();
        }
    }
}

#[test]
fn sums_in_parts() {
    for (channels, outputs, parts) in [(64, 72, 2), (72, 40, 3), (128, 64, 8), (8, 8, 2)] {
        let own = Conv2dShape { own_bias: true, ..shape(2, (5, 5), channels, outputs) };
        let cut = Cut { tile: Tile::Small, parts };
        Case::<bf16>::new(own).check_cut(cut);
        Case { other: None, bias: None, ..Case::<f16>::new(own) }.check_cut(cut);
    }
    // As a shape asks for it.
    let case = Case::<bf16>::new(shape(1, (4, 4), 128, 64));
    assert!(case.shape.cut().parts > 1);
    case.check();
}

#[test]
fn a_sample_has_the_same_bytes_in_every_batch() {
    let stride = |shape, stride| Conv2dShape { stride, ..shape };
    let shapes = [
        (shape(3, (9, 7), 16, 40), None),
        (stride(shape(3, (9, 7), 16, 136), 2), Some(LARGE)),
        (shape(3, (5, 3), 128, 64), None),
        (shape(3, (7, 7), 4, 24), None),
        (shape(3, (7, 7), 24, 4), None),
    ];
    for (shape, cut) in shapes {
        let case = Case::<bf16>::new(Conv2dShape { own_bias: true, ..shape });
        let cut = cut.unwrap_or(shape.cut());
        let all = case.compute(cut, Mode::ALL[0]);
        for (index, together) in all.chunks(all.len() / 3).enumerate() {
            let alone = case.sample(index).compute(cut, Mode::ALL[0]);
            assert!(alone == together, "sample {index} of {shape:?}");
        }
    }
}

/// What lies under no kernel of an output, or beyond the end of a sum, is not multiplied by zero instead.
#[test]
fn an_infinity_reaches_the_outputs_that_see_it_and_no_other() {
    for (channels, outputs) in [(8, 16), (3, 16), (8, 5), (3, 5)] {
        let mut case = Case::<bf16>::new(shape(1, (9, 11), channels, outputs));
        let (line, column) = (4, 6);
        case.x[(line * 11 + column) * channels + 1] = bf16::INFINITY;
        for cut in [LARGE, SMALL] {
            if cut == LARGE && (channels, outputs) != (8, 16) {
                continue;
            }
            let y = case.compute(cut, Mode::ALL[0]);
            for (pixel, values) in y.chunks(outputs).enumerate() {
                let sees = (pixel / 11).abs_diff(line) <= 1 && (pixel % 11).abs_diff(column) <= 1;
                assert!(values.iter().all(|y| y.is_finite() != sees), "pixel {pixel} in {cut:?}");
            }
        }
    }
}

#[test]
fn no_rows_fall_into_the_same_banks() {
    let case = Case::<bf16>::new(shape(1, (9, 15), 40, 136));
    for cut in [LARGE, SMALL] {
        take_conflicts();
        case.compute(cut, Mode::ALL[0]);
        assert_eq!(take_conflicts(), 0, "{cut:?}");
    }
}

/// A block of SDXL's UNet at a sixteenth of its channels, as the program launches it.
#[test]
fn shapes_like_those_of_sdxl() {
    let down = Conv2dShape { stride: 2, ..shape(1, (32, 32), 40, 40) };
    let up = Conv2dShape { doubled: Some((32, 32)), ..shape(1, (16, 16), 80, 80) };
    let shift = Conv2dShape { own_bias: true, ..shape(2, (16, 16), 80, 40) };
    for shape in [shape(1, (32, 32), 4, 40), down, up, shift, shape(1, (32, 32), 40, 4)] {
        Case::<bf16>::new(shape).check();
    }
}

/// So many outputs that the program takes large tiles.
#[test]
fn a_large_map() {
    let case = Case::<bf16>::new(shape(1, (72, 64), 16, 200));
    assert_eq!(case.shape.cut(), LARGE);
    case.check();
}
