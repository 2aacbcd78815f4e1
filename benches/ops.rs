//! Time and GFLOP/s of the operations on shapes of SDXL-family UNets, and of a whole small UNet,
//! on the CPU in f32. Beside
//! `benches/ops_torch.py`, which prints the same table for PyTorch.
//!
//! `cargo bench --bench ops [-- FILTER]`; `RAYON_NUM_THREADS` sets the threads. The rate is that
//! of the best repeat, because a machine that is busy with other work only ever adds time; the CPU
//! time is the mean over all repeats and threads, and hardly sees other work at all.

use std::{
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Result, Shape, Tensor, quantized::GgmlDType};
use cupscale::{
    backend::{
        ParamSource, Params, Working,
        ops::{
            Conv2d, GroupNorm, LayerNorm, Linear, Mask, Weight, attention, geglu,
            upsample_nearest_2x,
        },
    },
    model::unet::{Conditioning, Prior, UNet2DConditionModel, UNetConfig},
};

/// 49 M parameters in SDXL's shape; `benches/ops_torch.py` builds the same.
const UNET: &str = r#"{"in_channels": 8, "block_out_channels": [96, 192, 384],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1, "transformer_layers_per_block": [1, 1, 2],
    "attention_head_dim": [2, 4, 8], "cross_attention_dim": 256, "use_linear_projection": true,
    "addition_embed_type": "text_time", "addition_time_embed_dim": 32,
    "projection_class_embeddings_input_dim": 320}"#;
/// One call on 64 × 64 latent pixels and 77 tokens, as counted by torch's `FlopCounterMode`.
const UNET_FLOPS: usize = 45_884_080_128;

/// Each operation is repeated for this long, and at least three times.
const TIME: Duration = Duration::from_millis(700);

/// A small random weight for every name.
struct Random;

impl ParamSource for Random {
    fn get(&self, _: &str, shape: &Shape, _: DType, _: &Device) -> Result<Tensor> {
        Tensor::randn(0f32, 0.02, shape, &Device::Cpu)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }
}

/// The same in f16, as the weights of a large model are kept.
struct Halves;

impl ParamSource for Halves {
    fn get(&self, name: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        Random.get(name, shape, dtype, device)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn kernel(&self, name: &str, shape: &Shape, working: &Working) -> Result<Weight> {
        let weight = self.get(name, shape, working.dtype, &working.device)?.to_dtype(DType::F16)?;
        Weight::kernel(&weight, working.dtype, working.products)
    }
}

fn values(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

/// CPU time of all threads of this process, on systems that say it this way.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The fields after the program's name, which may hold spaces; 11 and 12 are ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

struct Bench {
    filter: String,
}

impl Bench {
    /// `flops` counts a multiply-add as two; 0 where memory is what matters, then `bytes` moved
    /// are reported instead.
    fn run(
        &self,
        name: &str,
        flops: usize,
        bytes: usize,
        operation: impl Fn() -> Result<Tensor>,
    ) -> Result<()> {
        if !name.contains(&self.filter) {
            return Ok(());
        }
        black_box(operation()?);
        let cpu = cpu_seconds();
        let (begin, mut best, mut repeats) = (Instant::now(), Duration::MAX, 0u32);
        while repeats < 3 || begin.elapsed() < TIME {
            let start = Instant::now();
            black_box(operation()?);
            best = best.min(start.elapsed());
            repeats += 1;
        }
        let seconds = best.as_secs_f64();
        let cpu = cpu.zip(cpu_seconds()).map_or(f64::NAN, |(before, after)| after - before);
        let cpu = cpu / f64::from(repeats);
        let (rate, unit) = if flops > 0 { (flops, "GFLOP/s") } else { (bytes, "GB/s") };
        let rate = rate as f64;
        println!(
            "{name:<34} {:>9.3} ms {:>8.1} {unit} {:>9.3} CPU-ms",
            seconds * 1e3,
            rate / seconds / 1e9,
            cpu * 1e3
        );
        Ok(())
    }

    fn conv(&self, input: usize, output: usize, side: usize, stride: usize) -> Result<()> {
        let conv =
            Conv2d::new(&values(&[output, input, 3, 3])?, Some(values(&[output])?), stride, 1)?;
        let x = values(&[1, side, side, input])?;
        let pixels = (side / stride).pow(2);
        let name = format!("conv3x3 {input}->{output} {side}x{side} /{stride}");
        self.run(&name, 2 * 9 * input * output * pixels, 0, || conv.forward(&x))
    }

    fn linear(&self, rows: usize, input: usize, output: usize) -> Result<()> {
        let linear = Linear::new(&values(&[output, input])?, Some(values(&[output])?))?;
        let x = values(&[1, rows, input])?;
        let name = format!("linear {rows} x {input}->{output}");
        self.run(&name, 2 * rows * input * output, 0, || linear.forward(&x))
    }

    /// Dense layers whose weights are kept in f16 or in blocks.
    fn linear_kept(&self, rows: usize, input: usize, output: usize) -> Result<()> {
        let weight = (values(&[output, input])? * 0.02)?;
        let x = values(&[1, rows, input])?;
        for dtype in [GgmlDType::F16, GgmlDType::Q8_0, GgmlDType::Q6K, GgmlDType::Q4K] {
            let linear = Linear::from_weight(Weight::pack(&weight, dtype)?, None)?;
            let name = format!("linear {dtype:?} {rows} x {input}->{output}");
            self.run(&name, 2 * rows * input * output, 0, || linear.forward(&x))?;
        }
        Ok(())
    }

    /// A 3×3 convolution whose weight is kept in f16.
    fn conv_kept(&self, input: usize, output: usize, side: usize) -> Result<()> {
        let params = Params::new(Arc::new(Halves), DType::F32, &Device::Cpu);
        let conv = Conv2d::load(input, output, 3, 1, 1, &params)?;
        let x = values(&[1, side, side, input])?;
        let name = format!("conv3x3 F16 {input}->{output} {side}x{side}");
        self.run(&name, 2 * 9 * input * output * side * side, 0, || conv.forward(&x))
    }

    fn attention(&self, queries: usize, keys: usize, heads: usize) -> Result<()> {
        let width = 64 * heads;
        let q = values(&[1, queries, width])?;
        let (k, v) = (values(&[1, keys, width])?, values(&[1, keys, width])?);
        let name = format!("attention {queries} x {keys} heads {heads}");
        let flops = 4 * queries * keys * width;
        self.run(&name, flops, 0, || attention(&q, &k, &v, heads, Mask::None))
    }
}

fn main() -> Result<()> {
    // Cargo passes `--bench`; anything else selects operations by name.
    let filter = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let bench = Bench { filter: filter.unwrap_or_default() };

    bench.conv(4, 128, 64, 1)?;
    bench.conv(128, 128, 64, 1)?;
    bench.conv(128, 128, 64, 2)?;
    bench.conv(256, 256, 32, 1)?;
    bench.conv(512, 256, 32, 1)?;
    bench.conv(384, 384, 16, 1)?;
    bench.conv(320, 320, 64, 1)?;
    bench.conv(128, 4, 64, 1)?;
    bench.linear(1024, 256, 2048)?;
    bench.linear(1024, 1024, 256)?;
    bench.linear(256, 384, 3072)?;
    bench.linear(77, 768, 384)?;
    for (rows, input, output) in [(4096, 1280, 10240), (1024, 1280, 1280), (77, 2048, 1280)] {
        bench.linear(rows, input, output)?;
        bench.linear_kept(rows, input, output)?;
    }
    bench.conv(1280, 1280, 32, 1)?;
    bench.conv_kept(1280, 1280, 32)?;
    bench.attention(1024, 1024, 4)?;
    bench.attention(4096, 4096, 5)?;
    bench.attention(4096, 77, 5)?;

    let vb = Params::new(Arc::new(Random), DType::F32, &Device::Cpu);
    let x = values(&[1, 64, 64, 128])?;
    let bytes = 4 * x.elem_count();
    let norm = GroupNorm::load(32, 128, 1e-5, &vb.pp("group"))?;
    bench.run("group_norm+silu 64x64x128", 0, 2 * bytes, || norm.forward_silu(&x))?;
    let norm = LayerNorm::load(256, 1e-5, &vb.pp("layer"))?;
    let tokens = values(&[1, 1024, 256])?;
    let bytes_of = 8 * tokens.elem_count();
    bench.run("layer_norm 1024x256", 0, bytes_of, || norm.forward(&tokens))?;
    let gated = values(&[1, 1024, 2048])?;
    bench.run("geglu 1024x2048", 0, 6 * gated.elem_count(), || geglu(&gated))?;
    bench.run("upsample 64x64x128", 0, 5 * bytes, || upsample_nearest_2x(&x))?;
    bench.run("add 64x64x128", 0, 3 * bytes, || &x + &x)?;
    bench.run("cat 64x64x(128+128)", 0, 4 * bytes, || Tensor::cat(&[&x, &x], 3))?;

    let config = UNetConfig::from_json(UNET).map_err(candle_core::Error::wrap)?;
    let unet = UNet2DConditionModel::load(config, &vb).map_err(candle_core::Error::wrap)?;
    let sample = values(&[1, 64, 64, 8])?;
    let cond = Conditioning {
        context: values(&[1, 77, 256])?,
        pooled: Some(values(&[1, 128])?),
        time_ids: Some(Tensor::zeros((1, 6), DType::F32, &Device::Cpu)?),
    };
    bench.run("unet 64x64", UNET_FLOPS, 0, || unet.forward(&sample, 499.0, &cond, Prior::None))
}
