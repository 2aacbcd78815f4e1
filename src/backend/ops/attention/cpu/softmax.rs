//! The running softmax of attention without a matrix of scores.

use std::ops::Range;

use half::bf16;

use crate::backend::{
    MatmulPrecision,
    cpu::simd::{self, vectorized},
};

const LANES: usize = 16;

/// Running softmax of a query over the keys seen so far.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub(super) struct Softmax {
    /// sum of the weights, in parts
    sums: [f32; LANES],
    largest: f32,
}

impl Default for Softmax {
    fn default() -> Self {
        Self { sums: [0.0; LANES], largest: f32::NEG_INFINITY }
    }
}

impl Softmax {
    /// Sum of all weights so far.
    pub(super) fn sum(&self) -> f32 {
        self.sums.iter().sum()
    }

    /// Logarithm of the sum of the exponentials of all scores so far, times `scale`.
    pub(super) fn logarithm(&self, scale: f32) -> f32 {
        scale * self.largest + self.sum().ln()
    }
}

/// Turns those of a query's `count` scores that are `seen` into their weights,
/// `exp(scale·(score − largest))`, and all others into 0, as the left side of these products; zeros
/// follow up to a whole number of 16. The values `mixed` so far are rescaled to the new largest score.
///
/// The scores' memory must hold the zeros too.
pub(super) fn weigh(
    precision: MatmulPrecision,
    scores: &mut [f32],
    seen: Range<usize>,
    count: usize,
    scale: f32,
    state: &mut Softmax,
    mixed: &mut [f32],
) {
    let padded = count.next_multiple_of(LANES);
    let scores = &mut scores[..padded];
    assert!(seen.start <= seen.end && seen.end <= count, "keys that are no scores");
    #[cfg(target_arch = "x86_64")]
    {
        if precision == MatmulPrecision::F32 && is_x86_feature_detected!("avx512f") {
            // SAFETY: the processor has the instructions, as just checked.
            return unsafe { avx512::weigh_f32(scores, seen, scale, state, mixed) };
        }
        if precision == MatmulPrecision::Bf16
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bf16")
        {
            // SAFETY: the processor has the instructions, as just checked.
            return unsafe { avx512::weigh_bf16(scores, seen, scale, state, mixed) };
        }
    }
    weigh_portable(scores, seen.start, seen.end, scale, state, mixed);
    if precision == MatmulPrecision::Bf16 {
        for index in 0..padded {
            let rounded = bf16::from_f32(scores[index]).to_bits();
            let word = &mut scores[index / 2];
            *word = f32::from_bits(if index % 2 == 0 {
                u32::from(rounded)
            } else {
                word.to_bits() | u32::from(rounded) << 16
            });
        }
    }
}

vectorized! {
    /// [`weigh`] in f32.
    fn weigh_portable(
        scores: &mut [f32],
        start: usize,
        end: usize,
        scale: f32,
        state: &mut Softmax,
        mixed: &mut [f32],
    ) {
        let (before, rest) = scores.split_at_mut(start);
        let (seen, behind) = rest.split_at_mut(end - start);
        before.fill(0.0);
        behind.fill(0.0);
        let mut largest = [f32::NEG_INFINITY; LANES];
        for lane in seen.chunks(LANES) {
            for (largest, &score) in largest.iter_mut().zip(lane) {
                // A NaN is ignored by this maximum, and shows in its weight.
                *largest = if score > *largest { score } else { *largest };
            }
        }
        let largest = largest.into_iter().fold(f32::NEG_INFINITY, f32::max);
        if largest > state.largest {
            if state.largest > f32::NEG_INFINITY {
                let shrink = simd::exp::<FUSED>(scale * (state.largest - largest));
                for value in state.sums.iter_mut().chain(mixed.iter_mut()) {
                    *value *= shrink;
                }
            }
            state.largest = largest;
        }
        let largest = state.largest;
        let mut lanes = seen.chunks_exact_mut(LANES);
        for lane in &mut lanes {
            for (score, sum) in lane.iter_mut().zip(&mut state.sums) {
                *score = simd::exp::<FUSED>(scale * (*score - largest));
                *sum += *score;
            }
        }
        for (score, sum) in lanes.into_remainder().iter_mut().zip(&mut state.sums) {
            *score = simd::exp::<FUSED>(scale * (*score - largest));
            *sum += *score;
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use std::{arch::x86_64::*, f32::consts, ops::Range};

    use super::{LANES, Softmax};

    /// Defines [`weigh`](super::weigh) for instructions `$features`; `$store` puts the weights of
    /// sixteen keys, from the `at`-th on, where their scores were or before them.
    macro_rules! weigh {
        ($name:ident, $features:literal, |$row:ident, $at:ident, $weights:ident| $store:expr) => {
            #[target_feature(enable = $features)]
            pub(super) fn $name(
                scores: &mut [f32],
                seen: Range<usize>,
                scale: f32,
                state: &mut Softmax,
                mixed: &mut [f32],
            ) {
                let scale = scale * consts::LOG2_E;
                let lanes = |at: usize| {
                    first(seen.end.saturating_sub(at)) & !first(seen.start.saturating_sub(at))
                };
                let (count, $row) = (scores.len() / LANES * LANES, scores.as_mut_ptr());
                let none = _mm512_set1_ps(f32::NEG_INFINITY);
                let mut largest = none;
                for at in (0..count).step_by(LANES) {
                    // SAFETY: within the scores, here and below.
                    let scores = unsafe { _mm512_loadu_ps($row.add(at)) };
                    // A NaN is ignored by this maximum, and shows in its weight.
                    largest = _mm512_mask_max_ps(largest, lanes(at), scores, largest);
                }
                let largest = _mm512_reduce_max_ps(largest);
                // SAFETY: as many numbers as a vector.
                let mut sums = unsafe { _mm512_loadu_ps(state.sums.as_ptr()) };
                if largest > state.largest {
                    if state.largest > f32::NEG_INFINITY {
                        let shrink = exp2(_mm512_set1_ps(scale * (state.largest - largest)));
                        sums = _mm512_mul_ps(sums, shrink);
                        let shrink = _mm512_cvtss_f32(shrink);
                        for value in mixed.iter_mut() {
                            *value *= shrink;
                        }
                    }
                    state.largest = largest;
                }
                let (scale, largest) =
                    (_mm512_set1_ps(scale), _mm512_set1_ps(scale * state.largest));
                for $at in (0..count).step_by(LANES) {
                    // SAFETY: within the scores.
                    let scores = unsafe { _mm512_loadu_ps($row.add($at)) };
                    let weights = exp2(_mm512_fmsub_ps(scores, scale, largest));
                    let $weights = _mm512_maskz_mov_ps(lanes($at), weights);
                    sums = _mm512_add_ps(sums, $weights);
                    // SAFETY: within the scores, and none is overwritten before it is read.
                    unsafe { $store };
                }
                // SAFETY: as many numbers as a vector.
                unsafe { _mm512_storeu_ps(state.sums.as_mut_ptr(), sums) };
            }
        };
    }

    weigh!(weigh_f32, "avx512f", |row, at, weights| _mm512_storeu_ps(row.add(at), weights));
    weigh!(weigh_bf16, "avx512f,avx512bf16", |row, at, weights| {
        let halves: __m256i = std::mem::transmute(_mm512_cvtneps_pbh(weights));
        _mm256_storeu_si256(row.add(at / 2).cast(), halves);
    });

    /// The first `count` lanes.
    #[inline(always)]
    fn first(count: usize) -> __mmask16 {
        if count >= LANES { u16::MAX } else { (1 << count) - 1 }
    }

    /// 2ˣ within 2 units in the last place (Cephes' `exp2f`), 0 far below.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn exp2(x: __m512) -> __m512 {
        let n = _mm512_roundscale_ps::<_MM_FROUND_TO_NEAREST_INT>(x);
        let r = _mm512_sub_ps(x, n);
        let mut p = _mm512_set1_ps(1.535_336_2e-4);
        for c in [1.339_887_4e-3, 9.618_437e-3, 5.550_332_5e-2, 0.240_226_48, consts::LN_2, 1.0] {
            p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
        }
        _mm512_scalef_ps(p, n)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of scores of one query one after the other, and the weights' sum and mixed value in the
    /// end, by a form of [`weigh`].
    fn run(weigh: impl Fn(&mut [f32], Range<usize>, &mut Softmax, &mut [f32])) -> (f64, f64) {
        let (mut state, mut mixed) = (Softmax::default(), [0f32; 16]);
        for (block, range) in BLOCKS.into_iter().enumerate() {
            let mut scores: Vec<f32> = (0..COUNT).map(|i| score(block, i)).collect();
            scores.resize(COUNT.next_multiple_of(LANES), f32::NAN);
            weigh(&mut scores, range.clone(), &mut state, &mut mixed);
            for (i, weight) in scores.iter().enumerate() {
                assert!(range.contains(&i) || *weight == 0.0, "key {i} of block {block}");
                mixed[0] += weight * (i as f32 * 0.1).sin();
            }
        }
        (f64::from(state.sum()), f64::from(mixed[0]))
    }

    const COUNT: usize = 77;
    const BLOCKS: [Range<usize>; 4] = [0..77, 3..3, 5..40, 31..77];
    const SCALE: f32 = 0.3;

    /// The larger scores come later.
    fn score(block: usize, index: usize) -> f32 {
        (index as f32 * 0.7).sin() * 9.0 + block as f32 * 3.0
    }

    #[test]
    fn every_form_gives_the_same_weights_as_a_softmax_over_all_blocks() {
        let all = BLOCKS.into_iter().enumerate();
        let all = all.flat_map(|(block, range)| range.map(move |i| (i, score(block, i))));
        let largest = all.clone().map(|(_, score)| score).fold(f32::NEG_INFINITY, f32::max);
        let (mut sum, mut mixed) = (0f64, 0f64);
        for (i, score) in all {
            let weight = (f64::from(SCALE) * f64::from(score - largest)).exp();
            sum += weight;
            mixed += weight * f64::from((i as f32 * 0.1).sin());
        }
        let forms: [(&str, (f64, f64)); 2] = [
            (
                "this processor's",
                run(|scores, seen, state, mixed| {
                    weigh(MatmulPrecision::F32, scores, seen, COUNT, SCALE, state, mixed);
                }),
            ),
            (
                "portable",
                run(|scores, seen, state, mixed| {
                    weigh_portable(scores, seen.start, seen.end, SCALE, state, mixed);
                }),
            ),
        ];
        for (name, found) in forms {
            assert!((found.0 - sum).abs() < 1e-6 * sum, "{name}: sum {} is not {sum}", found.0);
            assert!((found.1 - mixed).abs() < 1e-6 * sum, "{name}: {} is not {mixed}", found.1);
        }
    }

    #[test]
    fn a_nan_shows_and_weights_in_bf16_are_those_in_f32_rounded() {
        let mut scores: Vec<f32> = (0..32).map(|i| score(0, i)).collect();
        let mut rounded = scores.clone();
        let (mut state, mut mixed) = (Softmax::default(), [0f32; 16]);
        weigh(MatmulPrecision::F32, &mut scores, 1..30, 31, SCALE, &mut state, &mut mixed);
        let mut state = Softmax::default();
        weigh(MatmulPrecision::Bf16, &mut rounded, 1..30, 31, SCALE, &mut state, &mut mixed);
        for (i, weight) in scores.iter().enumerate() {
            let half = (rounded[i / 2].to_bits() >> (16 * (i % 2))) as u16;
            assert_eq!(bf16::from_bits(half), bf16::from_f32(*weight), "weight {i}");
        }
        let mut scores = [1f32; 32];
        scores[9] = f32::NAN;
        weigh(MatmulPrecision::F32, &mut scores, 0..30, 30, SCALE, &mut state, &mut mixed);
        assert!(state.sum().is_nan());
    }
}
