//! Jobs with weighted prompts: one of two chunks against the method in PyTorch (`tests/make_fixtures/make_prompt_fixtures.py`), resumed
//! ones, and what weights, captions, embeddings and LoRAs in prompts do to a picture.

use std::{collections::HashMap, fs};

use candle_core::{Device, safetensors};

use crate::{
    common::{Shell, copy_folder, fixture, stderr, tensors::largest_difference},
    method::{Case, error_of},
    reference::samples,
    resume::same_bytes_after_kills,
};

#[test]
fn a_job_with_a_weighted_prompt_of_two_chunks_equals_the_method() {
    let case: Case =
        serde_json::from_slice(&fs::read(fixture("prompt/job.json")).unwrap()).unwrap();
    let file = fixture("prompt/job.safetensors");
    let reference = &safetensors::load(file, &Device::Cpu).unwrap()["weighted"];
    let error = error_of(&case, "", reference);
    println!("largest error of the job: {error:e}");
    assert!(error <= 1e-4, "{error:e}");
}

#[test]
fn a_killed_job_with_a_weighted_prompt_ends_with_the_same_bytes() {
    let prompts = "--prompt-syntax weighted --prompt (harbour:1.3)BREAK[dusk],boats --guidance 2 \
                   --negative-prompt (red:0.7)";
    same_bytes_after_kills(prompts, 8);
}

/// Samples of a job with these options on a small picture, and what it says.
fn picture(shell: &Shell, options: &[&str]) -> (Vec<f32>, String) {
    let output = shell
        .command("in.png -o out.png --scale 2 --color-fix none --bit-depth 16 --model model")
        .args(options)
        .output()
        .unwrap();
    assert!(output.status.success(), "{options:?}: {}", stderr(&output));
    (samples(shell).1, stderr(&output))
}

fn shell() -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 20, 14);
    copy_folder(&fixture("img2img/model"), &shell.path("model"));
    shell
}

const WEIGHTED: [&str; 2] = ["--prompt-syntax", "weighted"];

#[test]
fn weights_change_the_picture_and_a_prompt_without_any_does_not() {
    let shell = shell();
    // With captions behind it the plain one is cut: the small vocabulary makes many tokens of them.
    let of = |prompt: &str, more: &[&str]| {
        let options = ["--captioner", "none", "--prompt", prompt];
        picture(&shell, &[&options[..], more].concat()).0
    };
    let plain = of("the old harbour", &[]);
    assert_eq!(of("the old harbour", &WEIGHTED), plain);
    let strong = of("the (old:1.6) harbour", &WEIGHTED);
    for (other, what) in [
        (&plain, "no weight"),
        (&of("the (old:1.5) harbour", &WEIGHTED), "another weight"),
        (&of("the (old:1.6) harbour", &[]), "plain"),
        (&of("the (old:1.6) BREAK harbour", &WEIGHTED), "a chunk more"),
    ] {
        assert!(largest_difference(&strong, other) > 1e-4, "{what}");
    }
}

#[test]
fn a_long_prompt_is_cut_in_plain_syntax_and_whole_in_weighted() {
    let shell = shell();
    let start = "the old harbour at dusk ".repeat(20);
    let texts = [format!("{start} red"), format!("{start} blue sky")];
    for (more, is_cut) in [(&[][..], true), (&WEIGHTED[..], false)] {
        // Without captions, which would follow the prompt.
        let [one, other] = texts.each_ref().map(|prompt| {
            picture(&shell, &[&["--prompt", prompt, "--captioner", "none"][..], more].concat())
        });
        assert_eq!(one.1.contains("the model takes 75: cut before"), is_cut, "{}", one.1);
        assert_eq!(largest_difference(&one.0, &other.0) == 0.0, is_cut);
    }
}

/// The description that follows the prompt is text, whatever stands in it.
#[test]
fn captions_follow_a_weighted_prompt_and_have_no_syntax() {
    let shell = shell();
    let prompt = ["--prompt", "the (old:1.4) harbour"];
    let mut caption = shell.command("caption in.png --scale 2 --model model");
    let printed = caption.args(prompt).args(WEIGHTED).output().unwrap();
    let mut document: serde_json::Value = serde_json::from_slice(&printed.stdout).unwrap();
    assert_eq!(document["prompt"], "the old harbour");
    let regions = document["regions"].as_array_mut().unwrap();
    let caption = regions[0]["caption"].as_str().unwrap().to_owned();
    assert!(caption.starts_with("the old harbour, "), "{caption}");
    // The captions that the captioner makes, from a file, are the same condition.
    let by_captioner = picture(&shell, &[&prompt[..], &WEIGHTED].concat()).0;
    fs::write(shell.path("captions.json"), &printed.stdout).unwrap();
    let from_file = |more: &[&str]| {
        let file = ["--captions", "captions.json"];
        picture(&shell, &[&prompt[..], &WEIGHTED, &file, more].concat()).0
    };
    assert_eq!(from_file(&[]), by_captioner);
    for region in regions {
        region["caption"] = "a (red:1.9) roof BREAK".into();
    }
    fs::write(shell.path("captions.json"), document.to_string()).unwrap();
    let plain = picture(
        &shell,
        &["--prompt", "the old harbour", "--captions", "captions.json", "--rap", "0"],
    );
    assert_eq!(from_file(&["--rap", "0"]), plain.0);
}

#[test]
fn an_embedding_and_a_lora_are_named_in_the_prompt() {
    let shell = shell();
    // Vectors of the model's widths.
    let vectors = |width: usize| {
        let values: Vec<f32> = (0..2 * width).map(|at| (at as f32).sin() * 0.7).collect();
        candle_core::Tensor::from_vec(values, (2, width), &Device::Cpu).unwrap()
    };
    let width = |part: &str| {
        let config = shell.bytes(&format!("model/{part}/config.json"));
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        config["hidden_size"].as_u64().unwrap() as usize
    };
    let file = [("clip_l", width("text_encoder")), ("clip_g", width("text_encoder_2"))]
        .map(|(key, width)| (key.to_owned(), vectors(width)));
    safetensors::save(&HashMap::from(file), shell.path("ink.safetensors")).unwrap();
    fs::copy(fixture("lora/hyper.safetensors"), shell.path("wash.safetensors")).unwrap();
    let of = |options: &[&str]| picture(&shell, options).0;
    let none = of(&["--prompt", "an ink harbour"]);
    let ink = of(&["--prompt", "an ink harbour", "--embedding", "ink.safetensors"]);
    assert!(largest_difference(&none, &ink) > 1e-4);
    // `x` is a token of its own, so that the name is one in brackets alone.
    let renamed = ["--prompt", "an <x> harbour", "--embedding", "<x>=ink.safetensors"];
    assert_eq!(of(&renamed), ink);
    let words = ["--prompt", "an ink harbour", "--captioner", "none"];
    let embedded = [&words[..], &["--embedding", "ink.safetensors"]].concat();
    assert_eq!(of(&[&embedded[..], &WEIGHTED].concat()), of(&embedded));
    // The LoRA lies beside the model's folder.
    let lora = of(&[&words[..], &["--lora", "wash.safetensors:0.5"]].concat());
    assert!(largest_difference(&of(&words), &lora) > 1e-4);
    for prompt in ["an <lora:wash:0.5>ink harbour", "<lyco:wash:0.5> an ink harbour"] {
        let tagged = ["--captioner", "none", "--prompt", prompt];
        assert_eq!(of(&[&tagged[..], &WEIGHTED].concat()), lora, "{prompt}");
    }
}
