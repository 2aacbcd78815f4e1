//! Attention.

use std::ops::Range;

use kernel_check::{Arg, Buffer, Element, Mode, assert_close, f16, uniform};

use crate::{
    attention_launch::{AttentionForm, AttentionMask, AttentionShape, attention},
    bar, bits, element, in_every_mode, launch,
};

const FORMS: [AttentionForm; 2] = [AttentionForm::Matrices, AttentionForm::Plain];
const ONE: AttentionShape = AttentionShape {
    batch: 1,
    queries: 9,
    keys: 11,
    heads: 1,
    key_heads: 1,
    width: 40,
    mask: AttentionMask::None,
};

struct Inputs<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
}

/// Numbers that are large enough for weights to differ.
fn inputs<T: Element>(shape: &AttentionShape) -> Inputs<T> {
    let &AttentionShape { batch, queries, keys, heads, key_heads, width, .. } = shape;
    let of = |seed, tokens: u32, heads: u32, factor: f32| {
        let len = (batch * tokens * heads * width) as usize;
        uniform::<f32>(seed, len).into_iter().map(|x| T::round(factor * x)).collect()
    };
    Inputs {
        q: of(1, queries, heads, 3.0),
        k: of(2, keys, key_heads, 2.0),
        v: of(3, keys, key_heads, 1.0),
    }
}

/// The keys that a query sees, as the operation says it.
fn seen(shape: &AttentionShape, query: usize) -> Range<usize> {
    let keys = shape.keys as usize;
    let AttentionMask::UpToOwn { past, window } = shape.mask else { return 0..keys };
    let next = past as usize + query + 1;
    let end = keys.min(next);
    window.map_or(0, |window| next.saturating_sub(window as usize)).min(end)..end
}

impl<T: Element> Inputs<T> {
    fn run(
        &self,
        shape: &AttentionShape,
        form: AttentionForm,
        aligned: bool,
        mode: Mode,
    ) -> Vec<T> {
        let (geometry, sizes) = attention(element::<T>(), form, shape, aligned).unwrap();
        let mut y = Buffer::unwritten(self.q.len());
        launch(
            &geometry,
            &mut [
                Arg::input(&mut Buffer::new(&self.q)),
                Arg::input(&mut Buffer::new(&self.k)),
                Arg::input(&mut Buffer::new(&self.v)),
                Arg::output(&mut y),
                Arg::value(sizes),
            ],
            mode,
        );
        y.to_vec()
    }

    fn reference(&self, shape: &AttentionShape) -> Vec<f64> {
        let [batch, queries, keys, heads, key_heads, width] =
            [shape.batch, shape.queries, shape.keys, shape.heads, shape.key_heads, shape.width]
                .map(|n| n as usize);
        let mut y = Vec::new();
        for row in 0..batch * queries * heads {
            let (sample, query, head) = (row / heads / queries, row / heads % queries, row % heads);
            let q = &self.q[row * width..][..width];
            let key_head = head / (heads / key_heads);
            let place = |key: usize| ((sample * keys + key) * key_heads + key_head) * width;
            let seen = seen(shape, query);
            let scores: Vec<f64> = (seen.clone())
                .map(|key| {
                    let k = &self.k[place(key)..][..width];
                    let product: f64 = q.iter().zip(k).map(|(q, k)| q.widen() * k.widen()).sum();
                    product / (width as f64).sqrt()
                })
                .collect();
            let largest = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
            let total: f64 = weights.iter().sum();
            y.extend((0..width).map(|d| {
                let values = seen.clone().map(|key| self.v[place(key) + d].widen());
                values.zip(&weights).map(|(v, weight)| v * weight).sum::<f64>() / total
            }));
        }
        y
    }
}

fn check<T: Element>(shape: &AttentionShape, form: AttentionForm, aligned: bool) {
    let what = format!("{:?} {form:?} {shape:?} aligned {aligned}", element::<T>());
    let inputs = inputs::<T>(shape);
    let y = in_every_mode(&what, |mode| inputs.run(shape, form, aligned, mode));
    assert_close(&what, &y, &inputs.reference(shape), bar::<T>());
}

fn check_all(shape: &AttentionShape) {
    for form in FORMS {
        check::<f16>(shape, form, true);
        check::<f32>(shape, form, true);
    }
}

#[test]
fn whole_tiles_and_tails_of_queries_and_keys() {
    for width in [40, 160] {
        for (queries, keys) in [(1, 1), (32, 32), (33, 31), (65, 77), (7, 100)] {
            check_all(&AttentionShape { queries, keys, width, ..ONE });
        }
    }
}

#[test]
fn every_width_that_has_a_kernel() {
    let mask = AttentionMask::UpToOwn { past: 40, window: Some(37) };
    for width in [40, 64, 72, 80, 128, 160] {
        let shape = AttentionShape { queries: 35, keys: 77, heads: 2, width, ..ONE };
        for shape in [shape, AttentionShape { mask, ..shape }] {
            check::<f16>(&shape, AttentionForm::Matrices, true);
            check::<f32>(&shape, AttentionForm::Matrices, true);
        }
    }
}

#[test]
fn heads_that_share_keys() {
    for (heads, key_heads) in [(3, 3), (4, 2), (2, 1)] {
        for width in [40, 160] {
            check_all(&AttentionShape { heads, key_heads, width, queries: 5, keys: 13, ..ONE });
        }
    }
}

#[test]
fn masks() {
    let mask = |past, window| AttentionMask::UpToOwn { past, window };
    for width in [40, 160] {
        for (queries, keys, mask) in [
            (40, 40, mask(0, None)),
            (37, 20, mask(0, None)),
            (20, 50, mask(0, None)),
            (5, 90, mask(70, None)),
            (70, 130, mask(50, Some(1))),
            (70, 130, mask(50, Some(33))),
            (9, 200, mask(150, Some(64))),
            (4, 10, mask(6, Some(500))),
        ] {
            check_all(&AttentionShape { queries, keys, width, mask, ..ONE });
        }
    }
}

#[test]
fn buffers_that_begin_anywhere_give_the_same_bytes() {
    for width in [40, 160] {
        let shape = AttentionShape { width, heads: 2, ..ONE };
        for form in FORMS {
            check::<f16>(&shape, form, false);
            let of = |aligned| inputs::<f16>(&shape).run(&shape, form, aligned, Mode::ALL[0]);
            assert_eq!(bits(&of(false)), bits(&of(true)));
        }
    }
}

#[test]
fn the_plain_form_takes_any_width() {
    for width in [1, 3, 64, 77, 512] {
        let shape = AttentionShape { width, queries: 3, keys: 70, ..ONE };
        check::<f16>(&shape, AttentionForm::Plain, true);
        check::<f32>(&shape, AttentionForm::Plain, true);
    }
    let of = |form, width| {
        attention(element::<f16>(), form, &AttentionShape { width, ..ONE }, true).is_some()
    };
    assert!(!of(AttentionForm::Plain, 513) && !of(AttentionForm::Matrices, 96));
}

#[test]
fn a_sample_has_the_same_bytes_alone_and_in_a_batch() {
    for width in [40, 160] {
        let shape = AttentionShape { batch: 3, queries: 35, keys: 41, heads: 2, width, ..ONE };
        check_all(&shape);
        let all = inputs::<f16>(&shape);
        for form in FORMS {
            let y = all.run(&shape, form, true, Mode::ALL[0]);
            for sample in 0..3 {
                let part = |values: &[f16]| {
                    let len = values.len() / 3;
                    values[sample * len..][..len].to_vec()
                };
                let own = Inputs { q: part(&all.q), k: part(&all.k), v: part(&all.v) };
                let alone = AttentionShape { batch: 1, ..shape };
                let alone = own.run(&alone, form, true, Mode::ALL[0]);
                assert_eq!(bits(&alone), bits(&part(&y)), "{form:?}, sample {sample}");
            }
        }
    }
}

#[test]
fn what_is_not_a_number_shows() {
    for width in [40, 160] {
        let shape = AttentionShape { width, ..ONE };
        for form in FORMS {
            let mut inputs = inputs::<f16>(&shape);
            inputs.q[0] = f16::NAN;
            let y = inputs.run(&shape, form, true, Mode::ALL[0]);
            let (first, others) = y.split_at(width as usize);
            assert!(first.iter().all(|y| y.is_nan()) && others.iter().all(|y| y.is_finite()));
        }
    }
}

#[test]
fn keys_that_no_query_sees_may_be_anything() {
    for width in [40, 160] {
        let mask = AttentionMask::UpToOwn { past: 50, window: Some(20) };
        let shape = AttentionShape { queries: 5, keys: 70, width, mask, ..ONE };
        let mut inputs = inputs::<f16>(&shape);
        let row = |key: u32| (key * width) as usize..((key + 1) * width) as usize;
        // Room for later keys, and keys before the window, whose scores would outweigh all others.
        for key in 55..70 {
            inputs.k[row(key)].fill(f16::NAN);
            inputs.v[row(key)].fill(f16::NAN);
        }
        for key in 0..31 {
            let q = inputs.q[..width as usize].to_vec();
            inputs.k[row(key)]
                .copy_from_slice(&q.iter().map(|q| q * f16::from_f32(99.0)).collect::<Vec<_>>());
        }
        let reference = inputs.reference(&shape);
        for form in FORMS {
            let y = in_every_mode("unseen", |mode| inputs.run(&shape, form, true, mode));
            assert_close("unseen keys", &y, &reference, bar::<f16>());
        }
    }
}

#[test]
fn a_query_without_any_key_gives_zeros() {
    // The window of a query behind the last key holds none.
    let mask = AttentionMask::UpToOwn { past: 0, window: Some(1) };
    let shape = AttentionShape { queries: 40, keys: 8, mask, ..ONE };
    let inputs = inputs::<f16>(&shape);
    for form in FORMS {
        let y = in_every_mode("without keys", |mode| inputs.run(&shape, form, true, mode));
        let (seeing, others) = y.split_at(8 * 40);
        assert!(seeing.iter().any(|y| y.to_f32() != 0.0));
        assert!(others.iter().all(|y| y.to_f32() == 0.0), "{form:?}");
    }
}
