//! The UNet and the attention prior against diffusers. The fixtures are made by
//! `tests/make_fixtures/make_unet_fixtures.py` and `make_rap_fixtures.py`; weights and inputs are drawn
//! here from the same formula as there, so only outputs are stored.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};
use cupscale::backend::Params;
use cupscale::{
    backend::{Activation, MatmulPrecision, ops::CropRect},
    model::denoiser::{
        Conditioning, Denoiser, Prior,
        unet::{UNet2DConditionModel, UNetConfig},
    },
    priors::attention::AttentionPrior,
};
use serde_json::Value;

use crate::common::{
    drawn::{assert_close, field, sizes, weight},
    fixture,
    models::conditioning,
    tensors::relative_errors,
    unet::UNetCase,
};
use crate::crop_rects;

struct Case {
    about: UNetCase,
    model: Denoiser,
    cond: Conditioning,
}

fn load(name: &str) -> Case {
    load_as(name, DType::F32, MatmulPrecision::F32)
}

fn load_as(name: &str, dtype: DType, precision: MatmulPrecision) -> Case {
    let about = UNetCase::read(name);
    let vb = Params::from_tensors(about.tensors(), dtype, &Device::Cpu).with_precision(precision);
    let config = UNetConfig::from_json(&about.description["config"].to_string()).unwrap();
    let model = Denoiser::from(UNet2DConditionModel::load(config, &vb).unwrap());
    let cond = about.conditions(&model);
    Case { about, model, cond }
}

impl Case {
    fn run(&self, prior: Prior) -> candle_core::Result<Tensor> {
        self.about.run(&self.model, &self.cond, prior)
    }
}

#[test]
fn the_unet_of_every_configuration_computes_what_diffusers_computes() {
    for name in ["sdxl", "concat", "sd15", "rare", "guided", "guided_sdxl", "ssd_1b", "vega"] {
        let case = load(name);
        let output = case.run(Prior::None).unwrap();
        assert_close(name, &output, &case.about.expected["output"], 1e-4);
    }
}

#[test]
fn the_composed_forms_that_other_devices_run_compute_the_same_unet() {
    // The CPU kernels take f32 alone: in f64 every operation goes its composed way.
    for name in ["sdxl", "concat", "sd15", "rare", "ssd_1b", "vega"] {
        let output = load_as(name, DType::F64, MatmulPrecision::F32).run(Prior::None).unwrap();
        assert_eq!(output.dtype(), DType::F64);
        let output = output.to_dtype(DType::F32).unwrap();
        assert_close(name, &output, &load(name).about.expected["output"], 1e-4);
    }
}

#[test]
fn products_in_bf16_change_a_whole_unet_by_two_percent_at_most() {
    if !MatmulPrecision::Bf16.is_available() {
        println!("skipped: this processor has no instructions for bf16 products");
        return;
    }
    for name in ["sdxl", "concat", "sd15", "rare", "ssd_1b", "vega"] {
        let case = load_as(name, DType::F32, MatmulPrecision::Bf16);
        let output = case.run(Prior::None).unwrap();
        assert_close(name, &output, &case.about.expected["output"], 2e-2);
        let exact = load(name).run(Prior::None).unwrap();
        let (_, difference) = relative_errors(&output, &exact);
        println!("{name}: {difference:.2e}");
        assert!(difference > 1e-4, "{name}: {difference:.2e}, too good to be true");
    }
}

#[test]
fn a_half_precision_unet_stays_in_its_precision_and_near_the_reference() {
    let case = load_as("concat", DType::F16, MatmulPrecision::F32);
    let layers = priors(&case);
    let output = case.run(Prior::Blend { layers: &layers, weight: 0.3 }).unwrap();
    assert_eq!(output.dtype(), DType::F16);
    let output = output.to_dtype(DType::F32).unwrap();
    assert_close("f16", &output, &case.about.expected["blended"], 2e-2);
}

#[test]
fn recorded_cross_attentions_are_diffusers_cross_attention_outputs_in_visiting_order() {
    let case = load("concat");
    let mut recorded = Vec::new();
    let output = case.run(Prior::Record(&mut recorded)).unwrap();
    assert_close("output while recording", &output, &case.about.expected["output"], 1e-4);
    let (_, height, width, _) = case.about.sample.dims4().unwrap();
    let sizes = case.model.prior_sizes(height, width);
    let count = case.about.expected.keys().filter(|name| name.starts_with("recorded.")).count();
    assert!(count > 8);
    assert_eq!((recorded.len(), sizes.len()), (count, count));
    for (index, (layer, (h, w))) in recorded.iter().zip(sizes).enumerate() {
        let (_, layer_h, layer_w, _) = layer.dims4().unwrap();
        assert_eq!((layer_h, layer_w), (h, w), "layer {index}");
        let tokens = layer.tensor().unwrap().flatten(1, 2).unwrap();
        let name = format!("recorded.{index}");
        assert_close(&name, &tokens, &case.about.expected[&name], 1e-4);
    }
}

/// Prior tensors as the script blended them in.
fn priors(case: &Case) -> Vec<Activation> {
    let mut recorded = Vec::new();
    case.run(Prior::Record(&mut recorded)).unwrap();
    let like = |(index, layer): (usize, &Activation)| {
        let (batch, h, w, channels) = layer.dims4().unwrap();
        let tokens = field(&format!("prior.{index}"), &[batch, h * w, channels]);
        tokens.reshape((batch, h, w, channels)).unwrap().into()
    };
    recorded.iter().enumerate().map(like).collect()
}

#[test]
fn blended_cross_attentions_give_what_diffusers_gives_with_the_same_hooks() {
    let case = load("concat");
    let layers = priors(&case);
    let blend = |weight: f64| case.run(Prior::Blend { layers: &layers, weight }).unwrap();
    assert_close("blended", &blend(0.3), &case.about.expected["blended"], 1e-4);
    assert_close("weight 0", &blend(0.0), &case.about.expected["output"], 1e-4);
    let (apart, _) =
        relative_errors(&case.about.expected["blended"], &case.about.expected["output"]);
    assert!(apart > 1e-2, "the fixture could not tell blending from not blending: {apart}");
}

#[test]
fn a_prior_that_does_not_fit_the_layers_is_an_error() {
    let case = load("concat");
    let layers = priors(&case);
    let fails = |layers: &[Activation]| case.run(Prior::Blend { layers, weight: 0.5 }).is_err();
    assert!(fails(&layers[1..]), "one too few");
    assert!(fails(&[&layers[..], &layers[..1]].concat()), "one too many");
    let mut swapped = layers.clone();
    swapped[0] = swapped[0].transpose(1, 2).unwrap().contiguous().unwrap();
    assert!(fails(&swapped), "another shape");
}

#[test]
fn a_model_with_added_conditioning_refuses_to_run_without_it() {
    let case = load("sdxl");
    let context = field("context", &[1, 77, 16]);
    let error = conditioning(&case.model, &context, None, None).unwrap_err().to_string();
    assert!(error.contains("pooled"), "{error}");
}

#[test]
fn a_missing_weight_is_named() {
    let case = load("sd15");
    let mut weights: HashMap<String, Tensor> = case.about.description["shapes"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, shape)| (name.clone(), weight(name, &sizes(shape))))
        .collect();
    let name = "mid_block.resnets.1.conv2.bias";
    weights.remove(name).unwrap();
    let vb = Params::from_tensors(weights, DType::F32, &Device::Cpu);
    let config = UNetConfig::from_json(&case.about.description["config"].to_string()).unwrap();
    let error = UNet2DConditionModel::load(config, &vb).unwrap_err().to_string();
    assert!(error.contains(name), "{error}");
}

#[test]
fn the_strength_of_guidance_changes_a_model_that_is_given_it_and_no_other() {
    let output = |name: &str, scale: f64| {
        let mut case = load(name);
        case.cond = case.model.with_guidance(&case.cond, scale).unwrap();
        case.run(Prior::None).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    for name in ["guided", "guided_sdxl"] {
        assert_ne!(output(name, 1.0), output(name, 7.5), "{name}");
    }
    assert!(!load("sdxl").model.embeds_guidance());
    assert_eq!(output("sdxl", 1.0), output("sdxl", 7.5));
}

#[test]
fn fields_that_change_the_mathematics_are_refused_by_name() {
    for (field, value) in [
        ("class_embed_type", r#""timestep""#),
        ("num_class_embeds", "10"),
        ("dual_cross_attention", "true"),
        ("only_cross_attention", "[false, true]"),
        ("mid_block_only_cross_attention", "true"),
        ("resnet_time_scale_shift", r#""scale_shift""#),
        ("resnet_skip_time_act", "true"),
        ("resnet_out_scale_factor", "1.4"),
        ("mid_block_scale_factor", "2"),
        ("encoder_hid_dim", "64"),
        ("encoder_hid_dim_type", r#""text_proj""#),
        ("attention_type", r#""gated""#),
        ("time_embedding_type", r#""fourier""#),
        ("timestep_post_act", r#""silu""#),
        ("cross_attention_norm", r#""layer_norm""#),
        ("center_input_sample", "true"),
        ("act_fn", r#""mish""#),
        ("addition_embed_type", r#""text""#),
        ("norm_num_groups", "null"),
        ("mid_block_type", r#""UNetMidBlock2DSimpleCrossAttn""#),
        ("down_block_types", r#"["AttnDownBlock2D", "DownBlock2D"]"#),
        ("up_block_types", r#"["UpBlock2D", "SkipUpBlock2D"]"#),
        ("layers_per_block", "[1]"),
        ("transformer_layers_per_block", "[[1], [2]]"),
        ("attention_head_dim", "7"),
        ("conv_in_kernel", "2"),
        ("downsample_padding", "2"),
        ("block_out_channels", "[]"),
        ("sample_size", r#""big""#),
        ("use_linear_projection", "1"),
    ] {
        let mut fields = HashMap::from([
            ("block_out_channels", "[32, 64]"),
            ("down_block_types", r#"["DownBlock2D", "CrossAttnDownBlock2D"]"#),
            ("up_block_types", r#"["CrossAttnUpBlock2D", "UpBlock2D"]"#),
        ]);
        let json = |fields: &HashMap<&str, &str>| {
            let body: Vec<String> =
                fields.iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
            format!("{{{}}}", body.join(","))
        };
        UNetConfig::from_json(&json(&fields)).unwrap();
        fields.insert(field, value);
        let error = UNetConfig::from_json(&json(&fields)).unwrap_err().to_string();
        assert!(error.contains(&format!("`{field}`")), "{field} = {value}: {error}");
    }
}

#[test]
fn an_empty_config_is_diffusers_default_and_sdxl_reads_as_published() {
    let default = UNetConfig::from_json("{}").unwrap();
    let channels: Vec<usize> = default.up.iter().map(|level| level.channels).collect();
    assert_eq!(channels, [1280, 1280, 640, 320]);
    assert_eq!(default.mid.as_ref().unwrap().transformer.as_ref().unwrap().heads, 8);
    assert!(default.up[0].transformers.is_empty() && default.down[3].transformers.is_empty());

    // stabilityai/stable-diffusion-xl-base-1.0, unet/config.json, without its nulls.
    let sdxl = UNetConfig::from_json(
        r#"{"_class_name": "UNet2DConditionModel", "act_fn": "silu",
        "addition_embed_type": "text_time", "addition_embed_type_num_heads": 64,
        "addition_time_embed_dim": 256, "attention_head_dim": [5, 10, 20],
        "block_out_channels": [320, 640, 1280], "center_input_sample": false,
        "class_embeddings_concat": false, "conv_in_kernel": 3, "conv_out_kernel": 3,
        "cross_attention_dim": 2048,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "downsample_padding": 1, "dual_cross_attention": false, "flip_sin_to_cos": true,
        "freq_shift": 0, "in_channels": 4, "layers_per_block": 2, "mid_block_scale_factor": 1,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "norm_eps": 1e-05, "norm_num_groups": 32,
        "num_attention_heads": null, "only_cross_attention": false, "out_channels": 4,
        "projection_class_embeddings_input_dim": 2816, "resnet_out_scale_factor": 1.0,
        "resnet_skip_time_act": false, "resnet_time_scale_shift": "default", "sample_size": 128,
        "time_embedding_type": "positional", "transformer_layers_per_block": [1, 2, 10],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "upcast_attention": null, "use_linear_projection": true}"#,
    )
    .unwrap();
    assert_eq!(sdxl.sample_size, Some((128, 128)));
    assert_eq!(sdxl.up[0].transformers[2].depth, 10);
    assert_eq!(sdxl.up[0].resnets, 3);
    assert_eq!((sdxl.time.width, sdxl.total_stride()), (1280, 4));
    assert_eq!(sdxl.added.unwrap().input_width, 2816);
}

#[test]
fn rap_by_linearity_equals_literal_attention_maps() {
    let text = fs::read_to_string(fixture("rap/rap.json")).unwrap();
    let description: Value = serde_json::from_str(&text).unwrap();
    let rects = crop_rects(&description["rects"]);
    let layer_sizes: Vec<(usize, usize)> = description["sizes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|size| (sizes(size)[0], sizes(size)[1]))
        .collect();
    let tensors =
        candle_core::safetensors::load(fixture("rap/rap.safetensors"), &Device::Cpu).unwrap();
    let layers: Vec<Activation> = (0..layer_sizes.len())
        .map(|index| Activation::from(&tensors[&format!("layer.{index}")]))
        .collect();
    let prior = AttentionPrior::new(layers).unwrap();
    let regions = prior.for_regions(&rects, &layer_sizes).unwrap();
    assert_eq!(regions.len(), layer_sizes.len());
    for (index, region) in regions.iter().enumerate() {
        let name = format!("literal.{index}");
        assert_close(&name, region.tensor().unwrap(), &tensors[&name], 1e-5);
    }
}

#[test]
fn an_attention_prior_refuses_a_batch_and_mismatched_sizes() {
    assert!(AttentionPrior::new(vec![field("x", &[2, 4, 4, 8]).into()]).is_err());
    let prior = AttentionPrior::new(vec![field("x", &[1, 4, 4, 8]).into()]).unwrap();
    let whole = CropRect { top: 0.0, left: 0.0, height: 1.0, width: 1.0 };
    assert!(prior.for_regions(&[whole], &[]).is_err());
    assert!(prior.for_regions(&[], &[(4, 4)]).is_err());
    assert!(prior.for_regions(&[whole], &[(4, 4)]).is_ok());
}
