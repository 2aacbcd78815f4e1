//! One part of a model inside a weights file: its tensors found by their names, which may be those of diffusers
//! or of the code that trained the model, and its configuration derived from their shapes. The families know
//! which names and shapes; this file knows how to look.

use std::collections::HashSet;

use serde_json::Value;

use super::part::PartConfig;
use super::tensors::{TensorMap, TensorName};
use crate::backend::ParamSource as _;

/// One part: its configuration, and its tensors by diffusers' (transformers') names.
#[derive(Clone, Debug)]
pub(super) struct PartFile {
    pub config: PartConfig,
    pub tensors: TensorMap,
    /// prefix of the part's tensors in the file
    prefix: &'static str,
    /// stored names of all tensors that the configuration asks for
    pub stored: HashSet<String>,
}

impl PartFile {
    /// Part whose tensors are those of `names`: each with our name, the name in the file, and how the one is
    /// taken from the other.
    pub(super) fn new(
        config: PartConfig,
        all: &TensorMap,
        prefix: &'static str,
        names: Vec<TensorName>,
    ) -> Self {
        let stored = names.iter().map(|(_, stored, _)| stored.clone()).collect();
        Self { config, tensors: all.renamed(names), prefix, stored }
    }

    /// Tensors of this part in its file that its configuration does not ask for.
    pub(super) fn unused<'a>(&self, all: &'a TensorMap) -> impl Iterator<Item = &'a str> {
        all.names().filter(|name| name.starts_with(self.prefix) && !self.stored.contains(*name))
    }
}

/// Configuration of a part that a file implies: no `config.json` says it.
pub(super) fn part_config(class: &str, config: Value, file: &str, part: &str) -> PartConfig {
    PartConfig { class: class.to_owned(), config, file: format!("{file}: {part}") }
}

/// Convention by which a file names its tensors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Naming {
    /// that of the code that trained the model (`ldm`, `sgm`)
    Ldm,
    Diffusers,
}

/// Place of a part's tensors in a file.
#[derive(Clone, Copy, Debug)]
pub(super) struct PartPlace {
    /// prefix of their names
    pub prefix: &'static str,
    pub naming: Naming,
}

/// Place of the part that has a tensor of the one name or the other behind one of the prefixes.
pub(super) fn find(
    tensors: &TensorMap,
    prefixes: &[&'static str],
    ldm_name: &str,
    diffusers_name: &str,
) -> Option<PartPlace> {
    prefixes.iter().find_map(|prefix| {
        let naming = if tensors.contains(&format!("{prefix}{ldm_name}")) {
            Naming::Ldm
        } else if tensors.contains(&format!("{prefix}{diffusers_name}")) {
            Naming::Diffusers
        } else {
            return None;
        };
        Some(PartPlace { prefix, naming })
    })
}

/// Scale and origin of a model's latents, which an autoencoder's tensors do not show.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct LatentScale {
    /// `scaling_factor` of diffusers
    pub factor: f64,
    /// `shift_factor` of diffusers, where there is one
    pub shift: Option<f64>,
}

/// Shapes of the tensors below a prefix.
pub(super) struct Shapes<'a> {
    pub tensors: &'a TensorMap,
    pub prefix: &'a str,
}

impl<'a> Shapes<'a> {
    /// Shape of a tensor, if it is there.
    pub(super) fn get(&self, name: &str) -> Option<&'a [usize]> {
        self.tensors.shape(&format!("{}{name}", self.prefix))
    }

    /// `true` if a tensor is there.
    pub(super) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// One dimension of a tensor that must be there.
    ///
    /// # Errors
    /// A tensor that is missing or has fewer dimensions, in one line without the file's name.
    pub(super) fn size(&self, name: &str, axis: usize) -> Result<usize, String> {
        let tensor = format!("{}{name}", self.prefix);
        let shape = self.get(name).ok_or_else(|| format!("tensor `{tensor}` is missing"))?;
        shape.get(axis).copied().ok_or_else(|| format!("tensor `{tensor}` is {shape:?}"))
    }

    /// Number of consecutive tensors that are there, of the names that `name` makes from 0, 1, ….
    pub(super) fn count(&self, name: impl Fn(usize) -> String) -> usize {
        (0..).take_while(|&index| self.has(&name(index))).count()
    }
}

/// Target of a denoiser's prediction, and whether its schedule ends in pure noise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prediction {
    /// v instead of ε
    pub velocity: bool,
    /// the signal-to-noise ratio of the last timestep is zero
    pub zero_snr: bool,
}

impl Prediction {
    /// Writes it into a scheduler's configuration.
    pub(super) fn write(self, scheduler: &mut Value) {
        scheduler["prediction_type"] =
            if self.velocity { "v_prediction" } else { "epsilon" }.into();
        if self.zero_snr {
            // Only trailing spacing begins where the signal is gone (Lin et al. 2024).
            scheduler["rescale_betas_zero_snr"] = true.into();
            scheduler["timestep_spacing"] = "trailing".into();
        }
    }
}
