//! SDXL with random weights, made on the spot as a folder in diffusers' layout (6.9 GB): random weights compute the same
//! products as trained ones, so times, memory and agreement are those of the real model; only the pictures mean nothing.
//! Also what else a machine without Python needs for `benches/gpu.sh`: test pictures, and how far two pictures are apart.
//!
//! ```text
//! random_model FOLDER [--tiny]        the model; a folder that has one is left alone
//! random_model --picture FILE SIDE    a square PNG with gradients and grain
//! random_model --compare A B          decibels of the difference of two pictures (PSNR), `equal` if there is none
//! ```

use std::{
    collections::BTreeMap,
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write as _},
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use candle_core::{DType, Device, Shape, Tensor};
use cupscale::{
    backend::{ParamSource, Params, Weight, WeightStorage, WeightUse, Working},
    image::{self, Input},
    model::{denoiser::Denoiser, text::TextEncoder, vae::Vae},
};
use half::f16;
use rayon::prelude::*;
use serde_json::{Value, json};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Vocabulary and merges of the embedded model's tokenizers: fewer words than SDXL's, in tables of full size.
const VOCABULARY: &str = include_str!("../models/mini/tokenizer/vocab.json");
const MERGES: &str = include_str!("../models/mini/tokenizer/merges.txt");

/// Configurations of a model's parts.
struct Configurations {
    unet: Value,
    vae: Value,
    text: [Value; 2],
}

/// A text encoder of so many layers: `(width, inner width, layers, heads)`.
fn text(
    class: &str,
    (width, inner, layers, heads): (usize, usize, usize, usize),
    activation: &str,
) -> Value {
    json!({
        "architectures": [class], "model_type": "clip_text_model", "hidden_size": width,
        "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
        "projection_dim": width, "hidden_act": activation, "vocab_size": 49408,
        "max_position_embeddings": 77, "bos_token_id": 1534, "eos_token_id": 1535, "pad_token_id": 1535,
    })
}

fn unet(channels: [usize; 3], layers: [usize; 3], heads: [usize; 3], context: usize) -> Value {
    let (numbers, pooled) = (channels[0] * 4 / 5 / 2 * 2, context / 8 * 5);
    json!({
        "_class_name": "UNet2DConditionModel", "sample_size": 128, "in_channels": 4, "out_channels": 4,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "block_out_channels": channels, "layers_per_block": 2, "transformer_layers_per_block": layers,
        "attention_head_dim": heads, "cross_attention_dim": context, "use_linear_projection": true,
        "addition_embed_type": "text_time", "addition_time_embed_dim": numbers,
        "projection_class_embeddings_input_dim": pooled + 6 * numbers,
    })
}

fn vae(channels: [usize; 4]) -> Value {
    json!({
        "_class_name": "AutoencoderKL", "sample_size": 1024, "latent_channels": 4, "scaling_factor": 0.13025,
        "block_out_channels": channels, "layers_per_block": 2,
        "down_block_types": vec!["DownEncoderBlock2D"; 4],
        "up_block_types": vec!["UpDecoderBlock2D"; 4],
    })
}

impl Configurations {
    /// stabilityai/stable-diffusion-xl-base-1.0.
    fn sdxl() -> Self {
        Self {
            unet: unet([320, 640, 1280], [1, 2, 10], [5, 10, 20], 2048),
            vae: vae([128, 256, 512, 512]),
            text: [
                text("CLIPTextModel", (768, 3072, 12, 12), "quick_gelu"),
                text("CLIPTextModelWithProjection", (1280, 5120, 32, 20), "gelu"),
            ],
        }
    }

    /// The same with a few channels, for a try of what uses it.
    fn tiny() -> Self {
        let mut unet = unet([32, 64, 64], [1, 1, 1], [1, 1, 1], 128);
        unet["sample_size"] = 16.into();
        Self {
            unet,
            vae: vae([32, 32, 64, 64]),
            text: [
                text("CLIPTextModel", (48, 96, 2, 3), "quick_gelu"),
                text("CLIPTextModelWithProjection", (80, 160, 2, 5), "gelu"),
            ],
        }
    }
}

/// Notes the names and shapes of the weights that a network asks for.
#[derive(Default)]
struct Names(Mutex<BTreeMap<String, Vec<usize>>>);

impl Names {
    fn note(&self, name: &str, shape: &Shape) {
        let mut named = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        named.insert(name.to_owned(), shape.dims().to_vec());
    }
}

impl ParamSource for Names {
    fn get(
        &self,
        name: &str,
        shape: &Shape,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.note(name, shape);
        Tensor::zeros((), dtype, device)?.broadcast_as(shape)
    }

    /// No name that only some files have: text encoders are below `text_model`, and attention has its newer names.
    fn contains(&self, _: &str) -> bool {
        false
    }

    fn weight(
        &self,
        name: &str,
        shape: &Shape,
        weight_use: WeightUse,
        working: &Working,
    ) -> candle_core::Result<Weight> {
        self.note(name, shape);
        let storage = WeightStorage::choose(weight_use, shape, None, working)?;
        Weight::valueless(shape, weight_use, storage)
    }
}

/// Names and shapes of the weights of the network that `load` builds.
fn names(load: impl FnOnce(&Params) -> Result<()>) -> Result<BTreeMap<String, Vec<usize>>> {
    let names = Arc::new(Names::default());
    load(&Params::new(names.clone(), DType::F32, &Device::Cpu))?;
    let named = names.0.lock().unwrap_or_else(PoisonError::into_inner);
    Ok(named.clone())
}

/// Four values from −1 to 1, a fixed function of an index (SplitMix64).
fn four(index: u64) -> [f32; 4] {
    let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^= z >> 31;
    [0, 16, 32, 48].map(|shift| f32::from((z >> shift) as i16) / 32768.0)
}

/// A safetensors file in f16: matrices as torch begins with them, uniform within 1/√inputs; norms about 1.
fn write_weights(path: &Path, named: &BTreeMap<String, Vec<usize>>, seed: u64) -> Result<()> {
    let (mut header, mut end) = (serde_json::Map::new(), 0);
    header.insert("__metadata__".to_owned(), json!({"format": "pt"}));
    for (name, shape) in named {
        let start = end;
        end += size_of::<f16>() * shape.iter().product::<usize>();
        let entry = json!({"dtype": "F16", "shape": shape, "data_offsets": [start, end]});
        header.insert(name.clone(), entry);
    }
    let mut text = Value::from(header).to_string();
    text.extend(std::iter::repeat_n(' ', text.len().next_multiple_of(8) - text.len()));
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path)?);
    file.write_all(&(text.len() as u64).to_le_bytes())?;
    file.write_all(text.as_bytes())?;
    let mut begun = seed << 40;
    for (name, shape) in named {
        let count: usize = shape.iter().product();
        let is_embedding = name.contains("embedding") && !name.contains("linear");
        let (middle, spread) = match shape.as_slice() {
            [_] if name.ends_with("weight") => (1.0, 0.03),
            [_] => (0.0, 0.03),
            _ if is_embedding => (0.0, 0.03),
            [_, inputs @ ..] => (0.0, (inputs.iter().product::<usize>() as f32).powf(-0.5)),
            [] => (0.0, 0.03),
        };
        let mut bytes = vec![0; size_of::<f16>() * count];
        bytes.par_chunks_mut(1 << 16).enumerate().for_each(|(chunk, bytes)| {
            let first = begun + (chunk as u64) * (1 << 13);
            for (index, bytes) in (first..).zip(bytes.chunks_mut(4 * size_of::<f16>())) {
                for (value, place) in four(index).iter().zip(bytes.chunks_exact_mut(2)) {
                    place.copy_from_slice(&f16::from_f32(middle + spread * value).to_le_bytes());
                }
            }
        });
        begun += (count as u64).div_ceil(4);
        file.write_all(&bytes)?;
    }
    Ok(file.flush()?)
}

/// Writes the model, or leaves the one that is there.
fn write_model(folder: &Path, configurations: &Configurations) -> Result<()> {
    if folder.join("model_index.json").exists() {
        return Ok(());
    }
    let Configurations { unet, vae, text } = configurations;
    let part = |name: &str, config: &Value, file: &str, named: BTreeMap<String, Vec<usize>>| {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("config.json"), config.to_string())?;
        let seed = name.bytes().map(u64::from).sum();
        write_weights(&folder.join(format!("{file}.safetensors")), &named, seed)
    };
    let diffusion = "diffusion_pytorch_model";
    let class = "UNet2DConditionModel";
    let named = names(|params| Ok(Denoiser::load(class, unet, "config.json", params).map(drop)?))?;
    part("unet", unet, diffusion, named)?;
    part("vae", vae, diffusion, names(|params| Ok(Vae::load(vae, params).map(drop)?))?)?;
    for (name, config) in ["text_encoder", "text_encoder_2"].into_iter().zip(text) {
        let class = config["architectures"][0].as_str().unwrap_or_default();
        let named = names(|params| Ok(TextEncoder::load(class, config, &[], params).map(drop)?))?;
        part(name, config, "model", named)?;
    }
    for (name, pad) in [("tokenizer", "<|endoftext|>"), ("tokenizer_2", "!")] {
        let folder = folder.join(name);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join("vocab.json"), VOCABULARY)?;
        fs::write(folder.join("merges.txt"), MERGES)?;
        let special = json!({
            "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>",
            "pad_token": pad,
        });
        fs::write(folder.join("special_tokens_map.json"), special.to_string())?;
        let mut config = special;
        config["tokenizer_class"] = "CLIPTokenizer".into();
        config["model_max_length"] = 77.into();
        fs::write(folder.join("tokenizer_config.json"), config.to_string())?;
    }
    fs::create_dir_all(folder.join("scheduler"))?;
    let scheduler = json!({
        "_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085,
        "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false,
        "set_alpha_to_one": false, "steps_offset": 1, "timestep_spacing": "trailing",
        "prediction_type": "epsilon",
    });
    fs::write(folder.join("scheduler/scheduler_config.json"), scheduler.to_string())?;
    let index = json!({
        "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": true,
        "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
    });
    // Last: a folder that has it is complete.
    Ok(fs::write(folder.join("model_index.json"), index.to_string())?)
}

/// A square picture with gradients and grain, so that no part of it compresses to nothing.
fn write_picture(path: &Path, side: u32) -> Result<()> {
    let pixel = |index: u32| {
        let (x, y) = (index % side, index / side);
        let share = |at: u32| at as f32 / side as f32;
        let [grain, ..] = four(u64::from(index));
        let base = [60.0 + 150.0 * share(x), 90.0 + 80.0 * share(y), 150.0 - 60.0 * share(x)];
        base.map(|value| (value + 12.0 * grain) as u8)
    };
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), side, side);
    encoder.set_color(png::ColorType::Rgb);
    encoder.set_compression(png::Compression::Fast);
    let pixels: Vec<u8> = (0..side * side).flat_map(pixel).collect();
    let mut writer = encoder.write_header()?;
    writer.write_image_data(&pixels)?;
    Ok(writer.finish()?)
}

/// Decibels between two pictures of one size, of values from 0 to 1; infinite for equal ones.
fn psnr(paths: [&Path; 2]) -> Result<f64> {
    let [a, b] = paths.map(|path| image::decode(&Input::Path(path.to_owned())));
    let (a, b) = (a?, b?);
    if (a.width, a.height) != (b.width, b.height) {
        return Err("the pictures are not of one size".into());
    }
    let window = |picture: &image::Picture| -> Result<Vec<f32>> {
        let (width, height) = (picture.width, picture.height);
        Ok(picture.resizer(width, height)?.window(0..width, 0..height))
    };
    let (a, b) = (window(&a)?, window(&b)?);
    let squares = |(a, b): (&f32, &f32)| f64::from(a - b).powi(2);
    let mean = a.iter().zip(&b).map(squares).sum::<f64>() / a.len() as f64;
    Ok(-10.0 * mean.log10())
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|it| it != "--bench").collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["--picture", file, side] => write_picture(Path::new(file), side.parse()?),
        ["--compare", a, b] => {
            match psnr([Path::new(a), Path::new(b)])? {
                decibels if decibels.is_finite() => println!("{decibels:.2}"),
                _ => println!("equal"),
            }
            Ok(())
        }
        [folder, "--tiny"] => write_model(Path::new(folder), &Configurations::tiny()),
        [folder] if !folder.starts_with('-') => {
            write_model(Path::new(folder), &Configurations::sdxl())
        }
        _ => Err("random_model FOLDER [--tiny], --picture FILE SIDE, or --compare A B".into()),
    }
}
