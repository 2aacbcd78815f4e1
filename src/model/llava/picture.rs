//! From pixels to what the vision tower takes, as transformers prepares them with Pillow
//! (`models/clip/image_processing_pil_clip.py`, `models/llava/image_processing_pil_llava.py`,
//! `models/llava_next/image_processing_pil_llava_next.py`).

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use super::LlavaError;
use super::anyres::{Packing, Size, best_resolution, fitted};
use super::config::LlavaConfig;
use super::resize::bicubic;

/// A picture in sRGB, 8 bits a channel, interleaved, row by row; at least one pixel.
#[derive(Clone, Debug)]
pub struct Picture<'a> {
    width: usize,
    height: usize,
    rgb: Cow<'a, [u8]>,
}

impl<'a> Picture<'a> {
    /// Takes `rgb`, `height` × `width` × 3.
    ///
    /// # Errors
    /// [`LlavaError::Picture`] if the length does not fit the size or a side is 0.
    pub fn new(
        width: usize,
        height: usize,
        rgb: impl Into<Cow<'a, [u8]>>,
    ) -> Result<Self, LlavaError> {
        let rgb = rgb.into();
        let expected = width.checked_mul(height).and_then(|count| count.checked_mul(3));
        if rgb.is_empty() || expected != Some(rgb.len()) {
            return Err(LlavaError::Picture { width, height, length: rgb.len() });
        }
        Ok(Self { width, height, rgb })
    }

    /// Width and height.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        (self.width, self.height)
    }

    /// Height × width × 3.
    #[must_use]
    pub fn rgb(&self) -> &[u8] {
        &self.rgb
    }

    fn resized(&self, (height, width): Size) -> Picture<'static> {
        let rgb = bicubic(&self.rgb, (self.width, self.height), (width, height));
        Picture { width, height, rgb: rgb.into() }
    }

    /// The picture on a ground of one colour, `top` rows below and `left` columns right of its corner;
    /// negative ones cut it.
    fn placed(&self, (height, width): Size, (top, left): (isize, isize), ground: [u8; 3]) -> Self {
        let mut rgb = ground.repeat(width * height);
        for row in 0..height {
            let Some(source) = row.checked_add_signed(-top).filter(|row| *row < self.height) else {
                continue;
            };
            let first = left.max(0) as usize;
            let from = (-left).max(0) as usize;
            let count = width.saturating_sub(first).min(self.width.saturating_sub(from));
            let source = (source * self.width + from) * 3;
            let target = (row * width + first) * 3;
            rgb[target..target + count * 3].copy_from_slice(&self.rgb[source..source + count * 3]);
        }
        Self { width, height, rgb: rgb.into() }
    }

    /// The middle of a picture that is no smaller.
    fn centre(&self, side: usize) -> Self {
        let offset = |length: usize| -(((length - side) / 2) as isize);
        self.placed((side, side), (offset(self.height), offset(self.width)), [0; 3])
    }
}

/// Fields of `preprocessor_config.json`; the defaults are CLIP's.
#[derive(Deserialize)]
#[serde(default)]
struct Raw {
    image_mean: [f32; 3],
    image_std: [f32; 3],
    rescale_factor: f32,
    resample: u32,
    /// LLaVA-1.5's own processor: make the picture square first
    do_pad: bool,
    image_processor_type: String,
    size: Value,
    crop_size: Value,
}

impl Default for Raw {
    fn default() -> Self {
        Self {
            image_mean: [0.481_454_66, 0.457_827_5, 0.408_210_73],
            image_std: [0.268_629_54, 0.261_302_6, 0.275_777_1],
            rescale_factor: 1.0 / 255.0,
            resample: BICUBIC,
            do_pad: false,
            image_processor_type: String::new(),
            size: Value::Null,
            crop_size: Value::Null,
        }
    }
}

/// Pillow's number for it.
const BICUBIC: u32 = 3;

/// Preprocessor of pictures for the vision tower.
#[derive(Clone, Debug)]
pub(super) struct Preprocessor {
    side: usize,
    patches: usize,
    mean: [f32; 3],
    std: [f32; 3],
    rescale: f32,
    pad_square: bool,
    class_token: bool,
    pinpoints: Option<Vec<Size>>,
}

impl Preprocessor {
    /// `processor` is `preprocessor_config.json`, or null.
    pub(super) fn new(config: &LlavaConfig, processor: &Value) -> Result<Self, LlavaError> {
        let raw: Raw = if processor.is_null() {
            Raw::default()
        } else {
            serde_json::from_value(processor.clone()).map_err(LlavaError::Config)?
        };
        if raw.resample != BICUBIC {
            let (field, value) = ("resample", raw.resample.to_string());
            return Err(LlavaError::Unsupported { field, value, supported: "3, bicubic" });
        }
        let side = config.vision.image_size;
        for (field, size) in [("size", &raw.size), ("crop_size", &raw.crop_size)] {
            let sides: Vec<_> = match size {
                Value::Object(sides) => sides.values().filter(|side| !side.is_null()).collect(),
                Value::Null => Vec::new(),
                side => vec![side],
            };
            if sides.iter().any(|given| given.as_u64() != Some(side as u64)) {
                let supported = "the vision tower's image_size";
                return Err(LlavaError::Unsupported { field, value: size.to_string(), supported });
            }
        }
        Ok(Self {
            side,
            patches: config.vision.side(),
            mean: raw.image_mean,
            std: raw.image_std,
            rescale: raw.rescale_factor,
            pad_square: raw.do_pad && raw.image_processor_type.starts_with("LlavaImageProcessor"),
            class_token: config.class_token,
            pinpoints: config.pinpoints.clone(),
        })
    }

    /// Tiling of a picture of this width and height; `None` if it is one tile.
    pub(super) fn packing(&self, (width, height): (usize, usize)) -> Option<Packing> {
        let size = (height, width);
        let resolution = best_resolution(size, self.pinpoints.as_deref()?)?;
        Some(Packing::new(size, resolution, self.side, self.patches))
    }

    /// Number of features of a picture of this width and height.
    pub(super) fn features(&self, size: (usize, usize)) -> usize {
        let whole = self.patches * self.patches + usize::from(self.class_token);
        self.packing(size).map_or(whole, |packing| packing.len())
    }

    /// The shape of the tiles of a picture of this width and height, as [`tiles`](Self::tiles) gives them.
    pub(super) fn tile_shape(
        &self,
        (width, height): (usize, usize),
    ) -> (usize, usize, usize, usize) {
        let possible = self.pinpoints.as_deref();
        let count = match possible.and_then(|possible| best_resolution((height, width), possible)) {
            Some((tall, wide)) => 1 + (tall / self.side) * (wide / self.side),
            None => 1,
        };
        (count, 3, self.side, self.side)
    }

    /// The tiles of a picture, `[T, 3, S, S]`, normalized, f32.
    pub(super) fn tiles(&self, picture: &Picture) -> Result<Tensor, LlavaError> {
        let side = self.side;
        let size = (picture.height, picture.width);
        let mut tiles = Vec::new();
        if let Some(resolution) =
            self.pinpoints.as_deref().and_then(|possible| best_resolution(size, possible))
        {
            tiles.push(picture.resized((side, side)));
            let (height, width) = fitted(size, resolution);
            let resized = picture.resized((height, width));
            let top = (resolution.0 - height) / 2;
            let left = (resolution.1 - width) / 2;
            let padded = resized.placed(resolution, (top as isize, left as isize), [0; 3]);
            for row in (0..resolution.0).step_by(side) {
                for column in (0..resolution.1).step_by(side) {
                    let corner = (-(row as isize), -(column as isize));
                    tiles.push(padded.placed((side, side), corner, [0; 3]));
                }
            }
        } else {
            tiles.push(self.whole(picture));
        }
        let mut values = Vec::with_capacity(tiles.len() * 3 * side * side);
        for tile in &tiles {
            for channel in 0..3 {
                let (mean, std) = (self.mean[channel], self.std[channel]);
                let pixels = tile.rgb.as_chunks::<3>().0.iter().map(|pixel| pixel[channel]);
                values.extend(pixels.map(|value| (f32::from(value) * self.rescale - mean) / std));
            }
        }
        Ok(Tensor::from_vec(values, (tiles.len(), 3, side, side), &Device::Cpu)?)
    }

    /// The one tile of a picture that is not cut into several.
    pub(super) fn whole(&self, picture: &Picture) -> Picture<'static> {
        let side = self.side;
        let square = if self.pad_square { self.squared(picture) } else { picture.clone() };
        let (short, long) = (square.width.min(square.height), square.width.max(square.height));
        let long = (side * long) / short;
        let (height, width) =
            if square.width <= square.height { (long, side) } else { (side, long) };
        square.resized((height, width)).centre(side)
    }

    /// A picture in the middle of a square of the mean colour.
    fn squared<'a>(&self, picture: &Picture<'a>) -> Picture<'a> {
        let side = picture.width.max(picture.height);
        let corner = ((side - picture.height) / 2, (side - picture.width) / 2);
        let ground = self.mean.map(|mean| (mean * 255.0) as u8);
        picture.placed((side, side), (corner.0 as isize, corner.1 as isize), ground)
    }
}
