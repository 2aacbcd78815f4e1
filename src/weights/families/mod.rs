//! Model families: all that forms and loaders must know of one kind of denoiser beyond the network itself, such
//! as the names of its tensors in checkpoints, the shapes by which a file is recognised, and the names in LoRAs.
//! A new family is one module here and one line in [`FAMILIES`].

pub(super) mod autoencoder_kl;
pub(super) mod clip;
mod contents;
mod family;
mod flux2;
mod pairs;
mod pixart;
pub(super) mod qwen3;
mod sd3;
mod stable_diffusion;
pub(super) mod t5;
mod z_image;

use serde_json::Value;

use super::WeightsError;
use super::contents::FileContents;
use super::part::Part;
use super::part_file::{PartFile, Prediction};
use super::tensors::TensorMap;

pub(super) use stable_diffusion::{control, find_control};

pub(super) use family::{
    Checkpoint, CheckpointEncoder, CheckpointTokenizer, Family, LoraNames, tokenizer_folder,
};

/// All families. A model whose family nothing tells is taken for one of the first.
pub(super) static FAMILIES: &[&dyn Family] = &[
    &stable_diffusion::StableDiffusion,
    &pixart::PixArt,
    &sd3::StableDiffusion3,
    &z_image::ZImage,
    &flux2::Flux2,
];

/// Family of the model that a `model_index.json` describes: the one whose denoiser it names, by its class where
/// several families have theirs in the same folder.
pub(super) fn of_index(index: &Value) -> &'static dyn Family {
    let class = |family: &&'static dyn Family| family.class_in(index, Part::Denoiser);
    let known = FAMILIES
        .iter()
        .find(|family| class(family).is_some_and(|class| family.classes().contains(&class)));
    let named = || FAMILIES.iter().find(|family| class(family).is_some());
    known.or_else(named).copied().unwrap_or(FAMILIES[0])
}

/// Reason why the model that a `model_index.json` describes cannot run, if its pipeline alone tells: its parts may be of
/// classes that others have as well.
pub(super) fn refused(index: &Value) -> Option<&'static str> {
    let pipeline = index.get("_class_name")?.as_str()?;
    if pipeline.starts_with("Flux2Klein") || !pipeline.starts_with("Flux") {
        None
    } else if pipeline.starts_with("Flux2") {
        Some("FLUX.2 [dev] is not supported, whose texts Mistral Small reads: use FLUX.2 [klein]")
    } else {
        Some("FLUX.1 is not supported, whose transformer is another: use FLUX.2 [klein]")
    }
}

/// Family with a denoiser of this class, if there is one.
pub(super) fn of_class(class: &str) -> Option<&'static dyn Family> {
    FAMILIES.iter().find(|family| family.classes().contains(&class)).copied()
}

/// Whole model in a file, with its family.
///
/// # Errors
/// A file that holds something else, or a model that is not supported.
pub(super) fn checkpoint(
    file: &str,
    tensors: &TensorMap,
) -> Result<(&'static dyn Family, Checkpoint), WeightsError> {
    for &family in FAMILIES {
        match family.checkpoint(file, tensors)? {
            Some(Checkpoint { denoiser: None, .. }) => {
                return Err(no_denoiser(family, file, tensors));
            }
            Some(checkpoint) => return Ok((family, checkpoint)),
            None => {}
        }
    }
    Err(WeightsError::NotAModel { file: file.to_owned(), contents: contents(tensors) })
}

/// Denoiser in a file of any contents, as [`Family::denoiser`], with its family.
///
/// # Errors
/// A file without one (that of `expected` is then missed), or an architecture that is not supported.
pub(super) fn denoiser(
    file: &str,
    tensors: &TensorMap,
    pooled: Option<usize>,
    expected: &'static dyn Family,
) -> Result<(&'static dyn Family, PartFile, Option<Prediction>), WeightsError> {
    for &family in FAMILIES {
        if let Some((part, prediction)) = family.denoiser(file, tensors, pooled)? {
            return Ok((family, part, prediction));
        }
    }
    Err(no_denoiser(expected, file, tensors))
}

fn no_denoiser(family: &'static dyn Family, file: &str, tensors: &TensorMap) -> WeightsError {
    let part = denoiser_name(family);
    WeightsError::NoSuchPart { file: file.to_owned(), part, contents: contents(tensors) }
}

/// Name of a family's denoiser in messages, without the article.
fn denoiser_name(family: &dyn Family) -> &'static str {
    let title = family.denoiser_title();
    title.strip_prefix("the ").unwrap_or(title)
}

/// Contents of a file that is not what was asked for.
pub(super) fn contents(tensors: &TensorMap) -> FileContents {
    let family = FAMILIES.iter().find(|family| family.has_denoiser(tensors));
    FileContents::of(tensors, family.map(|&family| denoiser_name(family)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn parts_have_the_folders_of_diffusers() {
        let family = FAMILIES[0];
        for (part, folder) in [
            (Part::Denoiser, "unet"),
            (Part::Vae, "vae"),
            (Part::TextEncoder(0), "text_encoder"),
            (Part::TextEncoder(1), "text_encoder_2"),
            (Part::TextEncoder(2), "text_encoder_3"),
        ] {
            assert_eq!(family.folder(part), folder);
        }
        assert_eq!(tokenizer_folder(Part::TextEncoder(0)), "tokenizer");
        assert_eq!(tokenizer_folder(Part::TextEncoder(1)), "tokenizer_2");
    }

    #[test]
    fn other_models_of_flux_are_refused_by_name() {
        let reason = |pipeline: &str| refused(&json!({"_class_name": pipeline}));
        for (pipeline, name) in [
            ("FluxPipeline", "FLUX.1 "),
            ("FluxImg2ImgPipeline", "FLUX.1 "),
            ("Flux2Pipeline", "FLUX.2 [dev]"),
        ] {
            assert!(reason(pipeline).is_some_and(|reason| reason.starts_with(name)), "{pipeline}");
        }
        for pipeline in ["Flux2KleinPipeline", "ZImagePipeline", ""] {
            assert_eq!(reason(pipeline), None);
        }
    }

    #[test]
    fn text_encoders_are_those_that_the_index_names() {
        let index = json!({"text_encoder": [null, null], "text_encoder_2": ["t", "CLIPTextModel"]});
        assert_eq!(of_index(&index).text_encoders_in(&index), [Part::TextEncoder(1)]);
    }
}
