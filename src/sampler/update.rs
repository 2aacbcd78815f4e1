//! The one loop that every sampler's step comes down to.

use rayon::prelude::*;

use super::{
    clip::{Clip, Limit},
    error::{SamplerError, check_len},
    schedule::PIECE,
    step::{Combination, Step, Terms},
};

/// A step's numbers: `z' = z·z + prediction·p + noise·n + Σ history[k]·hₖ`, p the prediction (ε or x̂0, as
/// [`Step::form`] says), hₖ what the k-th step before kept; with clipping `+ clip.factor·limited(x̂0)`.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Factor of the latent.
    pub z: f32,
    /// Factor of the prediction.
    pub prediction: f32,
    /// Factor of fresh standard-normal noise; 0 for a deterministic step.
    pub noise: f32,
    /// Factors of the values that earlier steps kept, the latest first; none for a one-step sampler.
    pub history: Vec<f32>,
    /// The value that the step keeps for later ones: where it clips, the clipped x̂0 in place of x̂0.
    pub kept: Option<Combination>,
    /// Clipping of x̂0, if the step does it.
    pub clip: Option<Clip>,
}

impl Update {
    /// The step of a sampler without history, rounded to the canvas's precision; `limit` is that of its x̂0.
    ///
    /// # Errors
    /// [`SamplerError::NoSignal`] where the step needs an x̂0 that the noise says nothing of.
    pub(super) fn new(
        step: &Step,
        terms: Terms,
        noise: f64,
        limit: Option<Limit>,
    ) -> Result<Self, SamplerError> {
        let clip = match limit {
            Some(limit) => Some(Clip { x0: step.x0()?, factor: terms.x0 as f32, limit }),
            None => None,
        };
        let linear = if clip.is_some() { Terms { x0: 0.0, ..terms } } else { terms };
        let (z, prediction) = step.resolve(linear)?;
        let [z, prediction, noise] = [z, prediction, noise].map(|factor| factor as f32);
        Ok(Self { z, prediction, noise, history: Vec::new(), kept: None, clip })
    }

    /// The share of magnitudes of x̂0 below the quantile that bounds it, for a step that must know the quantile first
    /// ([`Update::with_quantile`]).
    #[must_use]
    pub fn quantile(&self) -> Option<(Combination, f64)> {
        match self.clip {
            Some(Clip { x0, limit: Limit::Quantile { share, .. }, .. }) => Some((x0, share)),
            _ => None,
        }
    }

    /// The same step with its quantile known.
    #[must_use]
    pub fn with_quantile(&self, quantile: f32) -> Self {
        let clip = self.clip.map(|clip| Clip { limit: clip.limit.with_quantile(quantile), ..clip });
        Self { clip, ..self.clone() }
    }

    /// `true` if every factor is a number.
    pub(super) fn is_finite(&self) -> bool {
        let kept = self.kept.map_or([0.0; 2], |kept| [kept.z, kept.prediction]);
        let own = [self.z, self.prediction, self.noise];
        own.iter().chain(&kept).chain(&self.history).all(|factor| factor.is_finite())
    }

    /// `true` if the step needs noise.
    pub fn needs_noise(&self) -> bool {
        self.noise != 0.0
    }

    /// Takes a step that has no history: see [`Update::apply_with`].
    ///
    /// # Errors
    /// Those of [`Update::apply_with`].
    pub fn apply(
        &self,
        z: &mut [f32],
        prediction: &[f32],
        noise: Option<&[f32]>,
    ) -> Result<(), SamplerError> {
        self.apply_with(z, prediction, noise, &[], None)
    }

    /// Takes the step on any piece of the canvas, in place: a band of rows, or all of it. Elements do not
    /// depend on each other, so neither cutting nor threads change the result. Noise that a deterministic step
    /// does not need is passed over.
    ///
    /// `earlier` are the same piece of what the steps before kept, the latest first, one for each factor in
    /// [`Update::history`] (more are passed over); into `kept` goes what this step keeps, where it keeps anything.
    ///
    /// # Errors
    /// [`SamplerError::Length`] if the slices differ in length, [`SamplerError::NoiseMissing`],
    /// [`SamplerError::HistoryMissing`] or [`SamplerError::QuantileMissing`] if something is needed that is not given;
    /// `z` is then unchanged.
    pub fn apply_with(
        &self,
        z: &mut [f32],
        prediction: &[f32],
        noise: Option<&[f32]>,
        earlier: &[&[f32]],
        kept: Option<&mut [f32]>,
    ) -> Result<(), SamplerError> {
        check_len("the prediction", z.len(), prediction.len())?;
        if self.quantile().is_some() {
            return Err(SamplerError::QuantileMissing);
        }
        let noise = match noise {
            _ if !self.needs_noise() => None,
            Some(noise) => Some(noise),
            None => return Err(SamplerError::NoiseMissing),
        };
        check_len("the fresh noise", z.len(), noise.map_or(z.len(), <[f32]>::len))?;
        let (needed, given) = (self.history.len(), earlier.len());
        if given < needed {
            return Err(SamplerError::HistoryMissing { needed, given });
        }
        let earlier = &earlier[..needed];
        for values in earlier {
            check_len("a canvas of history", z.len(), values.len())?;
        }
        let piece = |index: usize, z: &mut [f32], kept: Option<(&mut [f32], Combination)>| {
            let at = index * PIECE..index * PIECE + z.len();
            let p = &prediction[at.clone()];
            if let Some((kept, Combination { z: a, prediction: b })) = kept {
                let values = kept.iter_mut().zip(&*z).zip(p);
                match self.clip {
                    None => values.for_each(|((kept, z), p)| *kept = a * z + b * p),
                    Some(Clip { limit, .. }) => {
                        values.for_each(|((kept, z), p)| *kept = limit.apply(a * z + b * p));
                    }
                }
            }
            let Self { z: a, prediction: b, noise: c, .. } = *self;
            if let Some(Clip { x0, factor, limit }) = self.clip {
                let values = z.iter_mut().zip(p);
                values.for_each(|(z, p)| {
                    let clean = limit.apply(x0.z * *z + x0.prediction * p);
                    *z = a * *z + b * p + factor * clean;
                });
                if let Some(noise) = noise.map(|noise| &noise[at.clone()]) {
                    z.iter_mut().zip(noise).for_each(|(z, n)| *z += c * n);
                }
            } else {
                match noise.map(|noise| &noise[at.clone()]) {
                    None => z.iter_mut().zip(p).for_each(|(z, p)| *z = a * *z + b * p),
                    Some(noise) => {
                        let values = z.iter_mut().zip(p).zip(noise);
                        values.for_each(|((z, p), n)| *z = a * *z + b * p + c * n);
                    }
                }
            }
            for (d, values) in self.history.iter().zip(earlier) {
                z.iter_mut().zip(&values[at.clone()]).for_each(|(z, h)| *z += d * h);
            }
        };
        let pieces = z.par_chunks_mut(PIECE).enumerate();
        match (self.kept, kept) {
            (None, _) => pieces.for_each(|(index, z)| piece(index, z, None)),
            (Some(_), None) => {
                return Err(SamplerError::HistoryMissing { needed: needed + 1, given });
            }
            (Some(factors), Some(kept)) => {
                check_len("the canvas of history to write", prediction.len(), kept.len())?;
                let pieces = pieces.zip(kept.par_chunks_mut(PIECE));
                pieces.for_each(|((index, z), kept)| piece(index, z, Some((kept, factors))));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_step(z: f32, prediction: f32, noise: f32) -> Update {
        Update { z, prediction, noise, history: Vec::new(), kept: None, clip: None }
    }

    #[test]
    fn a_clipped_step_reads_the_limited_x0_and_keeps_it() {
        let x0 = Combination { z: 2.0, prediction: -1.0 };
        let clip = Clip { x0, factor: 0.5, limit: Limit::Quantile { share: 0.9, most: 4.0 } };
        let update = Update { clip: Some(clip), kept: Some(x0), ..one_step(0.0, 1.0, 3.0) };
        assert_eq!(update.quantile(), Some((x0, 0.9)));
        // x0 is 1 and 10, within ±2 and divided by it 0.5 and 1.
        let (mut z, mut kept) = ([1.0, 6.0], [0.0; 2]);
        let (p, noise) = ([1.0, 2.0], [0.0, 1.0]);
        let early = update.apply_with(&mut z, &p, Some(&noise), &[], Some(&mut kept));
        assert!(matches!(early, Err(SamplerError::QuantileMissing)));
        let update = update.with_quantile(2.0);
        update.apply_with(&mut z, &p, Some(&noise), &[], Some(&mut kept)).unwrap();
        assert_eq!((z, kept), ([1.25, 5.5], [0.5, 1.0]));
    }

    #[test]
    fn a_step_without_its_noise_or_with_odd_lengths_leaves_the_latent_alone() {
        let update = one_step(2.0, 3.0, 4.0);
        let mut z = [1.0, 2.0];
        assert!(matches!(update.apply(&mut z, &[1.0, 1.0], None), Err(SamplerError::NoiseMissing)));
        let short = update.apply(&mut z, &[1.0, 1.0], Some(&[0.5]));
        assert!(matches!(short, Err(SamplerError::Length { expected: 2, actual: 1, .. })));
        assert!(update.apply(&mut z, &[1.0], Some(&[0.5])).is_err());
        assert_eq!(z, [1.0, 2.0]);
        update.apply(&mut z, &[1.0, 1.0], Some(&[0.5, 0.25])).unwrap();
        assert_eq!(z, [7.0, 8.0]);
    }

    fn multistep() -> Update {
        let kept = Some(Combination { z: 0.5, prediction: -1.0 });
        Update { history: vec![10.0, 100.0], kept, ..one_step(2.0, 3.0, 0.0) }
    }

    #[test]
    fn a_step_with_history_reads_the_latest_first_and_keeps_a_value_of_the_latent_before_it() {
        let (mut z, mut kept) = ([1.0, 2.0], [0.0; 2]);
        let earlier: [&[f32]; 2] = [&[1.0, 2.0], &[0.5, 0.25]];
        multistep().apply_with(&mut z, &[1.0, 0.0], None, &earlier, Some(&mut kept)).unwrap();
        assert_eq!((z, kept), ([65.0, 49.0], [-0.5, 1.0]));
    }

    #[test]
    fn a_step_without_its_history_leaves_the_latent_alone() {
        let (mut z, mut kept) = ([1.0, 2.0], [0.0; 2]);
        let (eps, one, short) = ([1.0; 2], [1.0; 2], [1.0]);
        let two: [&[f32]; 2] = [&one; 2];
        let missing = |result| matches!(result, Err(SamplerError::HistoryMissing { .. }));
        assert!(missing(multistep().apply(&mut z, &eps, None)));
        assert!(missing(multistep().apply_with(&mut z, &eps, None, &[&one], Some(&mut kept))));
        assert!(missing(multistep().apply_with(&mut z, &eps, None, &two, None)));
        let odd = |result| matches!(result, Err(SamplerError::Length { .. }));
        let earlier: [&[f32]; 2] = [&one, &short];
        assert!(odd(multistep().apply_with(&mut z, &eps, None, &earlier, Some(&mut kept))));
        assert!(odd(multistep().apply_with(&mut z, &eps, None, &two, Some(&mut kept[..1]))));
        assert_eq!((z, kept), ([1.0, 2.0], [0.0; 2]));
    }
}
