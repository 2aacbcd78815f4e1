//! Denoisers: the network of a diffusion model, whatever its family. Jobs see this seam alone: shapes,
//! opaque conditions, a hook for priors, one call. A family is a folder here that implements
//! [`DenoisingNetwork`], and one line in `CLASSES`.

mod attention;
mod conditioning;
mod control;
mod error;
pub mod flux2;
mod network;
pub mod pixart;
mod prior;
mod rotary;
pub mod sd3;
mod shape;
mod timestep;
pub mod unet;
pub mod z_image;

use std::{ops::Deref, sync::Arc};

use serde_json::Value;

use crate::backend::Params;
pub use conditioning::{Conditioning, MicroConditioning};
pub use control::{
    ControlClass, ControlKind, ControlNetwork, ControlPicture, ControlShape, ControlSignal,
};
pub use error::DenoiserError;
pub use network::{DenoiserClass, DenoisingNetwork};
pub use prior::Prior;
pub use shape::DenoiserShape;

/// The classes that there is a family for. Where nothing names a class, a configuration is read as the first one's.
const CLASSES: &[DenoiserClass] =
    &[unet::CLASS, pixart::CLASS, pixart::OLD_CLASS, sd3::CLASS, z_image::CLASS, flux2::CLASS];

/// The classes of controls.
const CONTROL_CLASSES: &[ControlClass] = &[unet::CONTROL_CLASS, unet::CONTROL_UNION_CLASS];

/// A denoiser of any family. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Denoiser(Arc<dyn DenoisingNetwork>);

impl Denoiser {
    /// Builds the denoiser of diffusers' `class` that `config` describes, with the weights of `params`.
    /// `config_file` is named in errors.
    ///
    /// # Errors
    /// A class or a field that is not supported, or a tensor that is missing or of another shape.
    pub fn load(
        class: &str,
        config: &Value,
        config_file: &str,
        params: &Params,
    ) -> Result<Self, DenoiserError> {
        let known = CLASSES.iter().find(|known| known.name == class || class.is_empty());
        let Some(known) = known else {
            return Err(DenoiserError::Class {
                file: config_file.to_owned(),
                class: class.to_owned(),
                known: CLASSES.iter().map(|known| known.name).collect::<Vec<_>>().join(", "),
            });
        };
        (known.load)(config, config_file, params).map(Self)
    }
}

impl<N: DenoisingNetwork + 'static> From<N> for Denoiser {
    fn from(network: N) -> Self {
        Self(Arc::new(network))
    }
}

impl Deref for Denoiser {
    type Target = dyn DenoisingNetwork;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

/// A control of any class. A clone is the same one.
#[derive(Clone, Debug)]
pub struct Control(Arc<dyn ControlNetwork>);

impl Control {
    /// Builds the control of diffusers' `class` that `config` describes, with the weights of `params`.
    /// `config_file` is named in errors.
    ///
    /// # Errors
    /// A class or a field that is not supported, or a tensor that is missing or of another shape.
    pub fn load(
        class: &str,
        config: &Value,
        config_file: &str,
        params: &Params,
    ) -> Result<Self, DenoiserError> {
        let known = CONTROL_CLASSES.iter().find(|known| known.names.contains(&class));
        let Some(known) = known else {
            return Err(DenoiserError::Class {
                file: config_file.to_owned(),
                class: class.to_owned(),
                known: CONTROL_CLASSES
                    .iter()
                    .filter_map(|known| known.names.first().copied())
                    .collect::<Vec<_>>()
                    .join(", "),
            });
        };
        (known.load)(config, config_file, params).map(Self)
    }

    /// `true` for a class of diffusers (or of the makers of a control) that this program has.
    #[must_use]
    pub fn is_class(class: &str) -> bool {
        CONTROL_CLASSES.iter().any(|known| known.names.contains(&class))
    }
}

impl Deref for Control {
    type Target = dyn ControlNetwork;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::{DType, Device};
    use serde_json::json;

    use super::*;

    fn load(class: &str, config: &Value) -> DenoiserError {
        let params = Params::from_tensors(HashMap::new(), DType::F32, &Device::Cpu);
        Denoiser::load(class, config, "model/unet/config.json", &params).unwrap_err()
    }

    #[test]
    fn an_unknown_class_is_refused_by_name_and_the_known_ones_are_listed() {
        let error = load("FluxTransformer2DModel", &json!({})).to_string();
        let expected = "model/unet/config.json: `FluxTransformer2DModel` is not supported (UNet2DConditionModel, ";
        assert!(error.starts_with(expected), "{error}");
    }

    #[test]
    fn an_error_of_a_family_names_its_file_and_keeps_the_backends_error() {
        let error = load(unet::CLASS.name, &json!({ "act_fn": "gelu" }));
        assert!(matches!(error, DenoiserError::Config { .. }));
        let expected = "model/unet/config.json: unet config: `act_fn`";
        assert!(error.to_string().starts_with(expected), "{error}");
        let error = load(unet::CLASS.name, &json!({}));
        assert!(std::error::Error::source(&error).is_some_and(|it| it.is::<candle_core::Error>()));
        assert!(error.to_string().contains("`conv_in."), "{error}");
    }
}
