//! Pipeline of one job: it is planned, its input captioned and encoded, the canvas denoised and decoded into the output
//! (docs/method.md §2).
//!
//! An [`Engine`] is a model ready for jobs; [`upscale`] runs one. Modules: `plan` computes the plan, `stages`
//! execute it, `work` stores the state on disk, and `run` connects them.

mod back_projection;
mod blend;
mod coherence;
mod colour_fix;
mod colour_match;
mod control;
mod cut_light;
mod engine;
mod error;
mod finish;
mod first;
mod frames;
mod generate;
mod grain;
mod job;
mod lab;
mod mask;
mod model;
mod model_defaults;
mod plan;
mod profile;
mod progress;
mod prompts;
mod protect;
mod queue;
#[cfg(test)]
mod reference;
mod retry;
mod run;
mod runner;
mod settings;
mod sharpen;
mod speed;
mod stages;
mod structure;
mod text_states;
mod texture;
pub(crate) mod work;

pub use crate::host::host_name;
pub use control::{ControlUse, OwnControlPicture};
pub use engine::Engine;
pub use error::Error;
pub use first::{First, FirstEnlarger, LANCZOS};
pub use frames::Frames;
pub use generate::{Generated, Generation, GenerationPlan, generate, plan_generation};
pub use mask::Mask;
pub use model::ModelShape;
pub use model_defaults::ModelDefaults;
pub use plan::{
    Plan,
    first::FirstPlan,
    geometry::Geometry,
    memory::{MemoryPlan, MemoryStage, StageMemory},
    sampling::SamplingPlan,
    tiles::Span,
};
pub use profile::{Profile, ProfileRow};
pub use progress::{Outline, Preview, Progress, Silent, Stage};
pub use run::{Report, describe, describe_ahead, plan, profile_row, upscale};
pub use settings::{ColourFix, Defaults, Settings};
pub use speed::Speed;
pub use stages::write::Rows;
pub use work::{
    folder::{Resume, WorkOptions},
    lock::is_free,
};
