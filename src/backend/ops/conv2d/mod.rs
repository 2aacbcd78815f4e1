//! Two-dimensional convolution on channels-last activations.

mod cpu;
mod cuda;
mod launch;
mod launch_metal;
mod metal;
mod narrow;

use std::ops::Range;

use candle_core::{Result, Tensor};

use super::{Linear, OpForm, add_all, form, plain_cost, upsample_nearest_2x};
use crate::backend::{
    Activation, MatmulPrecision, Operation, Params, Trace, Weight, WeightStorage, WeightUse,
    cpu::{Epilogue, product::scratch_values},
    weight::Values,
};

/// A square-kernel convolution (`torch.nn.Conv2d`, zero padding) whose weight is laid out once at
/// load, so that a call is one matrix product with the pixels under the kernel. On the CPU the weight
/// may be kept in 16 bits.
#[derive(Clone, Debug)]
pub struct Conv2d(ConvLayer);

#[derive(Clone, Debug)]
enum ConvLayer {
    /// a 1×1 kernel at every pixel: a dense layer over the channels
    Pointwise(Linear),
    Windowed(Windowed),
}

/// A convolution with a kernel of more than one pixel, or with a stride.
#[derive(Clone, Debug)]
struct Windowed {
    weight: Weight,
    bias: Option<Tensor>,
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// Operations fused with a convolution: a change of its input, and an epilogue on its output.
#[derive(Clone, Copy, Default)]
struct Fused<'a> {
    /// height and width of the doubled picture, of which a last line may be left out
    doubled: Option<(usize, usize)>,
    /// `[B, out]`, added to every pixel of a sample
    shift: Option<&'a Activation>,
    /// summand of the output
    other: Option<&'a Activation>,
}

impl Fused<'_> {
    /// The picture that the kernel moves over, as an activation of its own.
    fn picture(&self, x: &Activation) -> Result<Activation> {
        match self.doubled {
            Some(size) => doubled(x, size),
            None => Ok(x.clone()),
        }
    }
}

fn is_pointwise(kernel: usize, stride: usize, padding: usize) -> bool {
    kernel == 1 && stride == 1 && padding == 0
}

impl Conv2d {
    /// Builds it from a weight in checkpoint layout, `[out, in, k, k]`, and a bias `[out]`.
    ///
    /// # Errors
    /// A kernel that is not square.
    pub fn new(
        weight: &Tensor,
        bias: Option<Tensor>,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let kernel = weight.dim(3)?;
        if is_pointwise(kernel, stride, padding) {
            return Ok(Self(ConvLayer::Pointwise(Linear::new(weight, bias)?)));
        }
        let weight = Weight::from_tensor(weight, WeightUse::Kernel, MatmulPrecision::F32)?;
        Self::windowed(weight, bias, kernel, stride, padding)
    }

    fn windowed(
        weight: Weight,
        bias: Option<Tensor>,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let bias = bias.map(|bias| bias.contiguous()).transpose()?;
        Ok(Self(ConvLayer::Windowed(Windowed { weight, bias, kernel, stride, padding })))
    }

    /// Reads `weight` and `bias` below `vb`.
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load(
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        vb: &Params,
    ) -> Result<Self> {
        let bias = Some(vb.get(output, "bias")?);
        Self::read((output, input, kernel), bias, stride, padding, vb)
    }

    /// Reads `weight` alone below `vb` (`bias=False`).
    ///
    /// # Errors
    /// A tensor that is missing or of another shape.
    pub fn load_no_bias(
        input: usize,
        output: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
        vb: &Params,
    ) -> Result<Self> {
        Self::read((output, input, kernel), None, stride, padding, vb)
    }

    fn read(
        (output, input, kernel): (usize, usize, usize),
        bias: Option<Tensor>,
        stride: usize,
        padding: usize,
        vb: &Params,
    ) -> Result<Self> {
        let shape = (output, input, kernel, kernel);
        if is_pointwise(kernel, stride, padding) {
            let weight = vb.weight(shape, "weight", WeightUse::Matrix)?;
            return Ok(Self(ConvLayer::Pointwise(Linear::from_weight(weight, bias)?)));
        }
        let weight = vb.weight(shape, "weight", WeightUse::Kernel)?;
        Self::windowed(weight, bias, kernel, stride, padding)
    }

    /// `[B, H, W, in]` → `[B, H', W', out]`, `H' = (H + 2·padding − k)/stride + 1`.
    ///
    /// # Errors
    /// Another channel count, an input smaller than the kernel, or those of the backend.
    pub fn forward(&self, x: &Activation) -> Result<Activation> {
        self.compute(x, Fused::default())
    }

    /// `forward(x) + other`, of which `other` has the output's shape: a residual connection.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or another shape.
    pub fn forward_add(&self, x: &Activation, other: &Activation) -> Result<Activation> {
        self.compute(x, Fused { other: Some(other), ..Fused::default() })
    }

    /// `forward(x) + shift`, of which `shift` is `[B, out]` and the same for every pixel.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or another shape.
    pub fn forward_shift(&self, x: &Activation, shift: &Activation) -> Result<Activation> {
        self.compute(x, Fused { shift: Some(shift), ..Fused::default() })
    }

    /// `forward(upsample_nearest_2x(x))`, but of the doubled picture only `height` × `width` pixels:
    /// all, or all but the last line or column.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or another size.
    pub fn forward_doubled(
        &self,
        x: &Activation,
        height: usize,
        width: usize,
    ) -> Result<Activation> {
        self.compute(x, Fused { doubled: Some((height, width)), ..Fused::default() })
    }

    fn compute(&self, x: &Activation, fused: Fused) -> Result<Activation> {
        let (_, height, width, channels) = x.dims4()?;
        if let Some((wanted_height, wanted_width)) = fused.doubled
            && (wanted_height.div_ceil(2) != height || wanted_width.div_ceil(2) != width)
        {
            candle_core::bail!("conv2d: {:?} is not doubled to that size", x.shape());
        }
        match &self.0 {
            ConvLayer::Windowed(layer) => layer.forward(x, fused),
            ConvLayer::Pointwise(linear) => {
                let (_, input) = linear.dims();
                if channels != input {
                    candle_core::bail!(
                        "conv2d: {:?} does not fit a 1×1 kernel over {input} channels",
                        x.shape()
                    );
                }
                let x = &fused.picture(x)?;
                let y = match fused.other {
                    Some(other) => linear.forward_add(x, other),
                    None => linear.forward(x),
                }?;
                match fused.shift {
                    Some(shift) => y.broadcast_add(&shift.unsqueeze(1)?.unsqueeze(1)?),
                    None => Ok(y),
                }
            }
        }
    }
}

impl Windowed {
    fn forward(&self, x: &Activation, fused: Fused) -> Result<Activation> {
        let (batch, height, width, channels) = x.dims4()?;
        let (output, inner) = self.weight.dims();
        let (kernel, stride, padding) = (self.kernel, self.stride, self.padding);
        let picture = fused.doubled.unwrap_or((height, width));
        let least = picture.0.min(picture.1) + 2 * padding;
        if inner != kernel * kernel * channels || least < kernel {
            candle_core::bail!(
                "conv2d: {:?} does not fit a {kernel}×{kernel} kernel over {} channels",
                x.shape(),
                inner / (kernel * kernel)
            );
        }
        let window = Window { kernel, stride, padding, doubled: fused.doubled.is_some(), picture };
        let (out_height, out_width) = window.output();
        let shape = [batch, out_height, out_width, output];
        if let Some(trace) = x.trace() {
            trace.multiply((batch * out_height * out_width * output) as f64 * inner as f64);
        }
        if let Some(other) = fused.other
            && other.dims() != shape
        {
            candle_core::bail!("conv2d: {:?} cannot be added to {shape:?}", other.shape());
        }
        let bias = match (&self.bias, fused.shift) {
            (Some(bias), Some(shift)) => Some(shift.broadcast_add(&bias.into())?),
            (Some(bias), None) => Some(bias.into()),
            (None, shift) => shift.cloned(),
        };
        let form = form(Operation::Conv2d, [x]);
        if let WeightStorage::Dense(_) = self.weight.storage() {
            let own = match form {
                OpForm::Cuda => {
                    let weight = self.weight.dense(x.trace())?;
                    cuda::conv2d(x, &weight, bias.as_ref(), fused.other, window)?
                }
                OpForm::Metal => {
                    let weight = self.weight.dense(x.trace())?;
                    metal::conv2d(x, &weight, bias.as_ref(), fused.other, window)?
                }
                _ => None,
            };
            if let Some(y) = own {
                return Ok(y);
            }
            return self.composed(&fused.picture(x)?, window, bias.as_ref(), fused.other);
        }
        match form {
            OpForm::Cpu => {
                let bias = bias.as_ref().map(Activation::tensor).transpose()?;
                let other = fused.other.map(Activation::tensor).transpose()?;
                let epilogue = Epilogue { bias, other };
                match self.weight.values() {
                    Values::Panels(weight) => cpu::conv2d(x.tensor()?, weight, epilogue, window),
                    Values::Narrow(weight) => {
                        let picture = fused.picture(x)?;
                        let window = Window { doubled: false, ..window };
                        narrow::narrow(picture.tensor()?, weight, epilogue, window)
                    }
                    _ => candle_core::bail!("conv2d: a weight that has not been loaded"),
                }
                .map(Activation::from)
            }
            OpForm::CpuCost(trace) => self.cost(trace, x, bias.as_ref(), fused, shape),
            OpForm::Cuda | OpForm::Metal | OpForm::Composed => {
                candle_core::bail!("conv2d: a weight for f32 on the CPU, not for {:?}", x.dtype())
            }
        }
    }

    /// Counts the kernel's scratch memory: a buffer of each thread, or, with few outputs, the doubled picture.
    fn cost(
        &self,
        trace: &Trace,
        x: &Activation,
        bias: Option<&Activation>,
        fused: Fused,
        shape: [usize; 4],
    ) -> Result<Activation> {
        let [batch, height, width, output] = shape;
        let inputs: Vec<_> = [Some(x), fused.other].into_iter().flatten().collect();
        let Some(blocks) = self.weight.storage().blocks() else {
            let _picture = fused.picture(x)?;
            return plain_cost(trace, &inputs, &shape[..]);
        };
        let own_bias = batch > 1 && bias.is_some_and(|bias| bias.rank() == 2);
        let samples = if own_bias { batch } else { 1 };
        trace.scratch(scratch_values(batch * height * width, samples, output, blocks));
        plain_cost(trace, &inputs, &shape[..])
    }

    /// The composed form: the pixels under the kernel side by side, and one product.
    fn composed(
        &self,
        x: &Activation,
        window: Window,
        bias: Option<&Activation>,
        other: Option<&Activation>,
    ) -> Result<Activation> {
        let batch = x.dim(0)?;
        let (output, inner) = self.weight.dims();
        let Window { kernel: k, stride: s, padding: p, .. } = window;
        let (out_h, out_w) = window.output();
        let padded = x.pad_with_zeros(1, p, p)?.pad_with_zeros(2, p, p)?;
        let mut taps = Vec::with_capacity(k * k);
        for dy in 0..k {
            for dx in 0..k {
                taps.push(every_nth(&padded, dy, dx, out_h, out_w, s)?);
            }
        }
        let columns = Activation::cat(&taps, 3)?.reshape((batch * out_h * out_w, inner))?;
        drop((taps, padded));
        let y = columns.matmul(&self.weight.dense(x.trace())?)?;
        drop(columns);
        let bias = match bias {
            Some(bias) if bias.rank() == 2 => Some(bias.reshape((batch, 1, 1, output))?),
            bias => bias.cloned(),
        };
        add_all(y.reshape((batch, out_h, out_w, output))?, bias.as_ref(), other)
    }
}

/// Geometry of a convolution: its kernel, stride and padding, and the picture that it moves over.
#[derive(Clone, Copy, Debug)]
struct Window {
    pub kernel: usize,
    pub stride: usize,
    pub padding: usize,
    /// `true` if every pixel of the input stands for two by two pixels of the picture.
    pub doubled: bool,
    /// Height and width of the picture that the kernel moves over.
    pub picture: (usize, usize),
}

impl Window {
    /// Height and width of the output.
    fn output(&self) -> (usize, usize) {
        let places = |length: usize| (length + 2 * self.padding - self.kernel) / self.stride + 1;
        (places(self.picture.0), places(self.picture.1))
    }

    /// Rows or columns of the kernel that lie on the picture, which has so many, at output pixel `at`.
    fn seen(&self, at: usize, length: usize) -> Range<usize> {
        let start = self.padding.saturating_sub(at * self.stride).min(self.kernel);
        let end = (length + self.padding).saturating_sub(at * self.stride);
        start..end.clamp(start, self.kernel)
    }
}

/// The doubled picture as far as `height` and `width` go.
fn doubled(x: &Activation, (height, width): (usize, usize)) -> Result<Activation> {
    upsample_nearest_2x(x)?.narrow(1, 0, height)?.narrow(2, 0, width)?.contiguous()
}

/// The view of one kernel tap: pixels `(dy + i·s, dx + j·s)` for `i < out_h`, `j < out_w`.
fn every_nth(
    padded: &Activation,
    dy: usize,
    dx: usize,
    out_h: usize,
    out_w: usize,
    s: usize,
) -> Result<Activation> {
    if s == 1 {
        return padded.narrow(1, dy, out_h)?.narrow(2, dx, out_w);
    }
    let (batch, height, width, channels) = padded.dims4()?;
    // A strided view needs whole multiples of the stride: pad the far side by what is missing,
    // with pixels that the narrowing below never selects.
    let far_h = (dy + out_h * s).saturating_sub(height);
    let far_w = (dx + out_w * s).saturating_sub(width);
    padded
        .pad_with_zeros(1, 0, far_h)?
        .pad_with_zeros(2, 0, far_w)?
        .narrow(1, dy, out_h * s)?
        .narrow(2, dx, out_w * s)?
        .contiguous()?
        .reshape((batch, out_h, s, out_w, s * channels))?
        .narrow(2, 0, 1)?
        .narrow(4, 0, channels)?
        .contiguous()?
        .reshape((batch, out_h, out_w, channels))
}
