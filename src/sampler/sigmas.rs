//! Noise levels that the solvers in σ walk through in place of the training's: between the same ends, spread as the
//! config asks for (diffusers' `_convert_to_karras` and its siblings in `scheduling_euler_discrete.py` and
//! `scheduling_dpmsolver_multistep.py`).

use super::{config::SchedulerConfig, error::SamplerError, sigma_choice::SigmaChoice};

/// A spread of noise levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SigmaSpread {
    /// Evenly in σ^(1/7) (Karras et al. 2022, equation 5).
    Karras,
    /// Evenly in ln σ.
    Exponential,
    /// At the quantiles of a beta distribution with both parameters 0.6 ("Beta Sampling is All You Need", 2024).
    Beta,
    /// Evenly in λ = −ln σ (Lu et al. 2022).
    Lu,
}

impl SigmaSpread {
    /// The spread that a choice means; none are the levels of the timesteps.
    pub(super) fn of(choice: SigmaChoice) -> Option<Self> {
        match choice {
            SigmaChoice::Simple => None,
            SigmaChoice::Karras => Some(Self::Karras),
            SigmaChoice::Exponential => Some(Self::Exponential),
            SigmaChoice::Beta => Some(Self::Beta),
        }
    }
}

/// Where the levels of a solver come from.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Sigmas {
    /// Levels other than those of the timesteps.
    pub spread: Option<SigmaSpread>,
    /// Ends of such levels where the config says them: the least and the greatest σ.
    pub least: Option<f64>,
    pub greatest: Option<f64>,
}

impl Sigmas {
    /// The levels that a config asks for.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`] for more than one spread, as diffusers has it, or for ends that are none.
    pub fn of(config: &SchedulerConfig) -> Result<Self, SamplerError> {
        let all = [
            (config.use_karras_sigmas, SigmaSpread::Karras),
            (config.use_lu_lambdas, SigmaSpread::Lu),
            (config.use_exponential_sigmas, SigmaSpread::Exponential),
            (config.use_beta_sigmas, SigmaSpread::Beta),
        ];
        let mut wanted =
            all.into_iter().filter_map(|(on, spread)| (on == Some(true)).then_some(spread));
        let spread = wanted.next();
        let refuse = |setting, reason| Err(SamplerError::UnsupportedSetting { setting, reason });
        if wanted.next().is_some() {
            let setting = "more than one of use_karras_sigmas, use_lu_lambdas, \
                           use_exponential_sigmas and use_beta_sigmas";
            return refuse(setting, "each is a spread of its own");
        }
        let (least, greatest) = (config.sigma_min, config.sigma_max);
        if least.is_some_and(|least| least <= 0.0) || greatest.is_some_and(|most| most <= 0.0) {
            return refuse("a sigma_min or sigma_max of 0", "both are noise levels above 0");
        }
        Ok(Self { spread, least, greatest })
    }

    /// Refuses a list of timesteps, which levels of their own would leave without effect.
    ///
    /// # Errors
    /// [`SamplerError::UnsupportedSetting`].
    pub fn refuse_list(self) -> Result<(), SamplerError> {
        let setting = match self.spread {
            None => return Ok(()),
            Some(SigmaSpread::Karras) => "use_karras_sigmas",
            Some(SigmaSpread::Exponential) => "use_exponential_sigmas",
            Some(SigmaSpread::Beta) => "use_beta_sigmas",
            Some(SigmaSpread::Lu) => "use_lu_lambdas",
        };
        let reason =
            "its timesteps follow from its noise levels, so a list of them cannot be given";
        Err(SamplerError::UnsupportedSetting { setting, reason })
    }

    /// `n` levels from `greatest` down to `least`, unless the config says other ends.
    pub fn spread(self, spread: SigmaSpread, (greatest, least): (f64, f64), n: usize) -> Vec<f64> {
        let (greatest, least) = (self.greatest.unwrap_or(greatest), self.least.unwrap_or(least));
        let between = |from: f64, to: f64, share: f64| from + share * (to - from);
        let level = |share: f64| match spread {
            SigmaSpread::Karras => {
                let root = |sigma: f64| sigma.powf(1.0 / RHO);
                between(root(greatest), root(least), share).powf(RHO)
            }
            SigmaSpread::Exponential | SigmaSpread::Lu => {
                between(greatest.ln(), least.ln(), share).exp()
            }
            SigmaSpread::Beta => between(least, greatest, beta_quantile(1.0 - share)),
        };
        (0..n).map(|index| level(share_of(index, n))).collect()
    }
}

/// Karras' ρ.
const RHO: f64 = 7.0;

/// numpy's `linspace(0, 1, n)[index]`.
fn share_of(index: usize, n: usize) -> f64 {
    match n {
        0 | 1 => 0.0,
        _ if index + 1 == n => 1.0,
        _ => index as f64 * (1.0 / (n - 1) as f64),
    }
}

/// The timestep of a level: on the straight line in ln σ between the two of the training on either side of it
/// (`_sigma_to_t`); `logs` are ln σ of the training, ascending.
pub(super) fn timestep_of(sigma: f64, logs: &[f32]) -> f64 {
    let log = sigma.max(1e-10).ln();
    let reached = logs.partition_point(|&known| f64::from(known) <= log);
    let below = reached.saturating_sub(1).min(logs.len().saturating_sub(2));
    let above = (below + 1).min(logs.len() - 1);
    let (low, high) = (f64::from(logs[below]), f64::from(logs[above]));
    let share = if low == high { 0.0 } else { ((low - log) / (low - high)).clamp(0.0, 1.0) };
    (1.0 - share) * below as f64 + share * above as f64
}

/// Both parameters of the beta distribution.
const BETA: f64 = 0.6;
/// `1 / (β·B(β, β))`, from Γ(0.6) = 1.489 192 248 812 817 and Γ(1.2) = 0.918 168 742 399 760 6.
const BETA_NORM: f64 =
    0.918_168_742_399_760_6 / (BETA * 1.489_192_248_812_817 * 1.489_192_248_812_817);

/// The value below which a share of the distribution lies, by bisection.
fn beta_quantile(share: f64) -> f64 {
    if share <= 0.0 {
        return 0.0;
    }
    if share > 0.5 {
        return 1.0 - beta_quantile(1.0 - share);
    }
    let (mut low, mut high) = (0.0f64, 0.5f64);
    // Each halving is a bit of the result, and one near 0 has more of them before its first.
    for _ in 0..120 {
        let middle = 0.5 * (low + high);
        if beta_share(middle) < share { low = middle } else { high = middle }
    }
    0.5 * (low + high)
}

/// The share of the distribution below x ≤ ½: the regularized incomplete beta function, as the power series
/// `x^β·(1−x)^β/(β·B(β,β))·(1 + Σ Π (2β+k)/(β+1+k)·x)`, whose terms fall by half at least.
fn beta_share(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for k in 0..80 {
        term *= (2.0 * BETA + f64::from(k)) / (BETA + 1.0 + f64::from(k)) * x;
        sum += term;
    }
    (x * (1.0 - x)).powf(BETA) * BETA_NORM * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `scipy.stats.beta.ppf(share, 0.6, 0.6)`.
    const QUANTILES: [(f64, f64); 5] = [
        (0.01, 0.000_861_238_821_542_905_9),
        (0.1, 0.039_584_405_588_780_85),
        (0.25, 0.175_680_378_652_694_98),
        (0.4, 0.362_700_990_753_214_3),
        (0.5, 0.5),
    ];

    #[test]
    fn the_beta_distribution_is_symmetric_and_has_scipys_quantiles() {
        for (share, quantile) in QUANTILES {
            assert!((beta_quantile(share) - quantile).abs() < 1e-12, "{share}");
            assert!((beta_quantile(1.0 - share) - (1.0 - quantile)).abs() < 1e-12, "{share}");
        }
        assert_eq!((beta_quantile(0.0), beta_quantile(1.0)), (0.0, 1.0));
    }

    #[test]
    fn a_level_between_two_timesteps_is_told_as_a_fraction_and_one_past_the_ends_as_the_end() {
        let logs = [-2.0, 0.0, 1.0];
        for (log, t) in
            [(-3.0, 0.0), (-2.0, 0.0), (-1.0, 0.5), (0.75, 1.75), (1.0, 2.0), (5.0, 2.0)]
        {
            assert!((timestep_of(f64::exp(log), &logs) - t).abs() < 1e-12, "{log}");
        }
    }
}
