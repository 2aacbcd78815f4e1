//! Two-dimensional convolution on channels-last activations.

use candle_core::{Result, Tensor};

use super::{Linear, Weight, cpu};
use crate::backend::Params;

/// A square-kernel convolution (`torch.nn.Conv2d`, zero padding) whose weight is re-laid once at
/// load from `[out, in, k, k]` to the matrix `[k·k·in, out]`, so that a call is a gather of rows
/// and one matrix product. On the CPU the weight may be kept in 16 bits.
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
    /// as [`relay`] lays it out
    weight: Tensor,
    bias: Option<Tensor>,
    kernel: usize,
    stride: usize,
    padding: usize,
}

/// A convolution's weight `[out, in, k, k]` → `[k·k·in, out]`, taps in row-major order, input
/// channels innermost.
///
/// # Errors
/// A kernel that is not square.
pub fn relay(weight: &Tensor) -> Result<Tensor> {
    let (output, input, kernel, kernel_w) = weight.dims4()?;
    if kernel != kernel_w {
        candle_core::bail!("conv2d: the kernel of {:?} is not square", weight.shape());
    }
    weight.permute((2, 3, 1, 0))?.contiguous()?.reshape((kernel * kernel * input, output))
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
        let relaid = relay(weight)?;
        if is_pointwise(kernel, stride, padding) {
            return Ok(Self(Form::Pointwise(Linear::new(weight, bias)?)));
        }
        Self::window(relaid, bias, kernel, stride, padding)
    }

    fn window(
        weight: Tensor,
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
        match &self.0 {
            Form::Window(window) => window.forward(x),
            Form::Pointwise(linear) => {
                let (_, _, _, channels) = x.dims4()?;
                let (_, input) = linear.dims()?;
                if channels != input {
                    candle_core::bail!(
                        "conv2d: {:?} does not fit a 1×1 kernel over {input} channels",
                        x.shape()
                    );
                }
                linear.forward(x)
            }
        }
    }
}

impl Window {
    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let (batch, height, width, channels) = x.dims4()?;
        let (rows, output) = self.weight.dims2()?;
        let (k, s, p) = (self.kernel, self.stride, self.padding);
        if rows != k * k * channels || height + 2 * p < k || width + 2 * p < k {
            candle_core::bail!(
                "conv2d: {:?} does not fit a {k}×{k} kernel over {} channels",
                x.shape(),
                rows / (k * k)
            );
        }
        let (out_h, out_w) = ((height + 2 * p - k) / s + 1, (width + 2 * p - k) / s + 1);
        if cpu::takes(x) {
            let window = cpu::Window { kernel: k, stride: s, padding: p };
            return cpu::conv2d(x, &self.weight, self.bias.as_ref(), window, (out_h, out_w));
        }
        let padded = x.pad_with_zeros(1, p, p)?.pad_with_zeros(2, p, p)?;
        let mut taps = Vec::with_capacity(k * k);
        for dy in 0..k {
            for dx in 0..k {
                taps.push(every_nth(&padded, dy, dx, out_h, out_w, s)?);
            }
        }
        let columns = Tensor::cat(&taps, 3)?.reshape((batch * out_h * out_w, rows))?;
        let y = columns.matmul(&self.weight)?;
        let y = match &self.bias {
            Some(bias) => y.broadcast_add(bias)?,
            None => y,
        };
        y.reshape((batch, out_h, out_w, output))
    }
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
