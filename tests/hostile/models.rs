//! Models: configurations with impossible numbers, weights and tokenizers that lie about what they hold.

use serde_json::{Value, json};

use crate::{Case, End, all_right, model_file, png};

/// A job with the small model, of which this file is replaced.
fn case(name: String, file: &'static str, bytes: Vec<u8>) -> Case {
    let arguments = "in.png -o out.png --scale 2 --denoise-steps 1 --model MODEL";
    let files = vec![("in.png".to_owned(), png::with(b""))];
    let mut case = Case::command(name, files, arguments, End::Refused);
    case.model.push((file, Some(bytes)));
    case
}

/// A configuration with one field replaced.
fn field(file: &'static str, key: &str, value: Value) -> Case {
    let mut config: Value = serde_json::from_slice(&model_file(file)).unwrap();
    let name = format!("{file} with {key} {value}");
    config[key] = value;
    case(name, file, serde_json::to_vec(&config).unwrap())
}

#[test]
fn configurations() {
    let text = "text_encoder/config.json";
    let (unet, vae) = ("unet/config.json", "vae/config.json");
    let scheduler = "scheduler/scheduler_config.json";
    let mut cases = Vec::new();
    for number in
        [json!(0), json!(-1), json!(1u64 << 31), json!(u64::MAX), json!(1e300), json!("8")]
    {
        cases.push(field(text, "num_hidden_layers", number.clone()));
        cases.push(field(text, "hidden_size", number.clone()));
        cases.push(field(text, "vocab_size", number.clone()));
        cases.push(field(scheduler, "num_train_timesteps", number.clone()));
        cases.push(field(unet, "layers_per_block", number.clone()));
        cases.push(field(unet, "cross_attention_dim", number.clone()));
        cases.push(field(vae, "latent_channels", number.clone()));
    }
    cases.push(field(text, "num_attention_heads", json!(1u64 << 40)));
    cases.push(field(text, "max_position_embeddings", json!(u64::MAX)));
    cases.push(field(unet, "block_out_channels", json!([])));
    cases.push(field(unet, "block_out_channels", json!([1u64 << 40, 1u64 << 40])));
    cases.push(field(unet, "block_out_channels", json!(vec![32; 100_000])));
    cases.push(field(unet, "in_channels", json!(1u64 << 62)));
    cases.push(field(unet, "norm_num_groups", json!(0)));
    cases.push(field(vae, "decoder_block_out_channels", json!([1u64 << 33, 8, 8])));
    cases.push(field(vae, "scaling_factor", json!(0)));
    cases.push(field(vae, "scaling_factor", json!("NaN")));
    cases.push(field(scheduler, "beta_end", json!(1e300)));
    cases.push(field(scheduler, "beta_start", json!(-5)));
    cases.push(field(scheduler, "beta_schedule", json!("\u{1b}]0;owned\u{7}")));
    cases.push(field(scheduler, "prediction_type", json!(["epsilon"])));
    for file in [text, unet, vae, scheduler, "model_index.json", "tokenizer/vocab.json"] {
        cases.push(case(format!("{file} that is empty"), file, Vec::new()));
        cases.push(case(format!("{file} of zeros"), file, vec![0; 2000]));
        cases.push(case(format!("{file} of 100000 brackets"), file, vec![b'['; 100_000]));
    }
    cases.push(case("merges that are bytes".into(), "tokenizer/merges.txt", vec![0xFF; 1000]));
    all_right(cases, 70);
}

/// A safetensors file with this header and no data, or with a length of the header that lies.
fn safetensors(header: &str, length: Option<u64>) -> Vec<u8> {
    let length = length.unwrap_or(header.len() as u64);
    [&length.to_le_bytes()[..], header.as_bytes(), &[0; 64]].concat()
}

#[test]
fn weights() {
    let tensor = |dtype: &str, shape: &str, offsets: &str| {
        format!(r#"{{"a":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#)
    };
    let most = u64::MAX.to_string();
    let whole = model_file("unet/diffusion_pytorch_model.safetensors");
    let mut damaged = whole.clone();
    damaged[..8].copy_from_slice(&u64::MAX.to_le_bytes());
    let pickle = b"\x80\x02}q\0X\x04\0\0\0weigq\x01K\x01s.".to_vec();
    let gguf = |tensors: u64, keys: u64| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &keys.to_le_bytes()].concat()
    };
    let cases = [
        ("empty", Vec::new()),
        ("of 7 bytes", vec![1; 7]),
        ("of zeros", vec![0; 1000]),
        ("cut in the header", whole[..200].to_vec()),
        ("cut in the data", whole[..whole.len() - 100].to_vec()),
        ("whose header claims 2^64", damaged),
        ("whose header claims 1 GiB", safetensors("{}", Some(1 << 30))),
        ("of no tensors", safetensors("{}", None)),
        (
            "of a tensor of 2^64",
            safetensors(&tensor("F32", &format!("[{most},{most}]"), "[0,64]"), None),
        ),
        ("of a tensor outside", safetensors(&tensor("F32", "[16]", "[1000,1064]"), None)),
        ("of a tensor backwards", safetensors(&tensor("F32", "[16]", "[64,0]"), None)),
        ("of a tensor of no type", safetensors(&tensor("X99", "[16]", "[0,64]"), None)),
        ("of a tensor of 5 bytes a number", safetensors(&tensor("F32", "[16]", "[0,61]"), None)),
        ("of 100000 brackets", safetensors(&"[".repeat(100_000), None)),
        (
            "of names for the terminal",
            safetensors(
                &tensor("F32", "[16]", "[0,64]").replace("\"a\"", r#""\u001b]0;x\u0007""#),
                None,
            ),
        ),
        ("that are pickled", pickle),
        ("that are a page", b"<!DOCTYPE html><html>".to_vec()),
        (
            "that are a pointer",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n".to_vec(),
        ),
        ("GGUF of 2^64 tensors", gguf(u64::MAX, 0)),
        ("GGUF of 2^64 keys", gguf(0, u64::MAX)),
        ("GGUF of a key of 2^60 bytes", [gguf(0, 1), (1u64 << 60).to_le_bytes().to_vec()].concat()),
    ]
    .map(|(name, bytes)| {
        // Tensors that nothing takes are noted before the one that is missing.
        case(format!("weights {name}"), "unet/diffusion_pytorch_model.safetensors", bytes)
            .after_notes()
    });
    all_right(cases.into(), 21);
}

/// The same as a file of its own.
#[test]
fn single_files() {
    let array = |kind: u32, count: u64| {
        let key = [&b"GGUF\x03\0\0\0"[..], &0u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
        let name = [&1u64.to_le_bytes()[..], b"a"].concat();
        [
            key,
            name,
            9u32.to_le_bytes().to_vec(),
            kind.to_le_bytes().to_vec(),
            count.to_le_bytes().to_vec(),
        ]
        .concat()
    };
    let deep = {
        // Arrays of arrays of arrays.
        let inner = [&9u32.to_le_bytes()[..], &1u64.to_le_bytes()].concat();
        [array(9, 1), inner.repeat(50_000)].concat()
    };
    let cases = [
        ("m.safetensors", safetensors("{}", None)),
        ("m.safetensors", vec![0; 3]),
        ("m.gguf", b"GGUF".to_vec()),
        ("m.gguf", b"GGUF\xff\0\0\0aaaaaaaaaaaaaaaaaaaa".to_vec()),
        ("m.gguf", array(8, 1 << 60)),
        ("m.gguf", array(77, 3)),
        ("m.gguf", deep),
        ("m.ckpt", b"PK\x03\x04archive/data.pkl".to_vec()),
        ("m.ckpt", b"<html><body>404".to_vec()),
    ]
    .into_iter()
    .enumerate()
    .map(|(index, (name, bytes))| {
        let files = vec![("in.png".to_owned(), png::with(b"")), (name.to_owned(), bytes)];
        let arguments = format!("in.png -o out.png --scale 2 --model {name}");
        Case::command(format!("single file {index} {name}"), files, arguments, End::Refused)
    });
    all_right(cases.collect(), 9);
}
