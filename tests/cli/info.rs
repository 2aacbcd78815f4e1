//! `info` and `--reuse`: a picture says what made it, and what made it makes it again.

use serde_json::Value;

use crate::common::{Shell, stderr, tiny};

fn info(shell: &Shell, name: &str) -> Value {
    serde_json::from_slice(&shell.succeed(&format!("info {name} --json"))).unwrap()
}

#[test]
fn a_picture_says_what_it_is_and_what_made_it() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    let text = String::from_utf8(shell.succeed("info in.png")).unwrap();
    assert!(text.contains("24 × 16") && text.contains("did not make it"), "{text}");
    assert_eq!(info(&shell, "in.png")["settings"], Value::Null);
    for output in ["out.png", "out.jpg", "out.webp", "out.tif"] {
        shell.succeed(&format!("in.png -o {output} -s 2 --denoise-steps 1 --seed 7 --blend 0.5"));
        let info = info(&shell, output);
        assert_eq!((&info["width"], &info["settings"]["seed"]), (&48.into(), &7.into()));
        assert_eq!((&info["settings"]["blend"], &info["alpha"]), (&0.5.into(), &false.into()));
        let text = String::from_utf8(shell.succeed(&format!("info {output}"))).unwrap();
        assert!(text.contains("\"mini\"") && text.contains("48 × 32"), "{text}");
    }
    std::fs::write(shell.path("no.png"), "no picture").unwrap();
    shell.fail("info no.png", 1);
    shell.fail("info nothing.png", 1);
}

#[test]
fn the_settings_of_a_picture_make_it_again() {
    let shell = Shell::new();
    shell.picture("in.png", 33, 17);
    for (line, format) in [
        ("-s 1.7 --seed 5 --steps 6 --denoise-steps 2 --gsp 0.4 --rap 0.1 --color-fix lab", "png"),
        (
            "-s 2 --denoise-steps 1 --detail-only --blend 0.7 --color-fix adain --sampler euler",
            "tif",
        ),
        ("-s 2 --sharpen 0 --grain 0", "png"),
        ("-s 2 --bit-depth 16", "png"),
        (
            "-s 2 --first-share 0.3 --sharpen 1.1 --grain 2.5 --fidelity 0.3 --coherence 0.4 --texture 0.3 --color-fix none",
            "png",
        ),
        ("--size 60x40 --timesteps 499,249 --denoise-steps 1 --rsp 0 --fusion average", "webp"),
        (
            "-s 2 --denoise-steps 1 --guidance 2 --negative-prompt=-dark --captioner none --eta 0.5",
            "png",
        ),
    ] {
        // A value that looks like an option.
        shell.succeed(&format!("in.png -o first.{format} --prompt=--night {line}"));
        shell.succeed(&format!("in.png -o again.{format} --reuse first.{format}"));
        assert!(
            shell.bytes(&format!("first.{format}")) == shell.bytes(&format!("again.{format}")),
            "{line}"
        );
    }
}

#[test]
fn what_is_typed_goes_before_what_is_reused() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    shell.succeed("in.png -o first.png -s 2 --denoise-steps 1 --seed 5");
    shell.succeed("in.png -o other.png --reuse first.png --seed 6 --size 30x20");
    let (first, other) = (info(&shell, "first.png"), info(&shell, "other.png"));
    assert_eq!(other["settings"]["seed"], 6);
    assert_eq!(other["settings"]["size"], serde_json::json!([30, 20]));
    assert_eq!(other["settings"]["denoise_steps"], first["settings"]["denoise_steps"]);
    let plan = String::from_utf8(shell.succeed("plan in.png --reuse first.png")).unwrap();
    assert!(plan.contains("48 × 32"), "{plan}");
}

#[test]
fn what_cannot_be_reused_is_said_by_name() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    assert!(shell.fail("in.png --reuse in.png", 2).contains("no settings"));
    assert!(shell.fail("in.png --reuse nothing.png", 2).contains("nothing.png"));
    shell.succeed(&format!(
        "in.png -o other.png -s 2 --denoise-steps 1 --model {}",
        tiny().display()
    ));
    let message = shell.fail("in.png --reuse other.png", 2);
    assert!(message.contains("its model") && message.contains("--model"), "{message}");
    shell.succeed(&format!("in.png -o again.png --reuse other.png --model {}", tiny().display()));

    shell.succeed("in.png -o first.png -s 2 --denoise-steps 1");
    let settings = |replace: (&str, &str), name: &str| {
        let bytes = shell.bytes("first.png");
        let place = bytes.windows(replace.0.len()).position(|part| part == replace.0.as_bytes());
        // The chunk's length and checksum with it.
        let keyword = bytes.windows(9).position(|part| part == b"cupscale\0").unwrap();
        let length =
            u32::from_be_bytes(bytes[keyword - 8..keyword - 4].try_into().unwrap()) as usize;
        let mut data = bytes[keyword - 4..keyword + length].to_vec();
        let at = place.unwrap() - (keyword - 4);
        data.splice(at..at + replace.0.len(), replace.1.bytes());
        let mut out = bytes[..keyword - 8].to_vec();
        out.extend((data.len() as u32 - 4).to_be_bytes());
        let sum = crc32fast::hash(&data);
        out.extend(data);
        out.extend(sum.to_be_bytes());
        out.extend(&bytes[keyword + length + 4..]);
        std::fs::write(shell.path(name), out).unwrap();
    };
    settings(("\"gsp\":0.2", "\"gsp\":9"), "range.png");
    let message = shell.fail("in.png --reuse range.png", 2);
    assert!(message.contains("--gsp") && message.contains("range.png"), "{message}");
    settings(("\"gsp\":0.2", "\"gsp\":[]"), "kind.png");
    assert!(shell.fail("in.png --reuse kind.png", 2).contains("`gsp` cannot be []"));
    settings(("\"gsp\":0.2", "\"glow\":1,\"gsp\":0.2"), "unknown.png");
    let output = shell.run("plan in.png --reuse unknown.png");
    assert!(output.status.success(), "{}", stderr(&output));
    let output = shell.run("in.png -o u.png --reuse unknown.png");
    assert!(stderr(&output).contains("`glow`"), "{}", stderr(&output));
}
