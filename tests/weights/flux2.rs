//! The transformer of FLUX.2 in every form: a folder, a file with the original names, one with diffusers', GGUF, rounded
//! weights and LoRAs in both namings, each in the place of another model's; and klein's at full size, by its shapes. The
//! fixtures are made by `tests/make_fixtures/make_flux2_fixtures.py`, which brings the original names back with diffusers' own
//! converter.

use std::{collections::HashMap, fs, fs::File, io::Write as _, path::Path, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    backend::{Placement, Trace},
    model::{
        denoiser::{MicroConditioning, Prior},
        text::TextConditioning,
    },
    weights::{ModelFiles, Part, QuantType},
};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::common::{
    drawn::{field, sizes, weight},
    fixture,
    models::{denoiser, open, predict},
    tensors::{bits, largest_error},
    z_image::write_folder,
};

/// A model in a folder, in which a transformer is replaced.
fn base() -> TempDir {
    let folder = TempDir::new().unwrap();
    write_folder(folder.path());
    folder
}

fn file(name: &str) -> PathBuf {
    fixture("flux2/transformer").join(name)
}

fn read(name: &str) -> Value {
    serde_json::from_slice(&fs::read(file(name)).unwrap()).unwrap()
}

/// The transformer's tensors by diffusers' names.
fn tensors() -> HashMap<String, Tensor> {
    let shapes = read("shapes.json");
    let shapes = shapes.as_object().unwrap().iter();
    shapes.map(|(name, shape)| (name.clone(), weight(name, &sizes(shape)))).collect()
}

/// The same with the names of the original code.
fn original() -> HashMap<String, Tensor> {
    let own = tensors();
    let parts: HashMap<String, Vec<String>> =
        serde_json::from_value(read("original.json")).unwrap();
    let joined = |names: &[String]| {
        let parts: Vec<_> = names.iter().map(|name| &own[name]).collect();
        Tensor::cat(&parts, 0).unwrap()
    };
    let mut all: HashMap<_, _> =
        parts.into_iter().map(|(theirs, names)| (theirs, joined(&names))).collect();
    // It has shift before scale.
    let swapped = "final_layer.adaLN_modulation.1.weight";
    let halves = all[swapped].chunk(2, 0).unwrap();
    all.insert(swapped.to_owned(), Tensor::cat(&[&halves[1], &halves[0]], 0).unwrap());
    all
}

fn with_prefix(tensors: HashMap<String, Tensor>, prefix: &str) -> HashMap<String, Tensor> {
    tensors.into_iter().map(|(name, tensor)| (format!("{prefix}{name}"), tensor)).collect()
}

fn save(tensors: &HashMap<String, Tensor>, place: &TempDir, name: &str) -> PathBuf {
    let path = place.path().join(name);
    safetensors::save(tensors, &path).unwrap();
    path
}

/// Writes the transformer in diffusers layout.
fn folder(place: &TempDir) -> PathBuf {
    let folder = place.path().join("transformer");
    fs::create_dir(&folder).unwrap();
    fs::copy(file("config.json"), folder.join("config.json")).unwrap();
    safetensors::save(&tensors(), folder.join("diffusion_pytorch_model.safetensors")).unwrap();
    folder
}

fn replaced(base: &TempDir, path: &Path) -> ModelFiles {
    open(base.path()).unwrap().with_denoiser(path).unwrap()
}

fn conditions(tokens: usize, width: usize) -> TextConditioning {
    let context = field("context", &[2, tokens, width]).into();
    TextConditioning { context, pooled: None, lengths: None }
}

const NOTHING: MicroConditioning =
    MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };

fn prediction(files: &ModelFiles) -> Tensor {
    let model = denoiser(files);
    let conditions = model.condition(&conditions(11, 40), NOTHING).unwrap();
    predict(&model, &field("sample", &[2, 5, 7, 16]), 640.0, &conditions)
}

#[test]
fn a_file_in_either_naming_is_the_transformer_of_the_folder() {
    let (place, base) = (TempDir::new().unwrap(), base());
    let whole = replaced(&base, &folder(&place));
    let expected = bits(&prediction(&whole));
    let config = |files: &ModelFiles| {
        files.component(Part::Denoiser, &Device::Cpu, DType::F32).unwrap().config
    };
    let norms_are_weights = || {
        let tensors = original().into_iter();
        tensors
            .map(|(name, tensor)| (name.replace("_norm.scale", "_norm.weight"), tensor))
            .collect()
    };
    for (name, tensors) in [
        ("plain", original()),
        ("prefixed", with_prefix(original(), "model.diffusion_model.")),
        ("norms", norms_are_weights()),
        ("diffusers", tensors()),
        ("diffusers_prefixed", with_prefix(tensors(), "transformer.")),
    ] {
        let path = save(&tensors, &place, &format!("{name}.safetensors"));
        let files = replaced(&base, &path);
        assert_eq!(bits(&prediction(&files)), expected, "{name}");
        assert_eq!(files.notes(), Vec::<String>::new(), "{name}");
        let (ours, theirs) = (config(&files), config(&whole));
        for (field, value) in theirs.as_object().unwrap() {
            if !field.starts_with('_') && !value.is_null() {
                assert_eq!(ours[field].as_f64(), value.as_f64(), "{name}: {field}");
            }
        }
        let alone = open(&path).unwrap_err().to_string();
        assert!(alone.ends_with("use it as the transformer of a whole model"), "{alone}");
    }
    let mut odd = original();
    let norm = "double_blocks.0.img_attn.norm.query_norm.scale";
    odd.insert(norm.to_owned(), odd[norm].narrow(0, 0, 15).unwrap());
    let path = save(&odd, &place, "odd.safetensors");
    let error = open(base.path()).unwrap().with_denoiser(&path).unwrap_err().to_string();
    assert!(error.contains("heads of 15 numbers"), "{error}");
}

#[test]
fn weights_of_a_gguf_file_are_those_that_it_stores() {
    let base = base();
    let files = replaced(&base, &file("transformer.gguf"));
    assert_eq!(files.notes(), Vec::<String>::new());
    let expected = &safetensors::load(file("gguf.safetensors"), &Device::Cpu).unwrap()["output"];
    let place = TempDir::new().unwrap();
    let whole = prediction(&replaced(&base, &folder(&place)));
    assert!(largest_error(&whole, expected) > 1e-2, "rounding that nobody sees");
    // In the working precision, and kept as it is stored, parts of one tensor included.
    for files in [files.clone(), files.keep_above(0)] {
        let error = largest_error(&prediction(&files), expected);
        assert!(error <= 1e-4, "{error}");
    }
}

#[test]
fn rounded_weights_stay_near_the_transformer_and_nearer_with_more_bits() {
    let (place, base) = (TempDir::new().unwrap(), base());
    let path = save(&original(), &place, "plain.safetensors");
    let files = replaced(&base, &path);
    let expected = prediction(&files);
    let error = |quant| largest_error(&prediction(&files.clone().quantized(quant)), &expected);
    let (half, eight) = (error(QuantType::F16), error(QuantType::Q8_0));
    assert!((1e-6..2e-3).contains(&half), "{half}");
    assert!((2.0 * half..3e-2).contains(&eight), "{eight}");
    // f16 in a file is read as it is.
    let tensors = original().into_iter();
    let narrow = tensors.map(|(name, tensor)| (name, tensor.to_dtype(DType::F16).unwrap()));
    let narrow = replaced(&base, &save(&narrow.collect(), &place, "f16.safetensors"));
    let apart = largest_error(&prediction(&narrow), &expected);
    assert!((1e-6..2e-3).contains(&apart), "{apart}");
}

#[test]
fn a_lora_in_both_namings_changes_the_same_weights() {
    let (place, base) = (TempDir::new().unwrap(), base());
    let path = folder(&place);
    let plain = prediction(&replaced(&base, &path));
    let [down, up] = [field("down", &[3, 32]), field("up", &[32, 3])];
    let nothing = up.zeros_like().unwrap();
    let fused = Tensor::cat(&[&nothing, &up, &nothing], 0).unwrap();
    let lora = |name: &str, module: &str, [down_name, up_name]: [&str; 2], up: &Tensor| {
        let named = |kind, tensor: &Tensor| (format!("{module}.{kind}.weight"), tensor.clone());
        save(&HashMap::from([named(down_name, &down), named(up_name, up)]), &place, name)
    };
    let peft = ["lora_A", "lora_B"];
    let with = |lora: &PathBuf| {
        let files = replaced(&base, &path).with_lora(lora, 0.5).unwrap();
        assert!(files.notes().iter().all(|note| !note.contains("left out")), "{:?}", files.notes());
        prediction(&files)
    };
    let module = "transformer.transformer_blocks.1.attn.add_k_proj";
    let changed = with(&lora("peft.safetensors", module, peft, &up));
    assert!(largest_error(&changed, &plain) > 1e-3);
    let module = "diffusion_model.double_blocks.1.txt_attn.qkv";
    let comfy = lora("comfy.safetensors", module, peft, &fused);
    assert_eq!(bits(&with(&comfy)), bits(&changed));
    let module = "lora_unet_double_blocks_1_txt_attn_qkv";
    let kohya = lora("kohya.safetensors", module, ["lora_down", "lora_up"], &fused);
    assert_eq!(bits(&with(&kohya)), bits(&changed));
    let up = field("wide", &[3 * 32 + 2 * 64, 3]);
    let module = "transformer.single_transformer_blocks.0.attn.to_qkv_mlp_proj";
    let one = with(&lora("one.safetensors", module, peft, &up));
    let module = "diffusion_model.single_blocks.0.linear1";
    assert_eq!(bits(&with(&lora("two.safetensors", module, peft, &up))), bits(&one));
    // One of a model whose text is wider.
    let wide = HashMap::from([
        ("diffusion_model.txt_in.lora_A.weight".to_owned(), field("wide", &[3, 7680])),
        ("diffusion_model.txt_in.lora_B.weight".to_owned(), field("up", &[32, 3])),
    ]);
    let wide = save(&wide, &place, "wide.safetensors");
    let error = replaced(&base, &path).with_lora(&wide, 0.5).unwrap_err().to_string();
    assert!(error.contains("made for FLUX.2 [klein] 4B (7680-wide text)"), "{error}");
}

#[test]
fn transformers_of_the_first_flux_and_weights_with_scales_are_refused_with_the_reason() {
    let (place, base) = (TempDir::new().unwrap(), base());
    let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F16, &Device::Cpu).unwrap();
    let first = HashMap::from([
        ("double_blocks.0.img_mod.lin.weight".to_owned(), zeros(&[18, 3])),
        ("double_blocks.0.img_attn.qkv.weight".to_owned(), zeros(&[9, 3])),
        ("vector_in.in_layer.weight".to_owned(), zeros(&[3, 4])),
    ]);
    // As a whole checkpoint has it, with text encoders of CLIP and T5.
    let mut whole = with_prefix(first.clone(), "model.diffusion_model.");
    let embedding = "transformer.text_model.embeddings.token_embedding.weight";
    whole.insert(format!("text_encoders.clip_l.{embedding}"), zeros(&[8, 4]));
    for (name, tensors) in [("flux1-dev", first), ("flux1-dev-fp8", whole)] {
        let path = save(&tensors, &place, &format!("{name}.safetensors"));
        let of_open = open(&path).unwrap_err().to_string();
        let of_part = open(base.path()).unwrap().with_denoiser(&path).unwrap_err().to_string();
        for error in [of_open, of_part] {
            assert!(error.contains("a transformer of FLUX.1, which is not supported"), "{error}");
        }
    }
    let mut scaled = original();
    scaled.insert("double_blocks.0.img_mlp.0.weight_scale".to_owned(), zeros(&[1]));
    let path = save(&scaled, &place, "fp8.safetensors");
    let error = open(base.path()).unwrap().with_denoiser(&path).unwrap_err().to_string();
    assert!(error.contains("scales of their own"), "{error}");
}

/// Names and shapes in the file of FLUX.2-klein-4B (`flux-2-klein-4b.safetensors`).
fn klein() -> Vec<(String, Vec<usize>)> {
    let (width, inner, head) = (3072, 9216, 128);
    let mut all = vec![
        ("img_in".to_owned(), vec![width, 128]),
        ("txt_in".to_owned(), vec![width, 7680]),
        ("time_in.in_layer".to_owned(), vec![width, 256]),
        ("time_in.out_layer".to_owned(), vec![width, width]),
        ("double_stream_modulation_img.lin".to_owned(), vec![6 * width, width]),
        ("double_stream_modulation_txt.lin".to_owned(), vec![6 * width, width]),
        ("single_stream_modulation.lin".to_owned(), vec![3 * width, width]),
        ("final_layer.adaLN_modulation.1".to_owned(), vec![2 * width, width]),
        ("final_layer.linear".to_owned(), vec![128, width]),
    ];
    let mut norms = Vec::new();
    let mut norm = |place: &str| {
        for name in ["query_norm", "key_norm"] {
            norms.push((format!("{place}.norm.{name}.scale"), vec![head]));
        }
    };
    for index in 0..5 {
        for stream in ["img", "txt"] {
            let place = format!("double_blocks.{index}.{stream}");
            all.push((format!("{place}_attn.qkv"), vec![3 * width, width]));
            all.push((format!("{place}_attn.proj"), vec![width, width]));
            all.push((format!("{place}_mlp.0"), vec![2 * inner, width]));
            all.push((format!("{place}_mlp.2"), vec![width, inner]));
            norm(&format!("{place}_attn"));
        }
    }
    for index in 0..20 {
        let place = format!("single_blocks.{index}");
        all.push((format!("{place}.linear1"), vec![3 * width + 2 * inner, width]));
        all.push((format!("{place}.linear2"), vec![width, width + inner]));
        norm(&place);
    }
    let weights = all.into_iter().map(|(name, shape)| (format!("{name}.weight"), shape));
    weights.chain(norms).collect()
}

#[test]
fn klein_at_full_size_has_the_shapes_of_its_file_and_runs_within_a_trace() {
    let (place, base) = (TempDir::new().unwrap(), base());
    let path = place.path().join("flux-2-klein-4b.safetensors");
    let (mut header, mut at, mut count) = (Map::new(), 0, 0);
    for (name, shape) in klein() {
        let numbers: usize = shape.iter().product();
        let end = at + 2 * numbers;
        let tensor = json!({ "dtype": "BF16", "shape": shape, "data_offsets": [at, end] });
        header.insert(name, tensor);
        (at, count) = (end, count + numbers);
    }
    let header = Value::Object(header).to_string();
    let mut file = File::create(&path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    // Nothing is read of it.
    file.set_len((8 + header.len() + at) as u64).unwrap();
    assert!((3.85e9..3.9e9).contains(&(count as f64)), "{count}");

    let files = replaced(&base, &path);
    assert_eq!(files.notes(), Vec::<String>::new());
    let load = |files: &ModelFiles| files.denoiser(&Device::Cpu, DType::F32);
    let (model, footprint) = files.without_values(load).unwrap();
    assert!(footprint.kept >= 2 * count, "{footprint:?}");
    let shape = model.shape().unwrap();
    assert_eq!((shape.channels, shape.native, shape.multiple), (128, 64, 1));

    let trace = Trace::new(Placement::Cpu);
    let call = |prior: Prior<'_>| {
        let context = trace.activation((1, 512, 7680), DType::F32);
        let text = TextConditioning { context, pooled: None, lengths: None };
        let conditions = model.condition(&text, NOTHING).unwrap();
        let sample = trace.activation((1, 64, 64, 128), DType::F32);
        let output = model.forward(&sample, 750.0, &conditions, prior).unwrap();
        assert_eq!(output.dims(), [1, 64, 64, 128]);
    };
    call(Prior::None);
    assert_eq!(trace.live(), 0);
    // All tokens through the blocks (of two streams, half the weights for each), and scores and values of attention.
    let (tokens, width, block) = (4096.0 + 512.0, 3072.0, 13.0 * 3072.0 * 3072.0);
    let by_hand = 25.0 * tokens * block + 25.0 * 2.0 * tokens * tokens * width;
    let ratio = trace.products() / by_hand;
    assert!((1.0..1.01).contains(&ratio), "{ratio}");
    // What is widest: the first layer of a block of one stream, what comes of it, and little more.
    let (peak, widest) = (trace.peak() as f64, tokens * (3.0 * width + 6.0 * width) * 4.0);
    assert!((1.0..2.5).contains(&(peak / widest)), "{peak} {widest}");
    let mut layers = Vec::new();
    call(Prior::Record(&mut layers));
    assert_eq!(layers.len(), 25);
    assert!(layers.iter().all(|layer| layer.dims() == [1, 64, 64, 3072]));
}
