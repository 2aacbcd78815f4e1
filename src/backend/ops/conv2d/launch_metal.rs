//! Launches of the Metal kernels of convolution (`kernels/conv2d.metal`).

use crate::backend::{
    launch::Launch,
    launch_metal::{MetalElement, RUN, has_runs},
};

const BIAS: u32 = 1;
const OTHER: u32 = 2;
const ALIGNED_INPUT: u32 = 4;
const ALIGNED_WEIGHT: u32 = 8;
const ALIGNED_OUTPUT: u32 = 16;

/// Threads of a group that computes a tile.
const TILE_THREADS: u32 = 128;
/// Sides of a tile, in pixels and in channels.
const LARGE_TILE: u32 = 64;
const SMALL_TILE: u32 = 32;
/// Large tiles of one sample below which small ones are taken, to have work for all cores of a GPU.
const FEW_TILES: u32 = 64;
/// Threads of a group of the plain kernel, side by side over the channels.
const PLAIN_THREADS: u32 = 32;

/// What the kernels take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dSizes {
    /// Rows of a sample of the input.
    pub height: u32,
    /// Columns of a sample of the input.
    pub width: u32,
    /// Channels of the input.
    pub channels: u32,
    /// Rows of a sample of the output.
    pub out_height: u32,
    /// Columns of a sample of the output.
    pub out_width: u32,
    /// Channels of the output.
    pub outputs: u32,
    /// Rows and columns of the kernel.
    pub side: u32,
    /// Pixels from one place of the kernel to the next.
    pub stride: u32,
    /// Zeros around the picture.
    pub padding: u32,
    /// Rows of the picture that the kernel moves over.
    pub picture_height: u32,
    /// Columns of the picture that the kernel moves over.
    pub picture_width: u32,
    /// 1 where every pixel of the input stands for two by two of the picture.
    pub doubled: u32,
    /// Values from one sample's bias to the next.
    pub bias_stride: u32,
    /// What is added, and what lies in whole runs.
    pub options: u32,
}

/// What is added to every pixel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bias {
    /// Nothing.
    None,
    /// `[outputs]`
    OfLayer,
    /// `[batch, outputs]`
    OfSample,
}

/// A convolution of `[batch, height, width, channels]` with a weight `[side·side·channels, outputs]`.
#[derive(Clone, Copy, Debug)]
pub struct Conv2dShape {
    /// Samples, at least one.
    pub batch: u32,
    /// Height and width of the input.
    pub size: (u32, u32),
    /// Channels of the input.
    pub channels: u32,
    /// Channels of the output.
    pub outputs: u32,
    /// Rows and columns of the kernel.
    pub side: u32,
    /// Pixels from one place of the kernel to the next.
    pub stride: u32,
    /// Zeros around the picture.
    pub padding: u32,
    /// Height and width of the doubled picture that the kernel moves over, of which a last line may be left out.
    pub doubled: Option<(u32, u32)>,
    /// The bias.
    pub bias: Bias,
    /// Whether `other`, of the output's shape, is added.
    pub other: bool,
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Conv2dForm {
    /// With matrices of SIMD groups, for GPUs of Apple's family 7 on.
    Matrices,
    /// With neither those nor memory that threads share.
    Plain,
}

/// The launch of `conv2d(x, weight, bias, other, y, sizes)`, buffers 0 to 5; what is not there may be any buffer.
/// `aligned` says that all buffers begin at whole runs of four values; bytes of the result do not depend on it.
#[must_use]
pub fn conv2d(
    element: MetalElement,
    form: Conv2dForm,
    shape: &Conv2dShape,
    aligned: bool,
) -> (Launch, Conv2dSizes) {
    let &Conv2dShape { batch, size, channels, outputs, side, stride, padding, .. } = shape;
    let picture = shape.doubled.unwrap_or(size);
    let places = |length: u32| (length + 2 * padding - side) / stride + 1;
    let flag = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
    let sizes = Conv2dSizes {
        height: size.0,
        width: size.1,
        channels,
        out_height: places(picture.0),
        out_width: places(picture.1),
        outputs,
        side,
        stride,
        padding,
        picture_height: picture.0,
        picture_width: picture.1,
        doubled: shape.doubled.is_some().into(),
        bias_stride: if shape.bias == Bias::OfSample { outputs } else { 0 },
        options: flag(shape.bias != Bias::None, BIAS)
            | flag(shape.other, OTHER)
            | flag(has_runs(aligned, channels), ALIGNED_INPUT)
            | flag(has_runs(aligned, outputs), ALIGNED_WEIGHT | ALIGNED_OUTPUT),
    };
    let pixels = sizes.out_height * sizes.out_width;
    let launch = match form {
        Conv2dForm::Plain => Launch {
            kernel: element.kernel(["conv2d_plain_f16", "conv2d_plain_f32"]),
            grid: [outputs.div_ceil(RUN * PLAIN_THREADS), pixels, batch],
            block: PLAIN_THREADS,
            shared: 0,
        },
        Conv2dForm::Matrices => {
            let tiles = |side: u32| [outputs.div_ceil(side), pixels.div_ceil(side)];
            let [columns, rows] = tiles(LARGE_TILE);
            let is_small = outputs <= SMALL_TILE || columns * rows < FEW_TILES;
            let (names, tile) = if is_small {
                (["conv2d_32_f16", "conv2d_32_f32"], SMALL_TILE)
            } else {
                (["conv2d_64_f16", "conv2d_64_f32"], LARGE_TILE)
            };
            let [columns, rows] = tiles(tile);
            let grid = [columns, rows, batch];
            Launch { kernel: element.kernel(names), grid, block: TILE_THREADS, shared: 0 }
        }
    };
    (launch, sizes)
}
