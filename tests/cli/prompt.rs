//! Prompts on the command line: what of their syntax is refused, and how; LoRAs and embeddings that they name; and the
//! settings that an output carries.

use std::fs;

use crate::common::{Shell, copy_folder, fixture, stderr};

fn shell() -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 20, 14);
    copy_folder(&fixture("img2img/model"), &shell.path("model"));
    shell
}

/// The one line of a job that does not run, with this prompt.
fn refused(shell: &Shell, prompt: &str, more: &[&str]) -> String {
    let output = shell
        .command("in.png -o out.png --scale 2 --model model --prompt-syntax weighted --prompt")
        .arg(prompt)
        .args(more)
        .output()
        .unwrap();
    let line = stderr(&output);
    assert!(!output.status.success(), "{prompt}");
    assert_eq!(line.trim_end().lines().count(), 1, "{line}");
    line
}

#[test]
fn what_a_weighted_prompt_cannot_say_is_refused_by_name() {
    let shell = shell();
    for (prompt, said) in [
        ("a [cat:dog:0.5]", "--prompt: `[cat:dog:0.5]` would change the prompt between steps"),
        ("a [cat|dog]", "`[cat|dog]` would take turns"),
        ("a cat AND a dog", "`AND`"),
        ("a (cat:1.2.3)", "`(cat:1.2.3)` is not a number"),
        ("<hypernet:x:1> a cat", "`<hypernet:x:1>` is of a kind"),
        ("a cat <lora:nothing:1>", "there is no nothing.safetensors in"),
        ("a cat <lora:../x:1>", "a name and no path"),
        ("a cat <lora:x:y>", "its scale is not a number"),
    ] {
        let line = refused(&shell, prompt, &[]);
        assert!(line.contains(said), "{line}");
    }
    let line = refused(&shell, "a cat", &["--negative-prompt", "<lora:x>", "--guidance", "2"]);
    assert!(line.contains("name it in the prompt"), "{line}");
    fs::copy(fixture("lora/hyper.safetensors"), shell.path("wash.safetensors")).unwrap();
    let line = refused(&shell, "a cat <lora:wash>", &["--lora", "wash.safetensors"]);
    assert!(line.contains("that LoRA is given twice"), "{line}");
    let long = "a ".repeat(3000);
    assert!(refused(&shell, &long, &[]).contains("more than 32 chunks"));
}

#[test]
fn embeddings_that_do_not_fit_are_refused_by_name() {
    let shell = shell();
    let text = "--embedding";
    for (file, said) in [
        ("learned_embeds.safetensors", "made for one text encoder, and the model has 2"),
        ("sky-bird.safetensors", "made for another model"),
        ("states.safetensors", "no embedding: "),
        ("missing.safetensors", "no such model folder or file"),
        ("in.pt", "pickled weights"),
    ] {
        if fixture("prompt").join(file).exists() {
            fs::copy(fixture("prompt").join(file), shell.path(file)).unwrap();
        }
        fs::write(shell.path("in.pt"), b"\x80\x02}q\x00.").unwrap();
        let line = refused(&shell, "a cat", &[text, file]);
        assert!(line.contains(file) && line.contains(said), "{line}");
    }
    let line = refused(&shell, "a cat", &[text, "."]);
    assert!(line.contains("none of its files is an embedding for this model"), "{line}");
}

#[test]
fn an_output_carries_the_syntax_and_reuse_takes_it() {
    let shell = shell();
    let prompt = "the (old:1.4) harbour";
    let run = |words: &str, more: &[&str]| {
        let output = shell.command(words).args(more).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        output
    };
    run("in.png -o out.png --scale 2 --model model --prompt-syntax weighted --prompt", &[prompt]);
    let info = String::from_utf8(run("info out.png", &[]).stdout).unwrap();
    assert!(info.contains(prompt) && info.contains("weighted"), "{info}");
    let first = shell.bytes("out.png");
    run("in.png -o again.png --reuse out.png --model model", &[]);
    assert_eq!(shell.bytes("again.png"), first);
}

#[test]
fn the_plan_counts_the_chunks_of_a_long_prompt() {
    let shell = shell();
    let plan = |prompt: &str| {
        let output = shell
            .command("plan in.png --scale 2 --model model --captioner none --prompt-syntax weighted --prompt")
            .arg(prompt)
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(!plan("a (cat)").contains("chunks"));
    assert!(plan("a cat BREAK a dog BREAK a cow").contains("up to 3 chunks of tokens"));
}
