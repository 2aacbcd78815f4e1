//! FLUX.2 klein as a whole model: a folder, distilled or not, and a file with the original names and a text encoder. The
//! fixtures are made by `tests/make_fixtures/make_flux2_method_fixture.py`.

use std::{collections::HashMap, fs, path::Path};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    model::{denoiser::MicroConditioning, text::TextConditioning},
    pipeline::{Engine, Settings, plan},
    weights::{ModelFiles, WeightsError},
};
use tempfile::TempDir;

use crate::common::{
    drawn::field,
    fixture,
    flux2_klein::{original, tensors, write_folder},
    models::{denoiser, open, predict},
    tensors::bits,
};

fn folder() -> TempDir {
    let folder = TempDir::new().unwrap();
    write_folder(folder.path());
    folder
}

fn context(files: &ModelFiles) -> TextConditioning {
    let text = files.text(&Device::Cpu, DType::F32).unwrap();
    text.encode(&["wet cobblestones, 35mm"]).unwrap()
}

/// A prediction of the transformer for a text.
fn prediction(files: &ModelFiles) -> Tensor {
    let model = denoiser(files);
    let nothing = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
    let conditions = model.condition(&context(files), nothing).unwrap();
    predict(&model, &field("sample", &[1, 6, 4, 16]), 640.0, &conditions)
}

/// Writes the model's `model_index.json` with this in the place of `"is_distilled": true`.
fn set_distilled(folder: &Path, with: &str) {
    let path = folder.join("model_index.json");
    let index = fs::read_to_string(&path).unwrap();
    fs::write(path, index.replace(r#""is_distilled": true"#, with)).unwrap();
}

#[test]
fn the_folder_is_a_whole_model_with_packed_latents() {
    let folder = folder();
    let files = open(folder.path()).unwrap();
    files.check_parts().unwrap();
    assert_eq!(files.notes(), Vec::<String>::new());
    let engine = Engine::load(&files, &Device::Cpu).unwrap();
    let shape = engine.shape();
    assert_eq!((shape.region, shape.factor, shape.channels), (12, 4, 16));
    assert_eq!((shape.patch, shape.stride), (1, 2));
    let text = files.text(&Device::Cpu, DType::F32).unwrap();
    assert_eq!((text.tokens(), text.widths()), (512, (48, None)));
    assert_eq!(context(&files).context.dims(), [1, 512, 48]);
}

#[test]
fn an_index_that_does_not_say_that_a_model_is_distilled_is_of_a_base_model() {
    for (written, steps, guidance) in [
        (r#""is_distilled": true"#, 4, None),
        (r#""is_distilled": false"#, 50, Some(4.0)),
        (r#""other": true"#, 50, Some(4.0)),
    ] {
        let folder = folder();
        set_distilled(folder.path(), written);
        let engine = Engine::load(&open(folder.path()).unwrap(), &Device::Cpu).unwrap();
        let plan = plan(&engine, (40, 30), &Settings::default()).unwrap();
        assert_eq!(plan.sampling.schedule_steps, steps, "{written}");
        assert_eq!(plan.sampling.guidance, guidance, "{written}");
        assert_eq!(plan.sampling.steps_run, if steps == 4 { 1 } else { 15 });
    }
}

#[test]
fn a_file_with_the_original_names_is_the_model_of_the_folder() {
    let (place, folder) = (TempDir::new().unwrap(), folder());
    let prefixed = |tensors: HashMap<String, Tensor>, prefix: &'static str| {
        tensors.into_iter().map(move |(name, tensor)| (format!("{prefix}{name}"), tensor))
    };
    let mut all: HashMap<_, _> = prefixed(original(), "model.diffusion_model.").collect();
    all.extend(prefixed(tensors("text_encoder"), "text_encoders.qwen3_4b.transformer."));
    let path = place.path().join("anything.safetensors");
    safetensors::save(&all, &path).unwrap();
    let (single, whole) = (open(&path).unwrap(), open(folder.path()).unwrap());
    assert!(single.notes().iter().any(|note| note.contains("distilled")), "{:?}", single.notes());
    let Err(WeightsError::MissingPart { part, .. }) = single.text(&Device::Cpu, DType::F32) else {
        panic!("a tokenizer out of nothing")
    };
    assert!(part.contains("Qwen"), "{part}");
    // With the folder's encoder in the place of its own it needs none beside it.
    let other = single.clone().with_text_encoder(folder.path()).unwrap();
    assert_eq!(bits(&prediction(&other)), bits(&prediction(&whole)));
    let tokenizer = fixture("z_image/tokenizer/tokenizer.json");
    fs::copy(tokenizer, place.path().join("tokenizer.json")).unwrap();
    assert_eq!(bits(&prediction(&single)), bits(&prediction(&whole)));
    let missing = single.check_parts().unwrap_err().to_string();
    assert!(missing.contains("the VAE is missing"), "{missing}");
    let with_vae = single.with_vae(&folder.path().join("vae")).unwrap();
    with_vae.check_parts().unwrap();
    let (ours, theirs) = (with_vae.scheduler().unwrap(), whole.scheduler().unwrap());
    for field in ["shift", "use_dynamic_shifting", "base_shift", "max_shift", "time_shift_type"] {
        assert_eq!(ours[field], theirs[field], "{field}");
    }
}
