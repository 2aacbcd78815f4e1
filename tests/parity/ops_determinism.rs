//! The CPU kernels against the composed forms, and the rule "same bytes whatever the batch and the
//! number of threads". In f64 an operation takes its composed form, so one call gives the kernel
//! and another its reference.

use std::collections::HashMap;
use std::sync::Arc;

use candle_core::{DType, Device, Result, Shape, Tensor};
use cupscale::{
    backend::{
        Activation, MatmulPrecision, ParamSource, Params,
        ops::{
            Conv2d, CropRect, GroupNorm, LayerNorm, Linear, Mask, add, add_gated, attention,
            attention_parts, crop_resize, geglu, gelu, gelu_tanh, join, leaky_relu, modulated_norm,
            quick_gelu, silu, swiglu, upsample_nearest_2x,
        },
    },
    model::denoiser::{
        Denoiser,
        unet::{UNet2DConditionModel, UNetConfig},
    },
};

use crate::common::{
    models::{conditioning, predict},
    on_threads,
    tensors::{bits, largest_error, values},
};

/// A weight for every name.
struct Arbitrary;

impl ParamSource for Arbitrary {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, _: &Device) -> Result<Tensor> {
        let seed = name.bytes().fold(7, |seed: u64, byte| seed * 31 % 65_521 + u64::from(byte));
        // As large as keeps activations at about one.
        let inputs = shape.elem_count() / shape.dims()[0];
        (values(seed, shape.dims()) / (inputs as f64).sqrt())?.to_dtype(dtype)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }
}

type Operation = Box<dyn Fn(&[Activation]) -> Result<Activation> + Sync>;

fn run_on(run: &Operation, inputs: &[Tensor]) -> Tensor {
    let inputs: Vec<_> = inputs.iter().map(Activation::from).collect();
    run(&inputs).unwrap().into_tensor().unwrap()
}

/// Operations on shapes that need several tiles, with remainders, and the shapes of their inputs
/// without the batch.
fn operations(dtype: DType) -> Vec<(&'static str, Operation, Vec<Vec<usize>>)> {
    let vars = move |seed: u64, shape: &[usize]| values(seed, shape).to_dtype(dtype).unwrap();
    let mut list: Vec<(&'static str, Operation, Vec<Vec<usize>>)> = Vec::new();
    let mut conv = |name, input: usize, output: usize, kernel: usize, stride, padding, h, w| {
        let weight = vars(1, &[output, input, kernel, kernel]);
        let bias = vars(2, &[output]);
        let conv = Conv2d::new(&weight, Some(bias), stride, padding).unwrap();
        let run: Operation = Box::new(move |x| conv.forward(&x[0]));
        list.push((name, run, vec![vec![h, w, input]]));
    };
    conv("conv 3x3", 40, 100, 3, 1, 1, 37, 29);
    conv("conv 3x3 few pixels", 300, 330, 3, 1, 1, 4, 5);
    conv("conv 3x3 few channels", 4, 3, 3, 1, 1, 33, 50);
    conv("conv 3x3 few outputs", 70, 4, 3, 1, 1, 33, 50);
    conv("conv 3x3 few outputs, stride 2", 37, 8, 3, 2, 1, 34, 51);
    conv("conv 5x5 one output", 16, 1, 5, 1, 3, 7, 6);
    conv("conv 3x3 few inputs", 3, 64, 3, 1, 1, 33, 50);
    conv("conv 3x3 stride 2", 24, 50, 3, 2, 1, 35, 41);
    conv("conv 1x1", 70, 50, 1, 1, 0, 31, 33);
    conv("conv 1x1 stride 2", 30, 50, 1, 2, 0, 31, 33);

    let conv = Conv2d::new(&vars(1, &[50, 24, 3, 3]), Some(vars(2, &[50])), 1, 1).unwrap();
    let (shifted, doubled, added) = (conv.clone(), conv.clone(), conv);
    list.push((
        "conv + shift",
        Box::new(move |x| shifted.forward_shift(&x[0], &x[1])),
        vec![vec![17, 13, 24], vec![50]],
    ));
    list.push((
        "conv of a doubled picture without its last lines",
        Box::new(move |x| doubled.forward_doubled(&x[0], 33, 25)),
        vec![vec![17, 13, 24]],
    ));
    list.push((
        "conv + residual",
        Box::new(move |x| added.forward_add(&x[0], &x[1])),
        vec![vec![17, 13, 24], vec![17, 13, 50]],
    ));

    let linear = Linear::new(&vars(3, &[330, 90]), Some(vars(4, &[330]))).unwrap();
    let added = linear.clone();
    list.push((
        "linear + residual",
        Box::new(move |x| added.forward_add(&x[0], &x[1])),
        vec![vec![77, 90], vec![77, 330]],
    ));
    let wide = linear.clone();
    list.push(("linear", Box::new(move |x| wide.forward(&x[0])), vec![vec![531, 90]]));
    list.push(("linear, one row", Box::new(move |x| linear.forward(&x[0])), vec![vec![90]]));

    let norm_vars = |channels: usize| {
        let parts = [("weight", 5), ("bias", 6)];
        let parts = parts.map(|(name, seed)| (name.to_owned(), vars(seed, &[channels])));
        Params::from_tensors(HashMap::from(parts), dtype, &Device::Cpu)
    };
    let norm = GroupNorm::load(8, 72, 1e-5, &norm_vars(72)).unwrap();
    let with_silu = norm.clone();
    list.push(("group_norm", Box::new(move |x| norm.forward(&x[0])), vec![vec![31, 37, 72]]));
    list.push((
        "group_norm + silu",
        Box::new(move |x| with_silu.forward_silu(&x[0])),
        vec![vec![31, 37, 72]],
    ));
    let norm = LayerNorm::load(71, 1e-5, &norm_vars(71)).unwrap();
    list.push(("layer_norm", Box::new(move |x| norm.forward(&x[0])), vec![vec![700, 71]]));

    for (name, heads, mask, queries, keys) in [
        ("self-attention", 3, Mask::None, 517, 517),
        ("cross-attention", 6, Mask::None, 300, 77),
        ("causal attention", 2, Mask::Causal, 77, 77),
    ] {
        let run: Operation =
            Box::new(move |x| attention(&x[0], &x[1], &x[2], heads, mask, MatmulPrecision::F32));
        list.push((name, run, vec![vec![queries, 48], vec![keys, 48], vec![keys, 48]]));
    }
    let parts: Operation = Box::new(|x| {
        let sets = [[&x[1], &x[2]], [&x[3], &x[4]]];
        let [first, second] = attention_parts(&x[0], sets, 3, MatmulPrecision::F32)?;
        join(&first, &second)
    });
    let sets = vec![vec![300, 48], vec![517, 48], vec![517, 48], vec![77, 48], vec![77, 48]];
    list.push(("attention in parts", parts, sets));
    let one =
        |f: fn(&Activation) -> Result<Activation>| -> Operation { Box::new(move |x| f(&x[0])) };
    list.push(("silu", one(silu), vec![vec![300, 77]]));
    list.push(("gelu", one(gelu), vec![vec![300, 77]]));
    list.push(("gelu_tanh", one(gelu_tanh), vec![vec![300, 77]]));
    let of_samples = vec![vec![300, 77], vec![77], vec![77]];
    let modulated: Operation = Box::new(|x| modulated_norm(&x[0], &x[1], &x[2], 1e-6));
    list.push(("modulated_norm", modulated, of_samples));
    let gated: Operation = Box::new(|x| add_gated(&x[0], &x[1], &x[2]));
    list.push(("add_gated", gated, vec![vec![300, 77], vec![300, 77], vec![77]]));
    list.push(("quick_gelu", one(quick_gelu), vec![vec![300, 77]]));
    list.push(("geglu", one(geglu), vec![vec![300, 154]]));
    list.push(("leaky_relu", Box::new(|x| leaky_relu(&x[0], 0.2)), vec![vec![300, 77]]));
    list.push(("swiglu", Box::new(|x| swiglu(&x[0], &x[1])), vec![vec![300, 77]; 2]));
    list.push(("add", Box::new(|x| add(&x[0], &x[1])), vec![vec![300, 77]; 2]));
    let halves = vec![vec![31, 37, 72], vec![31, 37, 50]];
    list.push(("join", Box::new(|x| join(&x[0], &x[1])), halves));
    list.push(("upsample", one(upsample_nearest_2x), vec![vec![17, 13, 24]]));
    list
}

/// Attention whose products are rounded, where this processor has instructions for that.
fn rounded() -> Vec<(&'static str, Operation, Vec<Vec<usize>>)> {
    let attend = |heads, mask| -> Operation {
        Box::new(move |x| attention(&x[0], &x[1], &x[2], heads, mask, MatmulPrecision::Bf16))
    };
    if !MatmulPrecision::Bf16.is_available() {
        return Vec::new();
    }
    let shapes = |queries, keys| vec![vec![queries, 48], vec![keys, 48], vec![keys, 48]];
    vec![
        ("self-attention in bf16", attend(3, Mask::None), shapes(517, 517)),
        ("causal attention in bf16", attend(2, Mask::Causal), shapes(77, 77)),
    ]
}

fn inputs(shapes: &[Vec<usize>], batch: usize) -> Vec<Tensor> {
    let batched = |shape: &Vec<usize>| [&[batch], &shape[..]].concat();
    shapes.iter().zip(10..).map(|(shape, seed)| values(seed, &batched(shape))).collect()
}

#[test]
fn every_kernel_equals_its_composed_form() {
    for ((name, kernel, shapes), (_, composed, _)) in
        operations(DType::F32).into_iter().zip(operations(DType::F64))
    {
        let x = inputs(&shapes, 2);
        let wide: Vec<Tensor> = x.iter().map(|x| x.to_dtype(DType::F64).unwrap()).collect();
        let ours = run_on(&kernel, &x);
        let reference = run_on(&composed, &wide);
        assert_eq!((ours.dims(), reference.dtype()), (reference.dims(), DType::F64), "{name}");
        let error = largest_error(&ours, &reference);
        assert!(error <= 1e-5, "{name}: {error:.2e}");
    }
}

#[test]
fn a_sample_gives_the_same_bytes_in_any_batch_on_any_number_of_threads() {
    for (name, run, shapes) in operations(DType::F32).into_iter().chain(rounded()) {
        let batch = inputs(&shapes, 3);
        let together = on_threads(2, || run_on(&run, &batch));
        for threads in [1, 2, 5] {
            assert_eq!(
                bits(&together),
                bits(&on_threads(threads, || run_on(&run, &batch))),
                "{name}"
            );
            for sample in 0..3 {
                let single: Vec<Tensor> =
                    batch.iter().map(|x| x.narrow(0, sample, 1).unwrap()).collect();
                let alone = on_threads(threads, || run_on(&run, &single));
                let of_batch = together.narrow(0, sample, 1).unwrap();
                assert_eq!(bits(&alone), bits(&of_batch), "{name}, sample {sample}, {threads}");
            }
        }
    }
}

#[test]
fn values_that_are_not_finite_stay_visible() {
    for (name, run, shapes) in operations(DType::F32).into_iter().chain(rounded()) {
        let mut x = inputs(&shapes, 1);
        let mut numbers = x[0].flatten_all().unwrap().to_vec1::<f32>().unwrap();
        numbers[7] = f32::NAN;
        x[0] = Tensor::from_vec(numbers, x[0].shape(), &Device::Cpu).unwrap();
        let y = run_on(&run, &x).flatten_all().unwrap().to_vec1::<f32>().unwrap();
        assert!(y.iter().any(|value| value.is_nan()), "{name}");
    }
}

#[test]
fn crop_resize_gives_the_same_bytes_on_any_number_of_threads() {
    let map = Activation::from(values(1, &[1, 40, 56, 64]));
    let rect = CropRect { top: 0.2, left: 0.3, height: 0.5, width: 0.4 };
    let run = |threads| {
        let crop = on_threads(threads, || crop_resize(&map, rect, 64, 48)).unwrap();
        bits(crop.tensor().unwrap())
    };
    assert_eq!(run(1), run(2));
}

#[test]
fn a_whole_unet_gives_the_same_bytes_in_any_batch_on_any_number_of_threads() {
    let config = UNetConfig::from_json(
        r#"{"block_out_channels": [32, 64], "norm_num_groups": 8, "layers_per_block": 1,
        "down_block_types": ["CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D"],
        "attention_head_dim": [2, 4], "cross_attention_dim": 24, "use_linear_projection": true,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 68}"#,
    )
    .unwrap();
    let vb = Params::new(Arc::new(Arbitrary), DType::F32, &Device::Cpu);
    for precision in [MatmulPrecision::F32, MatmulPrecision::Bf16] {
        if precision.is_available() {
            let vb = vb.with_precision(precision);
            let unet = UNet2DConditionModel::load(config.clone(), &vb).unwrap();
            is_the_same_in_any_batch(&Denoiser::from(unet));
        } else {
            println!("skipped: this processor has no instructions for {precision} products");
        }
    }
}

fn is_the_same_in_any_batch(model: &Denoiser) {
    let (sample, context) = (values(1, &[3, 24, 16, 4]), values(2, &[3, 9, 24]));
    let pooled = values(3, &[3, 20]);
    let time_ids = Tensor::arange(0f32, 18.0, &Device::Cpu).unwrap().reshape((3, 6)).unwrap();
    let run = |threads: usize, first: usize, count: usize| {
        let part = |x: &Tensor| x.narrow(0, first, count).unwrap();
        let (pooled, time_ids) = (part(&pooled), part(&time_ids));
        let cond = conditioning(model, &part(&context), Some(&pooled), Some(&time_ids)).unwrap();
        let output = || predict(model, &part(&sample), 499.0, &cond);
        on_threads(threads, output)
    };
    let together = run(2, 0, 3);
    assert_eq!(bits(&together), bits(&run(1, 0, 3)));
    for first in 0..3 {
        let of_batch = together.narrow(0, first, 1).unwrap();
        assert_eq!(bits(&of_batch), bits(&run(1 + first % 2, first, 1)), "sample {first}");
    }
}
