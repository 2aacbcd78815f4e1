//! The noise levels of flow matching: σ from 1 (noise) to 0 (picture), spread over the steps and shifted towards the noise,
//! as diffusers' `scheduling_flow_match_euler_discrete.py` does it in `__init__` and `set_timesteps`.

use std::ops::RangeInclusive;

use super::{
    config::SchedulerConfig,
    error::SamplerError,
    flow_settings::{FlowSettings, SizeCurve, TimeShift},
    level::Level,
    sigma_choice::SigmaChoice,
    sigmas::{SigmaSpread, Sigmas},
};

/// Factors that a shift by the picture's size may have.
const BELIEVED: RangeInclusive<f64> = 1e-30..=1e30;

/// Spread of σ over the steps of a flow-matching model.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FlowSigmas {
    settings: FlowSettings,
    train_timesteps: usize,
    sigmas: Sigmas,
    /// Tokens of the pictures that the model sees, if they are known.
    tokens: Option<usize>,
}

impl FlowSigmas {
    /// The levels of a config.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for settings that this program does not have or that cannot be.
    pub fn new(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        let settings = config.flow;
        let refuse = |setting, reason| Err(SamplerError::UnsupportedSetting { setting, reason });
        if settings.invert_sigmas {
            return refuse("invert_sigmas", "only models that count σ from the noise run here");
        }
        if config.num_train_timesteps == 0 {
            return refuse("a num_train_timesteps of 0", "a schedule has 1 timestep at least");
        }
        if settings.shift_terminal == Some(1.0) {
            return refuse("a shift_terminal of 1", "it leaves no steps: it must be below 1");
        }
        let is_line = settings.size_curve == SizeCurve::Line;
        if is_line && settings.base_image_seq_len == settings.max_image_seq_len {
            return refuse("base_image_seq_len", "it must differ from max_image_seq_len");
        }
        let train_timesteps = config.num_train_timesteps;
        if config.use_lu_lambdas == Some(true) {
            return refuse("use_lu_lambdas", "flow matching has no such levels");
        }
        // The ends are always those of the steps: the reference's class has no others.
        let sigmas = Sigmas { least: None, greatest: None, ..Sigmas::of(config)? };
        Ok(Self { settings, train_timesteps, sigmas, tokens: None })
    }

    /// The same for pictures of this many tokens.
    pub fn set_tokens(&mut self, tokens: usize) {
        self.tokens = Some(tokens);
    }

    /// The same with these noise levels.
    pub fn set_sigmas(&mut self, choice: SigmaChoice) {
        self.sigmas.spread = SigmaSpread::of(choice);
    }

    /// T, the number that stands for σ = 1.
    pub fn train_timesteps(&self) -> usize {
        self.train_timesteps
    }

    /// The level of timestep `t`, 0 to T.
    ///
    /// # Errors
    /// [`SamplerError::TimestepRange`].
    pub fn level(&self, t: f64) -> Result<Level, SamplerError> {
        let max = self.train_timesteps;
        if !(0.0..=max as f64).contains(&t) {
            return Err(SamplerError::TimestepRange { t, max });
        }
        Ok(Level::flow(t / max as f64))
    }

    /// The timesteps of `n` steps and their levels, noisiest first.
    ///
    /// # Errors
    /// [`SamplerError::StepCount`] unless `1 <= n <= T`, [`SamplerError::TokensMissing`] where they are needed, and
    /// [`SamplerError::UnsupportedSetting`] where the shift that they give is none.
    pub fn points(&self, n: usize) -> Result<Vec<(f64, Level)>, SamplerError> {
        let total = self.train_timesteps;
        if n == 0 || n > total {
            return Err(SamplerError::StepCount { steps: n, max: total });
        }
        // In f32, as the reference keeps the ends; its steps are f64.
        let span = total as f64;
        let (first, last) = if self.settings.whole_range {
            (span, span / n as f64)
        } else {
            (self.end(total) * span, self.end(1) * span)
        };
        let increment = (last - first) / (n.max(2) - 1) as f64;
        let shift = self.shift(n)?;
        let even = |index: usize| match index {
            0 => first,
            _ if index + 1 == n => last,
            _ => first + index as f64 * increment,
        };
        let mut sigmas: Vec<f64> = (0..n).map(|index| shift.of(even(index) / span)).collect();
        if let Some(end) = self.settings.shift_terminal.filter(|&end| end > 0.0) {
            let scale = (1.0 - sigmas[n - 1]) / (1.0 - end);
            // A single step is at σ = 1, which has no way to be stretched.
            if scale > 0.0 {
                sigmas.iter_mut().for_each(|sigma| *sigma = 1.0 - (1.0 - *sigma) / scale);
            }
        }
        if let Some(spread) = self.sigmas.spread {
            sigmas = self.sigmas.spread(spread, (sigmas[0], sigmas[n - 1]), n);
        }
        let point = |sigma: f64| {
            // A shift below 1 may round the first one up.
            let sigma = (sigma as f32).min(1.0);
            (f64::from(sigma * total as f32), Level::flow(f64::from(sigma)))
        };
        Ok(sigmas.into_iter().map(point).collect())
    }

    /// Refuses a list of timesteps where levels of their own would leave it without effect.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`].
    pub fn refuse_list(&self) -> Result<(), SamplerError> {
        self.sigmas.refuse_list()
    }

    /// σ of a training timestep, 1 to T: where the steps begin and end before they are shifted. A fixed shift is already
    /// in it, so that the last step of such a schedule is shifted twice, as the reference has it.
    fn end(&self, t: usize) -> f64 {
        let sigma = t as f32 / self.train_timesteps as f32;
        let shift = self.settings.shift as f32;
        let shifted = if self.settings.use_dynamic_shifting {
            sigma
        } else {
            shift * sigma / (1.0 + (shift - 1.0) * sigma)
        };
        f64::from(shifted)
    }

    /// The shift of every σ of a schedule of `n` steps.
    fn shift(&self, n: usize) -> Result<Shift, SamplerError> {
        if !self.settings.use_dynamic_shifting {
            return Ok(Shift::Fixed(self.settings.shift));
        }
        let tokens = self.tokens.ok_or(SamplerError::TokensMissing)? as f64;
        let by_size = match self.settings.size_curve {
            SizeCurve::Line => self.on_line(tokens),
            SizeCurve::Measured => measured(tokens, n as f64),
        };
        let factor = match self.settings.time_shift_type {
            TimeShift::Exponential => by_size.exp(),
            TimeShift::Linear => by_size,
        };
        if BELIEVED.contains(&factor) {
            Ok(Shift::BySize(factor))
        } else {
            let setting = match self.settings.size_curve {
                SizeCurve::Line => "base_shift and max_shift",
                SizeCurve::Measured => "use_dynamic_shifting",
            };
            let reason = "this picture's number of tokens makes no shift";
            Err(SamplerError::UnsupportedSetting { setting, reason })
        }
    }

    /// u on the straight line of the configuration.
    fn on_line(&self, tokens: f64) -> f64 {
        let FlowSettings { base_shift, max_shift, .. } = self.settings;
        let (base, max) =
            (self.settings.base_image_seq_len as f64, self.settings.max_image_seq_len as f64);
        let slope = (max_shift - base_shift) / (max - base);
        tokens * slope + (base_shift - slope * base)
    }
}

/// u as it was measured for so many tokens and steps.
fn measured(tokens: f64, steps: f64) -> f64 {
    // Slope and offset by the number of tokens, and the number of steps of each line.
    const FEW: (f64, f64, f64) = (8.738_095_24e-5, 1.898_333_33, 10.0);
    const MANY: (f64, f64, f64) = (0.000_169_27, 0.456_666_66, 200.0);
    const LARGE: f64 = 4300.0;
    let on = |(slope, offset, _): (f64, f64, f64)| slope * tokens + offset;
    if tokens > LARGE {
        return on(MANY);
    }
    let slope = (on(MANY) - on(FEW)) / (MANY.2 - FEW.2);
    slope * steps + (on(MANY) - MANY.2 * slope)
}

/// The shift of σ, in one of the two forms in which the reference computes it.
enum Shift {
    Fixed(f64),
    BySize(f64),
}

impl Shift {
    fn of(&self, sigma: f64) -> f64 {
        match *self {
            Self::Fixed(shift) => shift * sigma / (1.0 + (shift - 1.0) * sigma),
            Self::BySize(factor) => factor / (factor + (1.0 / sigma - 1.0)),
        }
    }
}
