//! Attention over two sets of keys under one softmax, in two parts: what the values of each set contribute. The
//! attention prior of models with joint attention replaces one of them (docs/method.md §5b).

use candle_core::Result;

use super::{AttentionSizes, Mask, attention, cpu};
use crate::backend::{
    Activation, MatmulPrecision, Operation,
    ops::{OpForm, form, plain_cost},
};

/// The two parts of attention with the keys of both `sets`, each `[keys, values]`: their sum is
/// [`attention`] with the keys and values of both, one after the other.
///
/// `q` is `[B, N, heads·d]`, keys and values are `[B, M, heads·d]`, of which M may differ between the sets; both results
/// are `[B, N, heads·d]`. On the CPU it takes no longer than the whole, without a matrix of scores; elsewhere it is two calls of
/// [`attention`] with zeros in the place of the other set's values.
///
/// # Errors
/// A set without keys, and those of [`attention`].
pub fn attention_parts(
    q: &Activation,
    sets: [[&Activation; 2]; 2],
    heads: usize,
    precision: MatmulPrecision,
) -> Result<[Activation; 2]> {
    let [[k1, v1], [k2, v2]] = sets;
    let sizes = [
        AttentionSizes::checked(q, k1, v1, heads, Mask::None)?,
        AttentionSizes::checked(q, k2, v2, heads, Mask::None)?,
    ];
    if sizes.iter().any(|sizes| sizes.keys == 0 || sizes.key_heads != heads) {
        candle_core::bail!("attention_parts: keys {:?} and {:?}", k1.shape(), k2.shape());
    }
    match form(Operation::Attention, [q, k1, v1, k2, v2]) {
        OpForm::Cpu => {
            let sets = [[k1.tensor()?, v1.tensor()?], [k2.tensor()?, v2.tensor()?]];
            Ok(cpu::parts(q.tensor()?, sets, sizes, precision)?.map(Activation::from))
        }
        OpForm::CpuCost(trace) => {
            for sizes in sizes {
                trace.multiply(2.0 * q.elem_count() as f64 * sizes.keys as f64);
            }
            let cost = |sizes: AttentionSizes, [k, v]: [&Activation; 2]| {
                let (scratch, laid) = cpu::part_memory(sizes, precision);
                trace.scratch(scratch);
                let _laid = trace.hold(laid * size_of::<f32>());
                plain_cost(trace, &[q, k, v], q.shape())
            };
            let logarithms = sizes[0].batch * sizes[0].queries * heads;
            let _logarithms = trace.hold(2 * logarithms * size_of::<f32>());
            Ok([cost(sizes[0], sets[0])?, cost(sizes[1], sets[1])?])
        }
        OpForm::Cuda | OpForm::Metal | OpForm::Composed => {
            let keys = Activation::cat(&[k1, k2], 1)?;
            let part = |values: [&Activation; 2]| {
                let values = Activation::cat(&values, 1)?;
                attention(q, &keys, &values, heads, Mask::None, precision)
            };
            Ok([part([v1, &v2.zeros_like()?])?, part([&v1.zeros_like()?, v2])?])
        }
    }
}
