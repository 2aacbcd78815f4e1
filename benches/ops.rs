//! The operations of SDXL's UNet and VAE one by one. `benches/compare.py` and `benches/gpu_torch.py` run them in
//! turn with PyTorch, from the list here.
//!
//! `cargo bench --bench ops [-- FILTER]` prints milliseconds alone; `RAYON_NUM_THREADS` sets the
//! threads. The rate is that of the best repeat, because a machine that is busy with other work only
//! ever adds time; the CPU time is the mean over all repeats and threads, and hardly sees other work
//! at all. `--list` prints the operations as JSON, `--serve` computes on request (`turns`).
//!
//! `--device cuda:0 --batch 8` computes on a GPU, in its working precision, so many samples at once. A GPU is timed over several
//! calls, at whose end it is waited for; beside the time stands the share of the rate of a large matrix product, the
//! ceiling, which is measured first (`--ceiling` alone prints it). `--kernels composed` leaves our own kernels out.

mod results;
mod turns;

use std::{
    error::Error,
    fmt,
    hint::black_box,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Result, Shape, Tensor, quantized::GgmlDType};
use cupscale::backend::{
    Activation, DeviceSpec, KernelChoice, MatmulPrecision, ParamSource, Params, Stored, Weight,
    WeightStorage, WeightUse, Working, choose_kernels,
    ops::{
        Conv2d, CropRect, GroupNorm, LayerNorm, Linear, Mask, add, attention, crop_resize, geglu,
        join, upsample_nearest_2x,
    },
    pack_rows, working_dtype,
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

/// Calls of a GPU between two waits for it: a launch takes microseconds, and a wait as many.
const CALLS_OF_GPU: usize = 20;
/// Side of the matrices of the ceiling's product: on a GPU, and on the CPU.
const CEILING_SIDES: [usize; 2] = [8192, 1024];

/// An operation and its matmul precision.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Precise(Case, MatmulPrecision);

/// Where operations are computed.
struct Place {
    device: Device,
    dtype: DType,
    /// Samples of a call.
    batch: usize,
}

impl Place {
    /// Standard normal values of this shape.
    fn values(&self, shape: &[usize]) -> Result<Tensor> {
        Tensor::randn(0f32, 1.0, shape, &self.device)?.to_dtype(self.dtype)
    }

    /// Calls between two waits.
    fn calls(&self) -> usize {
        if self.device.is_cpu() { 1 } else { CALLS_OF_GPU }
    }

    /// Seconds of a call, of so many one after the other.
    fn seconds(&self, operation: &Operation) -> Result<f64> {
        let start = Instant::now();
        for _ in 0..self.calls() {
            black_box(operation()?);
        }
        self.device.synchronize()?;
        Ok(start.elapsed().as_secs_f64() / self.calls() as f64)
    }

    /// FLOP/s of the product of two large matrices.
    fn ceiling(&self) -> Result<f64> {
        let side = CEILING_SIDES[usize::from(self.device.is_cpu())];
        let (a, b) = (self.values(&[side, side])?, self.values(&[side, side])?);
        let product: Operation = Box::new(move || Ok(a.matmul(&b)?.into()));
        self.seconds(&product)?;
        let mut best = f64::MAX;
        for _ in 0..5 {
            best = best.min(self.seconds(&product)?);
        }
        Ok(2.0 * (side as f64).powi(3) / best)
    }
}

/// All operations in the working precision of the place. On the CPU, those on f32 weights and attention in bf16 as well, where
/// it supports that; on a GPU none with weights of 16 bits, which all are.
fn cases(place: &Place) -> Vec<Precise> {
    if !place.device.is_cpu() {
        let halves = |case: &&Case| match case {
            Case::Conv { kept, .. } | Case::Linear { kept, .. } => *kept != Kept::F16,
            _ => true,
        };
        let all = CASES.iter().filter(halves);
        return all.map(|case| Precise(*case, MatmulPrecision::F32)).collect();
    }
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
    fn get(&self, _: &str, shape: &Shape, dtype: DType, device: &Device) -> Result<Tensor> {
        Tensor::randn(0f32, 0.02, shape, device)?.to_dtype(dtype)
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
        let weight = self.get(name, shape, storage.numbers(), &working.device)?;
        Weight::new(&weight, weight_use, storage)
    }
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
    fn build(self, precision: MatmulPrecision, place: &Place) -> Result<Operation> {
        let Place { ref device, dtype, batch } = *place;
        let halves = matches!(self, Self::Conv { kept: Kept::F16, .. });
        let params = Params::new(Arc::new(Random { halves }), dtype, device);
        let params = params.with_precision(precision);
        let input = |shape: &[usize]| place.values(shape).map(Activation::from);
        let square = |channels: usize, side: usize| input(&[batch, side, side, channels]);
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
                let rows_of_weight = || Tensor::randn(0f32, 0.02, (output, inputs), &Device::Cpu);
                let linear = match kept.format() {
                    None => Linear::load(inputs, output, &params)?,
                    Some(format) => {
                        let weight = rows_of_weight()?;
                        let weight = if device.is_cpu() {
                            Weight::pack(&weight, format, precision)?
                        } else {
                            let values = weight.flatten_all()?.to_vec1::<f32>()?;
                            let bytes = pack_rows(&values, format, inputs)?;
                            Weight::on_device(&bytes, format, (output, inputs), device)?
                        };
                        Linear::from_weight(weight, Some(place.values(&[output])?))?
                    }
                };
                let x = input(&[batch, rows, inputs])?;
                Box::new(move || linear.forward(&x))
            }
            Self::Attention { heads, queries, keys, head_width } => {
                let width = heads * head_width;
                let q = input(&[batch, queries, width])?;
                let (k, v) = (input(&[batch, keys, width])?, input(&[batch, keys, width])?);
                Box::new(move || attention(&q, &k, &v, heads, Mask::None, precision))
            }
            Self::GroupNormSilu { channels, side } => {
                let norm = GroupNorm::load(32, channels, 1e-5, &params)?;
                let x = square(channels, side)?;
                Box::new(move || norm.forward_silu(&x))
            }
            Self::LayerNorm { rows, channels } => {
                let norm = LayerNorm::load(channels, 1e-5, &params)?;
                let x = input(&[batch, rows, channels])?;
                Box::new(move || norm.forward(&x))
            }
            Self::Geglu { rows, channels } => {
                let x = input(&[batch, rows, 2 * channels])?;
                Box::new(move || geglu(&x))
            }
            Self::Upsample { channels, side } => {
                let x = square(channels, side)?;
                Box::new(move || upsample_nearest_2x(&x))
            }
            Self::CropResize { channels, side } => {
                // One map, whatever the batch.
                let x = input(&[1, side, side, channels])?;
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

/// Options of a run.
struct Options {
    place: Place,
    filter: String,
    /// File for the results, as JSON.
    json: Option<PathBuf>,
    what: What,
}

enum What {
    Time,
    Ceiling,
    List,
    Serve,
}

impl Options {
    fn parse(
        arguments: impl IntoIterator<Item = String>,
    ) -> std::result::Result<Self, Box<dyn Error>> {
        let place = Place { device: Device::Cpu, dtype: DType::F32, batch: 1 };
        let mut options = Self { place, filter: String::new(), json: None, what: What::Time };
        let mut spec = DeviceSpec::Cpu;
        let mut arguments = arguments.into_iter();
        while let Some(argument) = arguments.next() {
            let mut value = || arguments.next().ok_or(format!("{argument} needs a value"));
            match argument.as_str() {
                "--device" => spec = value()?.parse()?,
                "--batch" => options.place.batch = value()?.parse()?,
                "--json" => options.json = Some(value()?.into()),
                "--kernels" => match value()?.as_str() {
                    "own" => choose_kernels(KernelChoice::Own),
                    "composed" => choose_kernels(KernelChoice::Composed),
                    other => return Err(format!("kernels are own or composed, not {other}").into()),
                },
                "--serve" => options.what = What::Serve,
                "--list" => options.what = What::List,
                "--ceiling" => options.what = What::Ceiling,
                // Cargo's own.
                "--bench" => {}
                _ => options.filter = argument,
            }
        }
        // As the program opens it, kernels tested.
        options.place.device = spec.open()?;
        options.place.dtype = working_dtype(&options.place.device);
        Ok(options)
    }

    fn cases(&self) -> impl Iterator<Item = Precise> {
        cases(&self.place).into_iter().filter(|case| case.to_string().contains(&self.filter))
    }
}

/// Prints a line about one operation; `ceiling` in FLOP/s, of a GPU.
fn time(
    precise: Precise,
    options: &Options,
    ceiling: Option<f64>,
) -> std::result::Result<(), Box<dyn Error>> {
    let Precise(case, precision) = precise;
    let place = &options.place;
    let operation = case.build(precision, place)?;
    place.seconds(&operation)?;
    let cpu = cpu_seconds();
    let (begin, mut seconds, mut repeats) = (Instant::now(), f64::MAX, 0u32);
    while repeats < 3 || begin.elapsed() < TIME {
        seconds = seconds.min(place.seconds(&operation)?);
        repeats += 1;
    }
    let cpu = cpu.zip(cpu_seconds()).map_or(f64::NAN, |(before, after)| after - before);
    let cpu = cpu / (f64::from(repeats) * place.calls() as f64);
    let (amount, unit) =
        if case.flops() > 0 { (case.flops(), "GFLOP/s") } else { (case.bytes(), "GB/s") };
    let bytes = amount as f64
        * if case.flops() > 0 { 1.0 } else { place.dtype.size_in_bytes() as f64 / 4.0 };
    let rate = bytes * place.batch as f64 / seconds;
    let share = ceiling.filter(|_| case.flops() > 0).map(|ceiling| rate / ceiling);
    let shown =
        share.map_or(String::new(), |share| format!(" {:>5.1} % of the ceiling", share * 100.0));
    println!(
        "{:<40} {:>9.3} ms {:>8.1} {unit:<7} {:>9.3} CPU-ms{shown}",
        precise.to_string(),
        seconds * 1e3,
        rate / 1e9,
        cpu * 1e3
    );
    let result = serde_json::json!({
        "operation": precise.to_string(), "batch": place.batch, "dtype": place.dtype.as_str(),
        "seconds": seconds, "rate": rate, "share": share,
    });
    results::record(options.json.as_deref(), &result)
}

/// Serves requests for operations by name; the weights of the last one are kept. The seconds are those of a call.
fn serve(place: &Place) -> std::result::Result<(), Box<dyn Error>> {
    let mut current: Option<(Precise, Operation)> = None;
    turns::serve(|name| {
        let case = cases(place).into_iter().find(|case| case.to_string() == name);
        let case = case.ok_or(format!("no operation is called `{name}`"))?;
        let operation = match current.take() {
            Some((kept, operation)) if kept == case => operation,
            _ => case.0.build(case.1, place)?,
        };
        let seconds = place.seconds(&operation);
        current = Some((case, operation));
        Ok(seconds?)
    })
}

fn main() -> std::result::Result<(), Box<dyn Error>> {
    #[cfg(target_os = "linux")]
    allocator::install();
    let options = Options::parse(std::env::args().skip(1))?;
    let place = &options.place;
    let on_gpu = !place.device.is_cpu();
    match options.what {
        What::Serve => return serve(place),
        What::List => {
            for precise in options.cases() {
                let Precise(case, precision) = precise;
                let mut line = serde_json::to_value(case)?;
                line["name"] = precise.to_string().into();
                line["precision"] = precision.to_string().into();
                line["dtype"] = place.dtype.as_str().into();
                line["batch"] = place.batch.into();
                line["flops"] = case.flops().into();
                line["bytes"] = case.bytes().into();
                println!("{line}");
            }
            return Ok(());
        }
        What::Ceiling | What::Time => {}
    }
    let measured = on_gpu || matches!(options.what, What::Ceiling);
    let ceiling = measured.then(|| place.ceiling()).transpose()?;
    if let Some(ceiling) = ceiling {
        let dtype = place.dtype.as_str();
        println!("ceiling: {:.3} TFLOP/s, a large product in {dtype}", ceiling / 1e12);
        let result = serde_json::json!({"ceiling": ceiling, "dtype": dtype});
        results::record(options.json.as_deref(), &result)?;
    }
    if matches!(options.what, What::Ceiling) {
        return Ok(());
    }
    for case in options.cases() {
        time(case, &options, ceiling)?;
    }
    Ok(())
}
