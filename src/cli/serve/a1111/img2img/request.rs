//! The fields of `/img2img`, as its description has them.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::super::values::{Flag, Number, Whole, Words};

/// A request. Fields that are not here are ignored, with a note.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct Img2Img {
    /// The pictures, as base64 of their files, with or without the head of a data URL.
    pub init_images: Option<Vec<String>>,
    /// What the picture shows, with weights as A1111 reads them.
    pub prompt: Words,
    /// What it should not show.
    pub negative_prompt: Words,
    /// Ignored with a note: there are no styles here.
    pub styles: Option<Vec<String>>,
    /// Share of the steps that run, 0 to 1; without it the model's own.
    pub denoising_strength: Number,
    /// Width of the result; without it the picture's.
    pub width: Whole,
    /// Height of the result; without it the picture's.
    pub height: Whole,
    /// 0 and 3 stretch, 1 cuts to the shape of the size, 2 is refused where shapes differ.
    pub resize_mode: Whole,
    /// Steps of the schedule. See the option `cupscale_sampling`.
    pub steps: Whole,
    /// Guidance. See the option `cupscale_sampling`.
    pub cfg_scale: Number,
    /// Sampler by A1111's name. See the option `cupscale_sampling`.
    pub sampler_name: Words,
    /// The same in older clients.
    pub sampler_index: Words,
    /// Noise levels by A1111's name. See the option `cupscale_sampling`.
    pub scheduler: Words,
    /// Fresh noise of DDIM and TCD.
    pub eta: Number,
    /// Below 0: a random one, which the answer tells.
    pub seed: Whole,
    /// Ignored with a note.
    pub subseed_strength: Number,
    /// Pictures of each `n_iter`, with seeds one after the other.
    pub batch_size: Whole,
    /// Times that this is done.
    pub n_iter: Whole,
    /// Ignored with a note.
    pub restore_faces: Flag,
    /// Refused if true.
    pub tiling: Flag,
    /// White is repainted; base64 as the pictures.
    pub mask: Words,
    /// Standard deviation of the mask's blur in pixels.
    pub mask_blur: Number,
    /// The same along rows.
    pub mask_blur_x: Number,
    /// The same along columns.
    pub mask_blur_y: Number,
    /// 1: black is repainted.
    pub inpainting_mask_invert: Flag,
    /// Ignored with a note: repainting starts from the picture.
    pub inpainting_fill: Whole,
    /// With a mask: the result has the picture's own size.
    pub inpaint_full_res: Flag,
    /// Ignored with a note.
    pub refiner_checkpoint: Words,
    /// Options of this request alone.
    #[schema(value_type = Option<Object>)]
    pub override_settings: Option<Map<String, Value>>,
    /// `SD upscale` or `Ultimate SD upscale`, of which the size holds.
    pub script_name: Words,
    #[schema(value_type = Option<Vec<Value>>)]
    pub script_args: Option<Vec<Value>>,
    /// A ControlNet that is on is refused; the rest is ignored with a note.
    #[schema(value_type = Option<Object>)]
    pub alwayson_scripts: Option<Map<String, Value>>,
    /// False: the answer has no pictures.
    pub send_images: Flag,
    /// True: `parameters` of the answer has the pictures that were sent.
    pub include_init_images: Flag,
    #[serde(flatten)]
    #[schema(ignore)]
    pub rest: Map<String, Value>,
}
