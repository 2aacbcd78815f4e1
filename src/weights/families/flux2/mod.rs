//! FLUX.2-klein: a transformer of two streams of tokens that become one, a Qwen3 of which the states of several layers are the
//! text, and an autoencoder with packed latents.
//!
//! Sources: diffusers `loaders/single_file_utils.py` (`convert_flux2_transformer_checkpoint_to_diffusers`) and the
//! configurations of the family's models there; ComfyUI `comfy/model_detection.py` (marker tensors).

mod names;
mod shapes;

use serde_json::{Value, json};

use super::family::{Checkpoint, CheckpointEncoder, CheckpointTokenizer, Family, LoraNames};
use super::{autoencoder_kl, qwen3};
use crate::model::{denoiser::flux2::Flux2Config, text::TextArrangement};
use crate::weights::WeightsError;
use crate::weights::part::{Part, PartConfig};
use crate::weights::part_file::{
    LatentScale, Naming, PartFile, PartPlace, Prediction, Shapes, find, part_config,
};
use crate::weights::tensors::{Take, TensorMap, TensorName};

/// The family.
#[derive(Debug)]
pub(super) struct Flux2;

/// Class of the denoiser.
const CLASS: &str = "Flux2Transformer2DModel";
/// Folder of the denoiser.
const FOLDER: &str = "transformer";

/// Prefixes of the transformer's tensors.
const PREFIXES: [&str; 4] = ["model.diffusion_model.", "diffusion_model.", "transformer.", ""];

/// Scale of the latents: the autoencoder has numbers of its own for each channel.
const LATENTS: LatentScale = LatentScale { factor: 1.0, shift: None };

/// Tokens of a text in diffusers' pipelines (`max_sequence_length`).
const TEXT_TOKENS: usize = 512;

/// Layers of the text encoder whose states are the text's tokens (`text_encoder_out_layers`).
const TEXT_LAYERS: &[usize] = &[9, 18, 27];

/// Models by the width of the text's tokens, those among them for which people have LoRAs that this program cannot use.
const GENERATIONS: [(usize, &str); 4] = [
    (4096, "FLUX.1"),
    (7680, "FLUX.2 [klein] 4B"),
    (12_288, "FLUX.2 [klein] 9B"),
    (15_360, "FLUX.2 [dev]"),
];

/// Line about what a single file does not tell.
const DISTILLED: &str =
    "taken for a distilled model; for its base model give --steps 50 --strength 0.3 --guidance 4";

/// Names in LoRA files (peft as diffusers saves it; ComfyUI and ai-toolkit; kohya-ss/musubi-tuner `networks/lora_flux_2.py`).
const LORA: LoraNames = LoraNames {
    prefixes: &[
        ("lora_unet_", Part::Denoiser),
        ("lora_transformer_", Part::Denoiser),
        ("transformer.", Part::Denoiser),
        ("diffusion_model.", Part::Denoiser),
        ("model.diffusion_model.", Part::Denoiser),
    ],
    text_readers: &["context_embedder", "txt_in"],
};

impl Family for Flux2 {
    fn classes(&self) -> &'static [&'static str] {
        &[CLASS]
    }

    fn denoiser_folder(&self) -> &'static str {
        FOLDER
    }

    fn denoiser_title(&self) -> &'static str {
        "the transformer"
    }

    fn denoiser_names(&self, config: &PartConfig) -> Result<Vec<TensorName>, WeightsError> {
        let resolved = Flux2Config::from_value(&config.config).map_err(|error| {
            WeightsError::Config { file: config.file.clone(), reason: error.to_string() }
        })?;
        Ok(names::names(&resolved, "scale"))
    }

    fn text_arrangement(&self, _: &Value, _: &Value) -> TextArrangement {
        TextArrangement::ChatLayers { tokens: TEXT_TOKENS, layers: TEXT_LAYERS }
    }

    /// Steps and guidance of the model cards, for distilled and base models; strengths that begin at about three quarters of
    /// noise, because the shift puts most steps nearer to it.
    fn defaults(&self, index: &Value, _: &Value) -> Value {
        if index.get("is_distilled").is_some_and(|it| it == true) {
            json!({ "steps": 4, "strength": 0.25, "guidance": 1.0 })
        } else {
            json!({ "steps": 50, "strength": 0.3, "guidance": 4.0 })
        }
    }

    fn latent_scale(&self, _: &Value) -> LatentScale {
        LATENTS
    }

    fn has_denoiser(&self, tensors: &TensorMap) -> bool {
        find_transformer(tensors).is_some()
    }

    fn denoiser(
        &self,
        file: &str,
        tensors: &TensorMap,
        _: Option<usize>,
    ) -> Result<Option<(PartFile, Option<Prediction>)>, WeightsError> {
        refuse_first(file, tensors)?;
        Ok(transformer(file, tensors)?.map(|part| (part, None)))
    }

    /// Whole model as ComfyUI saves one; its tokenizer lies beside it. Nothing in it tells a distilled model from its base
    /// model, and it is the former that is handed around.
    fn checkpoint(
        &self,
        file: &str,
        tensors: &TensorMap,
    ) -> Result<Option<Checkpoint>, WeightsError> {
        refuse_first(file, tensors)?;
        let Some(encoder) = qwen3::part(file, tensors)? else { return Ok(None) };
        let Some(denoiser) = transformer(file, tensors)? else { return Ok(None) };
        Ok(Some(Checkpoint {
            index: json!({
                "_class_name": "Flux2KleinPipeline",
                "is_distilled": true,
                "text_encoder": ["transformers", encoder.config.class],
            }),
            scheduler: json!({
                "_class_name": "FlowMatchEulerDiscreteScheduler",
                "num_train_timesteps": 1000,
                "shift": 3.0,
                "use_dynamic_shifting": true,
                "base_shift": 0.5,
                "max_shift": 1.15,
                "base_image_seq_len": 256,
                "max_image_seq_len": 4096,
                "time_shift_type": "exponential",
            }),
            vae: autoencoder_kl::part(file, tensors, LATENTS)?,
            denoiser: Some(denoiser),
            encoders: vec![CheckpointEncoder {
                part: Part::TextEncoder(0),
                file: encoder,
                tokenizer: CheckpointTokenizer::Qwen,
            }],
            notes: vec![DISTILLED.to_owned()],
        }))
    }

    /// What makes the one vector of the timestep and what follows from it, and what everything goes through: the first and the
    /// last layer, and the text's embedding.
    fn is_sensitive(&self, name: &str) -> bool {
        const STARTS: [&str; 7] = [
            "x_embedder.",
            "context_embedder.",
            "time_guidance_embed.",
            "double_stream_modulation_",
            "single_stream_modulation.",
            "norm_out.",
            "proj_out.",
        ];
        STARTS.iter().any(|start| name.starts_with(start))
    }

    fn lora(&self) -> LoraNames {
        LORA
    }

    fn generation(&self, text_width: usize) -> Option<&'static str> {
        let of_width = |&&(width, _): &&(usize, _)| width == text_width;
        GENERATIONS.iter().find(of_width).map(|&(_, name)| name)
    }
}

fn find_transformer(tensors: &TensorMap) -> Option<PartPlace> {
    let (original, diffusers) =
        ("single_stream_modulation.lin.weight", "single_stream_modulation.linear.weight");
    find(tensors, &PREFIXES, original, diffusers)
}

/// Refuses a transformer of FLUX.1, whose blocks are named alike.
fn refuse_first(file: &str, tensors: &TensorMap) -> Result<(), WeightsError> {
    let (original, diffusers) =
        ("double_blocks.0.img_mod.lin.weight", "single_transformer_blocks.0.proj_mlp.weight");
    if find(tensors, &PREFIXES, original, diffusers).is_none() {
        return Ok(());
    }
    let reason = "a transformer of FLUX.1, which is not supported: its blocks and its text encoders are others than those of FLUX.2 \
                  [klein], which is";
    Err(WeightsError::Contents { file: file.to_owned(), reason: reason.to_owned() })
}

/// Transformer in a file of any contents, if there is one.
fn transformer(file: &str, tensors: &TensorMap) -> Result<Option<PartFile>, WeightsError> {
    let fail = |reason: String| WeightsError::Contents { file: file.to_owned(), reason };
    let Some(PartPlace { prefix, naming }) = find_transformer(tensors) else { return Ok(None) };
    let shapes = Shapes { tensors, prefix };
    let config = shapes::config(&shapes, naming).map_err(&fail)?;
    let resolved = Flux2Config::from_value(&config).map_err(|error| fail(error.to_string()))?;
    let names = names::names(&resolved, shapes::norm_kind(&shapes, naming))
        .into_iter()
        .map(|(ours, theirs, take)| match naming {
            Naming::Ldm => (ours, format!("{prefix}{theirs}"), take),
            Naming::Diffusers => (ours.clone(), format!("{prefix}{ours}"), Take::Whole),
        })
        .collect();
    let config = part_config(CLASS, config, file, FOLDER);
    Ok(Some(PartFile::new(config, tensors, prefix, names)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tensors from which the configuration of a transformer with these heads and blocks follows.
    fn shapes(prefix: &str, heads: usize, double: usize, single: usize, text: usize) -> TensorMap {
        let width = 128 * heads;
        let mut shapes = vec![
            ("img_in.weight".to_owned(), vec![width, 128]),
            ("txt_in.weight".to_owned(), vec![width, text]),
            ("time_in.in_layer.weight".to_owned(), vec![width, 256]),
            ("final_layer.linear.weight".to_owned(), vec![128, width]),
            ("single_stream_modulation.lin.weight".to_owned(), vec![3 * width, width]),
            ("double_blocks.0.img_attn.norm.query_norm.scale".to_owned(), vec![128]),
        ];
        for index in 0..double {
            shapes
                .push((format!("double_blocks.{index}.img_mlp.2.weight"), vec![width, 3 * width]));
        }
        for index in 0..single {
            shapes.push((format!("single_blocks.{index}.linear2.weight"), vec![width, 4 * width]));
        }
        let named = shapes.into_iter().map(|(name, shape)| (format!("{prefix}{name}"), shape));
        TensorMap::of_shapes(named.collect())
    }

    #[test]
    fn the_shapes_of_every_model_say_its_configuration() {
        for (prefix, heads, double, single, text, name) in [
            ("", 24, 5, 20, 7680, "FLUX.2 [klein] 4B"),
            ("model.diffusion_model.", 32, 8, 24, 12_288, "FLUX.2 [klein] 9B"),
        ] {
            let tensors = shapes(prefix, heads, double, single, text);
            assert!(Flux2.has_denoiser(&tensors));
            let part = transformer("x", &tensors).unwrap().unwrap();
            let config = Flux2Config::from_value(&part.config.config).unwrap();
            assert_eq!((config.heads, config.head_width, config.inner), (heads, 128, 384 * heads));
            assert_eq!((config.double_layers, config.single_layers), (double, single));
            assert_eq!((config.in_channels, config.out_channels), (128, 128));
            assert_eq!((config.text_width, config.time_features), (text, 256));
            assert_eq!((config.axes_dims, config.rope_theta), ([32; 4], 2000.0));
            assert_eq!(Flux2.generation(text), Some(name));
        }
    }

    #[test]
    fn the_transformer_of_dev_is_refused_for_its_guidance() {
        let mut all = vec![("guidance_in.in_layer.weight".to_owned(), vec![6144, 256])];
        let dev = shapes("", 48, 8, 48, 15_360);
        let known = dev.names().map(|name| (name.to_owned(), dev.shape(name).unwrap().to_vec()));
        all.extend(known);
        let error = transformer("dev", &TensorMap::of_shapes(all)).unwrap_err().to_string();
        assert!(error.contains("`guidance_embeds` = true"), "{error}");
    }

    #[test]
    fn a_transformer_of_the_first_flux_is_refused_by_name_in_either_naming() {
        for name in [
            "double_blocks.0.img_mod.lin.weight",
            "model.diffusion_model.double_blocks.0.img_mod.lin.weight",
            "single_transformer_blocks.0.proj_mlp.weight",
        ] {
            let tensors = TensorMap::of_shapes(vec![(name.to_owned(), vec![18_432, 3072])]);
            let denoiser =
                Flux2.denoiser("flux1-dev.gguf", &tensors, None).unwrap_err().to_string();
            assert!(
                denoiser.starts_with("flux1-dev.gguf: ") && denoiser.contains("FLUX.1,"),
                "{denoiser}"
            );
            assert_eq!(
                Flux2.checkpoint("flux1-dev.gguf", &tensors).unwrap_err().to_string(),
                denoiser
            );
        }
    }
}
