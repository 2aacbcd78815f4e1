//! The program as a person or a script meets it: arguments, pipes, exit codes, what lies in the
//! folder afterwards.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    process::Stdio,
};

use cupscale::backend::MatmulPrecision;

use crate::common::{Shell, copy_folder, mini, quick, size, stderr, test_picture, tiny};

#[test]
fn a_picture_becomes_four_times_as_large_beside_itself() {
    let shell = Shell::new();
    shell.picture("photo.png", 40, 24);
    shell.succeed("photo.png");
    assert_eq!(shell.names(), ["photo.png", "photo_4x.png"]);
    assert_eq!(size(&shell.path("photo_4x.png")), (160, 96));
}

#[test]
fn the_output_has_exactly_the_size_asked_for() {
    let shell = Shell::new();
    for (width, height, option, expected) in [
        (33, 17, "--scale 1.1", (36, 19)),
        (33, 17, "--scale 3.7", (122, 63)),
        (31, 47, "-s 2", (62, 94)),
        (40, 20, "--size 77x51", (77, 51)),
        (40, 20, "--long-edge 101", (101, 51)),
        (1, 1, "--scale 4", (4, 4)),
        (1, 9, "--scale 3", (3, 27)),
        (2, 3, "--size 1x1", (1, 1)),
    ] {
        shell.picture("in.png", width, height);
        let model = tiny().display().to_string();
        shell.succeed(&format!("-i in.png -o out.png --denoise-steps 1 --model {model} {option}"));
        assert_eq!(size(&shell.path("out.png")), expected, "{width}×{height} {option}");
    }
}

#[test]
fn every_format_goes_in_and_out() {
    let shell = Shell::new();
    for name in ["in.png", "in.jpg", "in.webp", "in.tif"] {
        shell.picture(name, 24, 16);
    }
    for (input, output, magic) in [
        ("in.png", "out.jpg", &b"\xff\xd8\xff"[..]),
        ("in.jpg", "out.webp", b"RIFF"),
        ("in.webp", "out.tif", b"II*\0"),
        ("in.tif", "out.png", b"\x89PNG"),
    ] {
        shell.succeed(&format!("{input} -o {output} {}", quick()));
        assert!(shell.bytes(output).starts_with(magic), "{output}");
        assert_eq!(size(&shell.path(output)), (48, 32), "{output}");
    }
}

#[test]
fn pixels_alone_go_through_a_pipe() {
    let shell = Shell::new();
    let bytes = fs::read(shell.picture("in.png", 24, 16)).unwrap();
    let mut child = shell
        .command("-i - -o - --format png --scale 2 --denoise-steps 1 --progress none --quiet")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
    assert!(output.stdout.starts_with(b"\x89PNG"));
    assert_eq!(pictures::decode(&output.stdout).to_rgb8().dimensions(), (48, 32));

    // What a pipe gets is what a file gets.
    shell.succeed("in.png -o out.png --scale 2 --denoise-steps 1");
    assert_eq!(output.stdout, shell.bytes("out.png"));
}

#[test]
fn a_reader_that_goes_away_ends_the_program_quietly() {
    let shell = Shell::new();
    shell.picture("in.png", 160, 120);
    let mut child = shell
        .command("in.png -o - --format tiff --scale 2 --denoise-steps 1 --quiet")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(stderr(&output), "");
}

#[test]
fn bad_input_gets_one_clear_line_and_leaves_nothing_behind() {
    let shell = Shell::new();
    let whole = fs::read(shell.picture("whole.png", 64, 48)).unwrap();
    fs::write(shell.path("cut.png"), &whole[..whole.len() * 2 / 3]).unwrap();
    let jpeg = fs::read(shell.picture("whole.jpg", 64, 48)).unwrap();
    fs::write(shell.path("cut.jpg"), &jpeg[..jpeg.len() / 2]).unwrap();
    fs::write(shell.path("empty.png"), b"").unwrap();
    fs::write(shell.path("text.png"), b"this is no picture at all").unwrap();
    fs::create_dir(shell.path("folder.png")).unwrap();
    let before = shell.names();
    for (input, expected) in [
        ("missing.png", "no such file"),
        ("cut.png", "not a readable image"),
        ("cut.jpg", "not a readable image"),
        ("empty.png", "empty"),
        ("text.png", "not a readable image"),
        ("folder.png", "no pictures in it"),
    ] {
        let message = shell.fail(&format!("{input} -o out.png"), 1);
        assert!(message.contains(input) && message.contains(expected), "{message}");
    }
    assert_eq!(shell.names(), before);
}

#[test]
fn wrong_usage_exits_with_two() {
    let shell = Shell::new();
    shell.picture("in.png", 8, 8);
    for arguments in [
        "--no-such-option",
        "in.png --scale 0",
        "in.png --scale two",
        "in.png --strength 0",
        "in.png --size 10",
        "in.png --scale 2 --size 10x10",
        "in.png --captioner somebody",
        "in.png --format gif",
        "in.png --device abacus",
        "in.png --eta 0.5 --sampler euler",
        "in.png --timesteps 0,5",
        "in.png --timesteps 1000",
        "in.png --steps 51 --sampler tcd",
        "in.png --guidance -1",
        "in.png --guidance 1e9",
    ] {
        let message = shell.fail(arguments, 2);
        assert!(message.starts_with("cupscale-fast: "), "{arguments}: {message}");
    }
    assert!(shell.fail("in.png plan", 2).contains("a verb comes first: cupscale-fast plan"));
    assert!(shell.fail("in.png -", 2).contains("stands alone"));
    assert!(shell.fail("in.png --sampler eular", 2).contains("did you mean euler?"));
    let message = shell.fail("in.png --sampler plms", 2);
    assert!(
        message.contains("plms")
            && message.contains("ddim, tcd, euler, euler-a, heun, lcm, dpmpp-2m"),
        "{message}"
    );
    assert!(shell.fail("in.png --eta 1.5", 2).contains("1.5"));
    assert!(shell.fail("in.png --denoise-steps 9", 2).contains("--denoise-steps 9"));
    assert!(shell.fail("", 2).contains("no input"));
    assert!(shell.fail("in.png -o out.gif", 2).contains(".gif"));
    assert_eq!(shell.names(), ["in.png"]);
}

#[test]
fn what_cannot_be_written_is_known_before_the_work() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 30);
    fs::create_dir(shell.path("taken.png")).unwrap();
    // `fail` wants one line on stderr: with JSON progress, no stage has begun.
    for (output, expected) in [("no/such/out.png", "does not exist"), ("taken.png", "directory")] {
        let message = shell.fail(&format!("in.png -o {output} --progress json"), 1);
        assert!(message.contains(output) && message.contains(expected), "{message}");
    }
    let message = shell.fail("in.png -o out.webp --long-edge 20000 --progress json", 1);
    assert!(message.contains("16383") && message.contains("TIFF"), "{message}");
    let long = format!("{}.png", "x".repeat(252));
    let message = shell.fail(&format!("in.png -o {long} --progress json"), 1);
    assert!(message.contains("too long"), "{message}");
    // A folder that was made for nothing does not stay.
    shell.fail("in.png -o no/dir/ --model no/such/model", 1);
    assert_eq!(shell.names(), ["in.png", "taken.png"]);
}

#[test]
fn a_slash_at_the_end_of_the_output_makes_a_folder_for_it() {
    let shell = Shell::new();
    shell.picture("in.png", 20, 16);
    shell.succeed("in.png -o no/dir/ -s 2 --denoise-steps 1");
    assert_eq!(size(&shell.path("no/dir/in_2x.png")), (40, 32));
}

#[test]
fn what_is_done_is_told_on_stderr_to_who_asks() {
    let shell = Shell::new();
    shell.picture("in.png", 8, 8);
    let run = |arguments: &str| shell.run(arguments);
    let loud = run("in.png -o a.png --scale 1 --steps 1 -v --progress none");
    let log = String::from_utf8(loud.stderr).unwrap();
    assert!(loud.status.success() && loud.stdout.is_empty(), "{log}");
    assert!(log.contains("upscale") && log.contains("close"), "{log}");
    let silent = run("in.png -o b.png --scale 1 --steps 1 --quiet");
    assert!(silent.stderr.is_empty());
}

#[test]
fn options_that_would_have_no_effect_are_refused() {
    let shell = Shell::new();
    shell.picture("in.png", 8, 8);
    let message = shell.fail("in.png -o out.png --quality 80", 2);
    assert!(message.contains("--quality 80") && message.contains("JPEG"), "{message}");
    for option in ["--work-dir w", "--fresh", "--resume"] {
        let message = shell.fail(&format!("caption in.png {option}"), 2);
        assert!(message.contains("writes no picture"), "{message}");
    }
    assert_eq!(shell.names(), ["in.png"]);
}

#[test]
fn a_device_that_is_not_there_is_named() {
    let shell = Shell::new();
    shell.picture("in.png", 8, 8);
    if !cfg!(feature = "cuda") {
        let message = shell.fail("in.png --device cuda:0", 1);
        assert!(message.contains("cuda:0") && message.contains("--features cuda"), "{message}");
    }
}

#[test]
fn the_plan_says_in_what_precision_the_unet_is_computed() {
    let shell = Shell::new();
    shell.picture("in.png", 8, 8);
    let plan = |dtype: &str| {
        let plan = shell.succeed(&format!("plan in.png --device cpu --dtype {dtype}"));
        String::from_utf8(plan).unwrap()
    };
    assert!(plan("f32").contains("computes on   cpu f32, "), "{}", plan("f32"));
    let best = if MatmulPrecision::Bf16.is_available() { "cpu bf16, " } else { "cpu f32, " };
    assert!(plan("auto").contains(best), "{}", plan("auto"));
    if MatmulPrecision::Bf16.is_available() {
        assert!(plan("bf16").contains("cpu bf16, "), "{}", plan("bf16"));
    } else {
        let message = shell.fail("plan in.png --device cpu --dtype bf16", 1);
        assert!(message.contains("--dtype auto"), "{message}");
    }
    assert!(shell.fail("plan in.png --dtype f64", 2).contains("f32, bf16 or auto"));
}

#[test]
fn a_model_folder_that_lacks_a_part_says_which() {
    let shell = Shell::new();
    shell.picture("in.png", 8, 8);
    assert!(shell.fail("in.png --model nowhere", 1).contains("nowhere"));
    fs::create_dir(shell.path("bare")).unwrap();
    assert!(shell.fail("in.png --model bare", 1).contains("model_index.json"));

    copy_folder(&mini(), &shell.path("model"));
    fs::remove_file(shell.path("model/text_encoder_2/model.safetensors")).unwrap();
    let message = shell.fail("in.png --model model", 1);
    assert!(message.contains("text_encoder_2"), "{message}");

    copy_folder(&mini(), &shell.path("cut"));
    let weights = shell.path("cut/unet/diffusion_pytorch_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() / 2]).unwrap();
    let message = shell.fail("in.png --model cut", 1);
    assert!(message.contains("unet"), "{message}");
}

#[test]
fn captions_can_be_taken_edited_and_given_back() {
    let shell = Shell::new();
    shell.picture("in.png", 100, 60);
    let options = format!("in.png -s 4 --denoise-steps 1 --model {}", tiny().display());
    shell.succeed(&format!("{options} -o own.tif"));
    let json = shell.succeed(&format!("caption {options}"));
    let document: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert!(document["regions"].as_array().unwrap().len() > 1);
    fs::write(shell.path("captions.json"), &json).unwrap();
    shell.succeed(&format!("{options} -o back.tif --captions captions.json"));
    let own = pictures::open(shell.path("own.tif"));
    assert!(own == pictures::open(shell.path("back.tif")), "unedited captions change nothing");

    let text = String::from_utf8(json).unwrap();
    let first = document["regions"][0]["caption"].as_str().unwrap();
    fs::write(shell.path("captions.json"), text.replace(first, "a wall of old bricks")).unwrap();
    shell.succeed(&format!("{options} -o edited.tif --captions captions.json"));
    assert!(own != pictures::open(shell.path("edited.tif")));

    fs::write(shell.path("captions.json"), "{ \"version\": 1, ").unwrap();
    let message = shell.fail("in.png --captions captions.json", 1);
    assert!(message.contains("captions.json") && message.contains("line"), "{message}");
    assert!(shell.fail("in.png --captions none.json", 1).contains("none.json"));
}

#[test]
fn captions_never_take_the_place_of_the_picture() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    let before = shell.bytes("in.png");
    for arguments in ["caption in.png -o in.png", "caption in.png -o other.jpg"] {
        assert!(shell.fail(arguments, 2).contains("JSON is written"), "{arguments}");
    }
    fs::copy(shell.path("in.png"), shell.path("nameless")).unwrap();
    let message = shell.fail("caption nameless -o nameless", 2);
    assert!(message.contains("nameless: is the picture itself"), "{message}");
    assert_eq!(shell.bytes("in.png"), before);
    assert_eq!(shell.bytes("nameless"), before);
    for option in ["--format png", "--quality 80", "--skip-existing", "--dry-run"] {
        let message = shell.fail(&format!("caption in.png {option}"), 2);
        assert!(message.contains("writes no picture"), "{message}");
    }
    assert!(shell.fail("caption in.png -o no/such/c.json", 1).contains("does not exist"));
    shell.succeed("caption in.png -o c.json --quiet");
    assert!(shell.bytes("c.json").starts_with(b"{"));
}

#[test]
fn a_size_beyond_reason_is_refused_at_once() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    for size in ["--long-edge 4000000", "--size 4294967295x4294967295", "-s 1e300"] {
        let message = shell.fail(&format!("in.png -o out.tif {size}"), 1);
        assert!(message.len() < 200, "{message}");
    }
    assert_eq!(shell.names(), ["in.png"]);
}

#[cfg(unix)]
#[test]
fn a_named_pipe_can_be_the_output() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 12);
    let pipe = shell.path("pipe");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let reader = std::thread::spawn(move || fs::read(pipe).unwrap());
    shell.succeed("in.png -o pipe -f png -s 2 --denoise-steps 1");
    let picture = pictures::decode(&reader.join().unwrap());
    assert_eq!((picture.width(), picture.height()), (32, 24));
}

#[test]
fn plan_says_what_would_run_and_writes_nothing() {
    let shell = Shell::new();
    shell.picture("in.png", 128, 100);
    let plan = String::from_utf8(shell.succeed("plan in.png --scale 4 --max-memory 8GiB")).unwrap();
    for expected in
        ["512 × 400 px", "regions", "overlap 64 px", "steps         1 of 4, at t = 249\n"]
    {
        assert!(plan.contains(expected), "{expected} not in:\n{plan}");
    }
    // How long it takes is measured anew by each.
    let timeless = |plan: &str| {
        plan.lines().filter(|line| !line.starts_with("time ")).collect::<Vec<_>>().join("\n")
    };
    let dry = shell.succeed("in.png --scale 4 --max-memory 8GiB --dry-run");
    assert_eq!(timeless(str::from_utf8(&dry).unwrap()), timeless(&plan));
    let calls = |plan: &str| -> usize {
        let line = plan.lines().find(|line| line.starts_with("calls ")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let line = "plan in.png --scale 4 --guidance 5 --steps 50 --denoise-steps 22";
    let guided = String::from_utf8(shell.succeed(line)).unwrap();
    assert!(guided.contains("guidance      5\n") && guided.contains("22 of 50"), "{guided}");
    assert_eq!(calls(&guided), calls(&plan) * 22 * 2);
    // The job's other options are welcome, and what its output cannot hold is told.
    let line = "plan in.png --scale 4 --max-memory 8GiB -o out.jpg --quality 80 --skip-existing";
    assert_eq!(timeless(str::from_utf8(&shell.succeed(line)).unwrap()), timeless(&plan));
    let message = shell.fail("plan in.png -o out.webp --long-edge 20000", 1);
    assert!(message.contains("out.webp: WebP holds at most 16383"), "{message}");
    assert_eq!(shell.names(), ["in.png"]);
}

#[test]
fn progress_as_json_counts_every_stage_to_its_end() {
    let shell = Shell::new();
    shell.picture("in.png", 100, 60);
    let output = shell.run("in.png -s 4 --denoise-steps 2 --progress json");
    assert!(output.status.success());
    let lines: Vec<serde_json::Value> =
        stderr(&output).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    for stage in ["caption", "encode", "denoise", "decode"] {
        let last = lines
            .iter()
            .rfind(|line| line["event"] == "progress" && line["stage"] == stage)
            .unwrap_or_else(|| panic!("no progress of {stage}"));
        assert_eq!(last["done"], last["total"], "{stage}");
    }
    assert_eq!(lines.last().unwrap()["event"], "done");
}

#[test]
fn the_settings_are_in_the_output() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    for name in ["out.png", "out.jpg", "out.webp", "out.tif"] {
        shell.succeed(&format!("in.png -o {name} --seed 42 --prompt dusk {}", quick()));
        let settings = cupscale::image::read_settings(&shell.path(name)).unwrap();
        let settings = settings.unwrap_or_else(|| panic!("{name} has no settings"));
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        assert_eq!(settings["seed"], 42, "{name}");
        assert_eq!(settings["prompt"], "dusk", "{name}");
        assert_eq!(settings["denoise_steps"], 1, "{name}");
    }
}

#[test]
fn transparency_and_sixteen_bits_come_through() {
    let shell = Shell::new();
    let picture = test_picture(24, 16);
    let rgba = pictures::ImageBuffer::from_fn(24, 16, |x, y| {
        let pictures::Rgb(rgb) = *picture.get_pixel(x, y);
        let [r, g, b] = rgb.map(|value| u16::from(value) * 257);
        pictures::Rgba([r, g, b, if x < 12 { 65535u16 } else { 0 }])
    });
    pictures::save(rgba.into(), &shell.path("in.png"));
    shell.succeed("in.png -o out.png -s 2 --denoise-steps 1");
    let out = pictures::open(shell.path("out.png"));
    assert_eq!(out.color(), pictures::ColorType::Rgba16);
    let out = out.into_rgba16();
    assert_eq!(out.get_pixel(4, 16).0[3], 65535);
    assert_eq!(out.get_pixel(43, 16).0[3], 0);
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_kill_end_with_130_and_keep_what_is_done_out_of_sight() {
    for signal in ["-INT", "-TERM"] {
        let shell = Shell::new();
        shell.picture("in.png", 150, 150);
        let mut child = shell
            .command("in.png -o out.png --progress json")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let found = lines.any(|line| line.unwrap().contains(r#""stage":"denoise""#));
        assert!(found);
        assert_eq!(shell.names().len(), 2, "{:?}", shell.names());
        let id = child.id().to_string();
        assert!(std::process::Command::new("kill").args([signal, &id]).status().unwrap().success());
        let rest: String = lines.map_while(Result::ok).collect();
        assert_eq!(child.wait().unwrap().code(), Some(130), "{rest}");
        assert!(rest.contains("interrupted; the same command goes on from here"), "{rest}");
        assert_eq!(shell.names(), [".out.png.cupscale", "in.png"]);
    }
}
