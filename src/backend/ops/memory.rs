//! What the operations take of memory: a ledger that a model's forward pass is played through with
//! shapes instead of tensors. It counts what is alive at the worst moment, with what each operation
//! needs beside its input and its output, in the form in which it runs on the device.

use candle_core::{DType, Device};

use super::{Products, attention::SCORE_BYTES, cpu};

/// What a weight with so many inputs and outputs takes, in bytes, that is laid out for the CPU's
/// kernels: in the precision of the products, or, where the weight is kept in 16 bits, in those.
#[must_use]
pub fn matrix_bytes(products: Products, in_16_bits: bool, input: usize, output: usize) -> usize {
    cpu::panels_bytes(products, in_16_bits, input, output)
}

/// The same of a convolution's weight, whose inputs are those of all pixels under its kernel.
#[must_use]
pub fn kernel_bytes(products: Products, in_16_bits: bool, input: usize, output: usize) -> usize {
    cpu::narrow_bytes(input, output)
        .unwrap_or_else(|| cpu::panels_bytes(products, in_16_bits, input, output))
}

/// The bytes of what is alive, and the most there ever was.
///
/// An operation is told the shape of its input, which its caller holds, and gives back its output's
/// shape, which the caller then holds too. A value that is [`drop`](Self::drop)ped stops counting.
#[derive(Clone, Debug)]
pub struct Ledger {
    form: Form,
    /// bytes of a value in the working precision
    element: usize,
    live: usize,
    peak: usize,
    /// values of the largest buffer that a thread of the CPU keeps for itself
    scratch: usize,
}

/// In which of its forms an operation runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// The CPU's kernels in f32.
    Kernels,
    /// Put together from candle's functions.
    Composed,
}

/// The shape of an activation, `[batch, height, width, channels]`; of tokens `[batch, 1, tokens, C]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub channels: usize,
}

impl Extent {
    /// How many numbers it has.
    #[must_use]
    pub fn count(self) -> usize {
        self.batch * self.positions() * self.channels
    }

    /// Pixels or tokens of one sample.
    #[must_use]
    pub fn positions(self) -> usize {
        self.height * self.width
    }

    /// The same with another number of channels.
    #[must_use]
    pub fn with_channels(self, channels: usize) -> Self {
        Self { channels, ..self }
    }

    /// The same of another size.
    #[must_use]
    pub fn with_size(self, height: usize, width: usize) -> Self {
        Self { height, width, ..self }
    }
}

/// A convolution's geometry.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    pub side: usize,
    pub stride: usize,
    pub padding: usize,
}

impl Kernel {
    /// 3 × 3, as it is nearly everywhere.
    pub const SAME: Self = Self { side: 3, stride: 1, padding: 1 };
    /// 1 × 1.
    pub const POINT: Self = Self { side: 1, stride: 1, padding: 0 };
}

impl Ledger {
    /// For a model that computes in `dtype` on `device`.
    #[must_use]
    pub fn new(device: &Device, dtype: DType) -> Self {
        let kernels = device.is_cpu() && dtype == DType::F32;
        Self {
            form: if kernels { Form::Kernels } else { Form::Composed },
            element: dtype.size_in_bytes(),
            live: 0,
            peak: 0,
            scratch: 0,
        }
    }

    /// The bytes of what is alive.
    #[must_use]
    pub fn live(&self) -> usize {
        self.live
    }

    /// The most bytes that were alive.
    #[must_use]
    pub fn peak(&self) -> usize {
        self.peak
    }

    /// The bytes of the buffer that every thread of the CPU keeps once it has needed it.
    #[must_use]
    pub fn scratch_bytes(&self) -> usize {
        self.scratch * size_of::<f32>()
    }

    /// The bytes of a value.
    #[must_use]
    pub fn bytes(&self, extent: Extent) -> usize {
        extent.count() * self.element
    }

    /// A new value.
    pub fn hold(&mut self, extent: Extent) -> Extent {
        self.grow(extent.count() * self.element);
        extent
    }

    /// A value ends.
    pub fn drop(&mut self, extent: Extent) {
        self.live -= extent.count() * self.element;
    }

    /// `bytes` more are alive for a moment.
    pub fn pass(&mut self, bytes: usize) {
        self.peak = self.peak.max(self.live + bytes);
    }

    fn grow(&mut self, bytes: usize) {
        self.live += bytes;
        self.peak = self.peak.max(self.live);
    }

    /// [`Conv2d`](super::Conv2d).
    pub fn conv(&mut self, x: Extent, output: usize, kernel: Kernel) -> Extent {
        let Kernel { side, stride, padding } = kernel;
        if side == 1 && stride == 1 && padding == 0 {
            return self.linear(x, output);
        }
        let size = |length: usize| (length + 2 * padding).saturating_sub(side) / stride + 1;
        let y = x.with_size(size(x.height), size(x.width)).with_channels(output);
        let inner = side * side * x.channels;
        match self.form {
            Form::Kernels => self.product(y),
            Form::Composed => {
                let padded = x.with_size(x.height + 2 * padding, x.width + 2 * padding).count();
                let columns = y.with_channels(inner).count();
                // A strided tap is a copy of its own before they are put together.
                let taps = if stride == 1 { 0 } else { columns };
                let product = padded + columns + 2 * y.count();
                self.pass(self.element * product.max(padded + taps + columns));
            }
        }
        self.hold(y)
    }

    /// [`Linear`](super::Linear).
    pub fn linear(&mut self, x: Extent, output: usize) -> Extent {
        let y = x.with_channels(output);
        match self.form {
            Form::Kernels => self.product(y),
            Form::Composed => self.pass(2 * y.count() * self.element),
        }
        self.hold(y)
    }

    /// [`Linear::forward_add`](super::Linear::forward_add).
    pub fn linear_add(&mut self, x: Extent, output: usize) -> Extent {
        let y = self.linear(x, output);
        if self.form == Form::Composed {
            self.pass(y.count() * self.element);
        }
        y
    }

    /// A product of the kernels with this output.
    fn product(&mut self, y: Extent) {
        self.scratch = self.scratch.max(cpu::scratch_values(y.batch * y.positions()));
    }

    /// [`GroupNorm`](super::GroupNorm), with SiLU or without.
    pub fn group_norm(&mut self, x: Extent) -> Extent {
        if self.form == Form::Kernels {
            let sums = x.batch * cpu::group_norm_bytes(x.positions() * x.channels, x.channels);
            self.pass(x.count() * size_of::<f32>() + sums);
        }
        self.layer_norm(x)
    }

    /// [`LayerNorm`](super::LayerNorm).
    pub fn layer_norm(&mut self, x: Extent) -> Extent {
        if self.form == Form::Composed {
            // In f32: the values, twice centred, and the steps after that.
            self.pass(6 * x.count() * size_of::<f32>());
        }
        self.hold(x)
    }

    /// [`attention`](super::attention): `q` tokens that look at `keys`.
    pub fn attention(&mut self, q: Extent, keys: usize, heads: usize) -> Extent {
        match self.form {
            Form::Kernels => {
                let (scratch, laid) = cpu::attention_memory(
                    q.batch,
                    q.positions(),
                    keys,
                    heads,
                    q.channels,
                    Products::F32,
                );
                self.scratch = self.scratch.max(scratch);
                self.pass((q.count() + laid) * size_of::<f32>());
            }
            Form::Composed => {
                let row = q.batch * heads * keys * size_of::<f32>();
                let rows = (SCORE_BYTES / row.max(1)).clamp(1, q.positions().max(1));
                let copies = 3 * q.count() + 2 * q.batch * keys * q.channels;
                // Scores, softmax's three steps, and the weights.
                self.pass(copies * self.element + 5 * rows * row);
            }
        }
        self.hold(q)
    }

    /// A function of every value by itself, or of two.
    pub fn map(&mut self, x: Extent) -> Extent {
        self.hold(x)
    }

    /// [`geglu`](super::geglu).
    pub fn geglu(&mut self, x: Extent) -> Extent {
        let y = x.with_channels(x.channels / 2);
        if self.form == Form::Composed {
            self.pass(3 * y.count() * self.element);
        }
        self.hold(y)
    }

    /// [`swiglu`](super::swiglu).
    pub fn swiglu(&mut self, x: Extent) -> Extent {
        if self.form == Form::Composed {
            self.pass(2 * x.count() * self.element);
        }
        self.hold(x)
    }

    /// [`upsample_nearest_2x`](super::upsample_nearest_2x).
    pub fn upsample(&mut self, x: Extent) -> Extent {
        self.hold(x.with_size(2 * x.height, 2 * x.width))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        Ledger::new(&Device::Cpu, DType::F32)
    }

    #[test]
    fn the_peak_is_what_was_alive_at_once_and_not_the_sum() {
        let mut ledger = ledger();
        let x = ledger.hold(Extent { batch: 2, height: 4, width: 4, channels: 8 });
        let y = ledger.conv(x, 16, Kernel::SAME);
        assert_eq!((y.height, y.width, y.channels), (4, 4, 16));
        ledger.drop(x);
        let z = ledger.conv(y, 8, Kernel { stride: 2, ..Kernel::SAME });
        assert_eq!((z.height, z.width), (2, 2));
        assert_eq!(ledger.peak(), 4 * (x.count() + y.count()));
        assert_eq!(ledger.live, 4 * (y.count() + z.count()));
    }

    #[test]
    fn the_composed_form_counts_the_gathered_columns() {
        let x = Extent { batch: 1, height: 8, width: 8, channels: 4 };
        let peak = |dtype| {
            let mut ledger = Ledger::new(&Device::Cpu, dtype);
            ledger.conv(x, 4, Kernel::SAME);
            ledger.peak()
        };
        assert!(peak(DType::F16) > 9 * x.count() * 2);
        assert_eq!(peak(DType::F32), x.count() * 4);
    }
}
