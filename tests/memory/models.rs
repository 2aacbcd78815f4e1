//! Traces of whole models held against reality: every kind of model is run, and the peak of the bytes that are then
//! alive is compared with what a trace of the very same call says, in the CPU's kernel form (f32) and in
//! the composed form that other devices run (f64 here). The sizes are such that activations take far more than bookkeeping.

use candle_core::{DType, Device, Tensor};
use cupscale::{
    backend::{Activation, Placement, Trace},
    model::{
        denoiser::{Control, ControlKind, ControlPicture, Denoiser, MicroConditioning, Prior},
        llava::{GenerateOptions, Llava, LlavaPicture, Row, TraceBatch},
        text::{TextConditioning, TextEncoder, TokenIds},
        vae::{Globals, Vae},
    },
    weights::LlavaFiles,
};
use serde_json::json;

use crate::common::random_llava::{self, Decoder};
use crate::{counting, random_params::params};

/// Source of a call's inputs: real tensors, or those of a memory trace.
type Inputs<'a> = &'a dyn Fn(&[usize], DType) -> Activation;

/// Ratio of a trace's peak to the measured peak.
const BOUNDS: std::ops::RangeInclusive<f64> = 0.95..=1.15;

/// Runs `call` for real and within a trace, inputs and all, and holds the peaks together.
#[track_caller]
fn compare(what: &str, call: impl Fn(Inputs<'_>, Option<&Trace>)) {
    let real = |shape: &[usize], dtype| {
        Activation::from(Tensor::zeros(shape, dtype, &Device::Cpu).unwrap())
    };
    let run = || call(&real, None);
    let trace = Trace::new(Placement::Cpu);
    call(&|shape, dtype| trace.activation(shape, dtype), Some(&trace));
    assert_eq!(trace.live(), 0, "{what}: something outlives the call");
    // The buffers that threads keep are no part of a trace's peak. A thread gets its own when it first finds work,
    // which may be late where others are busy: the least of some runs is without them.
    run();
    let (mut measured, mut ratio) = (usize::MAX, 0.0);
    for _ in 0..8 {
        measured = measured.min(counting::peak_of(run));
        ratio = trace.peak() as f64 / measured as f64;
        if BOUNDS.contains(&ratio) {
            break;
        }
    }
    println!("{what:<40} traced {:>11} measured {measured:>11} ratio {ratio:.3}", trace.peak());
    assert!(
        BOUNDS.contains(&ratio),
        "{what}: {} traced, {measured} measured, ratio {ratio:.3}",
        trace.peak()
    );
}

/// The kernel form, and the composed one, which is what f64 takes: in half precision the CPU's products bring their
/// operands to f32, which no GPU does.
const FORMS: [DType; 2] = [DType::F32, DType::F64];

/// A UNet in the shape of SDXL's, with text_time conditioning.
fn denoiser(dtype: DType) -> Denoiser {
    let config = json!({
        "block_out_channels": [64, 128], "sample_size": 64, "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "transformer_layers_per_block": [1, 2], "attention_head_dim": [2, 4],
        "cross_attention_dim": 96, "norm_num_groups": 16, "use_linear_projection": true,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 160,
    });
    Denoiser::load("UNet2DConditionModel", &config, "config.json", &params(dtype)).unwrap()
}

/// One call with two samples of 24 × 32 latent pixels.
fn call(denoiser: &Denoiser, dtype: DType, inputs: Inputs<'_>, prior: Prior<'_>) -> Activation {
    let text = TextConditioning {
        context: inputs(&[2, 77, 96], dtype),
        pooled: Some(inputs(&[2, 64], dtype)),
        lengths: None,
    };
    let size = (192, 256);
    let micro = MicroConditioning { original: size, crop: (0, 0), target: size };
    let conditions = denoiser.condition(&text, micro).unwrap();
    let sample = inputs(&[2, 24, 32, 4], dtype);
    denoiser.forward(&sample, 499.0, &conditions, prior).unwrap()
}

#[test]
fn a_call_of_a_unet_takes_what_its_trace_says() {
    if !counting::alone(module_path!(), "a_call_of_a_unet_takes_what_its_trace_says") {
        return;
    }
    for dtype in FORMS {
        let denoiser = denoiser(dtype);
        compare(&format!("unet {dtype:?}"), |inputs, _| {
            call(&denoiser, dtype, inputs, Prior::None);
        });
        compare(&format!("unet {dtype:?}, recorded"), |inputs, _| {
            let mut layers = Vec::new();
            call(&denoiser, dtype, inputs, Prior::Record(&mut layers));
        });
        let sizes = denoiser.prior_sizes(24, 32);
        compare(&format!("unet {dtype:?}, blended"), |inputs, _| {
            let layer = |&(height, width): &(usize, usize)| inputs(&[2, height, width, 128], dtype);
            let layers: Vec<_> = sizes.iter().map(layer).collect();
            call(&denoiser, dtype, inputs, Prior::Blend { layers: &layers, weight: 0.5 });
        });
    }
}

#[test]
fn a_call_of_a_unet_with_a_control_takes_what_its_trace_says() {
    let name = "a_call_of_a_unet_with_a_control_takes_what_its_trace_says";
    if !counting::alone(module_path!(), name) {
        return;
    }
    let config = json!({
        "block_out_channels": [64, 128], "layers_per_block": 2,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "transformer_layers_per_block": [1, 2], "attention_head_dim": [2, 4],
        "cross_attention_dim": 96, "norm_num_groups": 16, "use_linear_projection": true,
        "addition_embed_type": "text_time", "addition_time_embed_dim": 16,
        "projection_class_embeddings_input_dim": 160,
        "conditioning_embedding_out_channels": [16, 32, 48, 64],
        "num_control_type": 8, "num_trans_channel": 64, "num_proj_channel": 64,
    });
    for dtype in FORMS {
        let denoiser = denoiser(dtype);
        for class in ["ControlNetModel", "ControlNetUnionModel"] {
            let control = Control::load(class, &config, "config.json", &params(dtype)).unwrap();
            denoiser.check_control(&control.shape()).unwrap();
            compare(&format!("{class} {dtype:?}"), |inputs, _| {
                let text = TextConditioning {
                    context: inputs(&[2, 77, 96], dtype),
                    pooled: Some(inputs(&[2, 64], dtype)),
                    lengths: None,
                };
                let size = (192, 256);
                let micro = MicroConditioning { original: size, crop: (0, 0), target: size };
                let conditions = denoiser.condition(&text, micro).unwrap();
                let sample = inputs(&[2, 24, 32, 4], dtype);
                // The one picture of a pair.
                let pixels = inputs(&[1, 192, 256, 3], dtype);
                let picture = ControlPicture { pixels: &pixels, kind: ControlKind::Tile };
                let added = control.forward(&sample, 499.0, &conditions, &picture, 0.5).unwrap();
                denoiser
                    .forward_controlled(&sample, 499.0, &conditions, Prior::None, added)
                    .unwrap();
            });
        }
    }
}

#[test]
fn a_call_of_a_transformer_with_cross_attention_takes_what_its_trace_says() {
    let name = "a_call_of_a_transformer_with_cross_attention_takes_what_its_trace_says";
    if !counting::alone(module_path!(), name) {
        return;
    }
    let config = json!({
        "sample_size": 32, "num_layers": 3, "num_attention_heads": 4, "attention_head_dim": 36,
        "cross_attention_dim": 144, "caption_channels": 96, "use_additional_conditions": true,
    });
    for dtype in FORMS {
        let class = "PixArtTransformer2DModel";
        let transformer = Denoiser::load(class, &config, "config.json", &params(dtype)).unwrap();
        let call = |inputs: Inputs<'_>, lengths: [usize; 2], prior: Prior<'_>| {
            let text = TextConditioning {
                context: inputs(&[2, 120, 96], dtype),
                pooled: None,
                lengths: Some(lengths.into()),
            };
            let size = (256, 320);
            let micro = MicroConditioning { original: size, crop: (0, 0), target: size };
            let conditions = transformer.condition(&text, micro).unwrap();
            let sample = inputs(&[2, 32, 40, 4], dtype);
            transformer.forward(&sample, 499.0, &conditions, prior).unwrap();
        };
        for lengths in [[120, 120], [7, 120]] {
            compare(&format!("pixart {dtype:?}, {lengths:?}"), |inputs, _| {
                call(inputs, lengths, Prior::None);
            });
        }
        compare(&format!("pixart {dtype:?}, recorded"), |inputs, _| {
            call(inputs, [7, 120], Prior::Record(&mut Vec::new()));
        });
        let sizes = transformer.prior_sizes(32, 40);
        compare(&format!("pixart {dtype:?}, blended"), |inputs, _| {
            let layer = |&(height, width): &(usize, usize)| inputs(&[2, height, width, 144], dtype);
            let layers: Vec<_> = sizes.iter().map(layer).collect();
            call(inputs, [7, 120], Prior::Blend { layers: &layers, weight: 0.5 });
        });
    }
}

#[test]
fn a_call_of_a_joint_transformer_takes_what_its_trace_says() {
    let name = "a_call_of_a_joint_transformer_takes_what_its_trace_says";
    if !counting::alone(module_path!(), name) {
        return;
    }
    let config = |qk_norm: bool| {
        json!({
            "sample_size": 32, "num_layers": 3, "num_attention_heads": 4, "attention_head_dim": 32,
            "caption_projection_dim": 128, "joint_attention_dim": 96, "pooled_projection_dim": 64,
            "pos_embed_max_size": 24, "dual_attention_layers": [0],
            "qk_norm": qk_norm.then_some("rms_norm"),
        })
    };
    for dtype in FORMS {
        // The norms of queries and keys are candle's, which has none in f64.
        let config = config(dtype == DType::F32);
        let transformer =
            Denoiser::load("SD3Transformer2DModel", &config, "config.json", &params(dtype))
                .unwrap();
        let call = |inputs: Inputs<'_>, prior: Prior<'_>| {
            let text = TextConditioning {
                context: inputs(&[2, 77, 96], dtype),
                pooled: Some(inputs(&[2, 64], dtype)),
                lengths: None,
            };
            let nothing = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
            let conditions = transformer.condition(&text, nothing).unwrap();
            let sample = inputs(&[2, 32, 40, 16], dtype);
            transformer.forward(&sample, 499.0, &conditions, prior).unwrap();
        };
        compare(&format!("sd3 {dtype:?}"), |inputs, _| call(inputs, Prior::None));
        compare(&format!("sd3 {dtype:?}, recorded"), |inputs, _| {
            call(inputs, Prior::Record(&mut Vec::new()));
        });
        let sizes = transformer.prior_sizes(32, 40);
        compare(&format!("sd3 {dtype:?}, blended"), |inputs, _| {
            let layer = |&(height, width): &(usize, usize)| inputs(&[2, height, width, 128], dtype);
            let layers: Vec<_> = sizes.iter().map(layer).collect();
            call(inputs, Prior::Blend { layers: &layers, weight: 0.5 });
        });
    }
}

#[test]
fn a_call_of_one_stream_takes_what_its_trace_says() {
    if !counting::alone(module_path!(), "a_call_of_one_stream_takes_what_its_trace_says") {
        return;
    }
    // Norms are candle's, which has none in f64.
    let config = json!({
        "in_channels": 16, "dim": 192, "n_layers": 3, "n_refiner_layers": 1, "n_heads": 4, "n_kv_heads": 4,
        "cap_feat_dim": 96, "axes_dims": [16, 16, 16], "axes_lens": [512, 64, 64],
    });
    let dtype = DType::F32;
    let transformer =
        Denoiser::load("ZImageTransformer2DModel", &config, "config.json", &params(dtype)).unwrap();
    let call = |inputs: Inputs<'_>, prior: Prior<'_>| {
        let text = TextConditioning {
            context: inputs(&[2, 77, 96], dtype),
            pooled: None,
            lengths: Some(vec![65, 77]),
        };
        let nothing = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
        let conditions = transformer.condition(&text, nothing).unwrap();
        // A number of patches that is filled up.
        let sample = inputs(&[2, 34, 42, 16], dtype);
        transformer.forward(&sample, 499.0, &conditions, prior).unwrap();
    };
    compare("z-image", |inputs, _| call(inputs, Prior::None));
    compare("z-image, recorded", |inputs, _| call(inputs, Prior::Record(&mut Vec::new())));
    let sizes = transformer.prior_sizes(34, 42);
    compare("z-image, blended", |inputs, _| {
        let layer = |&(height, width): &(usize, usize)| inputs(&[2, height, width, 192], dtype);
        let layers: Vec<_> = sizes.iter().map(layer).collect();
        call(inputs, Prior::Blend { layers: &layers, weight: 0.5 });
    });
}

#[test]
fn a_call_of_two_streams_that_become_one_takes_what_its_trace_says() {
    let name = "a_call_of_two_streams_that_become_one_takes_what_its_trace_says";
    if !counting::alone(module_path!(), name) {
        return;
    }
    // Norms are candle's, which has none in f64.
    let config = json!({
        "in_channels": 32, "num_layers": 2, "num_single_layers": 2, "attention_head_dim": 32,
        "num_attention_heads": 4, "joint_attention_dim": 96, "axes_dims_rope": [8, 8, 8, 8],
        "guidance_embeds": false,
    });
    let dtype = DType::F32;
    let transformer =
        Denoiser::load("Flux2Transformer2DModel", &config, "config.json", &params(dtype)).unwrap();
    let call = |inputs: Inputs<'_>, tokens: usize, prior: Prior<'_>| {
        let context = inputs(&[2, tokens, 96], dtype);
        let text = TextConditioning { context, pooled: None, lengths: None };
        let nothing = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
        let conditions = transformer.condition(&text, nothing).unwrap();
        let sample = inputs(&[2, 17, 24, 32], dtype);
        transformer.forward(&sample, 499.0, &conditions, prior).unwrap();
    };
    for tokens in [64, 512] {
        let what = |prior: &str| format!("flux.2, {tokens} tokens{prior}");
        compare(&what(""), |inputs, _| call(inputs, tokens, Prior::None));
        compare(&what(", recorded"), |inputs, _| {
            call(inputs, tokens, Prior::Record(&mut Vec::new()));
        });
        let sizes = transformer.prior_sizes(17, 24);
        compare(&what(", blended"), |inputs, _| {
            let layer = |&(height, width): &(usize, usize)| inputs(&[2, height, width, 128], dtype);
            let layers: Vec<_> = sizes.iter().map(layer).collect();
            call(inputs, tokens, Prior::Blend { layers: &layers, weight: 0.5 });
        });
    }
}

#[test]
fn an_autoencoder_takes_what_its_trace_says() {
    if !counting::alone(module_path!(), "an_autoencoder_takes_what_its_trace_says") {
        return;
    }
    let kl = json!({
        "_class_name": "AutoencoderKL", "block_out_channels": [32, 64, 64],
        "down_block_types": ["DownEncoderBlock2D", "DownEncoderBlock2D", "DownEncoderBlock2D"],
        "up_block_types": ["UpDecoderBlock2D", "UpDecoderBlock2D", "UpDecoderBlock2D"],
        "layers_per_block": 2, "norm_num_groups": 8, "latent_channels": 4,
    });
    let mut packed = kl.clone();
    packed["_class_name"] = "AutoencoderKLFlux2".into();
    let tiny = json!({ "_class_name": "AutoencoderTiny" });
    for dtype in FORMS {
        for (name, config) in [("kl", &kl), ("kl of packed latents", &packed), ("tiny", &tiny)] {
            let (side, vae) = (96, Vae::load(config, &params(dtype)).unwrap());
            let (small, channels) = (side / vae.factor(), vae.latent_channels());
            compare(&format!("{name} {dtype:?}, encode"), |inputs, _| {
                let image = inputs(&[1, side, side, 3], DType::F32);
                vae.encode_with(&image, Globals::Own).unwrap();
            });
            compare(&format!("{name} {dtype:?}, decode"), |inputs, _| {
                let z = inputs(&[1, small, small, channels], DType::F32);
                vae.decode_with(&z, Globals::Own).unwrap();
            });
        }
    }
}

#[test]
fn a_text_encoder_takes_what_its_trace_says() {
    if !counting::alone(module_path!(), "a_text_encoder_takes_what_its_trace_says") {
        return;
    }
    let config = json!({
        "vocab_size": 600, "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 3,
        "num_attention_heads": 16, "projection_dim": 128,
    });
    let t5 = json!({
        "vocab_size": 600, "d_model": 512, "d_kv": 64, "num_heads": 12, "d_ff": 1280, "num_layers": 3,
        "feed_forward_proj": "gated-gelu",
    });
    let qwen = json!({
        "vocab_size": 600, "hidden_size": 512, "intermediate_size": 1536, "num_hidden_layers": 4,
        "num_attention_heads": 8, "num_key_value_heads": 2, "head_dim": 64,
    });
    for dtype in FORMS {
        let class = "CLIPTextModelWithProjection";
        let encoder = TextEncoder::load(class, &config, &[], &params(dtype)).unwrap();
        compare(&format!("text {dtype:?}"), |_, trace| {
            encoder.encode(&[vec![1; 77]], trace).unwrap();
        });
    }
    // Their norms have no f64.
    let encoder = TextEncoder::load("Qwen3ForCausalLM", &qwen, &[], &params(DType::F32)).unwrap();
    compare("qwen3 F32", |_, trace| {
        encoder.encode(&[vec![1; 256]], trace).unwrap();
    });
    let layers = [1, 2, 3];
    let encoder =
        TextEncoder::load("Qwen3ForCausalLM", &qwen, &layers, &params(DType::F32)).unwrap();
    for count in [20, 128, 256] {
        compare(&format!("qwen3 F32, three layers, {count} of 256 tokens"), |_, trace| {
            let tokens = TokenIds { ids: vec![1; 256], count };
            encoder.encode_filled(tokens, trace).unwrap();
        });
    }
    let encoder = TextEncoder::load("T5EncoderModel", &t5, &[], &params(DType::F32)).unwrap();
    compare("t5 F32", |_, trace| {
        encoder.encode(&[vec![1; 256]], trace).unwrap();
    });
}

#[test]
fn a_generation_takes_what_its_trace_says() {
    if !counting::alone(module_path!(), "a_generation_takes_what_its_trace_says") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let decoder = Decoder { hidden: 512, inner: 1536, layers: 3, vocabulary: 4096 };
    random_llava::write(folder.path(), decoder, DType::F32);
    let files = LlavaFiles::open(folder.path()).unwrap();
    // The decoder has no f64; its layers are small beside the cache.
    for dtype in [DType::F32, DType::F16] {
        let model = files.load(&Device::Cpu, dtype).unwrap();
        // One row, a prefill larger than all decoding, and many rows of which each prefill is small.
        for (rows, prefill_rows) in [(1, 1), (4, 4), (12, 1)] {
            let batch = TraceBatch { rows, prefill_rows, size: (48, 40), new_tokens: 6 };
            compare(&format!("llava {dtype:?}, {rows} by {prefill_rows}"), |_, trace| {
                let prompt = model.prompt("What is in it?").unwrap();
                match trace {
                    Some(trace) => model.trace(&prompt, batch, trace).unwrap(),
                    None => generate(&model, batch),
                }
            });
        }
    }
}

/// Texts for as many pictures as the batch says.
fn generate(model: &Llava, batch: TraceBatch) {
    let prompt = model.prompt("What is in it?").unwrap();
    let (width, height) = batch.size;
    let rgb: Vec<u8> = (0..width * height * 3).map(|index| (index % 251) as u8).collect();
    let picture = LlavaPicture::new(width, height, rgb).unwrap();
    let rows: Vec<_> =
        (0..batch.rows as u64).map(|number| Row { picture: picture.clone(), number }).collect();
    let options = GenerateOptions {
        max_new_tokens: batch.new_tokens,
        prefill_rows: Some(batch.prefill_rows),
        ..GenerateOptions::default()
    };
    let mut go_on = |_| std::ops::ControlFlow::Continue(());
    model.generate(&prompt, &rows, &options, &mut go_on).unwrap();
}
