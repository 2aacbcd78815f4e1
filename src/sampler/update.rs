//! The one loop that every sampler's step comes down to.

use rayon::prelude::*;

use super::{
    error::{SamplerError, check_len},
    schedule::PIECE,
};

/// A step's numbers: `z' = z·z + eps·ε + noise·n + Σ history[k]·hₖ`, hₖ what the k-th step before kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Update {
    /// Factor of the latent.
    pub z: f32,
    /// Factor of the noise prediction ε.
    pub eps: f32,
    /// Factor of fresh standard-normal noise; 0 for a deterministic step.
    pub noise: f32,
    /// Factors of the values that earlier steps kept, the latest first; none for a one-step sampler.
    pub history: Vec<f32>,
    /// The value that the step keeps for later ones.
    pub kept: Option<Kept>,
}

/// A value that a step keeps for later ones, such as its x̂0: `z·z + eps·ε`, of z before the step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Kept {
    /// Factor of the latent.
    pub z: f32,
    /// Factor of the noise prediction ε.
    pub eps: f32,
}

impl Update {
    /// The step of a sampler without history, rounded to the canvas's precision.
    pub(super) fn one_step(z: f64, eps: f64, noise: f64) -> Self {
        let [z, eps, noise] = [z, eps, noise].map(|factor| factor as f32);
        Self { z, eps, noise, history: Vec::new(), kept: None }
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
        eps: &[f32],
        noise: Option<&[f32]>,
    ) -> Result<(), SamplerError> {
        self.apply_with(z, eps, noise, &[], None)
    }

    /// Takes the step on any piece of the canvas, in place: a band of rows, or all of it. Elements do not
    /// depend on each other, so neither cutting nor threads change the result. Noise that a deterministic step
    /// does not need is passed over.
    ///
    /// `earlier` are the same piece of what the steps before kept, the latest first, one for each factor in
    /// [`Update::history`] (more are passed over); into `kept` goes what this step keeps, where it keeps anything.
    ///
    /// # Errors
    /// [`SamplerError::Length`] if the slices differ in length, [`SamplerError::NoiseMissing`] or
    /// [`SamplerError::HistoryMissing`] if something is needed that is not given; `z` is then unchanged.
    pub fn apply_with(
        &self,
        z: &mut [f32],
        eps: &[f32],
        noise: Option<&[f32]>,
        earlier: &[&[f32]],
        kept: Option<&mut [f32]>,
    ) -> Result<(), SamplerError> {
        check_len("the noise prediction", z.len(), eps.len())?;
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
        let piece = |index: usize, z: &mut [f32], kept: Option<(&mut [f32], Kept)>| {
            let at = index * PIECE..index * PIECE + z.len();
            let eps = &eps[at.clone()];
            if let Some((kept, Kept { z: a, eps: b })) = kept {
                let values = kept.iter_mut().zip(&*z).zip(eps);
                values.for_each(|((kept, z), e)| *kept = a * z + b * e);
            }
            let Self { z: a, eps: b, noise: c, .. } = *self;
            match noise.map(|noise| &noise[at.clone()]) {
                None => z.iter_mut().zip(eps).for_each(|(z, e)| *z = a * *z + b * e),
                Some(noise) => {
                    let values = z.iter_mut().zip(eps).zip(noise);
                    values.for_each(|((z, e), n)| *z = a * *z + b * e + c * n);
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
                check_len("the canvas of history to write", eps.len(), kept.len())?;
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

    #[test]
    fn a_step_without_its_noise_or_with_odd_lengths_leaves_the_latent_alone() {
        let update = Update::one_step(2.0, 3.0, 4.0);
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
        let kept = Some(Kept { z: 0.5, eps: -1.0 });
        Update { history: vec![10.0, 100.0], kept, ..Update::one_step(2.0, 3.0, 0.0) }
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
