//! Two-dimensional convolution on channels-last activations.

use candle_core::{Result, Tensor};

use super::{
    Linear, Products, cpu,
    weight::{Kept, Weight},
};
use crate::backend::Params;

/// A square-kernel convolution (`torch.nn.Conv2d`, zero padding) whose weight is laid out once at
/// load, so that a call is one matrix product with the pixels under the kernel. On the CPU the weight
/// may be kept in 16 bits.
#[derive(Clone, Debug)]
pub struct Conv2d(Form);

#[derive(Clone, Debug)]
enum Form {
    /// a 1×1 kernel at every pixel: a dense layer over the channels
    Pointwise(Linear),
    Window(Window),
}

#[derive(Clone, Debug)]
struct Window {
    weight: Weight,
    bias: Option<Tensor>,
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// What is computed beside a convolution.
#[derive(Clone, Copy, Default)]
struct Beside<'a> {
    /// height and width of the doubled picture, of which a last line may be left out
    doubled: Option<(usize, usize)>,
    /// `[B, out]`, added to every pixel of a sample
    shift: Option<&'a Tensor>,
    /// added to the output
    other: Option<&'a Tensor>,
}

impl Beside<'_> {
    /// The picture that the kernel moves over, as a tensor of its own.
    fn picture(&self, x: &Tensor) -> Result<Tensor> {
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
    /// From a weight in checkpoint layout, `[out, in, k, k]`, and a bias `[out]`.
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
            return Ok(Self(Form::Pointwise(Linear::new(weight, bias)?)));
        }
        let weight = Weight::kernel(weight, weight.dtype(), Products::F32)?;
        Self::window(weight, bias, kernel, stride, padding)
    }

    fn window(
        weight: Weight,
        bias: Option<Tensor>,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        let bias = bias.map(|bias| bias.contiguous()).transpose()?;
        Ok(Self(Form::Window(Window { weight, bias, kernel, stride, padding })))
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
            let weight: Weight = vb.matrix(shape, "weight")?;
            return Ok(Self(Form::Pointwise(Linear::from_weight(weight, bias)?)));
        }
        Self::window(vb.kernel(shape, "weight")?, bias, kernel, stride, padding)
    }

    /// `[B, H, W, in]` → `[B, H', W', out]`, `H' = (H + 2·padding − k)/stride + 1`.
    ///
    /// # Errors
    /// Another channel count, an input smaller than the kernel, or those of the backend.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        self.compute(x, Beside::default())
    }

    /// `forward(x) + other`, of which `other` has the output's shape: a residual connection.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or another shape.
    pub fn forward_add(&self, x: &Tensor, other: &Tensor) -> Result<Tensor> {
        self.compute(x, Beside { other: Some(other), ..Beside::default() })
    }

    /// `forward(x) + shift`, of which `shift` is `[B, out]` and the same for every pixel.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or another shape.
    pub fn forward_shift(&self, x: &Tensor, shift: &Tensor) -> Result<Tensor> {
        self.compute(x, Beside { shift: Some(shift), ..Beside::default() })
    }

    /// `forward(upsample_nearest_2x(x))`, but of the doubled picture only `height` × `width` pixels:
    /// all, or all but the last line or column.
    ///
    /// # Errors
    /// As [`forward`](Self::forward), or another size.
    pub fn forward_doubled(&self, x: &Tensor, height: usize, width: usize) -> Result<Tensor> {
        self.compute(x, Beside { doubled: Some((height, width)), ..Beside::default() })
    }

    fn compute(&self, x: &Tensor, beside: Beside) -> Result<Tensor> {
        let (_, height, width, channels) = x.dims4()?;
        if let Some((wanted_height, wanted_width)) = beside.doubled
            && (wanted_height.div_ceil(2) != height || wanted_width.div_ceil(2) != width)
        {
            candle_core::bail!("conv2d: {:?} is not doubled to that size", x.shape());
        }
        match &self.0 {
            Form::Window(window) => window.forward(x, beside),
            Form::Pointwise(linear) => {
                let (_, input) = linear.dims()?;
                if channels != input {
                    candle_core::bail!(
                        "conv2d: {:?} does not fit a 1×1 kernel over {input} channels",
                        x.shape()
                    );
                }
                let x = &beside.picture(x)?;
                let y = match beside.other {
                    Some(other) => linear.forward_add(x, other),
                    None => linear.forward(x),
                }?;
                match beside.shift {
                    Some(shift) => y.broadcast_add(&shift.unsqueeze(1)?.unsqueeze(1)?),
                    None => Ok(y),
                }
            }
        }
    }
}

impl Window {
    fn forward(&self, x: &Tensor, beside: Beside) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let (output, inner) = self.weight.dims()?;
        let (k, s, p) = (self.kernel, self.stride, self.padding);
        let (height, width) = beside.doubled.unwrap_or((height, width));
        if inner != k * k * channels || height + 2 * p < k || width + 2 * p < k {
            candle_core::bail!(
                "conv2d: {:?} does not fit a {k}×{k} kernel over {} channels",
                x.shape(),
                inner / (k * k)
            );
        }
        let bias = match (&self.bias, beside.shift) {
            (Some(bias), Some(shift)) => Some(shift.broadcast_add(bias)?),
            (bias, shift) => bias.as_ref().or(shift).cloned(),
        };
        let window = |doubled| {
            let picture = (height, width);
            cpu::Window { kernel: k, stride: s, padding: p, doubled, picture }
        };
        let weight = match self.weight.kept() {
            Kept::Panels(weight) if cpu::takes(x) => {
                let window = window(beside.doubled.is_some());
                return cpu::conv2d(x, weight, bias.as_ref(), beside.other, window);
            }
            Kept::Narrow(weight) if cpu::takes(x) => {
                let x = &beside.picture(x)?;
                return cpu::narrow(x, weight, bias.as_ref(), beside.other, window(false));
            }
            Kept::Dense(weight) => weight,
            _ => candle_core::bail!("conv2d: a weight for f32 on the CPU, not for {:?}", x.dtype()),
        };
        let x = &beside.picture(x)?;
        let (out_h, out_w) = ((height + 2 * p - k) / s + 1, (width + 2 * p - k) / s + 1);
        let padded = x.pad_with_zeros(1, p, p)?.pad_with_zeros(2, p, p)?;
        let mut taps = Vec::with_capacity(k * k);
        for dy in 0..k {
            for dx in 0..k {
                taps.push(every_nth(&padded, dy, dx, out_h, out_w, s)?);
            }
        }
        let columns = Tensor::cat(&taps, 3)?.reshape((batch * out_h * out_w, inner))?;
        let y = columns.matmul(weight)?.reshape((batch, out_h, out_w, output))?;
        let y = match bias {
            Some(bias) if bias.rank() == 2 => {
                y.broadcast_add(&bias.reshape((batch, 1, 1, output))?)?
            }
            Some(bias) => y.broadcast_add(&bias)?,
            None => y,
        };
        match beside.other {
            Some(other) => y + other,
            None => Ok(y),
        }
    }
}

/// The doubled picture as far as `height` and `width` go.
fn doubled(x: &Tensor, (height, width): (usize, usize)) -> Result<Tensor> {
    upsample_nearest_2x(x)?.narrow(1, 0, height)?.narrow(2, 0, width)?.contiguous()
}

/// The view of one kernel tap: pixels `(dy + i·s, dx + j·s)` for `i < out_h`, `j < out_w`.
fn every_nth(
    padded: &Tensor,
    dy: usize,
    dx: usize,
    out_h: usize,
    out_w: usize,
    s: usize,
) -> Result<Tensor> {
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

/// Every pixel twice in both directions: `[B, H, W, C]` → `[B, 2H, 2W, C]`
/// (`torch.nn.functional.interpolate(scale_factor=2, mode="nearest")`).
///
/// # Errors
/// Those of the backend.
pub fn upsample_nearest_2x(x: &Tensor) -> Result<Tensor> {
    let (batch, height, width, channels) = x.dims4()?;
    if cpu::takes(x) {
        return cpu::upsample_nearest_2x(x);
    }
    x.contiguous()?
        .reshape((batch, height, 1, width, 1, channels))?
        .broadcast_as((batch, height, 2, width, 2, channels))?
        .contiguous()?
        .reshape((batch, 2 * height, 2 * width, channels))
}
