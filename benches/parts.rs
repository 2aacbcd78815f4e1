//! One part of a model on its own: its UNet, or the encoder or decoder of its VAE. `benches/compare.py`,
//! `benches/full_size.py` and `benches/gpu_torch.py` run it in turn with PyTorch.
//!
//! `cargo bench --bench parts -- --shape 4x64x64` prints the median seconds of a call of the embedded
//! model's UNet on so many latents of this size, and with several shapes those of each; `--model` takes any other,
//! `--part vae` decodes, `--part encoder` encodes; `--device cuda:0` computes there, in its working precision;
//! `--serve` computes shapes on request (`turns`); `--inputs A.safetensors --outputs B.safetensors`
//! computes one prediction of the UNet (`eps`), and four DDIM steps from t = 499 (`z`).

#[path = "../tests/common/models.rs"]
#[allow(dead_code, reason = "only the conditions are made here")]
mod models;
mod results;
mod turns;

use std::{collections::HashMap, error::Error, path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor, safetensors};
use clap::{Parser, ValueEnum};
use cupscale::{
    backend::{
        Activation, DeviceSpec, KernelChoice, MatmulPrecision, choose_kernels, peak_memory,
        working_dtype,
    },
    model::{
        denoiser::{Conditioning, Denoiser, Prior},
        vae::Vae,
    },
    sampler::{self, Denoise, Schedule, SchedulerConfig, Timesteps},
    weights::{ModelFiles, ModelSource},
};

/// As the program has it.
#[cfg(target_os = "linux")]
#[path = "../src/allocator/mod.rs"]
#[allow(dead_code, reason = "its tests are built here and run with the program's")]
mod allocator;

#[cfg(target_os = "linux")]
#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    model: Option<PathBuf>,
    #[arg(long, value_enum, default_value = "unet")]
    part: Part,
    /// matmul precision of the UNet: bf16
    #[arg(long)]
    bf16: bool,
    /// latents, `BATCHxHEIGHTxWIDTH`
    #[arg(long, default_value = "4x64x64", num_args = 1..)]
    shape: Vec<String>,
    #[arg(long, default_value = "cpu")]
    device: DeviceSpec,
    /// our own kernels on a GPU, or `composed` ones
    #[arg(long, default_value = "own")]
    kernels: String,
    /// results as lines of JSON at the end of this file
    #[arg(long)]
    json: Option<PathBuf>,
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    #[arg(long)]
    serve: bool,
    /// `sample` and `noise` [B, C, H, W], `context` [B, N, D], `pooled` [B, P], `time_ids` [B, 6]
    #[arg(long, requires = "outputs")]
    inputs: Option<PathBuf>,
    #[arg(long)]
    outputs: Option<PathBuf>,
    /// cargo's own
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Part {
    Unet,
    Vae,
    Encoder,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn main() -> Result<()> {
    #[cfg(target_os = "linux")]
    allocator::install();
    let arguments = Arguments::parse();
    let source = arguments.model.clone().map_or(ModelSource::Embedded, ModelSource::Path);
    let started = Instant::now();
    let precision = if arguments.bf16 { MatmulPrecision::Bf16 } else { MatmulPrecision::F32 };
    if arguments.kernels == "composed" {
        choose_kernels(KernelChoice::Composed);
    }
    let device = arguments.device.open()?;
    let files = ModelFiles::open(source)?.with_precision(precision);
    let model = Model::load(&files, arguments.part, &device)?;
    device.synchronize()?;
    let load_s = started.elapsed().as_secs_f64();
    if arguments.serve {
        let mut current = (String::new(), None);
        return turns::serve(|name| {
            if current.0 != name {
                current = (name.to_owned(), Some(Latents::random(&model, name, &device)?));
            }
            current.1.as_ref().map_or(Ok(0.0), |latents| model.seconds(latents, &device))
        });
    }
    let lines = match (&arguments.inputs, &arguments.outputs, &model) {
        (Some(inputs), Some(outputs), Model::Unet(unet, _)) => {
            let inputs = safetensors::load(inputs, &Device::Cpu)?;
            let scheduler = SchedulerConfig::from_json(&files.scheduler()?.to_string())?;
            safetensors::save(&compute(unet, &inputs, &scheduler)?, outputs)?;
            vec![serde_json::json!({ "load_s": load_s })]
        }
        _ => Vec::new(),
    };
    let is_timed = lines.is_empty();
    for line in lines {
        println!("{line}");
    }
    for shape in arguments.shape.iter().filter(|_| is_timed) {
        let latents = Latents::random(&model, shape, &device)?;
        model.seconds(&latents, &device)?;
        let mut seconds = Vec::with_capacity(arguments.repetitions);
        for _ in 0..arguments.repetitions.max(1) {
            seconds.push(model.seconds(&latents, &device)?);
        }
        seconds.sort_by(f64::total_cmp);
        let line = serde_json::json!({
            "part": format!("{:?}", arguments.part).to_lowercase(), "shape": shape,
            "load_s": load_s, "median_s": seconds[seconds.len() / 2], "best_s": seconds[0],
            "peak_bytes": peak_memory(&device),
        });
        println!("{line}");
        results::record(arguments.json.as_deref(), &line)?;
    }
    Ok(())
}

enum Model {
    /// with the widths of the text encoders' context and pooled embedding
    Unet(Denoiser, (usize, Option<usize>)),
    Decoder(Box<Vae>),
    Encoder(Box<Vae>),
}

/// Inputs of a call.
struct Latents {
    sample: Activation,
    conditioning: Option<Conditioning>,
}

impl Model {
    /// The part as a job has it: the autoencoder in f32, the UNet in the device's working precision.
    fn load(files: &ModelFiles, part: Part, device: &Device) -> Result<Self> {
        let dtype = working_dtype(device);
        let vae = || Ok::<_, Box<dyn Error>>(Box::new(files.vae(device, DType::F32)?));
        Ok(match part {
            Part::Unet => {
                let (text, _) = files.without_values(|files| files.text(device, dtype))?;
                Self::Unet(files.denoiser(device, dtype)?, text.widths())
            }
            Part::Vae => Self::Decoder(vae()?),
            Part::Encoder => Self::Encoder(vae()?),
        })
    }

    /// Seconds of a call, until the device is done.
    fn seconds(&self, latents: &Latents, device: &Device) -> Result<f64> {
        let started = Instant::now();
        self.call(latents)?;
        device.synchronize()?;
        Ok(started.elapsed().as_secs_f64())
    }

    fn call(&self, latents: &Latents) -> Result<()> {
        match (self, &latents.conditioning) {
            (Self::Unet(unet, _), Some(conditioning)) => {
                unet.forward(&latents.sample, 499., conditioning, Prior::None)?;
            }
            (Self::Decoder(vae), _) => {
                vae.decode(&latents.sample)?;
            }
            (Self::Encoder(vae), _) => {
                vae.encode(&latents.sample)?;
            }
            (Self::Unet(..), None) => return Err("a UNet without its conditioning".into()),
        }
        Ok(())
    }
}

impl Latents {
    /// Random ones of a shape `BATCHxHEIGHTxWIDTH`; of an encoder the picture that has such latents.
    fn random(model: &Model, shape: &str, device: &Device) -> Result<Self> {
        let sizes =
            shape.split('x').map(str::parse).collect::<std::result::Result<Vec<usize>, _>>();
        let Ok(&[batch, height, width]) = sizes.as_deref() else {
            return Err(format!("`{shape}` is no shape like 4x64x64").into());
        };
        let random = |shape: &[usize]| Tensor::randn(0f32, 1., shape, &Device::Cpu);
        let (denoiser, (context_width, pooled_width)) = match model {
            Model::Unet(denoiser, widths) => (denoiser, *widths),
            Model::Decoder(vae) => {
                let sample = random(&[batch, height, width, vae.latent_channels()])?;
                return Ok(Self { sample: sample.to_device(device)?.into(), conditioning: None });
            }
            Model::Encoder(vae) => {
                let factor = vae.factor();
                let sample = random(&[batch, factor * height, factor * width, 3])?;
                return Ok(Self { sample: sample.to_device(device)?.into(), conditioning: None });
            }
        };
        let shape = denoiser.shape()?;
        let channels = shape.channels * if shape.sees_low_resolution { 2 } else { 1 };
        let pooled = pooled_width.map(|width| random(&[batch, width])).transpose()?;
        let context = random(&[batch, 77, context_width])?;
        let time_ids = Tensor::full(256f32, (batch, 6), &Device::Cpu)?;
        let conditioning =
            models::conditioning(denoiser, &context, pooled.as_ref(), Some(&time_ids))?;
        let dtype = working_dtype(device);
        let sample = random(&[batch, height, width, channels])?.to_device(device)?;
        Ok(Self {
            sample: sample.to_dtype(dtype)?.into(),
            conditioning: Some(conditioning.to_device(device)?.to_dtype(dtype)?),
        })
    }
}

/// The prediction for `sample` at t = 499, and the latent after four of eight DDIM steps from
/// `sample` noised with `noise`, both `[B, C, H, W]`.
fn compute(
    denoiser: &Denoiser,
    inputs: &HashMap<String, Tensor>,
    scheduler: &SchedulerConfig,
) -> Result<HashMap<String, Tensor>> {
    let input = |name: &str| inputs.get(name).ok_or(format!("the inputs have no `{name}`"));
    let (context, pooled) = (input("context")?, inputs.get("pooled"));
    let conditioning = models::conditioning(denoiser, context, pooled, inputs.get("time_ids"))?;
    let channels_last = |x: &Tensor| x.permute((0, 2, 3, 1))?.contiguous();
    let sample = channels_last(input("sample")?)?;
    let shape = sample.dims4()?;
    let predict = |z: &Tensor, t: f64| {
        denoiser.forward(&z.into(), t, &conditioning, Prior::None)?.into_tensor()
    };
    let eps = predict(&sample, 499.)?;

    let schedule = Schedule::new(scheduler)?.with_spacing(sampler::TimestepSpacing::Trailing);
    let ddim = sampler::SamplerKind::Ddim.build(scheduler, None)?;
    let steps = sampler::plan(&*ddim, &schedule, &Timesteps::Count(8), Denoise::Steps(4))?;
    let values = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
    let mut z = values(&channels_last(input("noise")?)?)?;
    sampler::add_noise(steps[0].level, &values(&sample)?, &mut z)?;
    for (index, step) in steps.iter().enumerate() {
        let eps = predict(&Tensor::from_slice(&z, shape, &Device::Cpu)?, step.t)?;
        ddim.update(&schedule, &steps[..index], step)?.apply(&mut z, &values(&eps)?, None)?;
    }
    let channels_first = |x: Tensor| x.permute((0, 3, 1, 2))?.contiguous();
    Ok(HashMap::from([
        ("eps".to_owned(), channels_first(eps)?),
        ("z".to_owned(), channels_first(Tensor::from_vec(z, shape, &Device::Cpu)?)?),
    ]))
}
