//! The model of `--captioner llava`: from its options, or from what is installed, to a model on a device.

use candle_core::Device;
use cupscale::{
    caption::cache::CaptionCache,
    pipeline::{CaptionModel, CaptionerChoice, Error},
    weights::{
        LlavaFiles,
        registry::{Kind, ResolvedModel, Store},
    },
};

#[cfg(feature = "mistralrs")]
use cupscale::{
    caption::{CaptionError, mistralrs},
    pipeline::MistralrsSettings,
};

use super::{
    CliError,
    args::{CaptionEngineArg, ContentArgs, LlavaArgs},
    engine::resolve,
};

/// The model that describes regions, if one is wanted.
pub fn load(content: &ContentArgs, device: &Device) -> Result<Option<CaptionModel>, CliError> {
    let args = &content.llava;
    match content.captioner() {
        CaptionerChoice::Attributes | CaptionerChoice::None | CaptionerChoice::File(_) => Ok(None),
        #[cfg(feature = "mistralrs")]
        CaptionerChoice::Mistralrs(settings) => check(args, &settings).map(|()| None),
        CaptionerChoice::Llava(_) if args.caption_engine == CaptionEngineArg::Mistralrs => {
            let reason = "this build has no mistral.rs; build with --features mistralrs";
            Err(CliError::Usage(reason.to_owned()))
        }
        CaptionerChoice::Llava(_) => builtin(args, device).map(Some),
    }
}

/// Checks what mistral.rs is to be asked before any work.
#[cfg(feature = "mistralrs")]
fn check(args: &LlavaArgs, settings: &MistralrsSettings) -> Result<(), CliError> {
    if let Some(option) = args.builtin_only() {
        let reason = format!("--{option} is for --caption-engine builtin");
        return Err(CliError::Usage(reason));
    }
    if args.caption_model.is_none() {
        let reason = "--caption-engine mistralrs: name the model's folder with --caption-model";
        return Err(CliError::Usage(reason.to_owned()));
    }
    mistralrs::check(&settings.folder).map_err(|error| {
        let message = error.to_string();
        CliError::Job(CaptionError::Engine { name: "mistralrs".into(), message }.into())
    })
}

fn builtin(args: &LlavaArgs, device: &Device) -> Result<CaptionModel, CliError> {
    let model = match &args.caption_model {
        Some(name) => resolve(name, Kind::Captioner)?,
        None => only_installed()?,
    };
    let mmproj = args.caption_mmproj.as_ref().or(model.mmproj.as_ref());
    let files = match mmproj {
        Some(mmproj) => LlavaFiles::open_gguf(&model.weights, mmproj),
        None => LlavaFiles::open(&model.weights),
    };
    let mut files = files.map_err(Error::from)?;
    if let Some(quant) = args.caption_quantize {
        files = files.quantized(quant);
    }
    let name = match model.kind {
        Some(_) => model.name,
        None => model.weights.file_name().unwrap_or_default().to_string_lossy().into_owned(),
    };
    Ok(CaptionModel::load(files, name, device, CaptionCache::new(args.cache_folder()))?)
}

/// The one captioner that is installed.
fn only_installed() -> Result<ResolvedModel, CliError> {
    let store = Store::open()?;
    let captioners = store.manifests()?.into_iter().filter(|entry| entry.kind == Kind::Captioner);
    let names: Vec<String> = captioners.map(|entry| entry.name).collect();
    match names.as_slice() {
        [name] => Ok(store.resolve(name.as_ref())?),
        [] => Err(CliError::Usage(
            "--captioner llava: no such model is installed; cupscale-fast models pull llava-1.5-7b, or \
             name one with --caption-model"
                .to_owned(),
        )),
        several => Err(CliError::Usage(format!(
            "--captioner llava: choose one of {} with --caption-model",
            several.join(", ")
        ))),
    }
}
