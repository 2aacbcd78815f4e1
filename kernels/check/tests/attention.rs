//! The attention kernels against softmax(q·kᵀ/√d)·v in f64.

use kernel_check::{
    Arg, Buffer, Element, Mode, assert_close, backend, bf16, f16, take_conflicts, try_launch,
    uniform,
};

#[path = "../../../src/backend/ops/attention/launch.rs"]
mod attention_launch;

use attention_launch::{AllStrides, AttentionLaunch, Seen, Shape, Strides};

/// Widths of heads with a kernel.
const WIDTHS: [usize; 7] = [40, 64, 72, 80, 128, 160, 512];

/// A tensor `[batch, tokens, width]` among numbers that are none: behind each token and behind each sample.
struct Tokens<T> {
    sizes: [usize; 3],
    /// Tokens of a sample that are numbers.
    filled: usize,
    /// Elements behind a token.
    gap: usize,
    values: Vec<T>,
    buffer: Buffer<T>,
    strides: Strides,
}

impl<T: Element> Tokens<T> {
    fn new(values: Vec<T>, sizes: [usize; 3], filled: usize, gap: usize) -> Self {
        let [batch, tokens, width] = sizes;
        let strides = strides(tokens, width, gap);
        let mut all = Buffer::<T>::unwritten(batch * strides.sample).to_vec();
        for (token, values) in values.chunks(width).enumerate() {
            let (sample, token) = (token / tokens, token % tokens);
            if token < filled {
                let start = sample * strides.sample + token * strides.row;
                all[start..start + width].copy_from_slice(values);
            }
        }
        Self { sizes, filled, gap, values, buffer: Buffer::new(&all), strides }
    }

    /// One sample alone.
    fn sample(&self, index: usize) -> Self {
        let [_, tokens, width] = self.sizes;
        let values = self.values[index * tokens * width..][..tokens * width].to_vec();
        Self::new(values, [1, tokens, width], self.filled, self.gap)
    }
}

/// With so many elements behind a token, and room for two tokens behind a sample.
fn strides(tokens: usize, width: usize, gap: usize) -> Strides {
    Strides { row: width + gap, sample: (tokens + 2) * (width + gap) }
}

struct Case<T> {
    shape: Shape,
    q: Tokens<T>,
    k: Tokens<T>,
    v: Tokens<T>,
}

impl<T: Element> Case<T> {
    fn new(shape: Shape, q: Vec<T>, k: Vec<T>) -> Self {
        let v = uniform(3, k.len());
        let of_queries = [shape.batch, shape.queries, shape.heads * shape.width];
        let of_keys = [shape.batch, shape.keys, shape.key_heads * shape.width];
        Self {
            shape,
            q: Tokens::new(q, of_queries, shape.queries, 24),
            k: Tokens::new(k, of_keys, computed(shape), 16),
            v: Tokens::new(v, of_keys, computed(shape), 40),
        }
    }

    /// Scores up to about 4.
    fn uniform(shape: Shape) -> Self {
        let Shape { batch, queries, keys, heads, key_heads, width, .. } = shape;
        let mut q = uniform::<T>(1, batch * queries * heads * width);
        for q in &mut q {
            *q = T::round(q.widen() as f32 * 4.0);
        }
        Self::new(shape, q, uniform(2, batch * keys * key_heads * width))
    }

    fn sample(&self, index: usize) -> Self {
        let [q, k, v] = [&self.q, &self.k, &self.v].map(|x| x.sample(index));
        Self { shape: Shape { batch: 1, ..self.shape }, q, k, v }
    }

    /// Holds the kernels to the reference in one mode.
    fn check_once(&mut self) -> Vec<T> {
        let computed = self.run(Mode::ALL[0]);
        let what = format!("{:?} {:?}", T::TYPE, self.shape);
        assert_close(&what, &computed, &self.reference(), 2e-3);
        computed
    }

    /// Holds the kernels to the reference in every mode, and each sample to the same alone.
    fn check(&mut self) {
        let shape = self.shape;
        let computed = self.check_once();
        let bytes = |values: &[T]| Buffer::new(values).bytes().to_vec();
        for mode in &Mode::ALL[1..] {
            assert!(bytes(&self.run(*mode)) == bytes(&computed), "{mode:?}: {shape:?}");
        }
        for (index, of_sample) in computed.chunks(computed.len() / shape.batch).enumerate() {
            if shape.batch > 1 {
                let alone = self.sample(index).run(Mode::ALL[0]);
                assert!(bytes(&alone) == bytes(of_sample), "sample {index} alone: {shape:?}");
            }
        }
    }

    /// The output `[batch, queries, heads · width]`.
    fn run(&mut self, mode: Mode) -> Vec<T> {
        let Shape { batch, queries, heads, width, .. } = self.shape;
        let strides = strides(queries, heads * width, 8);
        let mut out = Buffer::<T>::unwritten(batch * strides.sample);
        take_conflicts();
        self.launch(self.plan(strides), &mut out, mode).unwrap();
        assert_eq!(take_conflicts(), 0, "conflicts of banks: {:?}", self.shape);
        let out = out.to_vec();
        let mut values = Vec::new();
        for (index, token) in out.chunks(strides.row).enumerate() {
            let is_token = index % (queries + 2) < queries;
            let (token, gap) = token.split_at(if is_token { heads * width } else { 0 });
            assert!(gap.iter().all(|x| x.widen().is_nan()), "written beside the output");
            values.extend(token);
        }
        values
    }

    fn plan(&self, out: Strides) -> AttentionLaunch {
        let strides = AllStrides { q: self.q.strides, k: self.k.strides, v: self.v.strides, out };
        AttentionLaunch::new(T::TYPE, self.shape, strides).unwrap()
    }

    fn launch(
        &mut self,
        plan: AttentionLaunch,
        out: &mut Buffer<T>,
        mode: Mode,
    ) -> Result<(), String> {
        let buffers = [&mut self.q.buffer, &mut self.k.buffer, &mut self.v.buffer];
        let [q, k, v] = buffers.map(Arg::input);
        match plan {
            AttentionLaunch::Whole { attend, sizes } => {
                try_launch(&attend, &mut [q, k, v, Arg::output(out), Arg::value(sizes)], mode)
            }
            AttentionLaunch::Split { attend, combine, workspace, sizes } => {
                let mut workspace = Buffer::<u8>::unwritten(workspace);
                let parts = if combine.is_some() { Arg::output(&mut workspace) } else { Arg::Null };
                let mut arguments = [q, k, v, Arg::output(out), parts, Arg::value(sizes)];
                try_launch(&attend, &mut arguments, mode)?;
                let Some(combine) = combine else { return Ok(()) };
                let parts = Arg::input(&mut workspace);
                try_launch(&combine, &mut [parts, Arg::output(out), Arg::value(sizes)], mode)
            }
        }
    }

    fn reference(&self) -> Vec<f64> {
        let Shape { batch, queries, keys, heads, key_heads, width, .. } = self.shape;
        let mut out = vec![0.0; batch * queries * heads * width];
        for (row, out) in out.chunks_mut(width).enumerate() {
            let (token, head) = (row / heads, row % heads);
            let (sample, query) = (token / queries, token % queries);
            let q = &self.q.values[row * width..][..width];
            let of_key = |x: &'_ [T], key: usize| -> Vec<f64> {
                let start = ((sample * keys + key) * key_heads + head * key_heads / heads) * width;
                x[start..start + width].iter().map(|x| x.widen()).collect()
            };
            let mut scores = Vec::new();
            for key in (0..keys).filter(|&key| is_seen(self.shape.seen, query, key)) {
                let k = of_key(&self.k.values, key);
                let product: f64 = q.iter().zip(k).map(|(q, k)| q.widen() * k).sum();
                scores.push((key, product / (width as f64).sqrt()));
            }
            let largest = scores.iter().fold(f64::NEG_INFINITY, |largest, x| largest.max(x.1));
            let sum: f64 = scores.iter().map(|x| (x.1 - largest).exp()).sum();
            for (key, score) in scores {
                let weight = (score - largest).exp() / sum;
                for (out, v) in out.iter_mut().zip(of_key(&self.v.values, key)) {
                    *out += weight * v;
                }
            }
        }
        out
    }
}

/// Keys that have been computed; behind them is room.
fn computed(shape: Shape) -> usize {
    match shape.seen {
        Seen::All => shape.keys,
        Seen::UpToOwn { past, .. } => shape.keys.min(past + shape.queries),
    }
}

fn is_seen(seen: Seen, query: usize, key: usize) -> bool {
    match seen {
        Seen::All => true,
        Seen::UpToOwn { past, window } => {
            let own = past + query;
            key <= own && window.is_none_or(|window| own - key < window)
        }
    }
}

const fn shape(batch: usize, queries: usize, keys: usize, heads: [usize; 2]) -> Shape {
    let [heads, key_heads] = heads;
    Shape { batch, queries, keys, heads, key_heads, width: 0, seen: Seen::All }
}

const fn cached(shape: Shape, past: usize, window: Option<usize>) -> Shape {
    Shape { seen: Seen::UpToOwn { past, window }, ..shape }
}

const fn causal(shape: Shape) -> Shape {
    cached(shape, 0, None)
}

/// Each of these for a width.
fn check_shapes<T: Element>(width: usize, shapes: &[Shape]) {
    for &shape in shapes {
        Case::<T>::uniform(Shape { width, ..shape }).check();
    }
}

/// A test for each width and type, so that they run beside each other.
macro_rules! of_each_width {
    ($($name:ident $width:literal;)*) => { $(mod $name {
        use super::*;

        const SHAPES: [Shape; 9] = [
            shape(1, 64, 64, [1, 1]),
            shape(2, 131, 77, [2, 2]),
            shape(3, 17, 1, [2, 2]),
            shape(1, 33, 97, [3, 1]),
            causal(shape(2, 141, 141, [2, 2])),
            causal(shape(1, 50, 20, [1, 1])),
            cached(shape(2, 37, 150, [4, 2]), 70, None),
            cached(shape(2, 137, 230, [2, 1]), 61, Some(33)),
            cached(shape(1, 18, 100, [1, 1]), 80, Some(1)),
        ];

        #[test]
        fn bf16_equals_the_reference() {
            check_shapes::<bf16>($width, &SHAPES);
        }

        #[test]
        fn f16_equals_the_reference() {
            check_shapes::<f16>($width, &SHAPES);
        }
    })* };
}

of_each_width! {
    width_40 40;
    width_64 64;
    width_72 72;
    width_80 80;
    width_128 128;
    width_160 160;
    width_512 512;
}

/// Masks whose edges lie at every place of a tile: their end, their start, and a start with a whole tile behind.
fn check_edges<T: Element>(width: usize) {
    for past in 31..97 {
        // 2 for the kernel of few queries, 17 for the others.
        for (queries, past, window) in [
            (2, past, None),
            (2, past, Some(past / 3)),
            (17, past, None),
            (17, past, Some(past / 3)),
            (17, past + 120, Some(100)),
        ] {
            let shape = cached(shape(1, queries, past + 20, [1, 1]), past, window);
            Case::<T>::uniform(Shape { width, ..shape }).check_once();
        }
    }
}

#[test]
fn masks_may_end_anywhere_in_a_tile_of_32() {
    check_edges::<f16>(80);
    check_edges::<bf16>(160);
}

#[test]
fn masks_may_end_anywhere_in_a_tile_of_64() {
    check_edges::<bf16>(64);
    check_edges::<f16>(128);
}

#[test]
fn masks_may_end_anywhere_in_a_tile_of_the_wide_kernel() {
    check_edges::<bf16>(512);
}

/// Few queries: one part and several, one tile of rows and several, tails in all of them.
fn check_few<T: Element>() {
    for width in [64, 80, 128] {
        let shapes = [
            shape(2, 1, 700, [4, 2]),
            shape(3, 5, 131, [2, 2]),
            shape(1, 16, 300, [6, 2]),
            shape(1, 1, 1, [1, 1]),
            cached(shape(2, 1, 900, [8, 2]), 823, None),
            cached(shape(2, 3, 900, [8, 2]), 823, Some(300)),
            cached(shape(1, 16, 80, [2, 1]), 2, Some(7)),
            causal(shape(1, 9, 9, [2, 2])),
        ];
        check_shapes::<T>(width, &shapes);
    }
}

#[test]
fn few_queries_in_bf16_equal_the_reference() {
    check_few::<bf16>();
}

#[test]
fn few_queries_in_f16_equal_the_reference() {
    check_few::<f16>();
}

/// Scores from −80 to 80, all along one direction.
fn check_large<T: Element>(width: usize, queries: usize) {
    let shape = Shape { width, ..shape(1, queries, 300, [1, 1]) };
    let signs: Vec<f32> =
        uniform::<T>(4, width).iter().map(|x| x.widen().signum() as f32).collect();
    let along = |factors: Vec<f64>, scale: f64| -> Vec<T> {
        let rows = factors.into_iter();
        rows.flat_map(|x| signs.iter().map(move |sign| T::round((x * scale) as f32 * sign)))
            .collect()
    };
    // The ends of the range too: no factor is larger than the first two.
    let factors = |seed: u64, count: usize| {
        let mut factors: Vec<f64> = uniform::<f32>(seed, count).iter().map(|x| x.widen()).collect();
        for (factor, end) in factors.iter_mut().zip([1.0, -1.0]) {
            *factor = end;
        }
        factors
    };
    let scale = 80.0 / (width as f64).sqrt();
    Case::new(shape, along(factors(5, queries), scale), along(factors(6, 300), 1.0)).check();
}

#[test]
fn large_scores_do_not_overflow() {
    for width in WIDTHS {
        check_large::<bf16>(width, 40);
        check_large::<f16>(width, 40);
    }
    check_large::<bf16>(128, 3);
    check_large::<f16>(64, 3);
}

#[test]
fn without_a_key_the_output_is_zero() {
    for width in WIDTHS {
        for queries in [3, 70] {
            let mut case = Case::<bf16>::uniform(Shape { width, ..shape(2, queries, 0, [2, 1]) });
            for mode in Mode::ALL {
                assert!(case.run(mode).iter().all(|&x| x == bf16::ZERO), "{width}");
            }
        }
    }
}

/// A query that is no number shows in its own output, where the program looks for it, and in no other.
#[test]
fn a_query_that_is_no_number_has_an_output_that_is_none() {
    for width in WIDTHS {
        for queries in [2, 70] {
            let shape = Shape { width, ..shape(1, queries, 90, [2, 1]) };
            let mut q = uniform::<bf16>(1, queries * 2 * width);
            // Of the second head of query 1.
            q[3 * width + 7] = bf16::NAN;
            let mut case = Case::new(shape, q, uniform(2, 90 * width));
            for (row, values) in case.run(Mode::ALL[0]).chunks(width).enumerate() {
                assert!(values.iter().all(|x| x.is_nan() == (row == 3)), "{width}: row {row}");
            }
        }
    }
}

/// A kernel and its launch agree on its shared memory: with less, it writes beside it.
#[test]
fn no_kernel_is_given_more_shared_memory_than_it_uses() {
    for width in WIDTHS {
        for queries in [2, 17] {
            let mut case = Case::<bf16>::uniform(Shape { width, ..shape(1, queries, 150, [1, 1]) });
            let strides = strides(queries, width, 0);
            let mut out = Buffer::<bf16>::unwritten(strides.sample);
            let mut plan = case.plan(strides);
            let (AttentionLaunch::Whole { attend, .. } | AttentionLaunch::Split { attend, .. }) =
                &mut plan;
            // More than the end of a row that is only there to keep the next one away.
            attend.shared -= 64;
            assert!(case.launch(plan, &mut out, Mode::ALL[0]).is_err(), "{width}, {queries}");
        }
    }
}
