//! Samplers: from a model's scheduler config to the steps that take noise away (docs/method.md §2).
//!
//! [`SchedulerConfig`] reads diffusers' `scheduler_config.json`, [`Schedule`] knows the noise [`Level`] of every timestep
//! and spreads timesteps, a [`Sampler`] turns steps into [`Update`]s, and [`plan`] says which of the steps an
//! image-to-image run takes.
//!
//! Every sampler (DDIM, TCD, LCM, Euler and its ancestral form, Heun, the DPM-Solver++ family, UniPC, Euler of flow matching) is linear in the canvas, the prediction, fresh noise and the values
//! that earlier steps kept: `z' = a·z + b·ε + c·n + Σ dₖ·hₖ`, with a few numbers per step. So a sampler only computes those
//! numbers, in f64, and the canvas is updated in bands of rows by one loop. All of them work on the noise prediction ε:
//! see [`Schedule::convert`] for models that predict something else. What a config may ask for beyond that, clipping of
//! the clean latent, is a part of the update ([`Clip`]).
//!
//! A new sampler is one file with a type that implements [`Sampler`] and a descriptor, its `mod` line here, and one line
//! in the table of `kind.rs`.

mod clip;
mod config;
mod ddim;
mod descriptor;
mod dpm_steps;
mod dpmpp_2m;
mod dpmpp_2m_sde;
mod dpmpp_2s;
mod dpmpp_3m_sde;
mod dpmpp_sde;
mod error;
mod euler;
mod euler_ancestral;
mod flow;
mod flow_euler;
mod flow_settings;
mod heun;
mod interface;
mod kind;
mod lcm;
mod level;
mod plan;
mod schedule;
mod sigma_choice;
mod sigmas;
mod step;
mod tcd;
mod unipc;
mod update;

pub use clip::{Clip, Limit, QuantileSearch};
pub use config::{BetaSchedule, FinalSigmas, PredictionType, SchedulerConfig, TimestepSpacing};
pub use ddim::Ddim;
pub use dpmpp_2m::Dpmpp2m;
pub use dpmpp_2m_sde::Dpmpp2mSde;
pub use dpmpp_2s::Dpmpp2s;
pub use dpmpp_3m_sde::Dpmpp3mSde;
pub use dpmpp_sde::DpmppSde;
pub use error::SamplerError;
pub use euler::Euler;
pub use euler_ancestral::EulerAncestral;
pub use flow_euler::FlowEuler;
pub use flow_settings::{FlowSettings, SizeCurve, TimeShift};
pub use heun::Heun;
pub use interface::{Sampler, updates};
pub use kind::{SamplerChoice, SamplerKind};
pub use lcm::Lcm;
pub use level::{Level, NoiseProcess};
pub use plan::{Denoise, Timesteps, plan, steps_run};
pub use schedule::{Schedule, add_noise};
pub use sigma_choice::SigmaChoice;
pub use step::{Combination, PredictionForm, Step};
pub use tcd::Tcd;
pub use unipc::UniPc;
pub use update::Update;
