//! Launches of the convolution's kernels, `kernels/conv2d.cu`: which of them, over which grid, and with how
//! much memory. Everything but the number of blocks follows from the shape of one sample, so that a sample
//! has the same bytes in every batch.

use crate::backend::launch::{ElementType, Launch};

/// Shape of a convolution over `[B, H, W, C]` with a weight `[k·k·C, O]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dShape {
    /// Samples, `B`.
    pub batch: usize,
    /// Lines of the input, `H`.
    pub height: usize,
    /// Columns of the input, `W`.
    pub width: usize,
    /// Channels of the input, `C`.
    pub channels: usize,
    /// Channels of the output, `O`.
    pub outputs: usize,
    /// Lines and columns of the kernel, `k`.
    pub kernel: usize,
    /// Pixels from one place of the kernel to the next.
    pub stride: usize,
    /// Pixels of zeros around the picture.
    pub padding: usize,
    /// If every pixel of the input stands for two by two of a picture: height and width of that picture,
    /// of which the last line or column may be left out.
    pub doubled: Option<(usize, usize)>,
    /// `true` if the bias is `[B, O]`, `false` if it is `[O]`.
    pub own_bias: bool,
}

/// `Conv2dSizes` of `kernels/conv2d.cuh`, which the kernels take by value.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dSizes {
    height: i32,
    width: i32,
    channels: i32,
    outputs: i32,
    picture_height: i32,
    picture_width: i32,
    doubled: i32,
    out_height: i32,
    out_width: i32,
    kernel: i32,
    stride: i32,
    padding: i32,
    rows: i32,
    inner: i32,
    bias_stride: i32,
    parts: i32,
    steps: i32,
}

/// Tile of outputs that a block computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tile {
    /// 128 pixels by 128 channels, 32 words at a time.
    Large,
    /// 64 pixels by 64 channels, 64 words at a time.
    Small,
}

/// How the work is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// What a block computes.
    pub tile: Tile,
    /// Into how many parts the sums are cut, each computed by other blocks.
    pub parts: usize,
}

/// One or two launches that make up a convolution.
///
/// - `conv` takes x, weight, bias, other, y, partial, `sizes`; of these bias and other may be null.
/// - `sum` follows it if there is one, and takes partial, bias, other, y, `sizes`.
/// - `partial` has room for `workspace` values of f32; it is null if that is 0.
///
/// All but `partial` are of the element type. Each begins on a multiple of 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dLaunch {
    /// The product.
    pub conv: Launch,
    /// The sum of the parts.
    pub sum: Option<Launch>,
    /// The last argument of both.
    pub sizes: Conv2dSizes,
    /// Values of f32 that the parts take.
    pub workspace: usize,
}

impl Tile {
    /// Pixels, channels, and words of a step.
    const fn dims(self) -> (usize, usize, usize) {
        match self {
            Self::Large => (128, 128, 32),
            Self::Small => (64, 64, 64),
        }
    }

    /// Tiles that cover so many pixels and channels.
    fn count(self, rows: usize, outputs: usize) -> usize {
        let (tile_rows, tile_outputs, _) = self.dims();
        rows.div_ceil(tile_rows) * outputs.div_ceil(tile_outputs)
    }

    /// Bytes of shared memory: three steps of both matrices.
    const fn shared(self) -> usize {
        let (rows, outputs, depth) = self.dims();
        3 * (rows + outputs) * depth * 2
    }
}

/// Threads of a block, of a product and of a sum.
const THREADS: (u32, u32) = (128, 256);
/// Large tiles of one sample from which on they occupy a GPU.
const ENOUGH_LARGE: usize = 64;
/// Small tiles of one sample that occupy a GPU: sums are cut until there are so many.
const ENOUGH_SMALL: usize = 256;
/// The most parts, and the fewest steps of each: more would be written and read than computed.
const MOST_PARTS: usize = 8;
const LEAST_STEPS: usize = 8;

impl Conv2dShape {
    /// Height and width of the output.
    pub fn output(&self) -> (usize, usize) {
        let (height, width) = self.picture();
        let places = |length: usize| {
            (length + 2 * self.padding)
                .checked_sub(self.kernel)
                .map_or(0, |rest| rest / self.stride + 1)
        };
        (places(height), places(width))
    }

    fn picture(&self) -> (usize, usize) {
        self.doubled.unwrap_or((self.height, self.width))
    }

    /// Words of a sum, `k·k·C`.
    fn inner(&self) -> usize {
        self.kernel * self.kernel * self.channels
    }

    /// `true` if sixteen bytes never hold parts of two pixels, of the input and of the output.
    fn is_whole(&self) -> (bool, bool) {
        (self.channels.is_multiple_of(8), self.outputs.is_multiple_of(8))
    }

    /// The cut that follows from the shape of one sample.
    pub fn cut(&self) -> Cut {
        let (height, width) = self.output();
        let pixels = height * width;
        if self.is_whole() != (true, true) {
            return Cut { tile: Tile::Small, parts: 1 };
        }
        let large = Tile::Large.count(pixels, self.outputs);
        if large >= ENOUGH_LARGE && self.outputs > Tile::Small.dims().1 {
            return Cut { tile: Tile::Large, parts: 1 };
        }
        let wanted = ENOUGH_SMALL / Tile::Small.count(pixels, self.outputs).max(1);
        let steps = self.inner().div_ceil(Tile::Small.dims().2);
        Cut { tile: Tile::Small, parts: wanted.min(MOST_PARTS).min(steps / LEAST_STEPS).max(1) }
    }

    /// The launches for this shape. `None` if it has no output, is larger than the kernels' indices, is not
    /// doubled to the size that it says, or if there are no kernels for the type.
    pub fn launch(&self, element: ElementType) -> Option<Conv2dLaunch> {
        self.launch_cut(self.cut(), element)
    }

    /// The launches for this shape, cut in another way.
    pub fn launch_cut(&self, cut: Cut, element: ElementType) -> Option<Conv2dLaunch> {
        let (out_height, out_width) = self.output();
        let (picture_height, picture_width) = self.picture();
        let (whole_in, whole_out) = self.is_whole();
        let kernels = Kernels::of(element)?;
        let rows = product(&[self.batch, out_height, out_width])?;
        let values = product(&[rows, self.outputs])?;
        let pixels = product(&[self.batch, self.height, self.width])?;
        let inner = product(&[self.kernel, self.kernel, self.channels])?;
        let halves = (picture_height.div_ceil(2), picture_width.div_ceil(2));
        let misfit = self.doubled.is_some() && halves != (self.height, self.width);
        if values == 0 || inner == 0 || misfit {
            return None;
        }
        let (_, _, depth) = cut.tile.dims();
        let all_steps = inner.div_ceil(depth);
        let steps = all_steps.div_ceil(cut.parts);
        let parts = all_steps.div_ceil(steps);
        // Of an input of whole chunks these are counted in 32 bits, of a sum eights of values.
        let chunks = if whole_in { product(&[pixels, self.channels / 8])? } else { 0 };
        let eights = if parts > 1 { values / 8 } else { 0 };
        if chunks.max(eights) > u32::MAX as usize - 255 {
            return None;
        }
        int(pixels)?;
        let sizes = Conv2dSizes {
            height: int(self.height)?,
            width: int(self.width)?,
            channels: int(self.channels)?,
            outputs: int(self.outputs)?,
            picture_height: int(picture_height)?,
            picture_width: int(picture_width)?,
            doubled: i32::from(self.doubled.is_some()),
            out_height: int(out_height)?,
            out_width: int(out_width)?,
            kernel: int(self.kernel)?,
            stride: int(self.stride)?,
            padding: int(self.padding)?,
            rows: int(rows)?,
            inner: int(inner)?,
            bias_stride: if self.own_bias { int(self.outputs)? } else { 0 },
            parts: int(parts)?,
            steps: int(steps)?,
        };
        let tiles = u32::try_from(int(cut.tile.count(rows, self.outputs))?).ok()?;
        let kernel = match (cut.tile, whole_in, whole_out) {
            (Tile::Large, true, true) => kernels.large,
            (Tile::Small, true, true) => kernels.small,
            (Tile::Small, false, true) => kernels.any_inputs,
            (Tile::Small, true, false) => kernels.any_outputs,
            (Tile::Small, false, false) => kernels.any,
            (Tile::Large, ..) => return None,
        };
        if parts > 1 && kernel != kernels.small {
            return None;
        }
        let conv = Launch {
            kernel,
            grid: [tiles, u32::try_from(parts).ok()?, 1],
            block: THREADS.0,
            shared: u32::try_from(cut.tile.shared()).ok()?,
        };
        let sum = Launch {
            kernel: kernels.sum,
            grid: [u32::try_from(eights).ok()?.div_ceil(THREADS.1), 1, 1],
            block: THREADS.1,
            shared: 0,
        };
        let workspace = if parts > 1 { product(&[parts, values])? } else { 0 };
        Some(Conv2dLaunch { conv, sum: (parts > 1).then_some(sum), sizes, workspace })
    }
}

/// Names of the kernels for one type.
struct Kernels {
    large: &'static str,
    small: &'static str,
    any_inputs: &'static str,
    any_outputs: &'static str,
    any: &'static str,
    sum: &'static str,
}

impl Kernels {
    fn of(element: ElementType) -> Option<Self> {
        match element {
            ElementType::Bf16 => Some(Self {
                large: "conv2d_large_bf16",
                small: "conv2d_small_bf16",
                any_inputs: "conv2d_any_inputs_bf16",
                any_outputs: "conv2d_any_outputs_bf16",
                any: "conv2d_any_bf16",
                sum: "conv2d_sum_bf16",
            }),
            ElementType::F16 => Some(Self {
                large: "conv2d_large_f16",
                small: "conv2d_small_f16",
                any_inputs: "conv2d_any_inputs_f16",
                any_outputs: "conv2d_any_outputs_f16",
                any: "conv2d_any_f16",
                sum: "conv2d_sum_f16",
            }),
            ElementType::F32 => None,
        }
    }
}

fn product(factors: &[usize]) -> Option<usize> {
    factors.iter().try_fold(1usize, |product, &factor| product.checked_mul(factor))
}

/// A size as the kernels take it, with room for a tile's rows or words beyond it.
fn int(size: usize) -> Option<i32> {
    i32::try_from(size.checked_add(256)?).ok().map(|size| size - 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn square(batch: usize, side: usize, channels: usize, outputs: usize) -> Conv2dShape {
        Conv2dShape {
            batch,
            height: side,
            width: side,
            channels,
            outputs,
            kernel: 3,
            stride: 1,
            padding: 1,
            doubled: None,
            own_bias: false,
        }
    }

    #[test]
    fn a_cut_follows_from_one_sample() {
        for side in [8, 16, 32, 64, 128] {
            for channels in [4, 320, 640, 1280] {
                let cuts = [1, 2, 8].map(|batch| square(batch, side, channels, channels).cut());
                assert!(cuts.iter().all(|cut| *cut == cuts[0]));
            }
        }
    }

    #[test]
    fn sdxl_is_cut_into_large_tiles_and_small_maps_into_parts() {
        let large = Cut { tile: Tile::Large, parts: 1 };
        for (side, channels) in [(128, 320), (64, 640), (32, 1280)] {
            assert_eq!(square(1, side, channels, channels).cut(), large);
        }
        let small = |side, inputs, outputs| square(1, side, inputs, outputs).cut();
        assert_eq!(small(8, 1280, 1280), Cut { tile: Tile::Small, parts: 8 });
        assert_eq!(small(16, 1280, 1280), Cut { tile: Tile::Small, parts: 3 });
        assert_eq!(small(32, 640, 640), Cut { tile: Tile::Small, parts: 1 });
        assert_eq!(small(8, 64, 64), Cut { tile: Tile::Small, parts: 1 });
        assert_eq!(small(512, 128, 64), Cut { tile: Tile::Small, parts: 1 });
        assert_eq!(small(128, 320, 4), Cut { tile: Tile::Small, parts: 1 });
    }

    #[test]
    fn every_part_has_work_and_memory() {
        let shape = square(2, 8, 1280, 1280);
        let launch = shape.launch(ElementType::Bf16).unwrap();
        assert_eq!((launch.sizes.parts, launch.sizes.steps), (8, 23));
        assert_eq!(launch.conv.grid, [2 * 20, 8, 1]);
        assert_eq!(launch.workspace, 8 * 2 * 64 * 1280);
        assert_eq!(launch.sum.unwrap().grid, [80, 1, 1]);
        // 18 steps in 7 parts of 3: the last would have none.
        let cut = Cut { tile: Tile::Small, parts: 7 };
        let launch = square(1, 8, 128, 128).launch_cut(cut, ElementType::F16).unwrap();
        assert_eq!((launch.sizes.parts, launch.sizes.steps), (6, 3));
    }

    #[test]
    fn no_launch_exceeds_what_every_gpu_has() {
        for shape in [square(8, 128, 320, 320), square(1, 8, 4, 320), square(1, 1024, 512, 512)] {
            let launch = shape.launch(ElementType::Bf16).unwrap();
            assert!(launch.conv.shared <= 48 << 10);
            assert_eq!(launch.workspace, 0);
        }
        assert_eq!(square(1, 8, 8, 8).launch(ElementType::F32), None);
        assert_eq!(square(0, 8, 8, 8).launch(ElementType::F16), None);
        let misfit = Conv2dShape { doubled: Some((17, 16)), ..square(1, 8, 8, 8) };
        assert_eq!(misfit.launch(ElementType::F16), None);
        assert_eq!(square(1, 1 << 16, 8, 8).launch(ElementType::F16), None);
        assert_eq!(square(usize::MAX / 2, 8, 8, 8).launch(ElementType::F16), None);
    }

    #[test]
    fn outputs_are_those_of_the_picture() {
        let shape = square(1, 8, 8, 8);
        assert_eq!(shape.output(), (8, 8));
        assert_eq!(Conv2dShape { stride: 2, ..shape }.output(), (4, 4));
        assert_eq!(Conv2dShape { doubled: Some((15, 16)), ..shape }.output(), (15, 16));
        assert_eq!(
            Conv2dShape { kernel: 14, stride: 14, padding: 0, height: 29, ..shape }.output(),
            (2, 0)
        );
    }
}
