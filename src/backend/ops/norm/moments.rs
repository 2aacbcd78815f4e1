//! Group normalization with statistics that are not the input's own: those of a whole picture, or of samples of it, for
//! a part of it.

use candle_core::{D, DType, Device, Result, Tensor};

use super::{
    super::{OpForm, form, plain_cost, silu},
    GroupNorm, cpu, cuda, metal,
};
use crate::backend::{Activation, Operation};

/// Positions whose moments the composed form takes at once: a sum in f32 stays exact, and copies stay small.
const BAND: usize = 1 << 13;

/// Mean and variance of each group of a [`GroupNorm`]'s input, over everything that was measured.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupMoments {
    /// `[groups]`
    means: Vec<f64>,
    /// `[groups]`
    variances: Vec<f64>,
    /// Positions over which they were taken.
    positions: usize,
}

impl GroupMoments {
    /// The moments of `x`, `[B, …, C]`, in so many groups of channels, over all positions of all samples together; of
    /// a memory trace zeros.
    ///
    /// # Errors
    /// Groups that do not divide the channels, no position, or errors of the backend.
    pub fn of(x: &Activation, groups: usize) -> Result<Self> {
        let channels = x.dim(D::Minus1)?;
        let positions = x.elem_count() / channels.max(1);
        if positions == 0 || groups == 0 || !channels.is_multiple_of(groups) {
            candle_core::bail!("group_norm: moments of {:?} in {groups} groups", x.shape());
        }
        let form = form(Operation::GroupNorm, [x]);
        if let OpForm::Cuda = form
            && let Some(pooled) = cuda::group_moments(x, groups)?
        {
            if pooled.is_traced() {
                return Ok(Self::unknown(groups, positions));
            }
            let [means, variances] = [0, 1].map(|row| pooled.tensor()?.get(row)?.to_vec1());
            return Ok(Self { means: means?, variances: variances?, positions });
        }
        match form {
            OpForm::Cpu => {
                let (means, variances) = cpu::group_moments(x.tensor()?, groups)?;
                Ok(Self { means, variances, positions })
            }
            OpForm::CpuCost(trace) => {
                let _copy = x.contiguous()?;
                trace.pass(cpu::group_norm_bytes(x.elem_count(), channels));
                Ok(Self::unknown(groups, positions))
            }
            OpForm::Metal => {
                let statistics = metal::group_statistics(x, groups)?;
                if statistics.is_traced() {
                    return Ok(Self::unknown(groups, positions));
                }
                let samples = statistics.into_tensor()?.to_vec3::<f32>()?;
                let positions = positions / samples.len();
                let of_samples = samples.iter().map(|rows| Self::of_sample(rows, positions));
                Ok(Self::pooled(&of_samples.collect::<Vec<_>>()))
            }
            OpForm::Cuda | OpForm::Composed => {
                let x = x.contiguous()?.reshape((positions, groups, channels / groups))?;
                let bands: Vec<Self> = (0..positions)
                    .step_by(BAND)
                    .map(|first| {
                        Self::composed(&x.narrow(0, first, BAND.min(positions - first))?)
                    })
                    .collect::<Result<_>>()?;
                Ok(Self::pooled(&bands))
            }
        }
    }

    /// The moments of a sample from the statistics of its groups: two summands of the mean first, the variance last.
    fn of_sample(rows: &[Vec<f32>], positions: usize) -> Self {
        let column = |of: fn(&[f32]) -> f64| rows.iter().map(|row| of(row)).collect();
        Self {
            means: column(|row| row[..2].iter().copied().map(f64::from).sum()),
            variances: column(|row| row[3].into()),
            positions,
        }
    }

    /// Moments within a memory trace.
    fn unknown(groups: usize, positions: usize) -> Self {
        Self { means: vec![0.0; groups], variances: vec![0.0; groups], positions }
    }

    /// The moments of `[positions, groups, width]`.
    fn composed(x: &Activation) -> Result<Self> {
        let (positions, groups, _) = x.dims3()?;
        let x = x.to_dtype(DType::F32)?;
        let mean = |x: &Activation| x.mean_keepdim(2)?.mean_keepdim(0);
        let means = mean(&x)?;
        let variances = mean(&x.broadcast_sub(&means)?.sqr()?)?;
        if x.is_traced() {
            return Ok(Self::unknown(groups, positions));
        }
        let values = |x: Activation| -> Result<Vec<f64>> {
            // Widened on the host: no Apple GPU knows f64.
            let values = x.into_tensor()?.flatten_all()?.to_vec1::<f32>()?;
            Ok(values.into_iter().map(f64::from).collect())
        };
        Ok(Self { means: values(means)?, variances: values(variances)?, positions })
    }

    /// The moments over all positions of `parts` together, which must be of one norm.
    #[must_use]
    pub fn pooled(parts: &[Self]) -> Self {
        let positions = parts.iter().map(|part| part.positions).sum();
        let groups = parts.first().map_or(0, |part| part.means.len());
        let mean = |of: &dyn Fn(&Self) -> f64| {
            parts.iter().map(|part| part.positions as f64 * of(part)).sum::<f64>()
                / positions as f64
        };
        let means: Vec<f64> = (0..groups).map(|group| mean(&|part| part.means[group])).collect();
        let variances = means
            .iter()
            .enumerate()
            .map(|(group, all)| {
                mean(&|part| part.variances[group] + (part.means[group] - all).powi(2))
            })
            .collect();
        Self { means, variances, positions }
    }
}

impl GroupNorm {
    /// The moments of an input of this norm, as [`GroupMoments::of`].
    ///
    /// # Errors
    /// Another channel count, no position, or those of the backend.
    pub fn moments(&self, x: &Activation) -> Result<GroupMoments> {
        self.checked_channels(x)?;
        GroupMoments::of(x, self.groups)
    }

    /// Normalizes as [`forward`](Self::forward), with `moments` in place of the input's own; then SiLU if
    /// `then_silu`.
    ///
    /// # Errors
    /// Another channel count, moments of another number of groups, or those of the backend.
    pub fn forward_with(
        &self,
        x: &Activation,
        moments: &GroupMoments,
        then_silu: bool,
    ) -> Result<Activation> {
        let channels = self.checked_channels(x)?;
        if moments.means.len() != self.groups {
            candle_core::bail!(
                "group_norm: moments of {} groups, not {}",
                moments.means.len(),
                self.groups
            );
        }
        let form = form(Operation::GroupNorm, [x]);
        let of_groups = moments.means.iter().copied().zip(moments.variances.iter().copied());
        let parameters = [&self.weight, &self.bias];
        let own = match form {
            OpForm::Cuda => cuda::group_norm_with(x, parameters, of_groups, self.eps, then_silu)?,
            OpForm::Metal => {
                Some(metal::group_norm_with(x, parameters, of_groups, self.eps, then_silu)?)
            }
            _ => None,
        };
        if let Some(y) = own {
            return Ok(y);
        }
        let width = channels / self.groups;
        let device = self.weight.device();
        let of_channels = |f: &dyn Fn(usize) -> f64| -> Result<Tensor> {
            let values = (0..channels).map(|channel| f(channel / width) as f32).collect();
            Tensor::from_vec::<_, f32>(values, channels, &Device::Cpu)?.to_device(device)
        };
        let mean = of_channels(&|group| moments.means[group])?;
        let scale = of_channels(&|group| (moments.variances[group] + self.eps).sqrt().recip())?;
        let scale = (scale * &self.weight)?;
        match form {
            OpForm::Cpu => cpu::channel_affine(x.tensor()?, &mean, &scale, &self.bias, then_silu)
                .map(Activation::from),
            OpForm::CpuCost(trace) => plain_cost(trace, &[x], x.shape()),
            OpForm::Cuda | OpForm::Metal | OpForm::Composed => {
                let centred = x.to_dtype(DType::F32)?.broadcast_sub(&mean.into())?;
                let y = centred.broadcast_mul(&scale.into())?;
                drop(centred);
                let y = y.broadcast_add(&(&self.bias).into())?;
                if then_silu { silu(&y)? } else { y }.to_dtype(x.dtype())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::backend::Params;

    fn norm() -> GroupNorm {
        let tensor = |values: &[f32]| Tensor::new(values, &Device::Cpu).unwrap();
        let weights = HashMap::from([
            ("weight".to_owned(), tensor(&[1.0, -0.5, 2.0, 0.3, 1.5, 0.8])),
            ("bias".to_owned(), tensor(&[0.1, 0.2, -0.3, 0.0, 1.0, -1.0])),
        ]);
        GroupNorm::load(3, 6, 1e-6, &Params::from_tensors(weights, DType::F32, &Device::Cpu))
            .unwrap()
    }

    fn largest(a: &Activation, b: &Activation) -> f32 {
        let difference = (a.tensor().unwrap() - b.tensor().unwrap())
            .unwrap()
            .abs()
            .unwrap()
            .flatten_all()
            .unwrap();
        difference.max(0).unwrap().to_scalar().unwrap()
    }

    #[test]
    fn with_its_own_moments_a_norm_is_what_it_always_is() {
        let norm = norm();
        let x = (Tensor::randn(0f32, 3.0, (1, 7, 5, 6), &Device::Cpu).unwrap() + 2.0).unwrap();
        let x = Activation::from(x);
        let moments = GroupMoments::of(&x, 3).unwrap();
        let of = |then_silu| norm.forward_with(&x, &moments, then_silu).unwrap();
        assert!(largest(&of(false), &norm.forward(&x).unwrap()) < 1e-5);
        assert!(largest(&of(true), &norm.forward_silu(&x).unwrap()) < 1e-5);
    }

    #[test]
    fn pooled_moments_of_parts_are_those_of_the_whole() {
        let x = Tensor::rand(-1f32, 3.0, (1, 5, 3, 6), &Device::Cpu).unwrap();
        let x = Activation::from(x);
        let whole = GroupMoments::of(&x, 3).unwrap();
        let parts = [(0, 2), (2, 3)].map(|(start, length)| {
            GroupMoments::of(&x.narrow(1, start, length).unwrap(), 3).unwrap()
        });
        let pooled = GroupMoments::pooled(&parts);
        assert_eq!(pooled.positions, whole.positions);
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-6);
        assert!(close(&pooled.means, &whole.means) && close(&pooled.variances, &whole.variances));
    }

    #[test]
    fn the_kernels_moments_are_the_composed_ones() {
        let x = Tensor::rand(-1f32, 3.0, (9000, 3, 40), &Device::Cpu).unwrap();
        let ours = GroupMoments::of(&x.reshape((1, 90, 100, 120)).unwrap().into(), 3).unwrap();
        let composed = GroupMoments::composed(&x.into()).unwrap();
        let close = |a: &[f64], b: &[f64]| a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        assert!(close(&ours.means, &composed.means));
        assert!(close(&ours.variances, &composed.variances));
    }

    #[test]
    fn statistics_of_samples_are_pooled_to_the_moments_of_all() {
        // Base and rest of the mean, what scales by the deviation, the variance: of two groups.
        let samples = [
            vec![vec![1.0, 0.5, 9.0, 4.0], vec![0.0, 3.0, 9.0, 1.0]],
            vec![vec![2.0, 1.5, 9.0, 6.0], vec![3.0, 0.0, 9.0, 1.0]],
        ];
        let of_samples = samples.map(|rows| GroupMoments::of_sample(&rows, 10));
        let expected =
            GroupMoments { means: vec![2.5, 3.0], variances: vec![6.0, 1.0], positions: 20 };
        assert_eq!(GroupMoments::pooled(&of_samples), expected);
    }

    #[test]
    fn moments_of_another_norm_are_refused() {
        let norm = norm();
        let x = Activation::from(Tensor::ones((1, 2, 2, 6), DType::F32, &Device::Cpu).unwrap());
        let mut moments = GroupMoments::of(&x, 3).unwrap();
        moments.means.pop();
        assert!(norm.forward_with(&x, &moments, false).is_err());
        assert!(GroupMoments::of(&x.narrow(3, 0, 4).unwrap(), 3).is_err());
    }
}
