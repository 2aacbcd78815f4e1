//! The door that plug-ins know: the API of AUTOMATIC1111's web UI, as far as it means something for a program that enlarges
//! pictures, so that clients for Photoshop, Krita, GIMP and others work as they are. docs/serve.md says what of it is
//! honoured, what is ignored with a note, and what is refused.

mod body;
mod calls;
mod door;
mod error;
mod extras;
mod img2img;
mod info;
mod lists;
mod options;
mod picture;
mod probes;
mod progress;
mod rooms;
mod sampling;
mod scripts;
mod turn;
mod turns;
mod values;

use std::sync::Arc;

use utoipa_axum::{router::OpenApiRouter, routes};

use super::jobs::Jobs;
use door::Door;

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
