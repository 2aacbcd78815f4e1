//! Description of a model: the sources of its files, their sizes and digests, its licence, and its defaults. The
//! registry's entries and the manifests of installed models are the same type, so that a manifest is an
//! entry in which nothing is left open.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A model of the registry, or the manifest of an installed one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelEntry {
    /// name that the user types: letters, digits, `.`, `_` and `-`
    pub name: String,
    /// one line for people
    #[serde(default)]
    pub title: String,
    /// purpose
    pub kind: Kind,
    /// none for the user's own weights
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub licence: Option<Licence>,
    /// the model whose weights this one builds on; a manifest has its sources in place of it
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
    /// files, by where they come from
    pub sources: Vec<Source>,
    /// defaults of a run
    #[serde(default, skip_serializing_if = "RunDefaults::is_empty")]
    pub run: RunDefaults,
}

/// Purpose of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Painting: a denoiser with its text encoders and VAE.
    Diffusion,
    /// An autoencoder to be used in place of a diffusion model's own.
    Vae,
    /// A low-rank change to a diffusion model.
    Lora,
    /// A ControlNet beside a diffusion model's denoiser.
    Control,
    /// Describing pictures.
    Captioner,
    /// Enlarging pictures before they are repainted.
    Enlarger,
}

/// Terms of use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Licence {
    /// name that its authors give it
    pub name: String,
    /// address of its text
    pub url: String,
    /// `true` if it allows commercial use; `None` if that is not clear
    pub commercial: Option<bool>,
    /// terms that a user agrees to beyond naming the authors
    pub accept: Option<String>,
}

/// Files that come from one place and have one role.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Source {
    /// `OWNER/NAME` on the hub; none for the user's own files
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// the commit, 40 hexadecimal digits; none in the registry where it is not pinned
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
    /// role of the files in the model
    pub role: Role,
    /// in a manifest: the folder or file itself, relative to the models folder unless it is the
    /// user's own
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<PathBuf>,
    /// files that belong to it
    pub files: Vec<FileEntry>,
}

/// Role of a source's files in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The whole model.
    Model,
    /// A denoiser in place of the model's own.
    #[serde(rename = "unet")]
    Denoiser,
    /// A T5 text encoder in place of the model's own, or where it has none.
    TextEncoder,
    /// An autoencoder in place of the model's own.
    Vae,
    /// A LoRA.
    Lora,
    /// A ControlNet.
    Control,
    /// The vision tower of a captioner whose decoder is a GGUF file.
    Mmproj,
}

/// One file of a source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// relative to the repository, with `/`; in the registry a `*` stands for any name's part
    pub path: String,
    /// bytes, where known
    pub size: Option<u64>,
    /// 64 hexadecimal digits, where known; otherwise the hub's declaration is used and recorded
    pub sha256: Option<String>,
    /// `true` if a repository may lack it
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub optional: bool,
}

/// Defaults of a run with a model. A setting that is missing has the program's default.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RunDefaults {
    /// `faithful`, `balanced`, `creative` or `fast`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<String>,
    /// target of the prediction, where it is not that of the base's scheduler: `epsilon`, `v_prediction` or `sample`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prediction_type: Option<String>,
    /// name of a sampler
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sampler: Option<String>,
    /// `trailing`, `leading` or `linspace`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestep_spacing: Option<String>,
    /// `simple`, `karras`, `exponential` or `beta`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sigmas: Option<String>,
    /// the timesteps themselves, falling
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timesteps: Option<Vec<u32>>,
    /// number of steps of the whole schedule
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub steps: Option<u32>,
    /// the share of the steps that run, 0 to 1
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strength: Option<f64>,
    /// the number of steps that run
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub denoise_steps: Option<u32>,
    /// scale of classifier-free guidance; 1 and less is none
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guidance: Option<f64>,
    /// noise added by each step, 0 to 1
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta: Option<f64>,
    /// side of the pictures it was trained on, pixels
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub native_size: Option<u32>,
    /// overlap of neighbouring regions as a share of a region's side, 0 to 0.9
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub overlap: Option<f64>,
    /// share of the first network's picture that stays in the repaint, 0 to 1
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_share: Option<f64>,
    /// how much stronger the finest detail gets, 0 to 2
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sharpen: Option<f64>,
    /// standard deviation of the grain in levels of 255, 0 to 20
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grain: Option<f64>,
    /// how far the output, reduced again, is the input, 0 to 1
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fidelity: Option<f64>,
    /// how far lines are drawn along those of the input, 0 to 1
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub coherence: Option<f64>,
    /// how far texture without lines is noise of the input's roughness, 0 to 1
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub texture: Option<f64>,
    /// merged in this order
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub loras: Vec<LoraRef>,
    /// the name of a model of kind `vae` that takes the place of its own
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vae: Option<String>,
}

/// A LoRA and how strongly it works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoraRef {
    /// the name of a model of kind `lora`
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// a file of one of the sources with that role
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// 1 is as trained
    #[serde(default = "as_trained")]
    pub scale: f64,
    /// weights of blocks, as [`LoraScale`](crate::weights::LoraScale) has them
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub blocks: Vec<f64>,
}

fn as_trained() -> f64 {
    1.0
}

impl Kind {
    /// Word for it in the registry file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Diffusion => "diffusion",
            Self::Vae => "vae",
            Self::Lora => "lora",
            Self::Control => "control",
            Self::Captioner => "captioner",
            Self::Enlarger => "enlarger",
        }
    }
}

impl RunDefaults {
    /// `true` if nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl ModelEntry {
    /// `true` if these are the user's own files, which are never downloaded nor deleted.
    #[must_use]
    pub fn is_own(&self) -> bool {
        self.sources.iter().any(|source| source.repository.is_none())
    }

    /// Bytes of all files, and whether the sizes of all are known.
    #[must_use]
    pub fn size(&self) -> (u64, bool) {
        let files = || self.sources.iter().flat_map(|source| &source.files);
        // Sizes come from a server, and nobody knows what it says.
        let sum = files().filter_map(|file| file.size).fold(0, u64::saturating_add);
        (sum, files().all(|file| file.size.is_some()))
    }
}
