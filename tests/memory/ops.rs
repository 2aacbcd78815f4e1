//! Traced memory of operations against the measurement of a counting allocator: the CPU kernels, and in half precision
//! on the CPU the composed forms, which GPUs may run. What kernels on GPUs take is their outputs and little more.

use std::{collections::HashMap, ops::RangeInclusive};

use candle_core::{DType, Device, Result, Tensor, quantized::GgmlDType};
use cupscale::backend::{
    Activation, KernelChoice, MatmulPrecision, Params, Placement, Trace, Weight, choose_kernels,
    ops::{
        Conv2d, CropRect, GroupMoments, GroupNorm, LayerNorm, Linear, Mask, RmsNorm, add,
        add_gated, attention, attention_of_lengths, attention_parts, biased_attention, crop_resize,
        geglu, gelu, gelu_tanh, join, leaky_relu, modulated_norm, quick_gelu, rope, silu, swiglu,
        upsample_nearest_2x,
    },
};

use crate::{common::tensors::values, counting};

type Operation = Box<dyn Fn(&[Activation]) -> Result<Activation> + Sync + Send>;

/// Operations for values of this type, and the shapes of their inputs.
fn operations(dtype: DType) -> Vec<(&'static str, Operation, Vec<Vec<usize>>)> {
    let weight = move |shape: &[usize]| (values(1, shape) * 0.05).unwrap().to_dtype(dtype).unwrap();
    let mut list: Vec<(&'static str, Operation, Vec<Vec<usize>>)> = Vec::new();
    let mut put = |name, run: Operation, shapes: &[&[usize]]| {
        list.push((name, run, shapes.iter().map(|shape| shape.to_vec()).collect()));
    };
    let conv = |output: usize, input: usize, kernel: usize, stride: usize| {
        let kernel_weight = weight(&[output, input, kernel, kernel]);
        Conv2d::new(&kernel_weight, Some(weight(&[output])), stride, kernel / 2).unwrap()
    };
    let one =
        |f: fn(&Activation) -> Result<Activation>| -> Operation { Box::new(move |x| f(&x[0])) };
    let picture: &[usize] = &[2, 64, 48, 96];
    let same = conv(96, 96, 3, 1);
    put("conv", Box::new(move |x| same.forward(&x[0])), &[picture]);
    let half = conv(96, 96, 3, 2);
    put("conv, stride 2", Box::new(move |x| half.forward(&x[0])), &[picture]);
    let few = conv(4, 96, 3, 1);
    put("conv to few", Box::new(move |x| few.forward(&x[0])), &[picture]);
    let sums = conv(96, 96, 3, 1);
    put("conv + residual", Box::new(move |x| sums.forward_add(&x[0], &x[1])), &[picture, picture]);
    let shift = conv(96, 96, 3, 1);
    put("conv + shift", Box::new(move |x| shift.forward_shift(&x[0], &x[1])), &[picture, &[2, 96]]);
    let doubled = conv(32, 96, 3, 1);
    put(
        "conv of a doubled",
        Box::new(move |x| doubled.forward_doubled(&x[0], 128, 95)),
        &[picture],
    );
    let doubled = conv(4, 96, 3, 1);
    put(
        "conv of a doubled to few",
        Box::new(move |x| doubled.forward_doubled(&x[0], 128, 96)),
        &[picture],
    );
    let point = conv(240, 96, 1, 1);
    put("conv 1×1", Box::new(move |x| point.forward(&x[0])), &[picture]);

    let linear = Linear::new(&weight(&[640, 320]), Some(weight(&[640]))).unwrap();
    let residual = linear.clone();
    put("linear", Box::new(move |x| linear.forward(&x[0])), &[&[2, 1024, 320]]);
    let with = [&[2, 1024, 320][..], &[2, 1024, 640]];
    put("linear + residual", Box::new(move |x| residual.forward_add(&x[0], &x[1])), &with);

    let params = |channels: usize| {
        let parts = ["weight", "bias"].map(|name| (name.to_owned(), weight(&[channels])));
        Params::from_tensors(HashMap::from(parts), dtype, &Device::Cpu)
    };
    let norm = GroupNorm::load(8, 96, 1e-5, &params(96)).unwrap();
    let (with_silu, other) = (norm.clone(), norm.clone());
    put("group_norm", Box::new(move |x| norm.forward(&x[0])), &[picture]);
    put("group_norm + silu", Box::new(move |x| with_silu.forward_silu(&x[0])), &[picture]);
    let moments = GroupMoments::of(&values(4, &[1, 8, 8, 96]).into(), 8).unwrap();
    put(
        "group_norm of others",
        Box::new(move |x| other.forward_with(&x[0], &moments, true)),
        &[picture],
    );
    let norm = LayerNorm::load(320, 1e-5, &params(320)).unwrap();
    put("layer_norm", Box::new(move |x| norm.forward(&x[0])), &[&[2, 2048, 320]]);
    let norm = RmsNorm::load(320, 1e-5, &params(320)).unwrap();
    put("rms_norm", Box::new(move |x| norm.forward(&x[0])), &[&[2, 2048, 320]]);

    let masks = [
        ("self-attention", 8, Mask::None, 1024, 1024, 320),
        ("cross-attention", 8, Mask::None, 2048, 77, 320),
        ("causal attention", 4, Mask::Causal, 600, 600, 320),
        ("attention with shared keys", 8, Mask::Cached { past: 200, window: None }, 700, 1000, 80),
    ];
    for (name, heads, mask, queries, keys, key_width) in masks {
        let run: Operation =
            Box::new(move |x| attention(&x[0], &x[1], &x[2], heads, mask, MatmulPrecision::F32));
        put(name, run, &[&[2, queries, 320], &[2, keys, key_width], &[2, keys, key_width]]);
    }

    let parts = |x: &[Activation]| {
        let sets = [[&x[1], &x[2]], [&x[3], &x[4]]];
        let [first, second] = attention_parts(&x[0], sets, 8, MatmulPrecision::F32)?;
        drop(first);
        Ok(second)
    };
    let (many, few): (&[usize], &[usize]) = (&[2, 1024, 320], &[2, 77, 320]);
    put("attention in parts", Box::new(parts), &[many, many, many, few, few]);

    let run =
        |x: &[Activation]| biased_attention(&x[0], &x[1], &x[2], 8, &x[3].to_dtype(DType::F32)?);
    let tokens: &[usize] = &[2, 300, 320];
    put("biased attention", Box::new(run), &[tokens, tokens, tokens, &[8, 300, 300]]);
    let run = |x: &[Activation]| {
        attention_of_lengths(&x[0], &x[1], &x[2], 8, &[20, 77], MatmulPrecision::F32)
    };
    put("attention of lengths", Box::new(run), &[&[2, 2048, 320], &[2, 77, 320], &[2, 77, 320]]);

    let rows: &[usize] = &[2, 2048, 320];
    put("silu", one(silu), &[rows]);
    put("gelu", one(gelu), &[rows]);
    put("gelu_tanh", one(gelu_tanh), &[rows]);
    let of_samples: &[usize] = &[2, 320];
    let modulated: Operation = Box::new(|x| modulated_norm(&x[0], &x[1], &x[2], 1e-6));
    put("modulated_norm", modulated, &[rows, of_samples, of_samples]);
    put("add_gated", Box::new(|x| add_gated(&x[0], &x[1], &x[2])), &[rows, rows, of_samples]);
    put("quick_gelu", one(quick_gelu), &[rows]);
    put("geglu", one(geglu), &[rows]);
    put("leaky_relu", Box::new(|x| leaky_relu(&x[0], 0.2)), &[rows]);
    put("swiglu", Box::new(|x| swiglu(&x[0], &x[1])), &[rows, rows]);
    put("add", Box::new(|x| add(&x[0], &x[1])), &[rows, rows]);
    put("join", Box::new(|x| join(&x[0], &x[1])), &[rows, rows]);
    put("upsample", one(upsample_nearest_2x), &[picture]);
    let rect = CropRect { top: 0.2, left: 0.3, height: 0.5, width: 0.4 };
    put("crop_resize", Box::new(move |x| crop_resize(&x[0], rect, 96, 80)), &[&[1, 64, 48, 96]]);
    let angles = [&[2, 1024, 8, 40][..], &[1024, 20], &[1024, 20]];
    put("rope", Box::new(|x| rope(&x[0], &x[1], &x[2])), &angles);
    put("transposed silu", Box::new(|x| silu(&x[0].transpose(1, 2)?)), &[rows]);
    list
}

/// The most that an operation takes beside its inputs, and what it leaves behind beside its output: of
/// the first call.
fn measure(run: &Operation, inputs: &[Activation]) -> (usize, usize) {
    let before = counting::live();
    let mut output = None;
    let peak = counting::peak_of(|| output = Some(run(inputs).unwrap()));
    drop(output);
    (peak, counting::live() - before)
}

/// The same that a trace says, and the buffer of a thread.
fn trace(run: &Operation, inputs: &[Activation], placement: Placement) -> (usize, usize) {
    let trace = Trace::new(placement);
    let inputs: Vec<_> =
        inputs.iter().map(|x| trace.activation(x.shape().clone(), x.dtype())).collect();
    let before = trace.live();
    let output = run(&inputs).unwrap();
    assert!(output.is_traced());
    let bytes = placement.buffer(output.bytes());
    assert_eq!(bytes, trace.live() - before, "an output counts, and nothing else is left");
    (trace.peak() - before, trace.scratch_bytes())
}

fn inputs(shapes: &[Vec<usize>], dtype: DType) -> Vec<Activation> {
    let input = |(seed, shape): (u64, &Vec<usize>)| values(seed, shape).to_dtype(dtype).unwrap();
    (7..).zip(shapes).map(input).map(Activation::from).collect()
}

/// Lists of tasks, and other small things.
const SMALL: usize = 48 << 10;

/// Prints what was said and what was taken, and says whether the former lies within `bounds` of the latter.
fn is_close(name: &str, said: usize, taken: usize, bounds: RangeInclusive<f64>) -> bool {
    let ratio = said as f64 / taken as f64;
    println!("{name:<40} {said:>10} said {taken:>10} taken {ratio:.3}");
    said.abs_diff(taken) < SMALL || bounds.contains(&ratio)
}

/// Calls `f` on a thread of its own, which is all there is to compute with, and which ends with its buffers.
fn on_a_fresh_thread<T: Send>(f: impl FnOnce() -> T + Send) -> T {
    let compute = || {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(1).use_current_thread();
        pool.build().unwrap().install(f)
    };
    std::thread::scope(|scope| scope.spawn(compute).join().unwrap())
}

#[test]
fn kernels_take_what_they_say() {
    if !counting::alone(module_path!(), "kernels_take_what_they_say") {
        return;
    }
    let mut list = operations(DType::F32);
    let packed = Weight::pack(&values(1, &[640, 320]), GgmlDType::Q8_0, MatmulPrecision::F32);
    let packed = Linear::from_weight(packed.unwrap(), None).unwrap();
    let run: Operation = Box::new(move |x| packed.forward(&x[0]));
    list.push(("linear of a weight as stored", run, vec![vec![2, 1024, 320]]));
    let mut wrong = Vec::new();
    for (name, run, shapes) in list {
        let (first, again, (said, scratch)) = on_a_fresh_thread(|| {
            let inputs = inputs(&shapes, DType::F32);
            let first = measure(&run, &inputs);
            (first, measure(&run, &inputs), trace(&run, &inputs, Placement::Cpu))
        });
        let is_right = is_close(name, said, again.0, 0.97..=1.03);
        let buffer = format!("{name}: a thread's buffer");
        if !(is_close(&buffer, scratch, first.1, 0.97..=1.03) && is_right) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The multiplications of the CPU in half precision bring their left side to f32, which no GPU does. So
/// layers here have more outputs than inputs: what is theirs is then more than what is the CPU's.
#[test]
fn composed_forms_take_what_their_trace_says() {
    if !counting::alone(module_path!(), "composed_forms_take_what_their_trace_says") {
        return;
    }
    choose_kernels(KernelChoice::Composed);
    let mut wrong = Vec::new();
    for (name, run, shapes) in operations(DType::F16) {
        // With more threads one may get its buffer late, in the call that is measured.
        let (taken, said) = on_a_fresh_thread(|| {
            let inputs = inputs(&shapes, DType::F16);
            // Whatever stays after a first call.
            measure(&run, &inputs);
            let (taken, _) = measure(&run, &inputs);
            (taken, trace(&run, &inputs, Placement::Cuda).0)
        });
        if !is_close(name, said, taken, 0.97..=1.03) {
            wrong.push(name);
        }
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// The workspaces of kernels that have large ones are held against their launches beside these.
#[test]
fn kernels_on_gpus_take_outputs_and_copies_alone() {
    let mut wrong = wrong_on(Placement::Cuda, DType::BF16);
    wrong.extend(wrong_on(Placement::Metal, DType::F16));
    assert!(wrong.is_empty(), "{wrong:?}");
}

/// Operations that GPUs compose of others, and so take more than their outputs.
const COMPOSED_ON_GPUS: [&str; 6] = [
    "leaky_relu",
    "attention in parts",
    "biased attention",
    "attention of lengths",
    "modulated_norm",
    "add_gated",
];

/// Operations whose kernels take more or less in a trace of such a GPU.
fn wrong_on(placement: Placement, dtype: DType) -> Vec<&'static str> {
    let mut wrong = Vec::new();
    let own = operations(dtype).into_iter();
    for (name, run, shapes) in own.filter(|(name, ..)| !COMPOSED_ON_GPUS.contains(name)) {
        let inputs = inputs(&shapes, dtype);
        let output = {
            let trace = Trace::new(placement);
            let shape = |x: &Activation| trace.activation(x.shape().clone(), x.dtype());
            run(&inputs.iter().map(shape).collect::<Vec<_>>()).unwrap().bytes()
        };
        let outputs = match name {
            // A library's product, and the same with bias and residual.
            "conv 1×1" | "linear" | "linear + residual" => 2,
            // What the samples are blended with.
            "crop_resize" => 2,
            // The copy in another order.
            "transposed silu" => 2,
            _ => 1,
        };
        let (said, scratch) = trace(&run, &inputs, placement);
        assert_eq!(scratch, 0, "{name}: a thread's buffer is the CPU's");
        if !is_close(name, said, outputs * placement.buffer(output), 1.0..=1.01) {
            wrong.push(name);
        }
    }
    wrong
}

#[test]
fn a_trace_of_another_device_reads_no_kernel_weight() {
    let rows = Tensor::zeros((64, 32), DType::F32, &Device::Cpu).unwrap();
    let linear = Linear::new(&rows, None).unwrap();
    let x = Trace::new(Placement::Cuda).activation((4, 32), DType::F32);
    assert!(linear.forward(&x).is_err());
    let x = Trace::new(Placement::Cpu).activation((4, 32), DType::F32);
    assert_eq!(linear.forward(&x).unwrap().dims(), [4, 64]);
}
