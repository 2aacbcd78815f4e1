//! The estimate of memory against the truth: `plan`'s figure and the peak of the program's resident
//! set, on Linux, where the kernel tells it; and what the headers say of weights against the loaded ones.

use candle_core::{DType, Device};
use cupscale::weights::{Footprint, ModelFiles, ModelSource, QuantType};

use crate::common::Shell;
#[cfg(target_os = "linux")]
use crate::{
    common::{enlarger, fixture},
    measure,
};

/// The bytes that `plan` says the job will take.
#[cfg(target_os = "linux")]
fn estimate(shell: &Shell, job: &str) -> f64 {
    let plan = String::from_utf8(shell.succeed(&format!("plan {job}"))).unwrap();
    let line = plan.lines().find_map(|line| line.strip_prefix("memory ")).unwrap();
    line.split_whitespace().next().unwrap().parse::<f64>().unwrap() * f64::from(1 << 20)
}

#[cfg(target_os = "linux")]
#[test]
fn a_job_takes_no_more_than_planned_and_at_least_four_fifths_of_it() {
    let shell = Shell::new();
    shell.picture("in.png", 48, 40);
    for options in [
        "",
        "--tile 128 --size 320x320 --batch 8",
        "--tile 128 --size 320x320 --batch 2 --guidance 2 --rap 0",
        "--tile 128 --size 320x320 --batch 2 --prompt-syntax weighted --prompt (a)BREAK[b],BREAK(c:2)",
    ] {
        let job = format!("in.png -o out.png --denoise-steps 1 --threads 2 {options}");
        let (planned, measured) = (estimate(&shell, &job), measure(shell.command(&job)));
        let ratio = planned / measured;
        println!("{options:<60} planned {planned:.3e} measured {measured:.3e} ratio {ratio:.3}");
        assert!((1.0..=1.25).contains(&ratio), "{options}: planned {planned}, took {measured}");
    }
}

/// A network before all else, over a picture of several tiles, with the repaint behind it and alone.
#[cfg(target_os = "linux")]
#[test]
fn a_first_enlarger_takes_no_more_than_planned() {
    let shell = Shell::new();
    shell.picture("in.png", 440, 330);
    enlarger::write_rrdb(&shell.path("first.safetensors"), 32, 16, 2);
    for options in ["--denoise-steps 0", "--denoise-steps 0 -s 2", "--denoise-steps 1 -s 1 --rap 0"]
    {
        let first = "--first first.safetensors --threads 2 --batch 1 --tile 128";
        let job = format!("in.png -o out.png {first} {options}");
        let (planned, measured) = (estimate(&shell, &job), measure(shell.command(&job)));
        let ratio = planned / measured;
        println!("{options:<60} planned {planned:.3e} measured {measured:.3e} ratio {ratio:.3}");
        assert!((1.0..=1.25).contains(&ratio), "{options}: planned {planned}, took {measured}");
    }
}

/// A VAE with norms, whose tiles come from layers of the whole or share statistics; its weights take next to nothing.
#[cfg(target_os = "linux")]
#[test]
fn a_vae_with_norms_takes_no_more_than_planned_in_either_form() {
    let shell = Shell::new();
    shell.picture("in.png", 768, 640);
    let model = fixture("img2img/model");
    let vae = fixture("vae_trained");
    let models = format!("--model {} --vae {}", model.display(), vae.display());
    for options in
        ["--tile 256", "--tile 512", "--tile 256 --vae-disk 0", "--tile 512 --vae-disk 0"]
    {
        let job = format!(
            "in.png -o out.png --scale 1 --rap 0 --denoise-steps 1 --threads 2 {models} {options}"
        );
        let (planned, measured) = (estimate(&shell, &job), measure(shell.command(&job)));
        let ratio = planned / measured;
        println!("{options:<60} planned {planned:.3e} measured {measured:.3e} ratio {ratio:.3}");
        assert!((1.0..=1.3).contains(&ratio), "{options}: planned {planned}, took {measured}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn a_small_budget_is_kept_and_changes_no_byte() {
    let shell = Shell::new();
    shell.picture("in.png", 96, 72);
    let job = "in.png --denoise-steps 1 --threads 2 --tile 128";
    shell.succeed(&format!("{job} -o free.png"));
    let free = estimate(&shell, job);
    // Less than all parts of the model and four regions at once take.
    let budget = format!("{:.0}", free * 0.9);
    let bound = format!("{job} --max-memory {budget} -o bound.png");
    let measured = measure(shell.command(&bound));
    assert!(measured <= budget.parse().unwrap(), "{measured} of {budget}");
    assert_eq!(shell.bytes("free.png"), shell.bytes("bound.png"));
}

#[test]
fn a_budget_that_nothing_fits_is_one_line_with_both_figures() {
    let shell = Shell::new();
    shell.picture("in.png", 32, 32);
    for verb in ["plan", ""] {
        let line = shell.fail(&format!("{verb} in.png --max-memory 20MiB"), 1);
        assert!(line.contains("needs at least") && line.contains("may use 20.0 MiB"), "{line}");
    }
    assert_eq!(shell.names(), ["in.png"]);
}

#[test]
fn plan_chooses_smaller_tiles_and_batches_for_a_smaller_budget() {
    let shell = Shell::new();
    shell.picture("in.png", 256, 256);
    let plan = |options: &str| {
        String::from_utf8(shell.succeed(&format!("plan in.png --threads 2 {options}"))).unwrap()
    };
    let usual = plan("--max-memory 8GiB");
    assert!(usual.contains("batches of 4") && usual.contains("of 512 px"), "{usual}");
    assert!(usual.contains("stay loaded") && usual.contains(" of 8.0 GiB"), "{usual}");
    let small = plan("--max-memory 280MiB");
    assert!(small.contains("loaded for each stage"), "{small}");
    assert!(!small.contains("of 512 px"), "{small}");
    // What the user asks for is not changed.
    let line = shell.fail("plan in.png --threads 2 --max-memory 280MiB --tile 512", 1);
    assert!(line.contains("VAE tiles of 512 px"), "{line}");
}

#[test]
fn headers_tell_what_loaded_weights_take() {
    let device = Device::Cpu;
    let files = || ModelFiles::open(ModelSource::Embedded).unwrap();
    for files in [
        files(),
        files().keep_above(0),
        files().keep_above(0).quantized(QuantType::Q8_0),
        files().quantized(QuantType::Q4K),
    ] {
        let check = |(_, footprint): ((), Footprint), loaded: usize| {
            assert_eq!(footprint.kept, loaded);
            assert!(footprint.loading >= footprint.kept && footprint.mapped <= footprint.kept);
            assert!(footprint.embedded > 0);
        };
        let vae = |files: &ModelFiles| files.vae(&device, DType::F32).map(|vae| vae.weight_bytes());
        let dry = files.without_values(|files| vae(files).map(drop)).unwrap();
        check(dry, vae(&files).unwrap());
        let text =
            |files: &ModelFiles| files.text(&device, DType::F32).map(|text| text.weight_bytes());
        let dry = files.without_values(|files| text(files).map(drop)).unwrap();
        check(dry, text(&files).unwrap());
    }
}
