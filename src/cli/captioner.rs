//! Opening of the captioner that `--captioner` and its options name.

use std::sync::Arc;

use candle_core::Device;
use cupscale::{
    caption::{
        Captioner, attributes::Attributes, cache::CaptionCache, file::FromFile,
        llava::LlavaCaptioner, none::PromptOnly,
    },
    pipeline::Error,
    weights::CaptionerChoice,
};

use super::{
    args::{CaptionEngineArg, CaptionerArg, ContentArgs, LlavaArgs},
    error::CliError,
};

/// Opens the captioner named by the options, for devices of which there is at least one.
pub fn open(content: &ContentArgs, devices: &[Device]) -> Result<Arc<dyn Captioner>, CliError> {
    if let Some(file) = &content.captions {
        return Ok(Arc::new(FromFile::read(file).map_err(Error::from)?));
    }
    match content.captioner {
        CaptionerArg::Attributes => Ok(Arc::new(Attributes)),
        CaptionerArg::Llava => match content.llava.caption_engine {
            CaptionEngineArg::Builtin => builtin(&content.llava, devices),
            CaptionEngineArg::Mistralrs => mistralrs(&content.llava, devices),
        },
        CaptionerArg::None => Ok(Arc::new(PromptOnly)),
    }
}

#[cfg(not(feature = "mistralrs"))]
fn mistralrs(_: &LlavaArgs, _: &[Device]) -> Result<Arc<dyn Captioner>, CliError> {
    let reason = "this build has no mistral.rs; build with --features mistralrs";
    Err(CliError::Usage(reason.to_owned()))
}

/// A captioner of mistral.rs, checked before any work; its process has the first device.
#[cfg(feature = "mistralrs")]
fn mistralrs(args: &LlavaArgs, devices: &[Device]) -> Result<Arc<dyn Captioner>, CliError> {
    use cupscale::caption::{CaptionError, mistralrs};

    if let Some(option) = args.builtin_only() {
        let reason = format!("--{option} is for --caption-engine builtin");
        return Err(CliError::Usage(reason));
    }
    let Some(folder) = &args.caption_model else {
        let reason = "--caption-engine mistralrs: name the model's folder with --caption-model";
        return Err(CliError::Usage(reason.to_owned()));
    };
    let folder = folder.as_ref();
    mistralrs::check(folder).map_err(|error| {
        let message = error.to_string();
        CliError::Job(CaptionError::Engine { name: "mistralrs".into(), message }.into())
    })?;
    Ok(Arc::new(mistralrs::MistralrsCaptioner::new(
        std::env::current_exe().unwrap_or_default(),
        folder,
        args.caption_quantize,
        CaptionCache::new(args.cache_folder()),
        devices.first().unwrap_or(&Device::Cpu),
    )))
}

fn builtin(args: &LlavaArgs, devices: &[Device]) -> Result<Arc<dyn Captioner>, CliError> {
    let choice = CaptionerChoice {
        model: args.caption_model.clone(),
        mmproj: args.caption_mmproj.clone(),
        quantize: args.caption_quantize,
    };
    let (files, name) = choice.open()?;
    let cache = CaptionCache::new(args.cache_folder());
    let (first, others) = devices.split_first().unwrap_or((&Device::Cpu, &[]));
    let captioner = LlavaCaptioner::new(files, name, args.settings(), first, cache);
    Ok(Arc::new(captioner.map_err(Error::from)?.with_others(others)))
}
