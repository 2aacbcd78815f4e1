//! Remedies in terms of options: the library's errors name the problem, and this adds the option that helps, by the
//! error's variant.

use cupscale::{
    backend::DeviceError,
    image::ImageError,
    pipeline::Error,
    sampler::SamplerError,
    weights::{FileContents, WeightsError, hub::HubError, registry::ModelError},
};

use super::error::CliError;

/// Error message with remedy, on one line.
pub fn line(error: &CliError) -> String {
    match error {
        CliError::Job(Error::Sampler(SamplerError::RunCount { run, steps })) => format!(
            "--denoise-steps {run} is not possible: the schedule has {steps} steps (see --steps)"
        ),
        CliError::Job(Error::Interrupted(Some(folder))) => format!(
            "interrupted; the same command goes on from here (what is done is in {}), --fresh begins anew",
            folder.display()
        ),
        CliError::Job(job) => format!("{job}{}", of_job(job)),
        CliError::Models(models) => format!("{models}{}", of_models(models)),
        CliError::Threads { .. } => format!("{error}; try --threads 1"),
        _ => error.to_string(),
    }
}

fn of_job(error: &Error) -> String {
    match error {
        Error::NonFinite { weight: None, .. } => {
            " (`models verify` reads installed ones again; --guidance 1 does without)".to_owned()
        }
        Error::Memory { captioner: true, .. } => {
            "; try --caption-quantize q4_k, a smaller --caption-model, or a larger --max-memory"
                .to_owned()
        }
        Error::Memory { captioner: false, .. } => {
            "; try --quantize q8_0, a smaller picture, or a larger --max-memory".to_owned()
        }
        Error::PictureMemory { .. } => {
            "; try a larger --max-memory, or the picture as a PNG that is not interlaced, which is read row by row"
                .to_owned()
        }
        Error::OutOfMemory => "; close what else uses it, or try --device cpu".to_owned(),
        Error::Thread { .. } => "; try fewer devices with --device".to_owned(),
        Error::OtherJob { .. } => {
            "; the earlier settings go on with it, --fresh drops it and begins anew".to_owned()
        }
        Error::DamagedWork { .. } => "; --fresh begins anew".to_owned(),
        Error::Image(ImageError::Scratch { .. }) => "; --work-dir names another place".to_owned(),
        Error::Image(ImageError::MetadataTooLarge { .. }) => {
            "; a larger --max-metadata lets it in".to_owned()
        }
        Error::NoRoom { maps: 1.., .. } => {
            " with --work-dir; --vae-disk 0 does without, and measures on samples".to_owned()
        }
        Error::NoRoom { .. } | Error::NotOwn { .. } => " with --work-dir".to_owned(),
        Error::Sampler(
            SamplerError::UnsupportedScheduler { .. } | SamplerError::WrongProcess { .. },
        )
        | Error::NoFirstStep { .. } => " with --sampler".to_owned(),
        Error::NotFromNoise { .. } => ", such as `--model sdxl-base` (`models list` shows all)".to_owned(),
        Error::SizeOfNoise { .. } => ": --base-size; --size enlarges it".to_owned(),
        Error::Weights(
            WeightsError::NotAModel { contents, .. } | WeightsError::NoSuchPart { contents, .. },
        ) => match contents {
            FileContents::Lora => " (--lora)".to_owned(),
            FileContents::ControlNet => " (--control)".to_owned(),
            FileContents::Denoiser(_) => " (--unet)".to_owned(),
            FileContents::T5 | FileContents::Qwen3 => " (--text-encoder)".to_owned(),
            FileContents::Vae | FileContents::TinyVae => " (--vae)".to_owned(),
            _ => String::new(),
        },
        Error::Device(DeviceError::NotBuilt(_, feature)) => {
            format!("; build with `--features {feature}`")
        }
        Error::Device(DeviceError::Precision(_)) => {
            "; `--dtype auto` takes what there is".to_owned()
        }
        _ => String::new(),
    }
}

fn of_models(error: &ModelError) -> String {
    match error {
        ModelError::Unknown { close, .. } if close.is_empty() => {
            " (`cupscale-fast models list` shows all)".to_owned()
        }
        ModelError::NotInstalled { name, .. } => format!(": cupscale-fast models pull {name}"),
        ModelError::NothingToRemove { .. } => {
            "; `cupscale-fast models list` shows what is".to_owned()
        }
        ModelError::Incomplete { name, own: true, .. } => {
            format!(": cupscale-fast models remove {name}, then add it again")
        }
        ModelError::Incomplete { name, own: false, .. } => {
            format!(": cupscale-fast models pull {name}")
        }
        ModelError::Hub(HubError::TokenInClear(_)) => {
            " (an https:// --endpoint encrypts; --insecure sends it all the same)".to_owned()
        }
        ModelError::NoRevision { parts, .. } => format!("; give --revision with {parts}"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn advice_follows_what_the_library_says() {
        let folder = std::path::PathBuf::from("w");
        for (error, line_of_it) in [
            (
                Error::Sampler(SamplerError::RunCount { run: 9, steps: 8 }),
                "--denoise-steps 9 is not possible: the schedule has 8 steps (see --steps)",
            ),
            (
                Error::OtherJob {
                    output: "a.png".to_owned(),
                    folder: folder.clone(),
                    what: "seed: 1 there, 2 now".to_owned(),
                },
                "a.png: unfinished work of another job is in w (seed: 1 there, 2 now); the earlier settings go on with \
                 it, --fresh drops it and begins anew",
            ),
            (
                Error::NoRoom { folder: folder.clone(), need: 2 << 30, maps: 0, free: 1 << 30 },
                "w: the job needs 2.0 GiB of disk while it works, and 1.0 GiB are free: make room, or choose another \
                 folder with --work-dir",
            ),
            (
                Error::NoRoom { folder, need: 2 << 30, maps: 3 << 29, free: 1 << 30 },
                "w: the job needs 2.0 GiB of disk while it works (1.5 GiB of it for a VAE that computes a large picture \
                 exactly), and 1.0 GiB are free: make room, or choose another folder with --work-dir; --vae-disk 0 does \
                 without, and measures on samples",
            ),
            (
                Error::OutOfMemory,
                "the device ran out of memory; close what else uses it, or try --device cpu",
            ),
        ] {
            assert_eq!(line(&CliError::Job(error)), line_of_it);
        }
    }

    #[test]
    fn no_message_of_the_library_names_an_option() {
        let (class, known) = ("Heun".to_owned(), "ddim, euler".to_owned());
        let scheduler = SamplerError::UnsupportedScheduler { class, known };
        for error in [Error::Sampler(scheduler), Error::OutOfMemory] {
            assert!(!error.to_string().contains("--"), "{error}");
            assert!(line(&CliError::Job(error)).contains("--"));
        }
    }
}
