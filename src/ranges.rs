//! Ranges of the numbers in configuration files decide in one place which are believed: a size that no model has would
//! be allocated before anything else could refuse it.
//!
//! The table goes by field name, because the files of diffusers, transformers and peft name alike what is alike. A
//! reader checks its whole file once ([`check`]), before it makes anything of it; what a field *means* (a divisor of
//! another, one of two values) stays with the reader.

use std::fmt;

use serde_json::{Map, Value};

/// Most numbers in a list: as many as the longest schedule has timesteps.
const MOST_ENTRIES: usize = 100_000;

/// Least and greatest number that is believed.
pub(crate) type Range = (f64, f64);

/// Overlap of regions, as a share of their side.
pub(crate) const OVERLAP: Range = (0.0, 0.9);
/// How much stronger the finest detail gets.
pub(crate) const SHARPEN: Range = (0.0, 2.0);
/// Strength of classifier-free guidance.
pub(crate) const GUIDANCE: Range = (0.0, 1000.0);
/// Standard deviation of the grain, in levels of 255.
pub(crate) const GRAIN: Range = (0.0, 20.0);

const WIDTH: Range = (1.0, 65_536.0);
const COUNT: Range = (0.0, 1024.0);
const LAYERS: Range = (0.0, 512.0);
const BLOCKS: Range = (0.0, 64.0);
const PIXELS: Range = (1.0, 65_536.0);
/// Sides of the picture that a vision tower sees.
const TOWER: Range = (1.0, 4096.0);
const POSITIONS: Range = (0.0, 16_777_216.0);
const TIMESTEP: Range = (0.0, 100_000.0);
const TOKEN: Range = (0.0, 2_147_483_647.0);
const SHARE: Range = (0.0, 1.0);
const FACTOR: Range = (0.0, 1e6);
const SIGNED: Range = (-1e6, 1e6);
/// Logarithms of factors by which noise levels are shifted, and such factors.
const SHIFT: Range = (-100.0, 100.0);

/// Range of every number that some reader takes from a configuration file.
const FIELDS: &[(&str, Range)] = &[
    // UNet2DConditionModel
    ("addition_time_embed_dim", WIDTH),
    ("attention_head_dim", COUNT),
    ("block_out_channels", WIDTH),
    ("conv_in_kernel", (1.0, 31.0)),
    ("conv_out_kernel", (1.0, 31.0)),
    ("cross_attention_dim", WIDTH),
    ("downsample_padding", COUNT),
    ("freq_shift", (-1000.0, 1000.0)),
    ("in_channels", WIDTH),
    ("layers_per_block", (1.0, 64.0)),
    ("mid_block_scale_factor", SIGNED),
    ("norm_eps", SHARE),
    ("norm_num_groups", WIDTH),
    ("num_attention_heads", COUNT),
    ("out_channels", WIDTH),
    ("projection_class_embeddings_input_dim", WIDTH),
    ("resnet_out_scale_factor", SIGNED),
    ("reverse_transformer_layers_per_block", BLOCKS),
    ("sample_size", PIXELS),
    ("time_cond_proj_dim", WIDTH),
    ("time_embedding_dim", (1.0, 262_144.0)),
    ("transformer_layers_per_block", BLOCKS),
    // ControlNetModel, ControlNetUnionModel
    ("conditioning_channels", COUNT),
    ("conditioning_embedding_out_channels", WIDTH),
    ("num_control_type", (1.0, 1024.0)),
    ("num_proj_channel", WIDTH),
    ("num_trans_channel", WIDTH),
    ("num_trans_layer", BLOCKS),
    // PixArtTransformer2DModel, Transformer2DModel
    ("caption_channels", WIDTH),
    ("interpolation_scale", (1e-3, 1e3)),
    ("num_vector_embeds", POSITIONS),
    // SD3Transformer2DModel
    ("caption_projection_dim", WIDTH),
    ("dual_attention_layers", LAYERS),
    ("joint_attention_dim", WIDTH),
    ("pooled_projection_dim", WIDTH),
    ("pos_embed_max_size", (0.0, 4096.0)),
    // ZImageTransformer2DModel
    ("all_f_patch_size", COUNT),
    ("all_patch_size", COUNT),
    ("axes_dims", COUNT),
    ("axes_lens", POSITIONS),
    ("cap_feat_dim", WIDTH),
    ("dim", WIDTH),
    ("n_heads", COUNT),
    ("n_kv_heads", COUNT),
    ("n_layers", LAYERS),
    ("n_refiner_layers", LAYERS),
    ("siglip_feat_dim", WIDTH),
    ("t_scale", FACTOR),
    // Flux2Transformer2DModel
    ("axes_dims_rope", COUNT),
    ("eps", SHARE),
    ("mlp_ratio", (1e-3, 64.0)),
    ("num_single_layers", LAYERS),
    ("timestep_guidance_channels", WIDTH),
    // AutoencoderKL, AutoencoderKLFlux2, AutoencoderTiny
    ("batch_norm_eps", SHARE),
    ("decoder_block_out_channels", (0.0, 65_536.0)),
    ("encoder_block_out_channels", (0.0, 65_536.0)),
    ("latent_channels", COUNT),
    ("num_decoder_blocks", BLOCKS),
    ("num_encoder_blocks", BLOCKS),
    ("scaling_factor", SIGNED),
    ("shift_factor", SIGNED),
    ("upsampling_scaling_factor", COUNT),
    // CLIPTextConfig, CLIPVisionConfig, LlamaConfig, MistralConfig
    ("eos_token_id", TOKEN),
    ("factor", FACTOR),
    ("head_dim", WIDTH),
    ("hidden_size", (0.0, 65_536.0)),
    ("high_freq_factor", FACTOR),
    ("intermediate_size", (1.0, 1_048_576.0)),
    ("layer_norm_eps", SHARE),
    ("low_freq_factor", FACTOR),
    ("max_position_embeddings", POSITIONS),
    ("num_channels", COUNT),
    ("num_hidden_layers", LAYERS),
    ("num_key_value_heads", COUNT),
    ("original_max_position_embeddings", POSITIONS),
    ("projection_dim", WIDTH),
    ("rms_norm_eps", SHARE),
    ("rope_theta", (1e-6, 1e15)),
    ("sliding_window", POSITIONS),
    ("vocab_size", (1.0, 16_777_216.0)),
    // T5Config, UMT5Config
    ("d_ff", (1.0, 1_048_576.0)),
    ("d_kv", WIDTH),
    ("d_model", WIDTH),
    ("layer_norm_epsilon", SHARE),
    ("num_heads", COUNT),
    ("num_layers", LAYERS),
    ("relative_attention_max_distance", WIDTH),
    ("relative_attention_num_buckets", COUNT),
    // LlavaConfig, LlavaNextConfig and their image processors
    ("height", TOWER),
    ("image_grid_pinpoints", PIXELS),
    ("image_mean", SIGNED),
    ("image_size", (0.0, 4096.0)),
    ("image_std", FACTOR),
    ("image_token_id", TOKEN),
    ("image_token_index", TOKEN),
    ("longest_edge", TOWER),
    ("patch_size", (0.0, 4096.0)),
    ("rescale_factor", SIGNED),
    ("resample", COUNT),
    ("shortest_edge", TOWER),
    ("crop_size", TOWER),
    ("size", TOWER),
    ("vision_feature_layer", (-512.0, 512.0)),
    ("width", TOWER),
    // Schedulers
    ("base_image_seq_len", POSITIONS),
    ("base_shift", SHIFT),
    ("beta_end", SIGNED),
    ("beta_start", SIGNED),
    ("clip_sample_range", FACTOR),
    ("disable_corrector", TIMESTEP),
    ("dynamic_thresholding_ratio", SHARE),
    ("lambda_min_clipped", SIGNED),
    ("max_image_seq_len", POSITIONS),
    ("max_shift", SHIFT),
    ("num_train_timesteps", TIMESTEP),
    ("original_inference_steps", TIMESTEP),
    ("sample_max_value", FACTOR),
    ("shift", (1e-3, 1000.0)),
    ("shift_terminal", SHARE),
    ("sigma_max", FACTOR),
    ("sigma_min", FACTOR),
    ("solver_order", COUNT),
    ("steps_offset", TIMESTEP),
    ("timestep_scaling", SIGNED),
    ("trained_betas", SIGNED),
    // Adapters of peft
    ("alpha", SIGNED),
    ("alpha_pattern", SIGNED),
    ("lora_alpha", SIGNED),
    ("num_cayley_neumann_terms", COUNT),
    // 0 where OFT has a size of its blocks instead.
    ("r", (0.0, 65_536.0)),
    ("rank_pattern", WIDTH),
    // A manifest's run settings
    ("coherence", SHARE),
    ("denoise_steps", TIMESTEP),
    ("eta", SHARE),
    ("fidelity", SHARE),
    ("first_share", SHARE),
    ("grain", GRAIN),
    ("guidance", GUIDANCE),
    ("native_size", PIXELS),
    ("overlap", OVERLAP),
    ("sharpen", SHARPEN),
    ("steps", TIMESTEP),
    ("strength", SHARE),
    ("texture", SHARE),
    ("timesteps", TIMESTEP),
];

/// A number that is not believed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("`{field}` is {value}, not from {least} to {most}")]
pub struct OutOfRange {
    /// Name of the field, with those that it lies in: `text_config.num_hidden_layers`.
    field: String,
    /// The number, or the length of a list that is too long.
    value: String,
    least: Number,
    most: Number,
}

/// A bound as people write it.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Number(f64);

impl fmt::Display for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number) = *self;
        let is_long = number.abs() >= 1e9 || (number != 0.0 && number.abs() < 1e-3);
        if is_long { write!(f, "{number:e}") } else { write!(f, "{number}") }
    }
}

/// Checks the numbers of a configuration file, those of its inner objects and lists included. Fields that no reader
/// takes are passed over, and so is a value of another type than a number.
///
/// # Errors
/// The first number that is not believed.
pub(crate) fn check(config: &Value) -> Result<(), OutOfRange> {
    check_value(config, &mut Vec::new(), None)
}

/// As [`check`], for an object.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_object(config: &Map<String, Value>) -> Result<(), OutOfRange> {
    check_fields(config, &mut Vec::new(), None)
}

/// Checks a value whose field has this range, or none of its own.
fn check_value<'a>(
    value: &'a Value,
    path: &mut Vec<&'a str>,
    range: Option<Range>,
) -> Result<(), OutOfRange> {
    let refuse = |value: String, (least, most): Range| {
        Err(OutOfRange { field: path.join("."), value, least: Number(least), most: Number(most) })
    };
    match (value, range) {
        (Value::Number(number), Some(range)) => match number.as_f64() {
            Some(value) if (range.0..=range.1).contains(&value) => Ok(()),
            _ => refuse(number.to_string(), range),
        },
        (Value::Array(values), Some(_)) if values.len() > MOST_ENTRIES => {
            refuse(format!("a list of {} values", values.len()), (0.0, MOST_ENTRIES as f64))
        }
        (Value::Array(values), range) => {
            values.iter().try_for_each(|value| check_value(value, path, range))
        }
        (Value::Object(fields), range) => check_fields(fields, path, range),
        _ => Ok(()),
    }
}

/// Checks fields; one that the table does not have takes the range of the field that it lies in, as the modules of an
/// `alpha_pattern` do.
fn check_fields<'a>(
    fields: &'a Map<String, Value>,
    path: &mut Vec<&'a str>,
    outer: Option<Range>,
) -> Result<(), OutOfRange> {
    for (name, value) in fields {
        // diffusers puts the part's name before the fields of an adapter.
        let own = name.rsplit('.').next().unwrap_or(name);
        let range = FIELDS.iter().find(|(field, _)| *field == own).map(|&(_, range)| range);
        path.push(name);
        check_value(value, path, range.or(outer))?;
        path.pop();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_number_that_no_model_has_is_named_with_its_range_wherever_it_stands() {
        for (config, message) in [
            (
                json!({"num_hidden_layers": 2_147_483_648_u64}),
                "`num_hidden_layers` is 2147483648, not from 0 to 512",
            ),
            (
                json!({"num_train_timesteps": 1_u64 << 62}),
                "`num_train_timesteps` is 4611686018427387904, not from 0 to 100000",
            ),
            (
                json!({"text_config": {"rope_scaling": {"factor": -1}}}),
                "`text_config.rope_scaling.factor` is -1, not from 0 to 1000000",
            ),
            (
                json!({"block_out_channels": [320, 1e300]}),
                "`block_out_channels` is 1e+300, not from 1 to 65536",
            ),
            (
                json!({"image_grid_pinpoints": [[336, 672], [336, 0]]}),
                "`image_grid_pinpoints` is 0, not from 1 to 65536",
            ),
            (
                json!({"unet.alpha_pattern": {"mid.proj": 1e9}}),
                "`unet.alpha_pattern.mid.proj` is 1000000000.0, not from -1000000 to 1000000",
            ),
            (json!({"size": 0}), "`size` is 0, not from 1 to 4096"),
            (json!({"rope_theta": 0}), "`rope_theta` is 0, not from 1e-6 to 1e15"),
            (
                json!({"trained_betas": vec![0.5; 100_001]}),
                "`trained_betas` is a list of 100001 values, not from 0 to 100000",
            ),
        ] {
            assert_eq!(check(&config).unwrap_err().to_string(), message);
        }
    }

    #[test]
    fn texts_flags_nulls_and_fields_that_nobody_reads_are_passed_over() {
        let config = json!({"hidden_size": "many", "sample_size": null, "steps_offset": true,
            "bos_token_id": -1, "size": {"height": 336, "width": 336}, "trained_betas": [0.5]});
        assert_eq!(check(&config), Ok(()));
        assert_eq!(check(&Value::Null), Ok(()));
    }
}
