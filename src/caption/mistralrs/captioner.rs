//! `--caption-engine mistralrs` as a captioner. Its process has the device to itself.

use std::{
    error,
    path::{Path, PathBuf},
    process::Command,
};

use candle_core::{Device, DeviceLocation};
use serde_json::Value;

use super::{VERB, confine, folder_name};
use crate::{
    caption::{
        CaptionError, CaptionSession, Captioner, SessionContext,
        cache::{Cached, CaptionCache},
        vision::VisionSession,
        wording::{CaptionLength, instruction},
        worker::{Timeouts, WorkerModel, WorkerOptions, protocol::LoadOptions},
    },
    temporary::removed_folder,
    weights::{QuantType, folder_fingerprint},
};

/// Engine name shown to users.
const ENGINE: &str = "mistralrs";

/// A model of mistral.rs in a separate process.
#[derive(Debug)]
pub struct MistralrsCaptioner {
    program: PathBuf,
    folder: PathBuf,
    name: String,
    quantize: Option<QuantType>,
    cache: CaptionCache,
    device: Device,
}

impl MistralrsCaptioner {
    /// The model in `folder`, its weights rounded to `quantize`, asked by `program` (`cupscale-fast`) on `device`.
    /// Runs no checks: see [`check`](super::check).
    #[must_use]
    pub fn new(
        program: PathBuf,
        folder: &Path,
        quantize: Option<QuantType>,
        cache: CaptionCache,
        device: &Device,
    ) -> Self {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { program, folder: folder.to_owned(), name, quantize, cache, device: device.clone() }
    }

    /// Changes with the model and the type that its weights are rounded to.
    fn fingerprint(&self) -> String {
        folder_fingerprint(&self.folder, self.quantize)
    }
}

impl Captioner for MistralrsCaptioner {
    fn name(&self) -> &str {
        ENGINE
    }

    fn model(&self) -> Option<&str> {
        Some(&self.name)
    }

    fn record(&self) -> Vec<(&'static str, Value)> {
        let mut record = vec![("caption_model", self.name.as_str().into())];
        if let Some(quant) = self.quantize {
            record.push(("caption_quantize", quant.to_string().into()));
        }
        record
    }

    fn identity(&self) -> Result<String, CaptionError> {
        // The length follows from the model that reads the captions.
        let question = instruction("", CaptionLength::default());
        Ok(format!("{ENGINE} {} {question}", self.fingerprint()))
    }

    fn is_costly(&self) -> bool {
        true
    }

    /// The worker starts before any part of the job's own model is loaded.
    fn open<'a>(
        &'a self,
        job: SessionContext<'a>,
    ) -> Result<Box<dyn CaptionSession + 'a>, CaptionError> {
        let load = LoadOptions {
            folder: folder_name(&self.folder).map_err(|error| refused(&error))?,
            quantize: self.quantize.map(|quant| quant.to_string()),
            cpu: self.device.is_cpu(),
            max_new_tokens: job.length.most(),
            try_together: true,
        };
        let gpu = match self.device.location() {
            DeviceLocation::Cuda { gpu_id } => Some(gpu_id),
            _ => None,
        };
        let program = self.program.clone();
        let scratch = removed_folder().map_err(|error| refused(&error))?;
        let make_room = job.make_room;
        let start = move || {
            make_room();
            let mut command = Command::new(&program);
            command.arg(VERB);
            confine(&mut command, scratch.path(), gpu);
            command
        };
        let model = WorkerModel::new(WorkerOptions {
            engine: ENGINE,
            start: Box::new(start),
            load,
            fingerprint: self.fingerprint(),
            timeouts: Timeouts::default(),
            stop: job.stop.clone(),
        });
        let model = Box::new(Cached::new(model, &self.cache, job.stop));
        Ok(Box::new(VisionSession::new(ENGINE, model, job.fits).with_length(job.length)))
    }
}

fn refused(error: &dyn error::Error) -> CaptionError {
    CaptionError::Engine { name: ENGINE.into(), message: error.to_string() }
}
