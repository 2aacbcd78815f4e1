//! The transformer of Z-Image against diffusers, and the attention prior of its joint attention against literal attention
//! maps. The fixtures are made by `tests/make_fixtures/make_z_image_fixtures.py`; weights and inputs are drawn here from the
//! same formula as there, so only outputs are stored.

use std::fs;

use cupscale::{
    backend::Activation,
    model::denoiser::{
        Denoiser, Prior,
        z_image::{ZImageConfig, ZImageTransformer},
    },
    sampler::{SamplerKind, Schedule, SchedulerConfig},
};
use serde_json::Value;

use crate::common::{
    drawn::{field, sizes},
    fixture,
};
use crate::transformer::{Family, conditions, drawn_prior};

const Z_IMAGE: Family = Family {
    folder: "z_image",
    cases: ["turbo", "plain", "wide"],
    load: |config, vb| {
        let config = ZImageConfig::from_value(config).unwrap();
        Denoiser::from(ZImageTransformer::load(config, vb).unwrap())
    },
    condition: |model, of_kind, input| {
        conditions(model, input("context"), Some(sizes(&of_kind["lengths"]))).unwrap()
    },
    bound: 1e-4,
    rounding: 3e-2,
};

#[test]
fn the_transformer_computes_what_diffusers_computes_for_texts_of_any_lengths() {
    Z_IMAGE.computes_what_diffusers_computes();
}

#[test]
fn the_prior_of_one_stream_equals_literal_attention_maps() {
    Z_IMAGE.prior_equals_literal_attention_maps();
}

#[test]
fn products_in_bf16_and_the_composed_forms_of_half_precision_stay_near_the_reference() {
    Z_IMAGE.stays_near_the_reference_in_half_precision();
}

#[test]
fn a_sample_does_not_depend_on_what_stands_beside_it_nor_on_the_length_of_its_text() {
    Z_IMAGE.computes_each_sample_by_itself();
}

#[test]
fn samples_texts_and_priors_that_do_not_fit_are_errors() {
    let case = Z_IMAGE.case("turbo");
    let fails = |height: usize, width: usize, lengths: Vec<usize>, prior: Prior| {
        let sample = Activation::from(field("sample", &[1, height, width, 4]));
        let cond = conditions(&case.model, field("context", &[1, 110, 20]), Some(lengths)).unwrap();
        case.model.forward(&sample, 500.0, &cond, prior).is_err()
    };
    let text = || vec![9];
    assert!(!fails(24, 4, text(), Prior::None), "the whole table");
    assert!(fails(26, 4, text(), Prior::None) && fails(4, 26, text(), Prior::None));
    assert!(fails(5, 4, text(), Prior::None), "no whole patches");
    assert!(!fails(4, 4, vec![96], Prior::None), "the longest text");
    for lengths in [vec![97], vec![0], vec![], vec![3, 3]] {
        assert!(fails(4, 4, lengths, Prior::None));
    }
    let layers = drawn_prior(&case.model, (4, 4), 48);
    assert!(!fails(4, 4, text(), Prior::Blend { layers: &layers, weight: 0.5 }));
    assert!(fails(4, 4, text(), Prior::Blend { layers: &layers[1..], weight: 0.5 }), "one too few");
    assert!(fails(4, 6, text(), Prior::Blend { layers: &layers, weight: 0.5 }), "another size");
    let unmasked = conditions(&case.model, field("context", &[1, 7, 20]), None);
    assert!(unmasked.unwrap_err().to_string().contains("lengths"));
    let shape = case.model.shape().unwrap();
    assert_eq!((shape.native, shape.multiple, shape.largest), (24, 2, Some(24)));
}

#[test]
fn steps_are_those_of_the_pipelines_list() {
    let text = fs::read_to_string(fixture("z_image/schedule.json")).unwrap();
    let table: Value = serde_json::from_str(&text).unwrap();
    let config = SchedulerConfig::from_json(&table["config"].to_string()).unwrap();
    let even = config.clone().of_even_sigmas();
    let steps = |config: &SchedulerConfig, n: usize| {
        let sampler = SamplerKind::FlowEuler.build(config, None).unwrap();
        sampler.steps(&Schedule::new(config).unwrap(), n).unwrap()
    };
    let mut compared = 0;
    for (n, expected) in table["steps"].as_object().unwrap() {
        let ours = steps(&even, n.parse().unwrap());
        let expected: Vec<f64> = serde_json::from_value(expected.clone()).unwrap();
        assert_eq!(ours.len(), expected.len());
        for (step, t) in ours.iter().zip(&expected) {
            assert!((step.t - t).abs() <= 1e-3, "{n}: {} for {t}", step.t);
            assert!((step.level.spread * 1000.0 - t).abs() <= 1e-3);
            compared += 1;
        }
    }
    assert_eq!(compared, 70);
    // The scheduler by itself ends nearer to the picture.
    assert!(steps(&config, 8)[7].t + 50.0 < steps(&even, 8)[7].t);
}

#[test]
fn a_missing_weight_is_named() {
    let names = ["cap_pad_token", "layers.2.attention.norm_k.weight", "t_embedder.mlp.2.bias"];
    Z_IMAGE.names_what_is_missing("turbo", &names, |config, vb| {
        let config = ZImageConfig::from_value(config).unwrap();
        ZImageTransformer::load(config, vb).unwrap_err().to_string()
    });
}
