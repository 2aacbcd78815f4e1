//! The relatives of LoRA (LoHa, LoKr, DoRA, OFT, BOFT, GLoRA, IA³, differences) against LyCORIS and peft (fixtures by
//! `tests/make_fixtures/make_adapter_fixtures.py`), weights of blocks, and the files that are refused.

use std::collections::HashMap;
use std::fs;
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
use cupscale::weights::{LoraScale, ModelFiles, QuantType};
use serde_json::Value;

use crate::common::{Shell, fixture, models::open, tensors::largest_error};
use crate::lora::{refusal, sdxl, weight};

/// Largest relative error of a merged weight.
const BAR: f64 = 1e-5;
const TO_Q: &str = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q";

fn adapter(name: &str) -> PathBuf {
    fixture(&format!("adapters/{name}.safetensors"))
}

fn tensors(name: &str) -> HashMap<String, Tensor> {
    candle_core::safetensors::load(adapter(name), &Device::Cpu).unwrap()
}

/// The plain model with these files.
fn with(files: &[(&str, LoraScale)]) -> ModelFiles {
    files.iter().fold(sdxl(), |model, (file, scale)| {
        let model = model.with_lora(&adapter(file), scale.clone()).unwrap();
        assert_eq!(model.notes(), Vec::<String>::new(), "{file}");
        model
    })
}

/// Checks every weight of an expectation; also that a plain model has others.
#[track_caller]
fn check(case: &str, model: &ModelFiles) {
    let (plain, mut furthest) = (sdxl(), 0f64);
    for (name, expected) in tensors(&format!("expected_{case}")) {
        let ours = weight(model, &name, expected.dims(), DType::F32);
        let error = largest_error(&ours, &expected);
        assert!(error <= BAR, "{case}, {name}: {error:.2e}");
        let before = weight(&plain, &name, expected.dims(), DType::F32);
        assert_ne!(
            before.flatten_all().unwrap().to_vec1::<f32>().unwrap(),
            flat(&expected),
            "{name}"
        );
        furthest = furthest.max(error);
    }
    println!("{case}: {furthest:.1e}");
}

fn flat(tensor: &Tensor) -> Vec<f32> {
    tensor.flatten_all().unwrap().to_vec1().unwrap()
}

/// `W + share·(W' − W)` of an expectation against the model, where the share follows from the weight's name.
#[track_caller]
fn check_share(case: &str, model: &ModelFiles, share: impl Fn(&str) -> f64) {
    let plain = sdxl();
    for (name, changed) in tensors(&format!("expected_{case}")) {
        let before = weight(&plain, &name, changed.dims(), DType::F32);
        let change = ((changed - &before).unwrap() * share(&name)).unwrap();
        let expected = (before + change).unwrap();
        let error = largest_error(&weight(model, &name, expected.dims(), DType::F32), &expected);
        assert!(error <= BAR, "{case}, {name}: {error:.2e}");
    }
}

#[test]
fn every_kind_of_lycoris_equals_lycoris() {
    let cases: Value =
        serde_json::from_slice(&fs::read(fixture("adapters/cases.json")).unwrap()).unwrap();
    for case in ["loha", "lokr", "dora", "oft", "boft", "boft_less", "rescaled", "other", "sgm"] {
        let files = cases[case].as_array().unwrap().iter();
        let files: Vec<_> = files
            .map(|pair| (pair[0].as_str().unwrap(), LoraScale::from(pair[1].as_f64().unwrap())))
            .collect();
        check(case, &with(&files));
    }
}

#[test]
fn every_kind_of_peft_equals_peft() {
    for kind in ["loha", "lokr", "dora", "oft", "series", "shared"] {
        let case = format!("peft_{kind}");
        let file = format!("{case}/adapter_model");
        check(&case, &with(&[(&file, 1.0.into())]));
        check_share(&case, &with(&[(&file, 0.4.into())]), |_| 0.4);
    }
    check("peft_dora", &with(&[("pipeline", 1.0.into())]));
}

#[test]
fn several_adapters_follow_one_another_in_the_order_in_which_they_are_given() {
    check("two", &with(&[("dora", 1.0.into()), ("oft", 0.7.into()), ("loha", 0.5.into())]));
    check("two_turned", &with(&[("oft", 0.7.into()), ("dora", 1.0.into())]));
}

#[test]
fn a_scale_between_0_and_1_is_a_share_of_the_way() {
    for case in ["loha", "dora"] {
        for scale in [-0.6, 0.25, 1.5] {
            check_share(case, &with(&[(case, scale.into())]), |_| scale);
        }
    }
    // Nothing of an adapter is left at 0, not even its lengths.
    for file in ["loha", "lokr", "dora", "oft", "boft", "rescaled", "other"] {
        let model = with(&[(file, 0.0.into())]);
        let (name, shape) = (format!("unet/{TO_Q}.weight"), [16, 16]);
        let [ours, plain] = [&model, &sdxl()].map(|model| weight(model, &name, &shape, DType::F32));
        assert!(largest_error(&ours, &plain) <= 1e-7, "{file}");
    }
}

#[test]
fn blocks_have_weights_of_their_own() {
    // BASE, IN00 to IN03, M00, OUT00 to OUT03; then those with attention alone.
    let all = vec![0.5, 0.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9];
    let few = vec![0.5, 0.3, 0.4, 0.6, 0.7];
    for (blocks, expected) in [(all, [0.5, 0.1, 0.2, 0.3, 0.4]), (few, [0.5, 0.0, 0.0, 0.3, 0.4])] {
        let [base, first, second, third, middle] = expected;
        let model = with(&[("loha", LoraScale { scale: 2.0, blocks })]);
        check_share("loha", &model, |name| {
            2.0 * match name {
                _ if name.starts_with("text_encoder") => base,
                _ if name.contains("down_blocks.0.resnets") => first,
                _ if name.contains("down_blocks.0.downsamplers") => second,
                _ if name.contains("down_blocks.1") => third,
                _ if name.contains("mid_block") => middle,
                _ => panic!("{name}"),
            }
        });
    }
    for count in [1, 4, 6, 9, 11, 26] {
        let scale = LoraScale { scale: 1.0, blocks: vec![1.0; count] };
        let error = sdxl().with_lora(&adapter("loha"), scale).unwrap_err().to_string();
        let expected = format!("{count} weights of blocks: this model takes 10 or 5 (BASE, ");
        assert!(error.contains(&expected), "{error}");
    }
    let scale = LoraScale { scale: 1.0, blocks: vec![1.0; 5] };
    let other = open(&fixture("pixart_job/model")).unwrap();
    let error = other.with_lora(&adapter("loha"), scale).unwrap_err().to_string();
    assert!(error.contains("weights of blocks are for UNets"), "{error}");
}

#[test]
fn a_quantized_model_is_changed_before_it_is_rounded_again() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("small.gguf");
    sdxl()
        .quantize(QuantType::Q8_0, &file, &mut |_, _| std::ops::ControlFlow::Continue(()))
        .unwrap();
    let quantized = || open(&file).unwrap();
    for case in ["dora", "loha"] {
        let model = quantized().with_lora(&adapter(case), 1.0).unwrap();
        for (name, expected) in tensors(&format!("expected_{case}")) {
            let ours = weight(&model, &name, expected.dims(), DType::F32);
            let error = largest_error(&ours, &expected);
            assert!(error <= 0.02, "{case}, {name}: {error:.2e}");
        }
    }
}

/// The adapter with some tensors replaced or taken out.
fn edited(
    name: &str,
    edit: impl FnOnce(&mut HashMap<String, Tensor>),
) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("edited.safetensors");
    let mut tensors = tensors(name);
    edit(&mut tensors);
    candle_core::safetensors::save(&tensors, &path).unwrap();
    (dir, path)
}

#[test]
fn tensors_that_do_not_fit_are_refused_in_one_line() {
    let to_q = format!("lora_unet_{}", TO_Q.replace('.', "_"));
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
    for (file, end, shape, expected) in [
        ("loha", "hada_w1_a", Some(&[16, 3][..]), "hada_w1_a [16, 3], hada_w2_a [16, 2]"),
        ("loha", "hada_w2_b", Some(&[2, 17]), "do not make `"),
        ("loha", "hada_w2_b", Some(&[0, 16]), "has rank 0"),
        ("loha", "hada_w2_b", Some(&[100_000, 16]), "do not make `"),
        ("loha", "hada_w2_b", None, "has no hada_w2_b"),
        ("loha", "hada_t1", Some(&[2, 2, 3, 3]), "do not make `"),
        ("lokr", "lokr_w1", Some(&[4, 5]), "lokr_w1 [4, 5]"),
        ("lokr", "lokr_w1", None, "has no lokr_w1"),
        ("lokr", "lokr_w2_a", Some(&[5, 1]), "do not make `"),
        ("lokr", "lokr_w2_b", None, "has no lokr_w2_b"),
        ("lokr", "lokr_t2", Some(&[1, 1]), "do not make `"),
        ("lokr", "lokr_w2", Some(&[4, 1_000_000]), "do not make `"),
        ("dora", "dora_scale", Some(&[17, 1]), "has the lengths of neither rows nor inputs of `"),
        ("dora", "dora_scale", Some(&[16, 16]), "has the lengths of neither rows nor inputs of `"),
        ("dora", "lora_magnitude_vector", Some(&[15]), "has the lengths of neither"),
        ("oft", "oft_blocks", Some(&[4, 4, 3]), "cannot turn `"),
        ("oft", "oft_blocks", Some(&[5, 4, 4]), "5 blocks of 4 rows do not make 16"),
        ("oft", "oft_blocks", Some(&[4, 4, 4, 4]), "cannot turn `"),
        ("oft", "rescale", Some(&[15, 1]), "has not one number for each of 16 rows"),
        ("oft", "hada_w1_a", Some(&[16, 2]), "is both LoHa and OFT"),
        ("oft", "dora_scale", Some(&[16, 1]), "is both DoRA and OFT"),
        ("oft", "diff_b", Some(&[16]), "attn1.to_q.bias`, which this model has not"),
        ("other", "weight", Some(&[17]), "do not make `"),
        ("other", "on_input", Some(&[3]), "is not one number"),
        ("other", "diff", Some(&[16, 16]), "is both a difference and IA³"),
    ] {
        let (_dir, path) = edited(file, |tensors| {
            let key = format!("{to_q}.{end}");
            match shape {
                Some(shape) => drop(tensors.insert(key, zeros(shape))),
                None => drop(tensors.remove(&key).unwrap()),
            }
        });
        let message = refusal(sdxl(), &path, 1.0);
        assert!(message.contains(expected), "{file} {end}: {message}");
    }
    for end in ["a1", "a2", "b1", "b2"] {
        let (_dir, path) = edited("other", |tensors| {
            let key = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_out_0";
            tensors.insert(format!("{key}.{end}.weight"), zeros(&[7, 7])).unwrap();
        });
        let message = refusal(sdxl(), &path, 1.0);
        assert!(message.contains("do not make `mid_block.attentions.0"), "{end}: {message}");
    }
}

#[test]
fn a_whole_matrix_that_is_turned_has_to_be_whole_here_too() {
    let key = "lora_te2_transformer_resblocks_1_attn_in_proj";
    let width = 3 * tensors("expected_sgm")
        .iter()
        .find(|(name, _)| name.contains("k_proj"))
        .map(|(_, weight)| weight.dims()[0])
        .unwrap();
    let blocks = Tensor::zeros((width / 2, 2, 2), DType::F32, &Device::Cpu).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("turned.safetensors");
    let one = HashMap::from([(format!("{key}.oft_blocks"), blocks)]);
    candle_core::safetensors::save(&one, &path).unwrap();
    let message = refusal(sdxl(), &path, 1.0);
    assert!(message.starts_with(&format!("`{key}` is kept in several weights here")), "{message}");
}

#[test]
fn a_value_that_is_not_finite_is_named() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 24);
    let (_dir, path) = edited("dora", |tensors| {
        let key = format!("lora_unet_{}.dora_scale", TO_Q.replace('.', "_"));
        let bad = Tensor::full(f32::NAN, (16, 1), &Device::Cpu).unwrap();
        tensors.insert(key, bad).unwrap();
    });
    let model = fixture("img2img/model").display().to_string();
    let line = shell.fail(
        &format!("in.png --scale 2 --model {model} --lora {} -o out.png --quiet", path.display()),
        1,
    );
    assert!(line.contains("dora_scale"), "{line}");
}

#[test]
fn weights_of_blocks_are_a_part_of_the_picture_and_of_its_record() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 24);
    let model = fixture("img2img/model").display().to_string();
    let file = adapter("loha").display().to_string();
    let base = format!("in.png --scale 2 --model {model} --lora {file}");
    shell.succeed(&format!("{base}:1 -o all.png"));
    shell.succeed(&format!("{base}:1:1,1,1,1,1 -o few.png"));
    shell.succeed(&format!("{base}:1:lbw=0,0,0,0,0 -o none.png"));
    shell.succeed(&format!("in.png --scale 2 --model {model} -o plain.png"));
    assert_ne!(shell.bytes("all.png"), shell.bytes("few.png"));
    assert_ne!(shell.bytes("few.png"), shell.bytes("none.png"));
    let out = shell.run("info few.png --json");
    let text = String::from_utf8(out.stdout).unwrap();
    let text: String = text.split_whitespace().collect();
    assert!(text.contains("[\"loha.safetensors\",1.0,[1.0,1.0,1.0,1.0,1.0]]"), "{text}");
    let line = shell.fail(&format!("{base}:1:1,1 -o out.png"), 1);
    assert!(line.contains("2 weights of blocks: this model takes 10 or 5"), "{line}");
}
