//! Options of the web UI that clients read and set: of its hundreds those that mean something here. Chosen ones hold for
//! later calls of this API until the server ends, and for no other call.

use std::fmt;

use serde_json::{Map, Value, json};

use super::error::A1111Error;

/// Format of the pictures in answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SampleFormat {
    #[default]
    Png,
    Jpeg,
    WebP,
}

/// Whose steps, sampler and guidance hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sampling {
    /// The request's; the model's where the model is made for few steps, since clients send the numbers of others.
    #[default]
    Auto,
    /// Always the request's.
    Request,
    /// Always the model's.
    Model,
}

/// The options, as they are set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// The model; without one, that which the server started with.
    pub model: Option<String>,
    pub format: SampleFormat,
    pub quality: u8,
    pub sampling: Sampling,
}

/// Names of the options that can be set.
const MODEL: &str = "sd_model_checkpoint";
const FORMAT: &str = "samples_format";
const QUALITY: &str = "jpeg_quality";
const SAMPLING: &str = "cupscale_sampling";

impl Default for Options {
    fn default() -> Self {
        Self { model: None, format: SampleFormat::Png, quality: 95, sampling: Sampling::Auto }
    }
}

impl Options {
    /// The options by name; `own` is the model that the server started with.
    pub fn as_json(&self, own: &str) -> Map<String, Value> {
        let mut options = fixed();
        options.insert(MODEL.to_owned(), json!(self.model.as_deref().unwrap_or(own)));
        options.insert(FORMAT.to_owned(), json!(self.format.to_string()));
        options.insert(QUALITY.to_owned(), json!(self.quality));
        options.insert(SAMPLING.to_owned(), json!(self.sampling.to_string()));
        options
    }

    /// Sets options by name; `models` are the names of those that can be chosen, the one that the server started with first.
    /// `note` hears of options that have no effect.
    ///
    /// # Errors
    /// A value that its option does not take. Nothing is set then.
    pub fn set(
        &mut self,
        wanted: &Map<String, Value>,
        models: &[String],
        mut note: impl FnMut(String),
    ) -> Result<(), A1111Error> {
        let mut set = self.clone();
        let fixed = fixed();
        let mut idle = Vec::new();
        for (name, value) in wanted {
            let text = value.as_str().unwrap_or_default().trim();
            let wrong = |takes: &str| {
                let shown: String = value.to_string().chars().take(60).collect();
                Err(A1111Error::unfit(format!("{name}: {shown} is not {takes}")))
            };
            match name.as_str() {
                MODEL if value.is_null() || text.is_empty() && value.is_string() => {}
                MODEL => set.model = model_named(text, models)?,
                FORMAT => match text.to_ascii_lowercase().as_str() {
                    "png" => set.format = SampleFormat::Png,
                    "jpg" | "jpeg" => set.format = SampleFormat::Jpeg,
                    "webp" => set.format = SampleFormat::WebP,
                    _ => return wrong("png, jpg or webp"),
                },
                QUALITY => match value.as_f64() {
                    Some(quality) if (1.0..=100.0).contains(&quality) => {
                        set.quality = quality as u8
                    }
                    _ => return wrong("a number from 1 to 100"),
                },
                SAMPLING => match text {
                    "auto" => set.sampling = Sampling::Auto,
                    "request" => set.sampling = Sampling::Request,
                    "model" => set.sampling = Sampling::Model,
                    _ => return wrong("auto, request or model"),
                },
                _ if value.is_null() || fixed.get(name) == Some(value) => {}
                _ => idle.push(name.as_str()),
            }
        }
        if !idle.is_empty() {
            note(format!("options without effect here: {}", shortened(&idle)));
        }
        *self = set;
        Ok(())
    }
}

/// The model that a client means, `None` for that which the server started with. Clients may add a file's ending or a hash,
/// as they have it of another server.
fn model_named(name: &str, models: &[String]) -> Result<Option<String>, A1111Error> {
    let plain = name.split_once(" [").map_or(name, |(name, _)| name);
    let plain = plain.rsplit(['/', '\\']).next().unwrap_or(plain);
    let stem = [".safetensors", ".ckpt", ".gguf"].iter().find_map(|end| plain.strip_suffix(end));
    let is = |known: &&String| [Some(name), Some(plain), stem].contains(&Some(known.as_str()));
    match models.iter().position(|known| is(&known)) {
        Some(0) => Ok(None),
        Some(at) => Ok(Some(models[at].clone())),
        None => {
            let shown: String = name.chars().take(100).collect();
            Err(A1111Error::not_found(format!(
                "model {shown:?} not found: there are {}",
                models.join(", ")
            )))
        }
    }
}

/// Options that clients read and that cannot be another here.
fn fixed() -> Map<String, Value> {
    let options = json!({
        "sd_checkpoint_hash": "",
        "sd_vae": "Automatic",
        "sd_checkpoints_limit": 1,
        "CLIP_stop_at_last_layers": 1,
        "img2img_color_correction": true,
        "img2img_fix_steps": true,
        "initial_noise_multiplier": 1.0,
        "inpainting_mask_weight": 1.0,
        "face_restoration": false,
        "face_restoration_model": null,
        "upscaler_for_img2img": null,
        "enable_pnginfo": true,
        "save_images_add_number": true,
        "samples_save": false,
        "grid_save": false,
        "live_previews_enable": true,
        "live_previews_image_format": "png",
        "show_progress_every_n_steps": 1,
        "eta_ddim": 0.0,
        "eta_ancestral": 1.0,
    });
    match options {
        Value::Object(options) => options,
        _ => Map::new(),
    }
}

/// Names for a message: the first of them, and how many more there are.
pub fn shortened(names: &[&str]) -> String {
    const SHOWN: usize = 8;
    let cut = |name: &&str| name.chars().take(40).collect::<String>();
    let shown = names.iter().take(SHOWN).map(cut).collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

impl fmt::Display for SampleFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Png => "png",
            Self::Jpeg => "jpg",
            Self::WebP => "webp",
        })
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Request => "request",
            Self::Model => "model",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(options: &mut Options, wanted: Value) -> Result<Vec<String>, String> {
        let models = ["mini".to_owned(), "hyper-sdxl".to_owned()];
        let mut notes = Vec::new();
        let wanted = wanted.as_object().unwrap();
        let result = options.set(wanted, &models, |note| notes.push(note));
        result.map(|()| notes).map_err(|error| error.to_string())
    }

    #[test]
    fn a_model_is_chosen_as_clients_name_it() {
        let mut options = Options::default();
        for (named, chosen) in [
            ("hyper-sdxl", Some("hyper-sdxl")),
            ("mini", None),
            ("sub/hyper-sdxl.safetensors [0123456789]", Some("hyper-sdxl")),
            ("", Some("hyper-sdxl")),
        ] {
            set(&mut options, json!({"sd_model_checkpoint": named})).unwrap();
            assert_eq!(options.model.as_deref(), chosen, "{named}");
        }
        let error = set(&mut options, json!({"jpeg_quality": 3, "sd_model_checkpoint": "other"}));
        let error = error.unwrap_err();
        assert!(error.contains("\"other\"") && error.contains("mini, hyper-sdxl"), "{error}");
        assert_eq!(options.quality, 95);
    }

    #[test]
    fn what_a_client_has_read_it_may_send_back_and_the_rest_is_told() {
        let mut options = Options::default();
        let read = Value::Object(options.as_json("mini"));
        assert_eq!(set(&mut options, read), Ok(Vec::new()));
        assert_eq!(options, Options::default());
        let wanted = json!({"samples_format": "JPG", "jpeg_quality": 80, "cupscale_sampling": "request",
            "sd_vae": "other", "CLIP_stop_at_last_layers": 2});
        let notes = set(&mut options, wanted).unwrap();
        assert!(notes[0].contains("sd_vae") && notes[0].contains("CLIP_stop"), "{notes:?}");
        assert_eq!((options.format, options.quality), (SampleFormat::Jpeg, 80));
        assert_eq!(options.as_json("mini")["cupscale_sampling"], "request");
        for wrong in [
            json!({"samples_format": "gif"}),
            json!({"jpeg_quality": "high"}),
            json!({"cupscale_sampling": "mine"}),
            json!({"sd_model_checkpoint": 7}),
        ] {
            assert!(set(&mut options, wrong.clone()).is_err(), "{wrong}");
        }
    }
}
