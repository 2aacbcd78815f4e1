//! The operations of SDXL's UNet and VAE one by one, on the CPU. `benches/compare.py` runs them in
//! turn with PyTorch, from the list here.
//!
//! `cargo bench --bench ops [-- FILTER]` prints milliseconds alone; `RAYON_NUM_THREADS` sets the
//! threads. The rate is that of the best repeat, because a machine that is busy with other work only
//! ever adds time; the CPU time is the mean over all repeats and threads, and hardly sees other work
//! at all. `--list` prints the operations as JSON, `--serve` computes on request (`turns`).

mod turns;

use std::{
    error::Error,
    fmt,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Result, Shape, Tensor, quantized::GgmlDType};
use cupscale::backend::{
    Activation, MatmulPrecision, ParamSource, Params, Stored, Weight, WeightStorage, WeightUse,
    Working,
    ops::{
        Conv2d, CropRect, GroupNorm, LayerNorm, Linear, Mask, add, attention, crop_resize, geglu,
        join, upsample_nearest_2x,
    },
};
use serde::Serialize;

/// As the program has it.
#[cfg(target_os = "linux")]
#[path = "../src/allocator/mod.rs"]
#[allow(dead_code, reason = "its tests are built here and run with the program's")]
mod allocator;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

/// Each operation is repeated for this long, and at least three times.
const TIME: Duration = Duration::from_millis(700);

/// An operation and its matmul precision.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Precise(Case, MatmulPrecision);

/// All operations in f32; those on f32 weights and attention in bf16 as well, where the CPU supports it.
fn cases() -> Vec<Precise> {
    let rounded = CASES.iter().filter(|case| match case {
        Case::Conv { kept, .. } | Case::Linear { kept, .. } => *kept == Kept::F32,
        Case::Attention { .. } => true,
        _ => false,
    });
    let rounded = rounded.filter(|_| MatmulPrecision::Bf16.is_available());
    let rounded = rounded.map(|case| Precise(*case, MatmulPrecision::Bf16));
    CASES.iter().map(|case| Precise(*case, MatmulPrecision::F32)).chain(rounded).collect()
}

/// An operation with its shapes, batch 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(tag = "operation", rename_all = "snake_case")]
enum Case {
    /// `kernel × kernel`, padded to keep the size; of the picture twice as large if `upsample`
    Conv {
        input: usize,
        output: usize,
        side: usize,
        kernel: usize,
        stride: usize,
        upsample: bool,
        kept: Kept,
    },
    Linear {
        rows: usize,
        input: usize,
        output: usize,
        kept: Kept,
    },
    Attention {
        heads: usize,
        queries: usize,
        keys: usize,
        head_width: usize,
    },
    GroupNormSilu {
        channels: usize,
        side: usize,
    },
    LayerNorm {
        rows: usize,
        channels: usize,
    },
    /// `channels` values and as many gates
    Geglu {
        rows: usize,
        channels: usize,
    },
    Upsample {
        channels: usize,
        side: usize,
    },
    /// the middle of a map at a map's size
    CropResize {
        channels: usize,
        side: usize,
    },
    Add {
        channels: usize,
        side: usize,
    },
    /// of two with so many channels each
    Concatenate {
        channels: usize,
        side: usize,
    },
}

/// Storage of a weight.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kept {
    F32,
    F16,
    Q8_0,
    Q6K,
    Q4K,
}

impl Kept {
    fn format(self) -> Option<GgmlDType> {
        match self {
            Self::F32 => None,
            Self::F16 => Some(GgmlDType::F16),
            Self::Q8_0 => Some(GgmlDType::Q8_0),
            Self::Q6K => Some(GgmlDType::Q6K),
            Self::Q4K => Some(GgmlDType::Q4K),
        }
    }
}

const fn conv(input: usize, output: usize, side: usize) -> Case {
    Case::Conv { input, output, side, kernel: 3, stride: 1, upsample: false, kept: Kept::F32 }
}

const fn linear(rows: usize, input: usize, output: usize, kept: Kept) -> Case {
    Case::Linear { rows, input, output, kept }
}

const fn heads(heads: usize, queries: usize, keys: usize, head_width: usize) -> Case {
    Case::Attention { heads, queries, keys, head_width }
}

const CASES: &[Case] = &[
    conv(320, 320, 128),
    conv(640, 640, 64),
    conv(1280, 1280, 32),
    Case::Conv {
        input: 1280,
        output: 1280,
        side: 32,
        kernel: 3,
        stride: 1,
        upsample: false,
        kept: Kept::F16,
    },
    Case::Conv {
        input: 320,
        output: 320,
        side: 128,
        kernel: 3,
        stride: 2,
        upsample: false,
        kept: Kept::F32,
    },
    Case::Conv {
        input: 960,
        output: 640,
        side: 64,
        kernel: 1,
        stride: 1,
        upsample: false,
        kept: Kept::F32,
    },
    Case::Conv {
        input: 640,
        output: 640,
        side: 64,
        kernel: 3,
        stride: 1,
        upsample: true,
        kept: Kept::F32,
    },
    conv(4, 320, 128),
    conv(320, 4, 128),
    conv(128, 128, 64),
    conv(512, 512, 64),
    linear(4096, 640, 5120, Kept::F32),
    linear(1024, 1280, 10240, Kept::F32),
    linear(1024, 5120, 1280, Kept::F32),
    linear(1024, 1280, 1280, Kept::F32),
    linear(77, 2048, 640, Kept::F32),
    linear(1024, 1280, 10240, Kept::F16),
    linear(1024, 1280, 10240, Kept::Q8_0),
    linear(1024, 1280, 10240, Kept::Q6K),
    linear(1024, 1280, 10240, Kept::Q4K),
    heads(10, 4096, 4096, 64),
    heads(20, 1024, 1024, 64),
    heads(10, 4096, 77, 64),
    heads(20, 1024, 77, 64),
    heads(1, 4096, 4096, 512),
    Case::GroupNormSilu { channels: 320, side: 128 },
    Case::GroupNormSilu { channels: 640, side: 64 },
    Case::LayerNorm { rows: 4096, channels: 640 },
    Case::LayerNorm { rows: 1024, channels: 1280 },
    Case::Geglu { rows: 4096, channels: 2560 },
    Case::Geglu { rows: 1024, channels: 5120 },
    Case::Upsample { channels: 640, side: 64 },
    Case::CropResize { channels: 640, side: 64 },
    Case::Add { channels: 640, side: 64 },
    Case::Concatenate { channels: 640, side: 64 },
];

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        let kept = |kept: Kept| match kept {
            Kept::F32 => String::new(),
            kept => format!(", {}", format!("{kept:?}").to_lowercase()),
        };
        match *self {
            Self::Conv { input, output, side, kernel, stride, upsample, kept: weight } => {
                let stride = if stride == 1 { String::new() } else { format!("/{stride}") };
                let upsample = if upsample { ", upsampled" } else { "" };
                write!(f, "conv {kernel}×{kernel}{stride} {input}→{output} @{side}²{upsample}")?;
                f.write_str(&kept(weight))
            }
            Self::Linear { rows, input, output, kept: weight } => {
                write!(f, "linear {rows}×{input}→{output}{}", kept(weight))
            }
            Self::Attention { heads, queries, keys, head_width } if queries == keys => {
                write!(f, "attention {heads}×{queries}×{head_width}")
            }
            Self::Attention { heads, queries, keys, head_width } => {
                write!(f, "attention {heads}×{queries}×{head_width}, {keys} keys")
            }
            Self::GroupNormSilu { channels, side } => {
                write!(f, "group_norm + silu {channels} @{side}²")
            }
            Self::LayerNorm { rows, channels } => write!(f, "layer_norm {rows}×{channels}"),
            Self::Geglu { rows, channels } => write!(f, "geglu {rows}×{}", 2 * channels),
            Self::Upsample { channels, side } => write!(f, "upsample {channels} @{side}²"),
            Self::CropResize { channels, side } => write!(f, "crop_resize {channels} @{side}²"),
            Self::Add { channels, side } => write!(f, "add {channels} @{side}²"),
            Self::Concatenate { channels, side } => {
                write!(f, "concatenate {channels} + {channels} @{side}²")
            }
        }
    }
}

impl fmt::Display for Precise {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self(case, MatmulPrecision::F32) => write!(f, "{case}"),
            Self(case, precision) => write!(f, "{case}, {precision}"),
        }
    }
}

/// A small random weight for every name; convolutions in f16, if those of a large model are meant.
struct Random {
    halves: bool,
}

impl ParamSource for Random {
    fn get(&self, _: &str, shape: &Shape, _: DType, _: &Device) -> Result<Tensor> {
        Tensor::randn(0f32, 0.02, shape, &Device::Cpu)
    }

    fn contains(&self, _: &str) -> bool {
        true
    }

    fn weight(
        &self,
        name: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> Result<Weight> {
        let stored = Stored { format: GgmlDType::F16, in_file: false, keep: true };
        let stored = (self.halves && weight_use == WeightUse::Kernel).then_some(stored);
        let storage = WeightStorage::choose(weight_use, shape, stored, working)?;
        let weight = self.get(name, shape, working.dtype, &working.device)?;
        Weight::new(&weight.to_dtype(storage.numbers())?, weight_use, storage)
    }
}

fn values(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(0f32, 1.0, shape, &Device::Cpu)
}

fn input(shape: &[usize]) -> Result<Activation> {
    values(shape).map(Activation::from)
}

type Operation = Box<dyn Fn() -> Result<Activation>>;

impl Case {
    /// Multiply-adds, counted as two; 0 where memory is what matters.
    fn flops(self) -> usize {
        match self {
            Self::Conv { input, output, side, kernel, stride, upsample, .. } => {
                let side = if upsample { 2 * side } else { side / stride };
                2 * kernel * kernel * input * output * side * side
            }
            Self::Linear { rows, input, output, .. } => 2 * rows * input * output,
            Self::Attention { heads, queries, keys, head_width } => {
                4 * heads * queries * keys * head_width
            }
            _ => 0,
        }
    }

    /// Bytes that the operation has to read and write at least, without weights.
    fn bytes(self) -> usize {
        let numbers = match self {
            Self::Conv { input, output, side, stride, upsample, .. } => {
                let outer = if upsample { 2 * side } else { side / stride };
                side * side * input + outer * outer * output
            }
            Self::Linear { rows, input, output, .. } => rows * (input + output),
            Self::Attention { heads, queries, keys, head_width } => {
                2 * heads * (queries + keys) * head_width
            }
            Self::GroupNormSilu { channels, side } | Self::CropResize { channels, side } => {
                2 * channels * side * side
            }
            Self::LayerNorm { rows, channels } => 2 * rows * channels,
            Self::Geglu { rows, channels } => 3 * rows * channels,
            Self::Add { channels, side } => 3 * channels * side * side,
            Self::Upsample { channels, side } => 5 * channels * side * side,
            Self::Concatenate { channels, side } => 4 * channels * side * side,
        };
        size_of::<f32>() * numbers
    }

    /// Weights and inputs, and the operation on them.
    fn build(self, precision: MatmulPrecision) -> Result<Operation> {
        let halves = matches!(self, Self::Conv { kept: Kept::F16, .. });
        let params = Params::new(Arc::new(Random { halves }), DType::F32, &Device::Cpu);
        let params = params.with_precision(precision);
        let square = |channels: usize, side: usize| input(&[1, side, side, channels]);
        Ok(match self {
            Self::Conv { input, output, side, kernel, stride, upsample, .. } => {
                let conv = Conv2d::load(input, output, kernel, stride, kernel / 2, &params)?;
                let x = square(input, side)?;
                if upsample {
                    Box::new(move || conv.forward_doubled(&x, 2 * side, 2 * side))
                } else {
                    Box::new(move || conv.forward(&x))
                }
            }
            Self::Linear { rows, input: inputs, output, kept } => {
                let weight = (values(&[output, inputs])? * 0.02)?;
                let weight = match kept.format() {
                    Some(format) => Weight::pack(&weight, format, precision)?,
                    None => Weight::from_tensor(&weight, WeightUse::Matrix, precision)?,
                };
                let linear = Linear::from_weight(weight, Some(values(&[output])?))?;
                let x = input(&[1, rows, inputs])?;
                Box::new(move || linear.forward(&x))
            }
            Self::Attention { heads, queries, keys, head_width } => {
                let width = heads * head_width;
                let q = input(&[1, queries, width])?;
                let (k, v) = (input(&[1, keys, width])?, input(&[1, keys, width])?);
                Box::new(move || attention(&q, &k, &v, heads, Mask::None, precision))
            }
            Self::GroupNormSilu { channels, side } => {
                let norm = GroupNorm::load(32, channels, 1e-5, &params)?;
                let x = square(channels, side)?;
                Box::new(move || norm.forward_silu(&x))
            }
            Self::LayerNorm { rows, channels } => {
                let norm = LayerNorm::load(channels, 1e-5, &params)?;
                let x = input(&[1, rows, channels])?;
                Box::new(move || norm.forward(&x))
            }
            Self::Geglu { rows, channels } => {
                let x = input(&[1, rows, 2 * channels])?;
                Box::new(move || geglu(&x))
            }
            Self::Upsample { channels, side } => {
                let x = square(channels, side)?;
                Box::new(move || upsample_nearest_2x(&x))
            }
            Self::CropResize { channels, side } => {
                let x = square(channels, side)?;
                let rect = CropRect { top: 0.25, left: 0.25, height: 0.5, width: 0.5 };
                Box::new(move || crop_resize(&x, rect, side, side))
            }
            Self::Add { channels, side } => {
                let (a, b) = (square(channels, side)?, square(channels, side)?);
                Box::new(move || add(&a, &b))
            }
            Self::Concatenate { channels, side } => {
                let (a, b) = (square(channels, side)?, square(channels, side)?);
                Box::new(move || join(&a, &b))
            }
        })
    }
}

/// CPU time of all threads of this process; `None` on systems without `/proc`.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The fields after the program's name, which may hold spaces; 11 and 12 are ticks of 10 ms.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?;
    Some(ticks / 100.0)
}

/// Prints a line about one operation.
fn time(precise: Precise) -> Result<()> {
    let Precise(case, precision) = precise;
    let operation = case.build(precision)?;
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
    let (rate, unit) =
        if case.flops() > 0 { (case.flops(), "GFLOP/s") } else { (case.bytes(), "GB/s") };
    println!(
        "{:<40} {:>9.3} ms {:>8.1} {unit:<7} {:>9.3} CPU-ms",
        precise.to_string(),
        seconds * 1e3,
        rate as f64 / seconds / 1e9,
        cpu * 1e3
    );
    Ok(())
}

/// Serves requests for operations by name; the weights of the last one are kept.
fn serve() -> std::result::Result<(), Box<dyn Error>> {
    let mut current: Option<(Precise, Operation)> = None;
    turns::serve(|name| {
        let case = cases().into_iter().find(|case| case.to_string() == name);
        let case = case.ok_or(format!("no operation is called `{name}`"))?;
        let operation = match current.take() {
            Some((kept, operation)) if kept == case => operation,
            _ => case.0.build(case.1)?,
        };
        let result = operation();
        current = Some((case, operation));
        black_box(result?);
        Ok(())
    })
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    #[cfg(target_os = "linux")]
    allocator::install();
    let mut filter = String::new();
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--serve" => return serve(),
            "--list" => {
                for precise in cases() {
                    let Precise(case, precision) = precise;
                    let mut line = serde_json::to_value(case)?;
                    line["name"] = precise.to_string().into();
                    line["precision"] = precision.to_string().into();
                    line["flops"] = case.flops().into();
                    line["bytes"] = case.bytes().into();
                    println!("{line}");
                }
                return Ok(());
            }
            // Cargo's own.
            "--bench" => {}
            _ => filter = argument,
        }
    }
    for case in cases().into_iter().filter(|case| case.to_string().contains(&filter)) {
        time(case)?;
    }
    Ok(())
}
