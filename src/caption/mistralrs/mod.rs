//! `--caption-engine mistralrs`: any vision model of mistral.rs, in a process controlled by
//! [`worker`](super::worker).
//!
//! mistral.rs is verified at every start. A folder is [checked](folder) before it is loaded. A loaded model must
//! caption two small pictures, and several pictures are sent at once only if these two then get the captions that
//! each gets alone. A panic ends the process, which the program sees; there is no other state to save.

mod captioner;
mod error;
mod folder;
mod llava;
mod model;

use std::io::{self, BufRead, Write};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use image::{DynamicImage, RgbImage};
use tokio::runtime::Runtime;

pub use captioner::MistralrsCaptioner;
pub use error::MistralrsError;
use model::MistralrsModel;

use super::worker::protocol::{LoadOptions, Reply, Request, read_request, write_reply};

/// The hidden verb with which the program starts itself as a worker.
pub const VERB: &str = "caption-worker";

/// Confines a worker's `command`: no network and no hub cache, even if files are missing in the model's folder.
/// `scratch` is its folder for temporary files, of which some stay if it is killed; `gpu` is the only visible GPU.
pub fn confine(command: &mut Command, scratch: &Path, gpu: Option<usize>) {
    for name in ["TMPDIR", "TMP", "TEMP"] {
        command.env(name, scratch);
    }
    command.env("HF_HUB_OFFLINE", "1").env("HF_ENDPOINT", "http://127.0.0.1:9");
    // There is no folder below a file: nothing is read there, and nothing is made.
    if let Ok(program) = std::env::current_exe() {
        command.env("HF_HOME", program.join("none")).env_remove("HF_HUB_CACHE");
    }
    if let Some(gpu) = gpu {
        // Its number among those that this program sees.
        const VISIBLE: &str = "CUDA_VISIBLE_DEVICES";
        let visible = std::env::var(VISIBLE).ok();
        let name = visible.and_then(|names| Some(names.split(',').nth(gpu)?.to_owned()));
        command.env(VISIBLE, name.unwrap_or_else(|| gpu.to_string()));
    }
}

/// Checks a model before any job, without loading it.
///
/// # Errors
/// A missing folder, missing or damaged files, or an architecture that mistral.rs runs incorrectly.
pub fn check(folder: &Path) -> Result<(), MistralrsError> {
    folder_name(folder)?;
    folder::check(folder).map(drop)
}

/// The model's folder as a worker is told of it.
///
/// # Errors
/// A name that is no text.
pub fn folder_name(folder: &Path) -> Result<String, MistralrsError> {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    whole.into_os_string().into_string().map_err(|name| MistralrsError::Name(name.into()))
}

/// Main loop of a worker: executes the requests of `input` and writes replies to `output`, until `input` ends.
///
/// # Errors
/// `input` cannot be read, or talks nonsense.
pub fn serve(mut input: impl BufRead, output: impl Write + Send + 'static) -> io::Result<()> {
    let (pass_on, requests) = mpsc::channel();
    let output = ReplyOutput(Arc::new(Mutex::new(output)));
    // The end of the input ends the process even while a model is being loaded.
    thread::spawn(move || work(&requests, &output));
    while let Some(request) = read_request(&mut input)? {
        if pass_on.send(request).is_err() {
            break;
        }
    }
    Ok(())
}

/// Shared output for replies from any thread.
struct ReplyOutput<W>(Arc<Mutex<W>>);

impl<W: Write> ReplyOutput<W> {
    /// Write errors are ignored: if nobody reads, the input ends as well.
    fn say(&self, reply: &Reply) {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = write_reply(&mut *output, reply);
    }
}

fn work<W: Write + Send + 'static>(
    requests: &Receiver<(Request, Vec<u8>)>,
    output: &ReplyOutput<W>,
) {
    let runtime = match Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return output.say(&Reply::Refused(error.to_string())),
    };
    let mut model = None;
    for (request, pixels) in requests {
        match request {
            Request::Load(load) => match runtime.block_on(ready(&load, output)) {
                Ok(loaded) => model = Some(Arc::new(loaded)),
                Err(error) => output.say(&Reply::Refused(error.to_string())),
            },
            Request::Describe { id, instruction, width, height } => {
                let picture = RgbImage::from_raw(width as u32, height as u32, pixels);
                let (Some(model), Some(picture)) = (model.clone(), picture) else {
                    let reason = "no model, or no picture".to_owned();
                    output.say(&Reply::Failed { id, reason });
                    continue;
                };
                let output = ReplyOutput(output.0.clone());
                runtime.spawn(async move {
                    let picture = DynamicImage::ImageRgb8(picture);
                    output.say(&match model.describe(picture, &instruction).await {
                        Ok((text, ended)) => Reply::Text { id, text, ended },
                        Err(error) => Reply::Failed { id, reason: error.to_string() },
                    });
                });
            }
        }
    }
}

/// Loads a model and runs its self-check.
async fn ready<W: Write>(
    load: &LoadOptions,
    output: &ReplyOutput<W>,
) -> Result<MistralrsModel, MistralrsError> {
    let model = MistralrsModel::load(load).await?;
    let alone = model.alone().await?;
    let mut note = None;
    if load.try_together {
        output.say(&Reply::TryingTogether);
        note = model
            .batching_problem(&alone)
            .await
            .map(|reason| format!("mistral.rs captions regions one after the other: {reason}"));
        // Requests that went wrong together may have left something behind: the next process tries nothing.
        if note.is_some() && !model.is_still(&alone).await {
            let reason = "two pictures at once spoil the captions after them".to_owned();
            return Err(MistralrsError::Engine(reason));
        }
    }
    let together = load.try_together && note.is_none();
    output.say(&Reply::Ready { together, note });
    Ok(model)
}
