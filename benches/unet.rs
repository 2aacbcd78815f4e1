//! One UNet on its own: seconds of a call as one line of JSON, and, on inputs from a file, what it
//! computes. `benches/compare.py` and `benches/full_size.py` run it in turn with PyTorch.
//!
//! `cargo bench --bench unet -- --batch 4 --height 64 --width 64 --repetitions 5` times the
//! embedded model; `--model` takes any other; `--inputs A.safetensors --outputs B.safetensors`
//! computes instead of timing: one prediction (`eps`), and four DDIM steps from t = 499 (`z`).

use std::{collections::HashMap, error::Error, path::PathBuf, time::Instant};

use candle_core::{DType, Device, Tensor, safetensors};
use clap::Parser;
use cupscale::{
    model::unet::{Conditioning, Prior, UNet2DConditionModel, UNetConfig},
    sampler::{self, Denoise, Schedule, SchedulerConfig, Timesteps},
    weights::{ModelFiles, ModelSource, Part},
};

#[derive(Parser)]
struct Arguments {
    #[arg(long)]
    model: Option<PathBuf>,
    #[arg(long, default_value_t = 4)]
    batch: usize,
    #[arg(long, default_value_t = 64)]
    height: usize,
    #[arg(long, default_value_t = 64)]
    width: usize,
    #[arg(long, default_value_t = 5)]
    repetitions: usize,
    /// `sample` and `noise` [B, C, H, W], `context` [B, N, D], `pooled` [B, P], `time_ids` [B, 6]
    #[arg(long, requires = "outputs")]
    inputs: Option<PathBuf>,
    #[arg(long)]
    outputs: Option<PathBuf>,
    /// cargo's own
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments = Arguments::parse();
    let source = arguments.model.clone().map_or(ModelSource::Embedded, ModelSource::Path);
    let (device, dtype) = (Device::Cpu, DType::F32);
    let started = Instant::now();
    let files = ModelFiles::open(source)?;
    let part = files.component(Part::Unet, &device, dtype)?;
    let config = UNetConfig::from_json(&part.config.to_string())?;
    let unet = UNet2DConditionModel::load(config, &part.params)?;
    let load_s = started.elapsed().as_secs_f64();
    let line = match (&arguments.inputs, &arguments.outputs) {
        (Some(inputs), Some(outputs)) => {
            let inputs = safetensors::load(inputs, &device)?;
            let scheduler = SchedulerConfig::from_json(&files.scheduler()?.to_string())?;
            safetensors::save(&compute(&unet, &inputs, &scheduler)?, outputs)?;
            serde_json::json!({ "load_s": load_s })
        }
        _ => {
            let seconds = time(&unet, &arguments)?;
            serde_json::json!({
                "load_s": load_s, "median_s": seconds[seconds.len() / 2], "min_s": seconds[0],
            })
        }
    };
    println!("{line}");
    Ok(())
}

/// Seconds of each call on random inputs, sorted.
fn time(unet: &UNet2DConditionModel, arguments: &Arguments) -> Result<Vec<f64>, Box<dyn Error>> {
    let &Arguments { batch, height, width, repetitions, .. } = arguments;
    let config = unet.config();
    let random = |shape: &[usize]| Tensor::randn(0f32, 1., shape, &Device::Cpu);
    let (pooled, time_ids) = match &config.added {
        Some(added) => (
            Some(random(&[batch, added.input_width - 6 * added.features])?),
            Some(Tensor::full(256f32, (batch, 6), &Device::Cpu)?),
        ),
        None => (None, None),
    };
    let width_of_context = (config.down.iter())
        .find_map(|level| level.transformer.as_ref())
        .map_or(1, |transformer| transformer.context_width);
    let conditioning =
        Conditioning { context: random(&[batch, 77, width_of_context])?, pooled, time_ids };
    let sample = random(&[batch, height, width, config.in_channels])?;
    let call = || -> candle_core::Result<f64> {
        let started = Instant::now();
        unet.forward(&sample, 499., &conditioning, Prior::None)?;
        Ok(started.elapsed().as_secs_f64())
    };
    call()?;
    let mut seconds = (0..repetitions).map(|_| call()).collect::<Result<Vec<_>, _>>()?;
    seconds.sort_by(f64::total_cmp);
    Ok(seconds)
}

/// The prediction for `sample` at t = 499, and the latent after four of eight DDIM steps from
/// `sample` noised with `noise`, both `[B, C, H, W]`.
fn compute(
    unet: &UNet2DConditionModel,
    inputs: &HashMap<String, Tensor>,
    scheduler: &SchedulerConfig,
) -> Result<HashMap<String, Tensor>, Box<dyn Error>> {
    let input = |name: &str| inputs.get(name).ok_or(format!("the inputs have no `{name}`"));
    let conditioning = Conditioning {
        context: input("context")?.clone(),
        pooled: inputs.get("pooled").cloned(),
        time_ids: inputs.get("time_ids").cloned(),
    };
    let channels_last = |x: &Tensor| x.permute((0, 2, 3, 1))?.contiguous();
    let sample = channels_last(input("sample")?)?;
    let shape = sample.dims4()?;
    let predict = |z: &Tensor, t: f64| unet.forward(z, t, &conditioning, Prior::None);
    let eps = predict(&sample, 499.)?;

    let schedule = Schedule::new(scheduler)?.with_spacing(sampler::TimestepSpacing::Trailing);
    let ddim = sampler::SamplerKind::Ddim.build(scheduler, None)?;
    let steps = sampler::plan(&*ddim, &schedule, &Timesteps::Count(8), Denoise::Steps(4))?;
    let values = |x: &Tensor| x.flatten_all()?.to_vec1::<f32>();
    let mut z = values(&channels_last(input("noise")?)?)?;
    schedule.add_noise(steps[0].t, &values(&sample)?, &mut z)?;
    for step in &steps {
        let eps = predict(&Tensor::from_slice(&z, shape, &Device::Cpu)?, step.t)?;
        ddim.update(&schedule, step)?.apply(&mut z, &values(&eps)?, None)?;
    }
    let channels_first = |x: Tensor| x.permute((0, 3, 1, 2))?.contiguous();
    Ok(HashMap::from([
        ("eps".to_owned(), channels_first(eps)?),
        ("z".to_owned(), channels_first(Tensor::from_vec(z, shape, &Device::Cpu)?)?),
    ]))
}
