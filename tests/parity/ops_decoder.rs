//! The operations that decoders need, against plain loops: attention with shared key heads, a cache and
//! a window, RMS norm, and embeddings from a table that is kept as it is stored.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor, quantized::GgmlDType};
use cupscale::backend::ops::{Embedding, Mask, RmsNorm, attention};
use cupscale::backend::{
    Activation, MatmulPrecision, ParamSource, Params, Stored, Weight, WeightStorage, WeightUse,
    Working,
};

use crate::common::tensors::{flat, largest_difference, values};

/// Attention by its definition, in f64.
fn plain([q, k, v]: [&Tensor; 3], heads: usize, seen: impl Fn(usize) -> Range<usize>) -> Vec<f32> {
    let numbers = |x: &Tensor| x.to_vec3::<f32>().unwrap();
    let (q, k, v) = (numbers(q), numbers(k), numbers(v));
    let d = q[0][0].len() / heads;
    let group = q[0][0].len() / k[0][0].len();
    let mut out = Vec::new();
    for (sample, queries) in q.iter().enumerate() {
        for (query, numbers) in queries.iter().enumerate() {
            for head in 0..heads {
                let (mine, shared) = (head * d, head / group * d);
                let weights: Vec<(usize, f64)> = seen(query)
                    .map(|key| {
                        let dot: f64 = (0..d)
                            .map(|i| {
                                f64::from(numbers[mine + i]) * f64::from(k[sample][key][shared + i])
                            })
                            .sum();
                        (key, (dot / (d as f64).sqrt()).exp())
                    })
                    .collect();
                let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
                out.extend((0..d).map(|i| {
                    let sum: f64 = weights
                        .iter()
                        .map(|(key, weight)| weight * f64::from(v[sample][*key][shared + i]))
                        .sum();
                    (sum / total) as f32
                }));
            }
        }
    }
    out
}

#[test]
fn attention_with_shared_heads_a_cache_and_a_window_is_what_it_is_by_definition() {
    for (heads, key_heads, queries, keys, past, window) in [
        (6, 2, 1, 50, 40, None),
        (6, 2, 1, 50, 49, Some(9)),
        (4, 1, 300, 420, 100, None),
        (4, 4, 300, 420, 100, Some(37)),
        (3, 3, 17, 17, 0, Some(1)),
        (8, 2, 140, 150, 3, Some(129)),
    ] {
        let d = 8;
        let q = values(1, &[2, queries, heads * d]);
        let k = values(2, &[2, keys, key_heads * d]);
        let v = values(3, &[2, keys, key_heads * d]);
        let mask = Mask::Cached { past, window };
        let expected = plain([&q, &k, &v], heads, |query| {
            let end = past + query + 1;
            end.saturating_sub(window.unwrap_or(end))..end
        });
        let attend = |x: &[Tensor; 3]| {
            let [q, k, v] = x.each_ref().map(Activation::from);
            let y = attention(&q, &k, &v, heads, mask, MatmulPrecision::F32).unwrap();
            flat(&y.tensor().unwrap().to_dtype(DType::F32).unwrap())
        };
        let x = [q, k, v];
        let kernel = attend(&x);
        assert!(largest_difference(&kernel, &expected) < 1e-5, "{heads} {queries} {window:?}");
        // In f64 an operation takes its composed form.
        let composed = attend(&x.map(|x| x.to_dtype(DType::F64).unwrap()));
        assert!(largest_difference(&composed, &expected) < 1e-5, "{heads} {queries} {window:?}");
    }
}

#[test]
fn queries_beyond_the_keys_and_heads_that_cannot_share_are_errors() {
    let [q, k] = [values(1, &[1, 4, 24]), values(2, &[1, 6, 8])].map(Activation::from);
    let attend = |heads, past, window| {
        attention(&q, &k, &k, heads, Mask::Cached { past, window }, MatmulPrecision::F32)
            .map(|_| ())
    };
    attend(3, 2, None).unwrap();
    assert!(attend(3, 3, None).is_err());
    assert!(attend(3, 2, Some(0)).is_err());
    assert!(attend(2, 2, None).is_err());
    assert!(attend(4, 2, None).is_err());
}

#[test]
fn rms_norm_is_what_it_is_by_definition() {
    let (x, weight) = (values(4, &[3, 5, 70]), values(5, &[70]));
    let source = HashMap::from([("weight".to_owned(), weight.clone())]);
    let norm = RmsNorm::load(70, 1e-5, &Params::from_tensors(source, DType::F32, &Device::Cpu));
    let weight = weight.to_vec1::<f32>().unwrap();
    let rows = x.flatten(0, 1).unwrap().to_vec2::<f32>().unwrap();
    let expected: Vec<f32> = rows
        .iter()
        .flat_map(|row| {
            let mean = row.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / 70.0;
            let scale = (mean + 1e-5).sqrt().recip();
            let of = move |(x, w): (&f32, &f32)| (f64::from(*x) * scale * f64::from(*w)) as f32;
            row.iter().zip(&weight).map(of).collect::<Vec<_>>()
        })
        .collect();
    let normed = norm.unwrap().forward(&x.into()).unwrap();
    assert!(largest_difference(&flat(normed.tensor().unwrap()), &expected) < 1e-5);
}

/// One table, kept in this format.
struct Table(Tensor, Option<GgmlDType>);

impl ParamSource for Table {
    fn get(&self, _: &str, _: &Shape, _: DType, _: &Device) -> Result<Tensor> {
        Ok(self.0.clone())
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn weight(
        &self,
        _: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> Result<Weight> {
        let stored = self.1.map(|format| Stored { format, in_file: false, keep: true });
        let storage = WeightStorage::choose(weight_use, shape, stored, working)?;
        Weight::new(&self.0, weight_use, storage)
    }
}

#[test]
fn embeddings_are_rows_of_the_table_however_it_is_kept() {
    let table = values(6, &[40, 64]);
    let ids = [39, 0, 7, 7];
    let index = Tensor::new(&ids, &Device::Cpu).unwrap();
    let expected = flat(&table.index_select(&index, 0).unwrap());
    for (format, tolerance) in
        [(None, 0.0), (Some(GgmlDType::F16), 1e-3), (Some(GgmlDType::Q8_0), 0.02)]
    {
        let source = Arc::new(Table(table.clone(), format));
        let params = Params::new(source, DType::F32, &Device::Cpu);
        let embedding = Embedding::load(40, 64, &params).unwrap();
        let rows = embedding.forward(&ids, None).unwrap();
        assert_eq!(rows.dims(), [4, 64]);
        let difference = largest_difference(&flat(rows.tensor().unwrap()), &expected);
        assert!(difference <= tolerance, "{format:?}: {difference}");
        assert!(embedding.forward(&[40], None).is_err());
    }
}
