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

use super::{
    CliError,
    args::{CaptionEngineArg, ContentArgs, LlavaArgs},
    engine::resolve,
};

/// The model that describes regions, if one is wanted.
pub fn load(content: &ContentArgs, device: &Device) -> Result<Option<CaptionModel>, CliError> {
    if !matches!(content.captioner(), CaptionerChoice::Llava(_)) {
        return Ok(None);
    }
    let args = &content.llava;
    match args.caption_engine {
        CaptionEngineArg::Builtin => builtin(args, device).map(Some),
    }
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
    let folder = if args.no_caption_cache { None } else { CaptionCache::default_folder() };
    Ok(CaptionModel::load(files, name, device, CaptionCache::new(folder))?)
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
