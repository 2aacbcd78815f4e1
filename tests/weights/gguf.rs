//! GGUF files of other programs against diffusers and transformers: the tiny models of
//! `single_file`, packed as stable-diffusion.cpp and ComfyUI-GGUF pack models. That the
//! container is read as llama.cpp's own package writes it, the unit tests of the reader prove.

use std::fs;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::{DType, Device, quantized::GgmlDType};
use cupscale::backend::{pack_rows, unpack_rows};
use cupscale::weights::ModelFiles;
use safetensors::Dtype;

use crate::common::single_file::{Place, Stored, assert_unet, assert_vae, eps, expected, json};
use crate::common::{Shell, models::open, size, tensors::largest_error};

const UNET: &str = "model.diffusion_model.";

/// A tensor of a GGUF file.
struct Tensor {
    name: String,
    /// rows first
    shape: Vec<usize>,
    kind: u32,
    data: Vec<u8>,
}

/// Writes a GGUF file; metadata are texts, or arrays of i32.
fn write(path: &Path, texts: &[(&str, &str)], arrays: &[(String, Vec<i32>)], tensors: &[Tensor]) {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes()[..], text.as_bytes()].concat();
    let mut file = b"GGUF\x03\0\0\0".to_vec();
    file.extend((tensors.len() as u64).to_le_bytes());
    file.extend(((texts.len() + arrays.len()) as u64).to_le_bytes());
    for (key, value) in texts {
        file.extend([text(key), 8u32.to_le_bytes().to_vec(), text(value)].concat());
    }
    for (key, value) in arrays {
        file.extend([text(key), 9u32.to_le_bytes().to_vec(), 5u32.to_le_bytes().to_vec()].concat());
        file.extend((value.len() as u64).to_le_bytes());
        file.extend(value.iter().flat_map(|number| number.to_le_bytes()));
    }
    let mut offset = 0;
    for tensor in tensors {
        // ggml drops dimensions of 1 at the front, but for the last one.
        let ones = tensor.shape.iter().take_while(|&&size| size == 1).count();
        let shape = &tensor.shape[ones.min(tensor.shape.len() - 1)..];
        file.extend(text(&tensor.name));
        file.extend((shape.len() as u32).to_le_bytes());
        file.extend(shape.iter().rev().flat_map(|&size| (size as u64).to_le_bytes()));
        file.extend(tensor.kind.to_le_bytes());
        file.extend((offset as u64).to_le_bytes());
        offset += tensor.data.len().next_multiple_of(32);
    }
    file.resize(file.len().next_multiple_of(32), 0);
    for tensor in tensors {
        file.extend(&tensor.data);
        file.resize(file.len().next_multiple_of(32), 0);
    }
    fs::write(path, file).unwrap();
}

/// The model's tensors in f16, as they are.
fn tensors(stored: &Stored) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    for (name, (dtype, shape, data)) in &stored.tensors {
        // Index buffers: neither program keeps them.
        if *dtype != Dtype::F16 {
            continue;
        }
        // ggml has no scalars.
        let shape = if shape.is_empty() { vec![1] } else { shape.clone() };
        tensors.push(Tensor { name: name.clone(), shape, kind: 1, data: data.clone() });
    }
    tensors
}

/// The same numbers in f32.
fn unrounded(mut tensors: Vec<Tensor>) -> Vec<Tensor> {
    for tensor in &mut tensors {
        let dtype = match tensor.kind {
            1 => GgmlDType::F16,
            2 => GgmlDType::Q4_0,
            7 => GgmlDType::Q5_1,
            8 => GgmlDType::Q8_0,
            12 => GgmlDType::Q4K,
            kind => panic!("{kind}"),
        };
        let values = unpack_rows(dtype, &tensor.data);
        tensor.data = values.into_iter().flat_map(f32::to_le_bytes).collect();
        tensor.kind = 0;
    }
    tensors
}

fn values(data: &[u8]) -> Vec<f32> {
    data.chunks(2).map(|two| half::f16::from_le_bytes([two[0], two[1]]).to_f32()).collect()
}

/// Rounds to a type where rows are whole blocks, as stable-diffusion.cpp does: whatever the tensor.
fn rounded(mut tensors: Vec<Tensor>, dtype: GgmlDType, kind: u32) -> Vec<Tensor> {
    for tensor in &mut tensors {
        let row = tensor.shape.last().copied().unwrap_or(1);
        if row.is_multiple_of(dtype.block_size()) {
            tensor.data = pack_rows(&values(&tensor.data), dtype, row).unwrap();
            tensor.kind = kind;
        }
    }
    tensors
}

/// SDXL's tensors as stable-diffusion.cpp converted them in 2024 (`model.cpp`:
/// `convert_open_clip_to_hf_clip`, `preprocess_tensor`).
fn renamed(tensors: Vec<Tensor>) -> Vec<Tensor> {
    let mut renamed = Vec::new();
    for mut tensor in tensors {
        let mut name = tensor.name.replace("conditioner.embedders.0.", "cond_stage_model.");
        if let Some(rest) = name.strip_prefix("conditioner.embedders.1.model.") {
            if rest == "logit_scale" {
                continue;
            }
            let rest = rest
                .replace("token_embedding.weight", "embeddings.token_embedding.weight")
                .replace("positional_embedding", "embeddings.position_embedding.weight")
                .replace("ln_final", "final_layer_norm")
                .replace("transformer.resblocks", "encoder.layers")
                .replace(".ln_", ".layer_norm")
                .replace("mlp.c_fc", "mlp.fc1")
                .replace("mlp.c_proj", "mlp.fc2")
                .replace("attn.out_proj", "self_attn.out_proj");
            name = format!("cond_stage_model.1.transformer.text_model.{rest}");
        }
        if let Some((before, kind)) = name.split_once("attn.in_proj_") {
            tensor.shape[0] /= 3;
            for (part, data) in
                ["q", "k", "v"].into_iter().zip(tensor.data.chunks(tensor.data.len() / 3))
            {
                renamed.push(Tensor {
                    name: format!("{before}self_attn.{part}_proj.{kind}"),
                    shape: tensor.shape.clone(),
                    kind: tensor.kind,
                    data: data.to_vec(),
                });
            }
            continue;
        }
        let in_unet = name.starts_with(UNET);
        let projection = name.ends_with("proj_in.weight") || name.ends_with("proj_out.weight");
        let attention = name.starts_with("first_stage_model.") && name.contains(".attn_1.");
        if tensor.shape.len() == 2 && (in_unet && projection || attention) {
            tensor.shape.extend([1, 1]);
        }
        renamed.push(Tensor { name, ..tensor });
    }
    renamed
}

fn assert_text(path: &Path, bound: f64) {
    let expected = expected("sdxl");
    let prompts: Vec<String> =
        serde_json::from_value(json("tokens.json")["prompts"].clone()).unwrap();
    let files = open(path).unwrap();
    let text = files.text(&Device::Cpu, DType::F32).unwrap().encode(&prompts).unwrap();
    let context = largest_error(&text.context, &expected["text"]);
    let pooled = largest_error(text.pooled.as_ref().unwrap(), &expected["text_pooled"]);
    assert!(context <= bound && pooled <= bound, "{context:e} {pooled:e}");
}

#[test]
fn what_stable_diffusion_cpp_writes_computes_what_diffusers_does() {
    let place = Place::new();
    let path = place.0.path().join("model.bin-or-so");
    for family in ["sdxl", "sd15", "sd2"] {
        write(&path, &[], &[], &tensors(&Stored::family(family)));
        let files = open(&path).unwrap();
        files.check_parts().unwrap();
        for files in [files.clone(), files.keep_above(0)] {
            assert_unet(&files, &expected(family));
            assert_vae(&files, &expected(family));
        }
    }
}

#[test]
fn what_it_wrote_when_it_still_renamed_tensors_does_so_too() {
    let place = Place::new();
    let path = place.0.path().join("model.gguf");
    write(&path, &[], &[], &renamed(tensors(&Stored::family("sdxl"))));
    let files = open(&path).unwrap();
    assert_eq!(files.notes(), Vec::<String>::new());
    assert_unet(&files, &expected("sdxl"));
    assert_vae(&files, &expected("sdxl"));
    assert_text(&path, 1e-4);
}

/// A file of quantized tensors and one of the same numbers in f32 are the same model; parts that are
/// kept as stored have f16 where blocks lie across the ends of rows.
fn assert_same_unet(quantized: &ModelFiles, plain: &ModelFiles, what: &str) {
    let expected = expected("sdxl");
    let reference = eps(&plain.clone().keep_above(usize::MAX), &expected);
    assert!(largest_error(&reference, &expected["eps"]) > 1e-3, "{what}: nothing was rounded");
    for (keep_above, bound) in [(usize::MAX, 1e-5), (0, 5e-3)] {
        let ours = eps(&quantized.clone().keep_above(keep_above), &expected);
        let error = largest_error(&ours, &reference);
        assert!(error <= bound, "{what}, {keep_above}: {error:e}");
    }
}

#[test]
fn what_stable_diffusion_cpp_quantized_is_the_same_model_as_its_numbers_in_f32() {
    let place = Place::new();
    let path = |name: &str| place.0.path().join(name);
    let prompts = ["a photo of the old harbour at dusk, blue sky!"];
    let context = |files: &ModelFiles| {
        let text = files.text(&Device::Cpu, DType::F32).unwrap().encode(&prompts).unwrap();
        (text.context.into_tensor().unwrap(), text.pooled.unwrap().into_tensor().unwrap())
    };
    // Norms, biases and embeddings too, and the text projection that is stored the other way round.
    for (dtype, kind) in [(GgmlDType::Q8_0, 8), (GgmlDType::Q5_1, 7), (GgmlDType::Q4_0, 2)] {
        for model in [tensors, |stored: &Stored| renamed(tensors(stored))] {
            let rounded = rounded(model(&Stored::family("sdxl")), dtype, kind);
            write(&path("quantized"), &[], &[], &rounded);
            write(&path("plain"), &[], &[], &unrounded(rounded));
            let [quantized, plain] = ["quantized", "plain"].map(|name| open(&path(name)).unwrap());
            assert_same_unet(&quantized, &plain, &format!("{dtype:?}"));
            let (ours, reference) = (context(&quantized), context(&plain));
            let errors =
                [largest_error(&ours.0, &reference.0), largest_error(&ours.1, &reference.1)];
            assert!(errors.iter().all(|&error| error <= 1e-5), "{dtype:?}: {errors:?}");
        }
    }
}

/// Writes the UNet alone as ComfyUI-GGUF does: without its prefix, and with what has rows of no
/// whole number of 256 put into such rows.
fn write_comfy(path: &Path, stored: &Stored, finish: impl Fn(Vec<Tensor>) -> Vec<Tensor>) {
    let mut shapes = Vec::new();
    let mut unet = tensors(&stored.part(UNET, str::to_owned));
    for tensor in unet.iter_mut().filter(|tensor| tensor.shape.len() > 1) {
        let count: usize = tensor.shape.iter().product();
        let row = tensor.shape.last().copied().unwrap_or(1);
        if count.is_multiple_of(256) && !row.is_multiple_of(256) {
            let shape = tensor.shape.iter().map(|&size| size as i32).collect();
            shapes.push((format!("comfy.gguf.orig_shape.{}", tensor.name), shape));
            tensor.shape = vec![count / 256, 256];
        }
    }
    assert!(shapes.len() > 20);
    write(path, &[("general.architecture", "sdxl")], &shapes, &finish(unet));
}

#[test]
fn comfyui_ggufs_unet_takes_the_place_of_a_models_own() {
    let place = Place::new();
    let stored = Stored::family("sdxl");
    let mut empty = stored.clone();
    for (_, (_, _, data)) in empty.tensors.iter_mut().filter(|(name, _)| name.starts_with(UNET)) {
        data.fill(0);
    }
    let model = place.save("model.safetensors", &empty);
    let path = |name: &str| place.0.path().join(name);
    let with = |name: &str| open(&model).unwrap().with_denoiser(&path(name)).unwrap();
    write_comfy(&path("unet.gguf"), &stored, |unet| unet);
    assert_unet(&with("unet.gguf"), &expected("sdxl"));
    for (dtype, kind) in [(GgmlDType::Q8_0, 8), (GgmlDType::Q4K, 12)] {
        write_comfy(&path("quantized"), &stored, |unet| rounded(unet, dtype, kind));
        write_comfy(&path("plain"), &stored, |unet| unrounded(rounded(unet, dtype, kind)));
        assert_same_unet(&with("quantized"), &with("plain"), &format!("{dtype:?}"));
    }
    let alone = open(&path("unet.gguf")).unwrap_err().to_string();
    assert!(alone.ends_with("use it as the UNet of a whole model"), "{alone}");
}

#[test]
fn our_own_file_of_any_model_gives_its_parts_to_others() {
    let place = Place::new();
    let model = place.save("model.safetensors", &Stored::family("sdxl"));
    let ours = place.0.path().join("ours.gguf");
    let quant = cupscale::weights::QuantType::F16;
    open(&model).unwrap().quantize(quant, &ours, &mut |_, _| ControlFlow::Continue(())).unwrap();
    let expected = expected("sdxl");
    assert_unet(&open(&ours).unwrap(), &expected);
    assert_vae(&open(&ours).unwrap(), &expected);
    assert_text(&ours, 1e-4);
    let files = open(&model).unwrap().with_denoiser(&ours).unwrap().with_vae(&ours).unwrap();
    assert_unet(&files, &expected);
    assert_vae(&files, &expected);
}

#[test]
fn files_that_cannot_be_used_say_why_in_one_line() {
    let place = Place::new();
    let path = place.0.path().join("model.gguf");
    let complaint = || {
        let text = open(&path).unwrap_err().to_string();
        assert!(text.starts_with(&path.display().to_string()) && !text.contains('\n'), "{text}");
        text
    };
    let zeros = |name: &str, shape: &[usize]| Tensor {
        name: name.to_owned(),
        shape: shape.to_vec(),
        kind: 1,
        data: vec![0; 2 * shape.iter().product::<usize>()],
    };
    let key = "comfy.gguf.orig_shape.w".to_owned();
    write(&path, &[], &[(key, vec![3, 5])], &[zeros("w", &[4, 4])]);
    assert!(complaint().contains("`comfy.gguf.orig_shape.w` is no shape of 16 weights"));
    let clip = "transformer.text_model.embeddings.token_embedding.weight";
    write(&path, &[], &[], &[zeros(&format!("cond_stage_model.{clip}"), &[2, 1024])]);
    assert!(complaint().contains("SD 2 with its text encoder renamed"));
    write(&path, &[("general.architecture", "llama")], &[], &[zeros("token_embd.weight", &[2, 2])]);
    assert!(complaint().contains("it has no UNet"));
    write(&path, &[("general.architecture", "cupscale")], &[], &[zeros("w", &[2])]);
    assert!(complaint().contains("cupscale.model_index"));
    fs::write(&path, &fs::read(&path).unwrap()[..40]).unwrap();
    assert!(complaint().contains("cut short"));
    let fused =
        "cond_stage_model.1.transformer.text_model.encoder.layers.0.self_attn.in_proj.weight";
    let mut model = renamed(tensors(&Stored::family("sdxl")));
    model.push(zeros(fused, &[3, 1]));
    write(&path, &[], &[], &model);
    assert!(complaint().contains("--convert-name: not supported"));
}

#[test]
fn the_program_runs_a_model_of_stable_diffusion_cpp() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 24);
    let model = rounded(tensors(&Stored::family("sd15")), GgmlDType::Q8_0, 8);
    write(&shell.path("model.gguf"), &[], &[], &model);
    shell.succeed("in.png -o out.png --model model.gguf --steps 4 --denoise-steps 2 -s 2 -q");
    assert_eq!(size(&shell.path("out.png")), (80, 48));
}
