//! Whole jobs whose picture is enlarged by a network before all else (`--first`): against the literal method in PyTorch
//! (`tests/make_fixtures/make_enlarger_fixtures.py`), without the diffusion model, for every kind of picture, and killed.

use std::{
    fs,
    process::Stdio,
    time::{Duration, Instant},
};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::image::{self, Input, read_settings};

use crate::{
    common::{Shell, copy_folder, enlarger, fixture, stderr},
    reference::error_of_output,
};

/// The pictures of the fixtures, `[H, W, 3]` in 0…1.
fn reference(name: &str) -> Tensor {
    let bytes = fs::read(fixture("enlarger/jobs.safetensors")).unwrap();
    let file = ::safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let view = file.tensor(name).unwrap();
    let values: Vec<f32> = view
        .data()
        .as_chunks()
        .0
        .iter()
        .map(|&v| f32::from(u16::from_le_bytes(v)) / 65535.0)
        .collect();
    Tensor::from_vec(values, view.shape(), &Device::Cpu).unwrap()
}

/// A folder with the small diffusion model, the input of the method's fixtures, and networks.
fn shell() -> Shell {
    let shell = Shell::new();
    fs::copy(fixture("method/in.png"), shell.path("in.png")).unwrap();
    copy_folder(&fixture("img2img/model"), &shell.path("model"));
    for case in ["new_2x", "compact_2x"] {
        enlarger::write(case, &shell.path(&format!("{case}.safetensors")));
    }
    shell
}

const ALONE: &str =
    "in.png -o out.png --model model --first compact_2x.safetensors --denoise-steps 0";

#[test]
fn a_repaint_of_what_a_network_makes_equals_the_literal_method() {
    let shell = shell();
    let options: Vec<String> =
        serde_json::from_slice(&fs::read(fixture("enlarger/repainted.json")).unwrap()).unwrap();
    let mut command =
        shell.command("in.png -o out.png --device cpu --model model --first new_2x.safetensors");
    let output = command.args(&options).output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let error = error_of_output(&shell, &reference("repainted"));
    println!("{error:.1e}");
    assert!(error <= 1e-4, "{error}");
    let settings = read_settings(&shell.path("out.png")).unwrap().unwrap();
    assert!(settings.contains(r#""first":"new_2x""#), "{settings}");
}

#[test]
fn without_steps_the_output_is_the_networks_picture_and_no_diffusion_network_is_read() {
    let shell = shell();
    // They could not run.
    for part in ["unet", "vae"] {
        let path = shell.path(&format!("model/{part}/diffusion_pytorch_model.safetensors"));
        let tensors = safetensors::load(&path, &Device::Cpu).unwrap();
        let broken: std::collections::HashMap<_, _> = (tensors.into_iter())
            .map(|(name, tensor)| {
                let nothing = Tensor::full(f32::NAN, tensor.shape(), &Device::Cpu).unwrap();
                (name, nothing.to_dtype(DType::F32).unwrap())
            })
            .collect();
        safetensors::save(&broken, &path).unwrap();
    }
    // Two passes, and Lanczos behind both.
    let output = shell.run(&format!("{ALONE} --size 103x60"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("compact_2x alone: the diffusion model does not run"));
    let error = error_of_output(&shell, &reference("alone"));
    println!("{error:.1e}");
    assert!(error <= 5e-5, "{error}");
    let plan = String::from_utf8(shell.succeed(&format!("plan {ALONE} --size 103x60"))).unwrap();
    assert!(
        plan.contains("first         compact_2x (SRVGGNetCompact, 2×), twice and Lanczos"),
        "{plan}"
    );
    assert!(plan.contains("\nenlarge ") && !plan.contains("\ndenoise "), "{plan}");
    assert!(plan.contains("steps         0 of 8\n"), "{plan}");
    // What it mixes with is the same picture.
    let alone = shell.bytes("out.png");
    fs::rename(shell.path("out.png"), shell.path("alone.png")).unwrap();
    let blend = ALONE.replace("--denoise-steps 0", "--denoise-steps 2 --blend 0");
    shell.succeed(&format!("{blend} --size 103x60"));
    let pixels = |name: &str| pictures::open(shell.path(name)).to_rgb16().into_raw();
    assert_eq!(pixels("out.png"), pixels("alone.png"));
    assert_ne!(alone, shell.bytes("in.png"));
    // And without a network it is the plain enlargement.
    let plain = ALONE.replace("--first compact_2x.safetensors", "--first lanczos");
    shell.succeed(&plain);
    fs::rename(shell.path("out.png"), shell.path("plain.png")).unwrap();
    shell.succeed(&plain.replace("--denoise-steps 0", "--blend 0"));
    assert_eq!(pixels("out.png"), pixels("plain.png"));
}

#[test]
fn files_of_ncnn_enlarge_transparent_and_grey_pictures_and_light_above_white() {
    let shell = shell();
    let network = fixture("enlarger/ncnn/rrdb_f16.param");
    let first = format!("--model model --denoise-steps 0 -s 3 --first {}", network.display());
    let plain = "--model model --denoise-steps 0 -s 3";
    for name in ["rgba", "grey16"] {
        let input = fixture(&format!("image/{name}.png"));
        for (options, output) in [(first.as_str(), "first.png"), (plain, "plain.png")] {
            shell.succeed(&format!("{} -o {output} {options}", input.display()));
        }
        let [first, plain] = ["first.png", "plain.png"]
            .map(|name| image::decode(&Input::Path(shell.path(name))).unwrap());
        assert_eq!((first.grey, first.bit_depth), (plain.grey, plain.bit_depth), "{name}");
        assert_eq!(first.alpha, plain.alpha, "{name}");
        assert!(first.rgb != plain.rgb, "{name}");
    }
    let light = fixture("image/light/piz.exr");
    shell.succeed(&format!("{} -o light.exr {first}", light.display()));
    let peak = |path| image::decode(&Input::Path(path)).unwrap().light.unwrap().peak;
    let (given, made) = (peak(light), peak(shell.path("light.exr")));
    assert!(given > 1.0 && made > 1.0 && made <= given * 1.01, "{given} {made}");
}

#[test]
fn a_job_that_is_killed_behind_or_within_the_enlargement_ends_with_the_same_bytes() {
    let shell = shell();
    let line = "in.png -o out.png -q --model model --first new_2x.safetensors -s 6 --tile 48 --denoise-steps 3";
    shell.succeed(line);
    let expected = shell.bytes("out.png");
    let work = shell.path(".out.png.cupscale");
    // 0 is as soon as there is a work folder, in which nothing is done yet.
    for bytes in [0, 1, 60, 120] {
        fs::remove_file(shell.path("out.png")).unwrap();
        let mut child = shell.command(line).stdout(Stdio::null()).spawn().unwrap();
        let begun = Instant::now();
        let journal = work.join("journal");
        while child.try_wait().unwrap().is_none()
            && fs::metadata(&journal).map_or(true, |found| found.len() < bytes)
            && begun.elapsed() < Duration::from_secs(60)
        {
            std::thread::sleep(Duration::from_micros(200));
        }
        let _ = child.kill();
        child.wait().unwrap();
        if bytes == 60 && journal.exists() {
            // Another enlarger is another job.
            let other = line.replace("new_2x", "compact_2x");
            let refused = shell.fail(&other, 2);
            assert!(refused.contains("unfinished work of another job"), "{refused}");
        }
        shell.succeed(line);
        assert_eq!(shell.bytes("out.png"), expected, "killed at {bytes} bytes");
        assert!(!work.exists());
    }
}

#[test]
fn folders_edits_and_raw_frames_are_enlarged_by_the_network_first() {
    let shell = shell();
    shell.succeed(ALONE);
    let expected = pictures::open(shell.path("out.png")).to_rgb16().into_raw();
    fs::create_dir(shell.path("shots")).unwrap();
    fs::copy(shell.path("in.png"), shell.path("shots/a.png")).unwrap();
    shell.succeed(&ALONE.replace("in.png -o out.png", "-i shots -o big"));
    assert_eq!(pictures::open(shell.path("big/a.png")).to_rgb16().into_raw(), expected);
    shell.succeed(&format!("edit {}", ALONE.replace("in.png -o out.png", "shots/a.png")));
    assert_eq!(pictures::open(shell.path("shots/a.png")).to_rgb16().into_raw(), expected);
    let frame: Vec<u8> = pictures::open(shell.path("in.png"))
        .to_rgb16()
        .into_raw()
        .into_iter()
        .flat_map(u16::to_le_bytes)
        .collect();
    fs::write(shell.path("frames"), [&frame[..], &frame].concat()).unwrap();
    let raw = ALONE.replace("in.png -o out.png", "raw 33x19 --pix rgb48le -i frames -o made");
    shell.succeed(&raw);
    let made = shell.bytes("made");
    let (one, two) = made.split_at(made.len() / 2);
    let bytes: Vec<u8> = expected.into_iter().flat_map(u16::to_le_bytes).collect();
    assert!(one == bytes && two == bytes);
}

#[test]
fn a_network_of_the_models_own_runs_where_nothing_else_is_said_and_the_output_is_larger() {
    let shell = shell();
    let own = |folder: &str| shell.path(folder).join("first.safetensors");
    copy_folder(&shell.path("model"), &shell.path("enlarging"));
    enlarger::write("compact_2x", &own("enlarging"));
    let made = |options: &str| {
        shell.succeed(&format!("in.png -o out.png --device cpu {options}"));
        let settings = read_settings(&shell.path("out.png")).unwrap().unwrap();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        (pictures::open(shell.path("out.png")).to_rgb16().into_raw(), settings["first"].clone())
    };
    let few = "--denoise-steps 1 --captioner none";
    let (pixels, first) = made(&format!("--model enlarging {few} -s 2"));
    assert!(first.is_null(), "{first}");
    let other = format!("--model model --first compact_2x.safetensors {few} -s 2");
    assert_eq!(made(&other), (pixels.clone(), "compact_2x".into()));
    // It says so, and may be told not to; that is kept for the next time.
    let plan = shell.succeed(&format!("plan in.png --model enlarging {few} -s 2"));
    let plan = String::from_utf8(plan).unwrap();
    assert!(plan.contains("first         enlarging's own (SRVGGNetCompact, 2×), once\n"), "{plan}");
    let (plain, _) = made(&format!("--model model {few} -s 2"));
    let told = made(&format!("--model enlarging --first lanczos {few} -s 2"));
    assert_eq!(told, (plain.clone(), "lanczos".into()));
    fs::copy(shell.path("out.png"), shell.path("told.png")).unwrap();
    assert_eq!(made("--model enlarging --reuse told.png"), told);
    assert_ne!(plain, pixels);
    // What is not larger is repainted as it is.
    let (same, _) = made(&format!("--model enlarging {few} -s 1"));
    assert_eq!(same, made(&format!("--model model {few} -s 1")).0);
    // A folder whose network is damaged says so before anything runs.
    fs::write(own("enlarging"), b"no network").unwrap();
    let output = shell.run("in.png -o none.png --device cpu --model enlarging");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("first.safetensors"), "{}", stderr(&output));
    assert!(!shell.path("none.png").exists());
}

#[test]
fn what_is_flat_or_grey_in_the_input_is_so_in_a_networks_picture() {
    let shell = shell();
    let made = |picture: pictures::RgbImage| {
        pictures::save(picture.into(), &shell.path("in.png"));
        shell.succeed(ALONE);
        pictures::open(shell.path("out.png")).to_rgb8()
    };
    let paper = pictures::Rgb([231, 228, 219]);
    let flat = made(pictures::RgbImage::from_pixel(40, 24, paper));
    assert!(flat.pixels().all(|pixel| *pixel == paper));
    let grey = |x: u32, y: u32| pictures::Rgb([(x * 37 + y * 61) as u8; 3]);
    let grey = made(pictures::RgbImage::from_fn(40, 24, grey));
    assert!(grey.pixels().all(|rgb| rgb[0] == rgb[1] && rgb[1] == rgb[2]));
}
