//! The transformer of Stable Diffusion 3 against diffusers, and the attention prior of its joint attention against literal
//! attention maps. The fixtures are made by `tests/make_fixtures/make_sd3_fixtures.py`; weights and inputs are drawn here
//! from the same formula as there, so only outputs are stored.

use candle_core::{DType, Tensor};
use cupscale::{
    backend::{Activation, MatmulPrecision},
    model::denoiser::{
        Denoiser, Prior,
        sd3::{Sd3Config, Sd3Transformer},
    },
};

use crate::common::{
    drawn::{assert_close, field},
    models::conditioning,
};
use crate::transformer::{Family, drawn_prior};

/// The forms of Stable Diffusion 3, 3.5 large and 3.5 medium.
const SD3: Family = Family {
    folder: "sd3",
    cases: ["sd3", "large", "medium"],
    load: |config, vb| {
        let config = Sd3Config::from_value(config).unwrap();
        Denoiser::from(Sd3Transformer::load(config, vb).unwrap())
    },
    condition: |model, _, input| {
        conditioning(model, &input("context"), Some(&input("pooled")), None).unwrap()
    },
    bound: 1e-4,
    rounding: 1e-2,
};

#[test]
fn the_transformer_of_every_form_computes_what_diffusers_computes() {
    SD3.computes_what_diffusers_computes();
}

#[test]
fn the_prior_of_joint_attention_equals_literal_attention_maps() {
    SD3.prior_equals_literal_attention_maps();
}

#[test]
fn the_composed_forms_that_other_devices_run_compute_the_same_transformer() {
    // The CPU kernels take f32 alone: in f64 every operation goes its composed way. (The norms of queries and keys are
    // candle's everywhere, which has none in f64.)
    let case = SD3.case_as("sd3", DType::F64, MatmulPrecision::F32);
    let output = case.run(&case.inputs("plain"), Prior::None);
    assert_close("plain", &output, &case.expected["output"], 1e-4);
    assert_close("blended", &case.blended(), &case.expected["blended"], 1e-4);
}

#[test]
fn products_in_bf16_and_half_precision_stay_near_the_reference() {
    SD3.stays_near_the_reference_in_half_precision();
}

#[test]
fn a_sample_does_not_depend_on_what_stands_beside_it() {
    let case = SD3.case("medium");
    let both = case.inputs("plain");
    let output = case.run(&both, Prior::None);
    let alone = case.run(&both.row(1), Prior::None);
    let bits = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
    assert_eq!(bits(&alone), bits(&output.narrow(0, 1, 1).unwrap()));
}

#[test]
fn samples_and_priors_that_do_not_fit_are_errors() {
    let case = SD3.case("sd3");
    let cond = case.inputs("low").cond;
    let fails = |height: usize, width: usize, prior: Prior| {
        let sample = Activation::from(field("sample", &[1, height, width, 4]));
        case.model.forward(&sample, 500.0, &cond, prior).is_err()
    };
    assert!(!fails(26, 4, Prior::None), "the whole table");
    assert!(fails(28, 4, Prior::None) && fails(4, 28, Prior::None), "beyond the table");
    assert!(fails(5, 4, Prior::None), "no whole patches");
    let layers = drawn_prior(&case.model, (4, 4), 32);
    assert!(!fails(4, 4, Prior::Blend { layers: &layers, weight: 0.5 }));
    assert!(fails(4, 4, Prior::Blend { layers: &layers[1..], weight: 0.5 }), "one too few");
    assert!(fails(4, 6, Prior::Blend { layers: &layers, weight: 0.5 }), "another size");
    let text = field("context", &[1, 7, 20]);
    let error = conditioning(&case.model, &text, None, None).unwrap_err().to_string();
    assert!(error.contains("pooled"), "{error}");
    let shape = case.model.shape().unwrap();
    assert_eq!((shape.native, shape.multiple, shape.largest), (16, 2, Some(26)));
}

#[test]
fn a_missing_weight_is_named() {
    let names = ["pos_embed.pos_embed", "transformer_blocks.0.attn.norm_added_k.weight"];
    SD3.names_what_is_missing("large", &names, |config, vb| {
        let config = Sd3Config::from_value(config).unwrap();
        Sd3Transformer::load(config, vb).unwrap_err().to_string()
    });
}
