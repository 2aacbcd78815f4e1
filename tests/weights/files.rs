//! Weights as diffusers saves them (fixtures by tests/make_fixtures/make_vae_fixtures.py): whole, in
//! shards, in variants; and what is said when they are not as they should be.

use std::fs;
use std::path::{Path, PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::pipeline::Engine;
use cupscale::weights::{ModelFiles, ModelSource, Part, WeightsError};
use tempfile::TempDir;

use crate::common::{copy_folder, models, tensors::norm_error};

fn fixture(name: &str) -> PathBuf {
    crate::common::fixture("weights").join(name)
}

/// A copy of a fixture that a test may break.
fn copied(name: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    copy_folder(&fixture(name), &model);
    (dir, model)
}

fn open(folder: &Path) -> ModelFiles {
    models::open(folder).unwrap()
}

fn vae_error(folder: &Path) -> WeightsError {
    open(folder).vae(&Device::Cpu, DType::F32).unwrap_err()
}

#[test]
fn shards_and_variants_saved_by_diffusers_compute_what_diffusers_does() {
    for name in ["sharded", "sharded_fp16", "variant_bf16"] {
        let vae = open(&fixture(name)).vae(&Device::Cpu, DType::F32).unwrap();
        let expected =
            safetensors::load(fixture(name).join("expected.safetensors"), &Device::Cpu).unwrap();
        let error =
            norm_error(&vae.decode(&(&expected["z"]).into()).unwrap(), &expected["decoded"]);
        assert!(error <= 1e-4, "{name}: {error:e}");
        let error =
            norm_error(&vae.encode(&(&expected["image"]).into()).unwrap(), &expected["latent"]);
        assert!(error <= 1e-4, "{name}: {error:e}");
    }
}

#[test]
fn weights_are_converted_to_the_precision_asked_for() {
    for dtype in [DType::F16, DType::BF16, DType::F32] {
        let component =
            open(&fixture("sharded_fp16")).component(Part::Vae, &Device::Cpu, dtype).unwrap();
        assert_eq!(component.class, "AutoencoderTiny");
        let weight = component.params.get((4, 3, 3, 3), "encoder.layers.0.weight").unwrap();
        assert_eq!(weight.dtype(), dtype);
    }
}

#[test]
fn the_variant_in_the_wanted_precision_is_read_where_there_is_a_choice() {
    let (_dir, model) = copied("variant_bf16");
    let vae = model.join("vae");
    fs::write(vae.join("diffusion_pytorch_model.safetensors"), b"not read").unwrap();
    assert!(open(&model).component(Part::Vae, &Device::Cpu, DType::BF16).is_ok());
    let error = open(&model).component(Part::Vae, &Device::Cpu, DType::F32).err().unwrap();
    assert!(matches!(error, WeightsError::Safetensors { .. }), "{error}");
}

#[test]
fn a_variant_of_any_name_is_read_where_there_is_no_other() {
    let (_dir, model) = copied("variant_bf16");
    let vae = model.join("vae");
    let file = |variant: &str| vae.join(format!("diffusion_pytorch_model.{variant}.safetensors"));
    let bits = |model: &Path| {
        let component = open(model).component(Part::Vae, &Device::Cpu, DType::F32).unwrap();
        let weight = component.params.get((4, 3, 3, 3), "encoder.layers.0.weight").unwrap();
        weight.flatten_all().unwrap().to_vec1::<f32>().unwrap()
    };
    let expected = bits(&model);
    fs::rename(file("bf16"), file("fp32")).unwrap();
    assert_eq!(bits(&model), expected);
    fs::rename(file("fp32"), file("ema")).unwrap();
    fs::write(file("non_ema"), b"not read").unwrap();
    assert_eq!(bits(&model), expected);
    let (_dir, sharded) = copied("sharded");
    let index = sharded.join("vae/diffusion_pytorch_model.safetensors.index.json");
    fs::rename(&index, index.with_extension("ema.json")).unwrap();
    assert!(open(&sharded).vae(&Device::Cpu, DType::F32).is_ok());
    fs::write(index, r#"{"weight_map": {}}"#).unwrap();
    assert!(vae_error(&sharded).to_string().ends_with("its `weight_map` is empty"));
}

#[cfg(unix)]
#[test]
fn a_repository_in_the_hubs_cache_is_the_snapshot_that_it_names() {
    use std::os::unix::fs::symlink;
    let (dir, model) = copied("variant_bf16");
    let cached = dir.path().join("models--tests--tiny");
    // Every file of a snapshot is a link to a blob without an extension.
    let vae = cached.join("snapshots/0a1b/vae");
    fs::create_dir_all(&vae).unwrap();
    fs::create_dir_all(cached.join("blobs")).unwrap();
    let files =
        ["model_index.json", "vae/config.json", "vae/diffusion_pytorch_model.bf16.safetensors"];
    for (index, file) in files.into_iter().enumerate() {
        let blob = cached.join("blobs").join(format!("{index:064x}"));
        fs::rename(model.join(file), &blob).unwrap();
        symlink(&blob, cached.join("snapshots/0a1b").join(file)).unwrap();
    }
    assert!(open(&cached).vae(&Device::Cpu, DType::F32).is_ok());
    // Of several, the one that is the repository's main branch.
    fs::create_dir_all(cached.join("snapshots/ffff")).unwrap();
    let error = ModelFiles::open(ModelSource::Path(cached.clone())).unwrap_err();
    assert!(matches!(error, WeightsError::NotDiffusers(_)), "{error}");
    fs::create_dir_all(cached.join("refs")).unwrap();
    fs::write(cached.join("refs/main"), "0a1b").unwrap();
    let files = open(&cached);
    assert!(files.vae(&Device::Cpu, DType::F32).is_ok());
    assert_eq!(*files.source(), ModelSource::Path(cached.join("snapshots/0a1b")));
    // Also as the place of a part.
    assert!(files.with_vae(&cached).unwrap().vae(&Device::Cpu, DType::F32).is_ok());
}

#[test]
fn what_is_no_model_folder_is_refused_for_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: PathBuf| ModelFiles::open(ModelSource::Path(path)).unwrap_err().to_string();
    let path = |name: &str| dir.path().join(name);
    assert!(open(path("absent")).ends_with("absent: no such model folder or file"));
    assert!(open(path("")).contains("not a model in diffusers layout (no model_index.json)"));
    fs::write(path("model.xyz"), b"").unwrap();
    assert!(open(path("model.xyz")).contains("model.xyz: not a weights file that is known"));
    fs::write(path("model.ckpt"), b"").unwrap();
    assert!(open(path("model.ckpt")).contains("pickled"));
    assert!(open(path("")).contains("model.ckpt: pickled"));
    fs::write(path("model_index.json"), b"{\n\n oops").unwrap();
    let error = open(path(""));
    assert!(
        error.contains("model_index.json: not valid JSON") && error.contains("line 3"),
        "{error}"
    );
}

#[test]
fn a_missing_part_is_named_with_its_file() {
    let (_dir, model) = copied("sharded");
    fs::remove_file(model.join("vae/diffusion_pytorch_model-00003-of-00006.safetensors")).unwrap();
    let error = vae_error(&model).to_string();
    let expected = format!(
        "{}: the VAE is missing (vae/diffusion_pytorch_model-00003-of-00006.safetensors)",
        model.display()
    );
    assert_eq!(error, expected);

    let error = Engine::load(&open(&model), &Device::Cpu).err().unwrap().to_string();
    assert!(
        error.ends_with("the scheduler is missing (scheduler/scheduler_config.json)"),
        "{error}"
    );

    fs::remove_file(model.join("vae/config.json")).unwrap();
    assert!(vae_error(&model).to_string().ends_with("the VAE is missing (vae/config.json)"));
    let error = open(&model).text(&Device::Cpu, DType::F32).unwrap_err().to_string();
    assert!(
        error.ends_with("the text encoder is missing (model_index.json names none)"),
        "{error}"
    );
}

#[test]
fn pickled_weights_are_refused_with_the_reason() {
    let (_dir, model) = copied("variant_bf16");
    let vae = model.join("vae");
    let pickle = vae.join("diffusion_pytorch_model.bin");
    fs::rename(vae.join("diffusion_pytorch_model.bf16.safetensors"), &pickle).unwrap();
    // The name alone makes no pickle.
    assert!(open(&model).vae(&Device::Cpu, DType::F32).is_ok());
    fs::write(&pickle, b"PK\x03\x04 and more").unwrap();
    let error = vae_error(&model).to_string();
    assert!(error.contains("diffusion_pytorch_model.bin: pickled weights"), "{error}");
    assert!(error.contains("safetensors"), "{error}");
}

#[test]
fn truncated_or_foreign_weights_name_the_file() {
    let (_dir, model) = copied("variant_bf16");
    let weights = model.join("vae/diffusion_pytorch_model.bf16.safetensors");
    let bytes = fs::read(&weights).unwrap();
    for (page, reason) in [
        ("<!doctype html>", "this is an HTML page, not weights"),
        ("version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer, not weights"),
    ] {
        fs::write(&weights, page).unwrap();
        let text = vae_error(&model).to_string();
        assert!(text.starts_with(&format!("{}: {reason}", weights.display())), "{text}");
        let config = model.join("vae/config.json");
        let whole = fs::read(&config).unwrap();
        fs::write(&config, page).unwrap();
        let text = vae_error(&model).to_string();
        let reason = reason.replace("not weights", "not the file itself");
        assert!(text.starts_with(&format!("{}: {reason}", config.display())), "{text}");
        fs::write(&config, whole).unwrap();
    }
    for damaged in [&bytes[..bytes.len() - 1], &bytes[..200], &bytes[..4], &[], &[b'x'; 5000]] {
        fs::write(&weights, damaged).unwrap();
        let error = vae_error(&model);
        assert!(matches!(error, WeightsError::Safetensors { .. }), "{error}");
        let text = error.to_string();
        assert!(text.starts_with(&weights.display().to_string()), "{text}");
        assert!(!text.contains('\n'), "{text}");
    }
}

#[test]
fn a_missing_or_misshapen_tensor_is_named_with_its_file() {
    let (_dir, model) = copied("variant_bf16");
    let weights = model.join("vae/diffusion_pytorch_model.bf16.safetensors");
    let config = model.join("vae/config.json");
    let text = fs::read_to_string(&config).unwrap();

    fs::write(&config, text.replace("\"latent_channels\": 4", "\"latent_channels\": 5")).unwrap();
    let error = vae_error(&model).to_string();
    let wrong = format!("{}: tensor `encoder.layers.4.bias` is [4], ", weights.display());
    assert!(error.starts_with(&wrong), "{error}");

    let mut tensors = safetensors::load(&weights, &Device::Cpu).unwrap();
    tensors.remove("decoder.layers.0.bias");
    safetensors::save(&tensors, &weights).unwrap();
    fs::write(&config, text).unwrap();
    let error = vae_error(&model).to_string();
    let missing = format!("{}: tensor `decoder.layers.0.bias` is missing", weights.display());
    assert_eq!(error, missing);
}

#[test]
fn a_tensor_that_no_configuration_asks_for_is_noted() {
    let model = crate::common::fixture("img2img/model");
    assert_eq!(open(&model).notes(), Vec::<String>::new());
    let dir = tempfile::tempdir().unwrap();
    copy_folder(&model, dir.path());
    for (file, name) in [
        ("unet/diffusion_pytorch_model.safetensors", "down_blocks.7.x"),
        ("text_encoder_2/model.safetensors", "text_model.y"),
    ] {
        let weights = dir.path().join(file);
        let mut tensors = safetensors::load(&weights, &Device::Cpu).unwrap();
        let zero = Tensor::zeros(1, DType::F32, &Device::Cpu).unwrap();
        tensors.insert(name.to_owned(), zero.clone());
        tensors.insert("text_model.embeddings.position_ids".to_owned(), zero);
        safetensors::save(&tensors, &weights).unwrap();
    }
    let notes = open(dir.path()).notes();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(
        notes[0].contains("unet") && notes[0].ends_with("tensor `down_blocks.7.x` is not used")
    );
    assert!(notes[1].ends_with("tensor `text_model.y` is not used"));
}

#[test]
fn an_unsupported_configuration_names_file_and_field() {
    let (_dir, model) = copied("variant_bf16");
    let config = model.join("vae/config.json");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, text.replace("\"relu\"", "\"mish\"")).unwrap();
    let error = vae_error(&model).to_string();
    assert!(error.starts_with(&config.display().to_string()), "{error}");
    assert!(error.contains("`act_fn` = mish is not supported (relu)"), "{error}");
}

#[test]
fn a_shard_outside_its_folder_is_refused() {
    let (_dir, model) = copied("sharded");
    let index = model.join("vae/diffusion_pytorch_model.safetensors.index.json");
    let text = fs::read_to_string(&index).unwrap();
    let long = "x".repeat(1 << 16);
    for (name, shown) in [
        ("../unet/x", "`../unet/x-00001"),
        ("/etc/x", "`/etc/x-00001"),
        ("C:x", "`C:x-00001"),
        (r"a\\b", r"`a\b-00001"),
        (r"a\u001b[31m\n", r"`a\u{1b}[31m\n-00001"),
        (&long, "`xxx"),
    ] {
        let first = "diffusion_pytorch_model-00001";
        fs::write(&index, text.replace(first, &format!("{name}-00001"))).unwrap();
        let error = vae_error(&model).to_string();
        assert!(error.contains("is not the name of a shard"), "{error}");
        assert!(error.contains(shown) && !error.contains(char::is_control), "{error}");
        assert!(error.len() < 500, "{} bytes", error.len());
    }
}

#[test]
fn a_tensor_in_two_shards_is_refused() {
    let (_dir, model) = copied("sharded");
    let shard = |index: u32| {
        model.join(format!("vae/diffusion_pytorch_model-0000{index}-of-00006.safetensors"))
    };
    let mut tensors = safetensors::load(shard(2), &Device::Cpu).unwrap();
    let name = tensors.keys().next().unwrap().clone();
    tensors.extend(safetensors::load(shard(3), &Device::Cpu).unwrap());
    safetensors::save(&tensors, shard(3)).unwrap();
    let error = vae_error(&model).to_string();
    assert!(error.starts_with(&shard(3).display().to_string()), "{error}");
    assert!(error.contains("is also in") && tensors.contains_key(&name), "{error}");
}

#[test]
fn a_description_has_a_bound() {
    let (_dir, model) = copied("variant_bf16");
    let config = model.join("vae/config.json");
    fs::File::options().write(true).open(&config).unwrap().set_len(3 << 20).unwrap();
    let error = vae_error(&model).to_string();
    let expected = format!("{}: longer than 2.0 MiB, which no such file is", config.display());
    assert_eq!(error, expected);
}

#[test]
fn the_embedded_model_conditions_with_the_widths_its_unet_wants() {
    let model = ModelFiles::open(ModelSource::Embedded).unwrap();
    let unet = model.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap();
    assert_eq!(unet.class, "UNet2DConditionModel");
    let text = model.text(&Device::Cpu, DType::F32).unwrap();
    let conditioning = text.encode(&["a photo"]).unwrap();
    let width = unet.config["cross_attention_dim"].as_u64().unwrap() as usize;
    assert_eq!(conditioning.context.dims(), [1, 77, width]);
    assert!(conditioning.pooled.is_some());
    // The UNet sees the noisy latent and the low-resolution latent side by side (docs/method.md §2).
    let channels = unet.config["in_channels"].as_u64().unwrap() as usize;
    let vae = model.vae(&Device::Cpu, DType::F32).unwrap();
    assert_eq!(channels, 2 * vae.latent_channels());
    assert_eq!(model.scheduler().unwrap()["timestep_spacing"], "trailing");
}
