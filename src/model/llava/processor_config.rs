//! The configuration of a picture's preparation, `preprocessor_config.json`, checked: every step that transformers' image
//! processors take is taken as the file says or refused by name, because a step left out changes every description.
//!
//! Sources: transformers `image_processing_backends.py` (`PilBackend`), `image_processing_utils.py` (`get_size_dict`),
//! `models/clip/image_processing_pil_clip.py`, `models/llava/image_processing_pil_llava.py`,
//! `models/llava_next/image_processing_pil_llava_next.py`. A field that is absent has the processor's default,
//! but for the two sizes, whose default is the vision tower's: the classes' own, 224, is one that only their first tower
//! takes.

use serde::Deserialize;
use serde_json::Value;

use super::LlavaError;
use super::anyres::Size;
use super::config::LlavaConfig;
use super::resize::Filter;
use crate::ranges;

/// Size to which a picture is resized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fit {
    /// Its shorter side gets this length; the longer one keeps the picture's shape.
    ShortestEdge(usize),
    /// Height and width, whatever the picture's shape.
    Exact(Size),
}

/// Steps of a picture's preparation, in their order.
#[derive(Clone, Debug)]
pub(super) struct Steps {
    /// LLaVA-1.5's own processor: the picture in the middle of a square of the mean colour.
    pub pad_square: bool,
    /// Resizing, if any.
    pub fit: Option<Fit>,
    pub filter: Filter,
    /// The middle square of the vision tower's size is cut out, zeros around a smaller picture.
    pub crop: bool,
    /// Factor of the 8-bit numbers.
    pub rescale: f32,
    /// Mean and standard deviation of the colours, taken out: 0 and 1 for none.
    pub mean: [f32; 3],
    pub std: [f32; 3],
    /// Colour of the square.
    pub ground: [u8; 3],
}

/// Processors by the beginning of their names: "Fast" and "Pil" may follow.
const PROCESSORS: [&str; 3] =
    ["CLIPImageProcessor", "LlavaImageProcessor", "LlavaNextImageProcessor"];

/// The file as it is; the defaults are CLIP's.
#[derive(Deserialize)]
#[serde(default)]
struct RawPreprocessor {
    image_mean: Colour,
    image_std: Colour,
    rescale_factor: f64,
    resample: u32,
    do_pad: bool,
    do_resize: bool,
    do_center_crop: bool,
    do_rescale: bool,
    do_normalize: bool,
    default_to_square: bool,
    use_square_size: bool,
    image_processor_type: String,
    image_grid_pinpoints: Option<Vec<Size>>,
    size: Value,
    crop_size: Value,
}

/// One number for every channel, or one for each.
#[derive(Clone, Copy, Deserialize)]
#[serde(untagged)]
enum Colour {
    Same(f32),
    Own([f32; 3]),
}

impl From<Colour> for [f32; 3] {
    fn from(colour: Colour) -> Self {
        match colour {
            Colour::Same(value) => [value; 3],
            Colour::Own(values) => values,
        }
    }
}

impl Default for RawPreprocessor {
    fn default() -> Self {
        Self {
            image_mean: Colour::Own([0.481_454_66, 0.457_827_5, 0.408_210_73]),
            image_std: Colour::Own([0.268_629_54, 0.261_302_6, 0.275_777_1]),
            rescale_factor: 1.0 / 255.0,
            resample: 3,
            do_pad: false,
            do_resize: true,
            do_center_crop: true,
            do_rescale: true,
            do_normalize: true,
            default_to_square: false,
            use_square_size: false,
            image_processor_type: String::new(),
            image_grid_pinpoints: None,
            size: Value::Null,
            crop_size: Value::Null,
        }
    }
}

fn unsupported(field: &'static str, value: impl ToString, supported: &'static str) -> LlavaError {
    LlavaError::Unsupported { field, value: value.to_string(), supported }
}

impl Steps {
    /// Reads and checks the file, or null for a model without one.
    ///
    /// # Errors
    /// A field of the wrong type, a value that is not supported, or steps that do not end at the vision tower's size.
    pub(super) fn new(config: &LlavaConfig, processor: &Value) -> Result<Self, LlavaError> {
        ranges::check(processor)?;
        let mut given = match processor {
            Value::Null => serde_json::Map::new(),
            Value::Object(fields) => fields.clone(),
            other => return Err(unsupported("preprocessor_config.json", other, "an object")),
        };
        for field in ["image_mean", "image_std", "rescale_factor", "resample"] {
            if given.get(field).is_some_and(Value::is_null) {
                return Err(unsupported(field, "null", "a number or the numbers of the colours"));
            }
        }
        for (field, value) in &mut given {
            // A null flag is none in Python: false.
            if field.starts_with("do_") && value.is_null() {
                *value = Value::Bool(false);
            }
        }
        given.retain(|_, value| !value.is_null());
        let raw = RawPreprocessor::deserialize(Value::Object(given)).map_err(LlavaError::Config)?;
        // Files of transformers before 4.26 name the processor otherwise or not at all: CLIP's feature extractor.
        let kind = raw.image_processor_type.as_str();
        let stem = kind.strip_suffix("Fast").or_else(|| kind.strip_suffix("Pil")).unwrap_or(kind);
        if !kind.is_empty() && !PROCESSORS.contains(&stem) {
            let supported = "CLIPImageProcessor, LlavaImageProcessor, LlavaNextImageProcessor";
            return Err(unsupported("image_processor_type", kind, supported));
        }
        let filter = Filter::of_pillow(raw.resample).ok_or_else(|| {
            unsupported("resample", raw.resample, "0 to 5, the filters of Pillow")
        })?;
        if raw.use_square_size {
            return Err(unsupported(
                "use_square_size",
                true,
                "false, with a size of height and width",
            ));
        }
        if let (Some(own), Some(given)) = (&config.pinpoints, &raw.image_grid_pinpoints)
            && own != given
        {
            let supported = "the same as in config.json";
            return Err(unsupported("image_grid_pinpoints", format!("{given:?}"), supported));
        }
        let side = config.vision.image_size;
        let fit = fit_of(&raw.size, raw.default_to_square)?.unwrap_or(Fit::ShortestEdge(side));
        // An integer is a square here.
        let crop = fit_of(&raw.crop_size, true)?.unwrap_or(Fit::Exact((side, side)));
        let pad_square = raw.do_pad && stem == "LlavaImageProcessor";
        let crop_fits = crop == Fit::Exact((side, side));
        if !crop_fits && (raw.do_center_crop || config.pinpoints.is_some()) {
            let supported = "the vision tower's image_size, as height and width";
            return Err(unsupported("crop_size", &raw.crop_size, supported));
        }
        let fit_ends = |square: bool| match fit {
            Fit::Exact(size) => size == (side, side),
            Fit::ShortestEdge(edge) => square && edge == side,
        };
        if config.pinpoints.is_some() {
            // Tiles have the tower's size from the beginning; only the view of the whole takes the size from here.
            if !fit_ends(true) {
                return Err(unsupported("size", &raw.size, "the vision tower's image_size"));
            }
        } else if !raw.do_center_crop {
            if !raw.do_resize {
                let supported = "true, or do_center_crop";
                return Err(unsupported("do_resize", false, supported));
            }
            if !fit_ends(pad_square) {
                let supported =
                    "true, or a size with height and width of the vision tower's image_size";
                return Err(unsupported("do_center_crop", false, supported));
            }
        }
        let mean: [f32; 3] = raw.image_mean.into();
        let std: [f32; 3] = raw.image_std.into();
        if raw.do_normalize && std.contains(&0.0) {
            return Err(unsupported("image_std", format!("{std:?}"), "numbers above 0"));
        }
        Ok(Self {
            pad_square,
            fit: raw.do_resize.then_some(fit),
            filter,
            crop: raw.do_center_crop,
            rescale: if raw.do_rescale { raw.rescale_factor as f32 } else { 1.0 },
            mean: if raw.do_normalize { mean } else { [0.0; 3] },
            std: if raw.do_normalize { std } else { [1.0; 3] },
            ground: mean.map(|mean| (mean * 255.0) as u8),
        })
    }
}

/// The size that a file writes as a number or as an object; `None` where it writes none.
fn fit_of(size: &Value, square: bool) -> Result<Option<Fit>, LlavaError> {
    let fail = || {
        let supported = "a number, shortest_edge, or height and width";
        unsupported("size or crop_size", size, supported)
    };
    let length = |value: &Value| value.as_u64().map(|length| length as usize).ok_or_else(fail);
    let fields = match size {
        Value::Null => return Ok(None),
        Value::Object(fields) => fields,
        side => {
            let side = length(side)?;
            return Ok(Some(if square {
                Fit::Exact((side, side))
            } else {
                Fit::ShortestEdge(side)
            }));
        }
    };
    let mut known: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
    known.sort_unstable_by_key(|(name, _)| name.as_str());
    match known[..] {
        [(edge, value)] if edge == "shortest_edge" => Ok(Some(Fit::ShortestEdge(length(value)?))),
        [(height, tall), (width, wide)] if height == "height" && width == "width" => {
            Ok(Some(Fit::Exact((length(tall)?, length(wide)?))))
        }
        _ => Err(fail()),
    }
}
