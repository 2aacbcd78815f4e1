//! Seconds of one UNet call of the embedded model, one line of JSON per shape:
//! `cargo bench --bench unet [-- BATCH HEIGHT WIDTH REPETITIONS]`.
//! `benches/compare.py` runs it in turn with PyTorch on the same weights and shapes.

use std::time::Instant;

use candle_core::{DType, Device, Tensor};
use cupscale::{
    model::unet::{Conditioning, Prior, UNet2DConditionModel, UNetConfig},
    weights::{ModelFiles, ModelSource, Part},
};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let numbers: Vec<usize> =
        std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let (batch, height, width, repetitions) = match numbers[..] {
        [batch, height, width, repetitions] => (batch, height, width, repetitions),
        _ => (4, 64, 64, 5),
    };
    let (device, dtype) = (Device::Cpu, DType::F32);
    let files = ModelFiles::open(ModelSource::Embedded)?;
    let part = files.component(Part::Unet, &device, dtype)?;
    let config = UNetConfig::from_json(&part.config.to_string())?;
    let channels = config.in_channels;
    let unet = UNet2DConditionModel::load(config, &part.params)?;
    let encoded = files.text(&device, dtype)?.encode(&vec!["a photo"; batch])?;
    let conditioning = Conditioning {
        context: encoded.context,
        pooled: encoded.pooled,
        time_ids: Some(Tensor::full(256f32, (batch, 6), &device)?),
    };
    let sample = Tensor::randn(0f32, 1., (batch, height, width, channels), &device)?;
    let call = || -> candle_core::Result<f64> {
        let started = Instant::now();
        unet.forward(&sample, 499., &conditioning, Prior::None)?;
        Ok(started.elapsed().as_secs_f64())
    };
    call()?;
    let mut seconds = (0..repetitions).map(|_| call()).collect::<Result<Vec<_>, _>>()?;
    seconds.sort_by(f64::total_cmp);
    println!(
        "{}",
        serde_json::json!({
            "batch": batch, "height": height, "width": width,
            "median_s": seconds[seconds.len() / 2], "min_s": seconds[0],
        })
    );
    Ok(())
}
