//! What the configuration of a flow-matching scheduler says beyond that of any other.

use serde::Deserialize;

/// The form of a shift that depends on the picture's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TimeShift {
    /// By eᵘ, u the number that the size gives.
    Exponential,
    /// By u itself.
    Linear,
}

/// The way from the number of a picture's tokens to u, the number behind a shift that depends on the picture's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SizeCurve {
    /// On a straight line through two sizes that the configuration names.
    Line,
    /// As it was measured: on a straight line in the number of tokens for schedules of 10 steps and on another for those of
    /// 200, between the two by the number of steps; on that of 200 alone for large pictures (diffusers'
    /// `compute_empirical_mu`).
    Measured,
}

/// Settings of a flow-matching scheduler.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FlowSettings {
    /// The shift s: `σ → s·σ/(1 + (s−1)·σ)`.
    pub shift: f64,
    /// The shift follows from the number of a picture's tokens, in place of `shift`.
    pub use_dynamic_shifting: bool,
    /// u of a picture of `base_image_seq_len` tokens.
    pub base_shift: f64,
    /// u of a picture of `max_image_seq_len` tokens.
    pub max_shift: f64,
    /// A number of tokens.
    pub base_image_seq_len: usize,
    /// Another number of tokens.
    pub max_image_seq_len: usize,
    /// How u follows from the number of tokens. No file says so.
    pub size_curve: SizeCurve,
    /// What u does to σ.
    pub time_shift_type: TimeShift,
    /// σ of the last step, to which the levels are stretched.
    pub shift_terminal: Option<f64>,
    /// σ counted from the picture.
    pub invert_sigmas: bool,
    /// Fresh noise in every step.
    pub stochastic_sampling: bool,
    /// The steps divide 1 to 0 evenly before the shift, whatever the training's last timestep is. No file says so: pipelines
    /// of newer models hand the scheduler such a list.
    pub whole_range: bool,
}
