//! `models quantize` and `--quantize` as a user runs them.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use crate::common::{Shell, mini, models_bench::one_line, stderr};

#[test]
fn a_model_quantized_to_a_file_paints_the_same_picture_as_one_quantized_on_the_fly() {
    let shell = Shell::new();
    shell.picture("in.png", 48, 40);
    let arguments = format!("models quantize {} -o mini.gguf --type q8_0", mini().display());
    let output = shell.run(&arguments);
    assert!(output.status.success(), "{}", stderr(&output));
    // What it leaves out it says.
    let own = mini().join("first.safetensors").display().to_string();
    assert!(stderr(&output).contains(&format!("name {own} with --first")), "{}", stderr(&output));
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(printed.starts_with("mini.gguf: "), "{printed}");
    for format in ["f16", "f32", "q8_0"] {
        let line = printed.lines().find(|line| line.trim_start().starts_with(format)).unwrap();
        assert!(line.contains("tensors"), "{line}");
    }
    let job = "-s 2 --steps 4 --seed 5 -q";
    shell.succeed(&format!("in.png -o file.png --model mini.gguf --first {own} {job}"));
    shell.succeed(&format!("in.png -o fly.png --quantize q8_0 {job}"));
    shell.succeed(&format!("in.png -o plain.png {job}"));
    let pixels = |name: &str| pictures::open(shell.path(name)).to_rgb8().into_raw();
    assert_eq!(pixels("file.png"), pixels("fly.png"));
    assert_ne!(pixels("file.png"), pixels("plain.png"));
}

#[test]
fn what_cannot_be_quantized_says_why_in_one_line() {
    let shell = Shell::new();
    let quantize = |rest: &str| format!("models quantize {rest}");
    let line = shell.fail(&quantize(&format!("{} -o a.gguf --type q4_0", mini().display())), 2);
    assert!(line.contains("q8_0") && line.contains("q4_0"), "{line}");
    let line = shell.fail(&quantize("absent -o a.gguf --type q8_0"), 1);
    assert!(line.contains("absent"), "{line}");
    std::fs::write(shell.path("bad.gguf"), b"GGUF\x03\0\0\0junk").unwrap();
    let line = shell.fail(&quantize("bad.gguf -o a.gguf --type q8_0"), 1);
    assert!(line.contains("bad.gguf: not a GGUF file that can be used"), "{line}");
    let line =
        shell.fail(&quantize(&format!("{} -o absent/a.gguf --type q8_0", mini().display())), 1);
    assert!(line.contains("absent/a.gguf"), "{line}");
    assert_eq!(shell.names(), ["bad.gguf"]);
}

/// However it ends, a file of the model's size is not left behind, hidden or not.
#[cfg(unix)]
#[test]
fn what_is_interrupted_or_killed_leaves_nothing() {
    let shell = Shell::new();
    for signal in ["-INT", "-KILL"] {
        // On a busy machine the signal may come when all is done: then again.
        let stopped = (0..50).find_map(|_| {
            let arguments =
                format!("models quantize {} -o a.gguf -q q4_k --progress json", mini().display());
            let mut child = shell.command(&arguments).stderr(Stdio::piped()).spawn().unwrap();
            let mut events = BufReader::new(child.stderr.take().unwrap());
            let mut event = String::new();
            events.read_line(&mut event).unwrap();
            assert!(event.contains(r#""stage":"quantize""#), "{event}");
            assert!(
                Command::new("kill")
                    .args([signal, &child.id().to_string()])
                    .status()
                    .unwrap()
                    .success()
            );
            let mut output = child.wait_with_output().unwrap();
            std::io::Read::read_to_end(&mut events, &mut output.stderr).unwrap();
            if output.status.success() {
                std::fs::remove_file(shell.path("a.gguf")).unwrap();
                return None;
            }
            Some(output)
        });
        let stopped = stopped.expect("a signal arrives in time");
        if signal == "-INT" {
            let line = one_line(&stopped, 130);
            assert_eq!(line, "cupscale-fast: interrupted; nothing was written");
        }
        assert!(shell.names().is_empty(), "{signal}: {:?}", shell.names());
    }
}
