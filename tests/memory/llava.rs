//! The estimate of memory against the truth where captions are made: `plan`'s figure and the peak of the
//! program's resident set, with LLaVA models that are larger than all else, their weights random.

use std::{fs, process::Command};

use candle_core::DType;

use crate::common::{
    Shell, fixture,
    random_llava::{self, Decoder},
    stderr,
};
use crate::measure;

/// The program with these arguments on two threads, the tiny diffusion model, and a LLaVA model.
fn command(shell: &Shell, arguments: &str) -> Command {
    let diffusion = fixture("img2img/model");
    let mut command = shell.command(arguments);
    command.arg("--model").arg(diffusion).args(["--threads", "2", "--captioner", "llava"]);
    command.arg("--caption-model").arg(shell.path("model"));
    command.env("HOME", shell.path("home")).env("XDG_CACHE_HOME", shell.path("home/cache"));
    command
}

fn plan(shell: &Shell, options: &str) -> String {
    let output = command(shell, &format!("plan in.png {options}")).output().unwrap();
    assert!(output.status.success(), "{options}: {}", stderr(&output));
    String::from_utf8(output.stdout).unwrap()
}

/// The bytes of a line of the plan that begins with `name`, in the column of this number.
fn planned(plan: &str, name: &str, column: usize) -> f64 {
    let line = plan.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut numbers = line.split_whitespace().filter_map(|word| word.parse::<f64>().ok());
    numbers.nth(column).unwrap() * f64::from(1 << 20)
}

/// The peak of the resident set of the job with these options.
fn peak(shell: &Shell, options: &str) -> f64 {
    measure(command(shell, &format!("in.png -o out.png {options}")))
}

fn shell(decoder: Decoder, dtype: DType) -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    random_llava::write(&shell.path("model"), decoder, dtype);
    shell
}

#[test]
fn captions_take_no_more_than_planned_and_at_least_four_fifths_of_it() {
    // In f32 in memory, and large enough to stay as stored in the mapped file, from which every word reads it all: of
    // two regions, then, and not of six.
    let small = Decoder { hidden: 768, inner: 2048, layers: 5, vocabulary: 8192 };
    let large = Decoder { layers: 9, ..small };
    for (decoder, dtype, options) in [
        (small, DType::F32, "--size 96x72 --prompt fog"),
        (small, DType::F16, "--size 72x48 --prompt fog --caption-batch 1 --caption-quantize q8_0"),
        (large, DType::F16, "--size 72x48 --prompt fog --caption-batch 2"),
        (large, DType::F32, "--size 72x48 --prompt fog --caption-batch 2 --caption-quantize q4_k"),
    ] {
        let shell = shell(decoder, dtype);
        let plan = plan(&shell, options);
        let planned = planned(&plan, "memory ", 0);
        let measured = peak(&shell, options);
        let ratio = planned / measured;
        println!("{options:<60} planned {planned:.3e} measured {measured:.3e} ratio {ratio:.3}");
        assert!((1.0..=1.25).contains(&ratio), "{options}: {measured} measured\n{plan}");
    }
}

#[test]
fn a_budget_for_one_model_at_a_time_is_kept_and_changes_no_byte() {
    let decoder = Decoder { hidden: 768, inner: 2048, layers: 3, vocabulary: 4096 };
    let shell = shell(decoder, DType::F32);
    let options = "--size 96x72 --no-caption-cache";
    peak(&shell, options);
    let free = shell.bytes("out.png");
    let roomy = plan(&shell, options);
    assert!(roomy.contains("captioner     stays loaded; 6 captions at once, 5 read"), "{roomy}");
    // The captioner's stage with fewer captions at once, and without the other model's weights.
    let budget = 0.97 * planned(&roomy, "caption ", 2);
    let options = format!("{options} --max-memory {budget:.0}");
    let tight = plan(&shell, &options);
    assert!(tight.contains("freed before the denoiser is loaded"), "{tight}");
    assert!(!tight.contains("6 captions at once, 5 read"), "{tight}");
    let measured = peak(&shell, &options);
    assert!(measured <= budget, "{measured} of {budget}\n{tight}");
    assert_eq!(shell.bytes("out.png"), free);

    let line = command(&shell, "in.png -o out.png --max-memory 40MiB").output().unwrap();
    assert_eq!(line.status.code(), Some(1));
    let line = stderr(&line);
    assert!(line.contains("needs at least") && line.contains("--caption-quantize"), "{line}");
}

#[test]
fn captions_that_are_known_do_not_load_the_model() {
    let decoder = Decoder { hidden: 768, inner: 2048, layers: 3, vocabulary: 4096 };
    let shell = shell(decoder, DType::F32);
    let first = peak(&shell, "-s 2");
    let again = peak(&shell, "-s 2 --seed 1 --strength 0.3");
    let weights = fs::metadata(shell.path("model/model.safetensors")).unwrap().len() as f64;
    assert!(again < first - weights, "{first}, then {again}, of which {weights} are weights");
}
