//! The door that plug-ins know: the API of AUTOMATIC1111's web UI, as far as it means something for a program that enlarges
//! pictures, so that clients for Photoshop, Krita, GIMP and others work as they are. docs/serve.md says what of it is
//! honoured, what is ignored with a note, and what is refused.

mod body;
mod calls;
mod error;
mod extras;
mod img2img;
mod info;
mod lists;
mod options;
mod picture;
mod probes;
mod progress;
mod sampling;
mod scripts;
mod turn;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::{body::Rooms, error::A1111Error, img2img::Given, options::Options, turn::Turns};
use super::jobs::Jobs;

/// Bodies that may be in memory at once, in the largest that one may be.
const BODIES: usize = 2;

/// What the calls of this API share.
pub struct Door {
    jobs: Arc<Jobs>,
    options: Mutex<Options>,
    turns: Turns,
    rooms: Rooms,
}

impl Door {
    fn new(jobs: Arc<Jobs>) -> Self {
        let largest = jobs.limits.body;
        Self {
            jobs,
            options: Mutex::default(),
            turns: Turns::default(),
            rooms: Rooms::new(largest, BODIES),
        }
    }

    fn options(&self) -> MutexGuard<'_, Options> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of the models that can be chosen, the one that the server started with first.
    fn models(&self) -> Vec<String> {
        let mut models = self.jobs.host.models();
        models.sort_by_key(|model| !model.is_default);
        models.into_iter().map(|model| model.name).collect()
    }

    /// What holds for a request.
    fn given(&self) -> Given {
        let options = self.options().clone();
        Given { options, models: self.models(), most_pixels: self.jobs.limits.pixels }
    }

    /// Does what takes a moment where nobody waits for it.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, A1111Error> + Send + 'static,
    ) -> Result<T, A1111Error> {
        let door = Arc::clone(self);
        let done = task::spawn_blocking(move || work(&door)).await;
        done.unwrap_or_else(|_| Err(A1111Error::failed("a fault in the program")))
    }
}

/// The calls of the API, to be mounted at `/sdapi/v1`.
pub fn router<S: Clone + Send + Sync + 'static>(jobs: &Arc<Jobs>) -> OpenApiRouter<S> {
    let door = Arc::new(Door::new(Arc::clone(jobs)));
    OpenApiRouter::default()
        .routes(routes!(calls::extra_single_image))
        .routes(routes!(calls::extra_batch_images))
        .routes(routes!(calls::img2img))
        .routes(routes!(calls::txt2img))
        .routes(routes!(calls::interrogate))
        .routes(routes!(calls::png_info))
        .routes(routes!(progress::progress))
        .routes(routes!(progress::interrupt))
        .routes(routes!(progress::skip))
        .routes(routes!(lists::options, lists::set_options))
        .routes(routes!(lists::sd_models))
        .routes(routes!(lists::refresh_checkpoints))
        .routes(routes!(lists::samplers))
        .routes(routes!(lists::schedulers))
        .routes(routes!(lists::upscalers))
        .routes(routes!(lists::scripts))
        .routes(routes!(lists::script_info))
        .routes(routes!(lists::embeddings))
        .routes(routes!(lists::cmd_flags))
        .routes(routes!(lists::memory))
        .routes(routes!(lists::latent_upscale_modes))
        .routes(routes!(lists::sd_vae))
        .routes(routes!(lists::loras))
        .routes(routes!(lists::hypernetworks))
        .routes(routes!(lists::face_restorers))
        .routes(routes!(lists::realesrgan_models))
        .routes(routes!(lists::prompt_styles))
        .routes(routes!(lists::extensions))
        .with_state(door)
}

/// What clients ask outside of the API to see whether a server is there, to be mounted at the root.
pub fn probes<S: Clone + Send + Sync + 'static>(jobs: &Arc<Jobs>) -> OpenApiRouter<S> {
    OpenApiRouter::default()
        .routes(routes!(probes::ping))
        .routes(routes!(probes::queue_status))
        .routes(routes!(probes::user))
        .with_state(Arc::clone(jobs))
}
