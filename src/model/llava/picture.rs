//! Preparation of pixels for the vision tower, as transformers does it with Pillow
//! (`models/clip/image_processing_pil_clip.py`, `models/llava/image_processing_pil_llava.py`,
//! `models/llava_next/image_processing_pil_llava_next.py`).

use std::borrow::Cow;

use candle_core::{Device, Tensor};
use serde_json::Value;

use super::LlavaError;
use super::anyres::{Packing, Size, best_resolution, fitted};
use super::config::LlavaConfig;
use super::processor_config::{Fit, Steps};
use super::resize::resize;

/// A picture in sRGB, 8 bits a channel, interleaved, row by row; at least one pixel.
#[derive(Clone, Debug)]
pub struct LlavaPicture<'a> {
    width: usize,
    height: usize,
    rgb: Cow<'a, [u8]>,
}

impl<'a> LlavaPicture<'a> {
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

    /// The middle of a picture, with black around a smaller one.
    fn centre(&self, side: usize) -> Self {
        let offset = |length: usize| match length.checked_sub(side) {
            Some(more) => -((more / 2) as isize),
            None => (side - length).div_ceil(2) as isize,
        };
        self.placed((side, side), (offset(self.height), offset(self.width)), [0; 3])
    }
}

/// Preprocessor of pictures for the vision tower.
#[derive(Clone, Debug)]
pub(super) struct Preprocessor {
    side: usize,
    patches: usize,
    steps: Steps,
    class_token: bool,
    pinpoints: Option<Vec<Size>>,
}

impl Preprocessor {
    /// `processor` is `preprocessor_config.json`, or null.
    ///
    /// # Errors
    /// Those of [`Steps::new`].
    pub(super) fn new(config: &LlavaConfig, processor: &Value) -> Result<Self, LlavaError> {
        Ok(Self {
            side: config.vision.image_size,
            patches: config.vision.side(),
            steps: Steps::new(config, processor)?,
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
    pub(super) fn tiles(&self, picture: &LlavaPicture) -> Result<Tensor, LlavaError> {
        let side = self.side;
        let size = (picture.height, picture.width);
        let mut tiles = Vec::new();
        if let Some(resolution) =
            self.pinpoints.as_deref().and_then(|possible| best_resolution(size, possible))
        {
            tiles.push(self.resized(picture, (side, side)));
            let resized = self.resized(picture, fitted(size, resolution));
            let (height, width) = (resized.height, resized.width);
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
                let Steps { rescale, mean, std, .. } = self.steps;
                let (mean, std) = (mean[channel], std[channel]);
                let pixels = tile.rgb.as_chunks::<3>().0.iter().map(|pixel| pixel[channel]);
                values.extend(pixels.map(|value| (f32::from(value) * rescale - mean) / std));
            }
        }
        Ok(Tensor::from_vec(values, (tiles.len(), 3, side, side), &Device::Cpu)?)
    }

    /// The one tile of a picture that is not cut into several.
    pub(super) fn whole(&self, picture: &LlavaPicture) -> LlavaPicture<'static> {
        let mut tile = picture.clone();
        if self.steps.pad_square {
            tile = self.squared(&tile);
        }
        if let Some(fit) = self.steps.fit {
            let (height, width) = (tile.height, tile.width);
            let size = match fit {
                Fit::Exact(size) => size,
                Fit::ShortestEdge(edge) if width <= height => ((edge * height) / width, edge),
                Fit::ShortestEdge(edge) => (edge, (edge * width) / height),
            };
            tile = self.resized(&tile, size);
        }
        if self.steps.crop {
            tile = tile.centre(self.side);
        }
        let LlavaPicture { width, height, rgb } = tile;
        LlavaPicture { width, height, rgb: rgb.into_owned().into() }
    }

    fn resized(&self, picture: &LlavaPicture, (height, width): Size) -> LlavaPicture<'static> {
        let (from, to) = ((picture.width, picture.height), (width, height));
        let rgb = resize(&picture.rgb, from, to, self.steps.filter);
        LlavaPicture { width, height, rgb: rgb.into() }
    }

    /// A picture in the middle of a square of the mean colour.
    fn squared<'a>(&self, picture: &LlavaPicture<'a>) -> LlavaPicture<'a> {
        let side = picture.width.max(picture.height);
        let corner = ((side - picture.height) / 2, (side - picture.width) / 2);
        let corner = (corner.0 as isize, corner.1 as isize);
        picture.placed((side, side), corner, self.steps.ground)
    }
}

#[cfg(test)]
mod tests {
    use safetensors::SafeTensors;
    use serde_json::{Map, json};

    use super::*;

    /// A model of this kind whose tower sees 12 pixels a side.
    fn config(is_next: bool) -> LlavaConfig {
        let config = json!({
            "model_type": if is_next { "llava_next" } else { "llava" },
            "image_grid_pinpoints": [[12, 24], [24, 12], [24, 24]],
            "text_config": {}, "vision_config": {"image_size": 12, "patch_size": 4,
                "hidden_size": 24, "num_attention_heads": 2, "num_hidden_layers": 3},
        });
        LlavaConfig::from_json(&config, &Value::Null).unwrap()
    }

    #[test]
    fn every_field_of_the_file_is_honoured_as_transformers_does() {
        let file = include_bytes!("../../../tests/fixtures/llava/preprocessor.safetensors");
        let file = SafeTensors::deserialize(file).unwrap();
        let text = include_str!("../../../tests/fixtures/llava/preprocessor.json");
        let cases: Map<String, Value> = serde_json::from_str(text).unwrap();
        assert_eq!(cases.len(), 37);
        for (name, given) in &cases {
            let preprocessor = Preprocessor::new(&config(name.starts_with("next")), given).unwrap();
            for index in 0..3 {
                let picture = file.tensor(&format!("picture.{index}")).unwrap();
                let [height, width, 3] = *picture.shape() else { panic!("{name}") };
                let picture = LlavaPicture::new(width, height, picture.data()).unwrap();
                let ours = preprocessor.tiles(&picture).unwrap();
                let expected = file.tensor(&format!("{name}.{index}")).unwrap();
                assert_eq!(ours.dims(), expected.shape(), "{name}");
                let ours = ours.flatten_all().unwrap().to_vec1::<f32>().unwrap();
                for (ours, theirs) in ours.iter().zip(expected.data().as_chunks::<4>().0) {
                    let theirs = f32::from_le_bytes(*theirs);
                    let error = (ours - theirs).abs() / theirs.abs().max(1.0);
                    assert!(error <= 1e-6, "{name}.{index}: {ours} for {theirs}");
                }
            }
        }
    }

    #[test]
    fn steps_that_the_tower_cannot_take_are_refused_by_name() {
        for (is_next, file, field) in [
            (false, json!({"do_center_crop": false}), "do_center_crop"),
            (
                false,
                json!({"do_center_crop": false, "size": {"height": 12, "width": 30}}),
                "do_center_crop",
            ),
            (false, json!({"do_center_crop": false, "do_resize": false}), "do_resize"),
            (false, json!({"crop_size": {"height": 12, "width": 30}}), "crop_size"),
            (false, json!({"crop_size": {"shortest_edge": 12}}), "crop_size"),
            (false, json!({"size": {"shortest_edge": 12, "longest_edge": 40}}), "size"),
            (false, json!({"size": {"height": 12}}), "size"),
            (false, json!({"size": -3}), "size"),
            (false, json!({"resample": 6}), "resample"),
            (false, json!({"image_mean": null}), "image_mean"),
            (false, json!({"do_center_crop": null}), "do_center_crop"),
            (false, json!({"image_std": [1, 0, 1]}), "image_std"),
            (false, json!({"use_square_size": true}), "use_square_size"),
            (
                false,
                json!({"image_processor_type": "SiglipImageProcessor"}),
                "image_processor_type",
            ),
            (false, json!([]), "preprocessor_config.json"),
            (true, json!({"size": {"shortest_edge": 30}}), "size"),
            (true, json!({"crop_size": 30, "do_center_crop": false}), "crop_size"),
            (true, json!({"image_grid_pinpoints": [[12, 24]]}), "image_grid_pinpoints"),
        ] {
            let error = Preprocessor::new(&config(is_next), &file).unwrap_err().to_string();
            assert!(error.contains(field), "{file}: {error}");
        }
    }
}
