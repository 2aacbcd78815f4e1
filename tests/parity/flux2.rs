//! The transformer of FLUX.2 against diffusers, and the attention prior of its blocks of both kinds against literal attention
//! maps. The fixtures are made by `tests/make_fixtures/make_flux2_fixtures.py`; weights and inputs are drawn here from the same
//! formula as there, so only outputs are stored.

use candle_core::{DType, Device};
use cupscale::{
    backend::{Activation, Params},
    model::denoiser::{
        Denoiser, Prior,
        flux2::{Flux2Config, Flux2Transformer},
    },
};

use crate::common::drawn::field;
use crate::transformer::{Family, conditions, drawn_prior, weights};

const FLUX2: Family = Family {
    folder: "flux2",
    cases: ["klein", "rare", "text"],
    load: |config, vb| {
        let config = Flux2Config::from_value(config).unwrap();
        Denoiser::from(Flux2Transformer::load(config, vb).unwrap())
    },
    condition: |model, _, input| conditions(model, input("context"), None).unwrap(),
    bound: 1e-5,
    rounding: 3e-2,
};

#[test]
fn the_transformer_computes_what_diffusers_computes_for_pictures_of_any_size() {
    FLUX2.computes_what_diffusers_computes();
}

#[test]
fn the_prior_of_two_streams_and_of_one_equals_literal_attention_maps() {
    FLUX2.prior_equals_literal_attention_maps();
}

#[test]
fn products_in_bf16_and_the_composed_forms_of_half_precision_stay_near_the_reference() {
    FLUX2.stays_near_the_reference_in_half_precision();
}

#[test]
fn a_sample_does_not_depend_on_what_stands_beside_it() {
    FLUX2.computes_each_sample_by_itself();
}

#[test]
fn half_precision_stays_within_its_range_where_a_block_would_leave_it() {
    let description = FLUX2.describe("klein");
    let mut weights = weights(&description);
    // Some hundred of them in a row are more than f16 has.
    for name in [
        "transformer_blocks.0.ff_context.linear_out.weight",
        "single_transformer_blocks.0.attn.to_out.weight",
    ] {
        let large = (&weights[name] * 2e4).unwrap();
        weights.insert(name.to_owned(), large);
    }
    let vb = Params::from_tensors(weights, DType::F16, &Device::Cpu);
    let model = (FLUX2.load)(&description["config"], &vb);
    let cond = conditions(&model, field("context", &[1, 9, 36]), None).unwrap();
    let sample = Activation::from(field("sample", &[1, 6, 10, 16]));
    let output = model.forward(&sample, 700.0, &cond, Prior::None).unwrap().into_tensor().unwrap();
    let values =
        output.to_dtype(DType::F32).unwrap().flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert!(values.iter().all(|value| value.is_finite()));
}

#[test]
fn samples_texts_and_priors_that_do_not_fit_are_errors() {
    let case = FLUX2.case("klein");
    let fails = |sample: [usize; 4], rows: usize, prior: Prior| {
        let sample = Activation::from(field("sample", &sample));
        let cond = conditions(&case.model, field("context", &[rows, 7, 36]), None).unwrap();
        case.model.forward(&sample, 500.0, &cond, prior).is_err()
    };
    assert!(!fails([1, 1, 1, 16], 1, Prior::None), "the smallest");
    assert!(fails([1, 4, 4, 15], 1, Prior::None), "other channels");
    assert!(fails([1, 4, 4, 16], 2, Prior::None), "a text too many");
    let wide = conditions(&case.model, field("context", &[1, 7, 37]), None).unwrap();
    let sample = Activation::from(field("sample", &[1, 4, 4, 16]));
    assert!(case.model.forward(&sample, 500.0, &wide, Prior::None).is_err());
    let layers = drawn_prior(&case.model, (4, 3), 48);
    assert_eq!(layers.len(), 5);
    let blend = |layers| Prior::Blend { layers, weight: 0.5 };
    assert!(!fails([1, 4, 3, 16], 1, blend(&layers)));
    assert!(fails([1, 4, 3, 16], 1, blend(&layers[1..])), "one too few");
    assert!(fails([1, 3, 4, 16], 1, blend(&layers)), "another size");
    // All tokens count.
    let context = || field("context", &[1, 7, 36]);
    assert!(conditions(&case.model, context(), Some(vec![7])).is_ok());
    assert!(conditions(&case.model, context(), Some(vec![6])).is_err());
    let shape = case.model.shape().unwrap();
    assert_eq!((shape.native, shape.multiple, shape.largest, shape.channels), (64, 1, None, 16));
    assert!(FLUX2.case("rare").model.shape().unwrap().sees_low_resolution);
}

#[test]
fn a_missing_weight_is_named() {
    let names = [
        "single_stream_modulation.linear.weight",
        "transformer_blocks.1.attn.norm_added_k.weight",
        "single_transformer_blocks.2.attn.to_qkv_mlp_proj.weight",
    ];
    FLUX2.names_what_is_missing("klein", &names, |config, vb| {
        let config = Flux2Config::from_value(config).unwrap();
        Flux2Transformer::load(config, vb).unwrap_err().to_string()
    });
}
