//! Options that decide the picture: samplers, priors, prompts, seeds; batch size and threads do not.

use std::fs;

use crate::common::{Shell, copy_folder, mini, stderr, tiny};

#[test]
fn a_models_scheduler_decides_the_sampler_or_what_stands_in_for_it() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    copy_folder(&mini(), &shell.path("model"));
    // As the folders of SDXL and of Stable Diffusion 1.5 have it.
    let betas = r#""beta_end": 0.012, "beta_schedule": "scaled_linear", "beta_start": 0.00085,
        "num_train_timesteps": 1000, "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null"#;
    let sdxl = r#""clip_sample": false, "interpolation_type": "linear", "prediction_type": "epsilon",
        "sample_max_value": 1.0, "set_alpha_to_one": false, "timestep_spacing": "leading", "use_karras_sigmas": false"#;
    let write = |class: &str, more: &str| {
        let text = format!(r#"{{"_class_name": "{class}", {betas}, {more}}}"#);
        fs::write(shell.path("model/scheduler/scheduler_config.json"), text).unwrap();
    };
    let plan = |options: &str| {
        // The embedded model has steps of its own, which these fit.
        let strength = if options.contains("--strength") { "" } else { "--strength 0.45" };
        let plan =
            shell.succeed(&format!("plan in.png --model model --steps 8 {strength} {options}"));
        String::from_utf8(plan).unwrap()
    };
    write("EulerDiscreteScheduler", sdxl);
    let euler = plan("");
    assert!(euler.contains("euler, leading timesteps") && !euler.contains("note"), "{euler}");
    assert!(euler.contains("t = 376, 251, 126, 1\n"), "{euler}");
    shell.succeed("in.png --model model -o out.png --steps 2");

    write("PNDMScheduler", r#""set_alpha_to_one": false"#);
    let note = "the model asks for PNDMScheduler; running ddim instead";
    assert!(plan("").contains(note));
    assert!(!plan("--sampler ddim").contains(note));
    let output = shell.run("in.png --model model -o out.png --steps 2");
    assert!(output.status.success() && stderr(&output).contains(note), "{}", stderr(&output));

    write("EulerDiscreteScheduler", r#""timestep_spacing": "trailing", "use_karras_sigmas": true"#);
    let karras = plan("");
    // Between the timesteps of the training, and said as a fraction.
    assert!(!karras.contains("asks for") && karras.contains("t = 607.4, 448.1, "), "{karras}");
    for (class, settings, sampler) in [
        ("DPMSolverMultistepScheduler", r#""algorithm_type": "sde-dpmsolver++""#, "dpmpp-2m-sde"),
        ("EulerAncestralDiscreteScheduler", r#""steps_offset": 1"#, "euler-a"),
        ("UniPCMultistepScheduler", r#""solver_order": 2"#, "unipc"),
        ("DPMSolverSinglestepScheduler", r#""solver_order": 2"#, "dpmpp-2s"),
        ("DPMSolverSDEScheduler", r#""use_exponential_sigmas": true"#, "dpmpp-sde"),
        ("HeunDiscreteScheduler", r#""use_karras_sigmas": true"#, "heun"),
    ] {
        write(class, settings);
        let own = plan("");
        assert!(own.contains(&format!("sampler       {sampler}")), "{own}");
        assert!(!own.contains("asks for"), "{own}");
        shell.succeed("in.png --model model -o out.png --steps 4");
    }
    // Two predictions for each of the steps but the last.
    let heun = plan("");
    assert!(heun.contains("4 of 8 in 7 predictions, at t = "), "{heun}");
    write("DPMSolverMultistepScheduler", r#""algorithm_type": "dpmsolver""#);
    let note = "with an algorithm_type of its own; running dpmpp-2m without it";
    assert!(plan("").contains(note));
    assert!(!plan("--sampler dpmpp-2m").contains(note));
    // As diffusers writes DPM-Solver's, with a number that is no JSON.
    write("DPMSolverMultistepScheduler", r#""lambda_min_clipped": -Infinity"#);
    let multistep = plan("");
    assert!(multistep.contains("dpmpp-2m") && !multistep.contains("asks for"), "{multistep}");
    shell.succeed("in.png --model model -o out.png --steps 2");
    write("DEISMultistepScheduler", r#""solver_order": 2"#);
    assert!(plan("").contains("asks for DEISMultistepScheduler; running euler instead"));
    write("FlowMatchEulerDiscreteScheduler", r#""shift": 3.0"#);
    let flow = plan("");
    assert!(flow.contains("flow-euler") && !flow.contains("asks for"), "{flow}");
    let message = shell.fail("in.png --model model --sampler euler", 2);
    assert!(message.contains("flow-euler"), "{message}");
    write(
        "DDIMScheduler",
        r#""clip_sample": false, "timestep_spacing": "trailing", "rescale_betas_zero_snr": true"#,
    );
    let message = shell.fail("in.png --model model --strength 1", 1);
    assert!(message.contains("timestep 999") && message.contains("pure noise"), "{message}");
    assert!(plan("--strength 1 --sampler euler").contains("t = 999, "));
    write("DDIMScheduler", r#""steps_offset": 4611686018427387904"#);
    let message = shell.fail("plan in.png --model model", 1);
    let expected = "`steps_offset` is 4611686018427387904, not from 0 to 100000";
    assert!(message.contains(expected) && message.contains("scheduler_config.json"), "{message}");
}

#[test]
fn what_a_models_index_recommends_holds_where_the_command_line_says_nothing() {
    let shell = Shell::new();
    shell.picture("in.png", 64, 64);
    copy_folder(&mini(), &shell.path("model"));
    let file = shell.path("model/model_index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let mut recommend = |own: serde_json::Value| {
        index["cupscale"] = own;
        fs::write(&file, index.to_string()).unwrap();
    };
    recommend(
        serde_json::json!({"steps": 5, "denoise_steps": 3, "overlap": 0.5, "native_size": 128}),
    );
    let plan = |options: &str| {
        String::from_utf8(shell.succeed(&format!("plan in.png --model model {options}"))).unwrap()
    };
    let own = plan("");
    assert!(own.contains("of 128 px, overlap 64 px") && own.contains("3 of 5"), "{own}");
    let said = plan("--overlap 0 --denoise-steps 1");
    assert!(said.contains("of 128 px, overlap 0 px") && said.contains("1 of 5"), "{said}");
    recommend(serde_json::json!({"native_size": 100}));
    let message = shell.fail("plan in.png --model model", 1);
    assert!(message.contains("native size of 100 pixels"), "{message}");
    recommend(serde_json::json!({"overlap": 2}));
    let message = shell.fail("plan in.png --model model", 1);
    assert!(message.contains("model_index.json") && message.contains("overlap"), "{message}");
}

#[test]
fn a_text_encoder_of_two_thousand_million_layers_is_refused_by_its_file_and_field() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    copy_folder(&mini(), &shell.path("model"));
    let file = shell.path("model/text_encoder/config.json");
    let mut config: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    config["num_hidden_layers"] = (1_u64 << 31).into();
    fs::write(&file, config.to_string()).unwrap();
    let message = shell.fail("plan in.png --model model", 1);
    let expected = "`num_hidden_layers` is 2147483648, not from 0 to 512";
    assert!(message.contains(expected) && message.contains("config.json"), "{message}");
}

#[test]
fn a_model_folder_gives_the_same_bytes_as_the_embedded_copy() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    shell.succeed("in.png -o embedded.tif --denoise-steps 1");
    let mini = mini().display().to_string();
    shell.succeed(&format!("in.png -o folder.tif --denoise-steps 1 --model {mini}"));
    // Its name stands for it, where there is no file or folder of that name.
    shell.succeed("in.png -o named.tif --denoise-steps 1 --model mini");
    let embedded = pictures::open(shell.path("embedded.tif"));
    for other in ["folder.tif", "named.tif"] {
        assert_eq!(embedded, pictures::open(shell.path(other)), "{other}");
    }
    fs::create_dir(shell.path("mini")).unwrap();
    let message = shell.fail("plan in.png --model mini", 1);
    assert!(message.contains("model_index.json"), "{message}");
}

#[test]
fn the_model_says_how_sharp_and_how_grainy_it_wants_to_be_and_what_is_flat_stays_so() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 24);
    let made = |line: &str| {
        shell.succeed(&format!("{line} -o out.png"));
        let settings = cupscale::image::read_settings(&shell.path("out.png")).unwrap().unwrap();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        (pictures::open(shell.path("out.png")).to_rgb8(), settings)
    };
    let (own, settings) = made("in.png -s 2");
    assert_eq!((&settings["sharpen"], &settings["grain"]), (&1.0.into(), &1.25.into()));
    assert_eq!((&settings["fidelity"], &settings["coherence"]), (&1.0.into(), &0.0.into()));
    assert_eq!((&settings["texture"], &settings["first_share"]), (&1.0.into(), &0.5.into()));
    assert_eq!(made("in.png -s 2 --sharpen 1 --grain 1.25").0, own);
    let plain = made("in.png -s 2 --sharpen 0.8 --grain 0").0;
    // One of the two by itself: the other is the model's.
    let (sharp, clean) = (made("in.png -s 2 --sharpen 0.8").0, made("in.png -s 2 --grain 0").0);
    assert!(sharp != own && clean != own && sharp != clean && sharp != plain && clean != plain);
    // What the model did not say is recorded too: another model's values are not these.
    let (_, settings) = made(&format!("in.png -s 2 --model {}", tiny().display()));
    assert_eq!((&settings["sharpen"], &settings["grain"]), (&0.0.into(), &0.0.into()));
    assert_eq!((&settings["fidelity"], &settings["coherence"]), (&0.0.into(), &0.0.into()));
    assert_eq!(settings["texture"], 0.0);
    let (alone, settings) = made("in.png -s 2 --blend 0");
    assert!(settings.get("sharpen").is_none() && settings.get("grain").is_none());
    let output = shell.run("in.png -s 2 --blend 0 --grain 3 -o other.png");
    assert!(
        stderr(&output)
            .contains("coherence, texture, sharpening, grain and fidelity are the repaint's")
    );
    let output = shell.run("in.png -s 2 --blend 0 --grain 0 -o other.png");
    assert!(!stderr(&output).contains("coherence, texture"));
    assert_eq!(pictures::open(shell.path("other.png")).to_rgb8(), alone);
    // Paper stays paper.
    let paper = image::RgbImage::from_pixel(40, 24, image::Rgb([231, 228, 219]));
    pictures::save(paper.into(), &shell.path("paper.png"));
    let (paper, _) = made("paper.png -s 2 --grain 20 --sharpen 2");
    assert!(paper.pixels().all(|pixel| *pixel == image::Rgb([231, 228, 219])));
    // Also where colours are the model's.
    let unfixed = |grain| made(&format!("paper.png -s 2 --color-fix none --grain {grain}")).0;
    assert_eq!(unfixed(20), unfixed(0));
    assert!(
        made("in.png -s 2 --color-fix none").0 != made("in.png -s 2 --color-fix none --grain 0").0
    );
}

#[test]
fn the_first_networks_picture_stays_as_far_as_that_is_asked_for() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 24);
    let made = |line: &str| {
        let plain = "--sharpen 0 --grain 0 --fidelity 0 --coherence 0 --texture 0 --color-fix none";
        shell.succeed(&format!("in.png -s 2 -o out.png {plain} {line}"));
        let settings = cupscale::image::read_settings(&shell.path("out.png")).unwrap().unwrap();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        (pictures::open(shell.path("out.png")).to_rgb8(), settings["first_share"].clone())
    };
    let far = |a: &image::RgbImage, b: &image::RgbImage| {
        a.iter().zip(b.iter()).map(|(a, b)| u32::from(a.abs_diff(*b))).max().unwrap()
    };
    let [(none, _), (half, share), (all, _)] =
        ["0", "0.5", "1"].map(|share| made(&format!("--first-share {share}")));
    assert_eq!(share, 0.5);
    let (network, _) = made("--denoise-steps 0");
    assert!(far(&all, &network) <= 1 && far(&none, &network) > 20);
    assert!(far(&half, &network) <= far(&none, &network) / 2 + 1);
    // Where no network makes the picture there is none to stay.
    let lanczos = |share: u8| made(&format!("--first lanczos --first-share {share}"));
    assert_eq!(lanczos(1), lanczos(0));
    assert!(lanczos(1).1.is_null());
}

#[test]
fn lines_and_textures_of_the_input_are_drawn_where_that_is_asked_for() {
    let shell = Shell::new();
    // Stripes, and sand: a value of its own for each pixel, of a small generator.
    let stripes = image::RgbImage::from_fn(48, 32, |x, y| {
        image::Rgb([if (x + 2 * y) % 8 < 4 { 90 } else { 160 }; 3])
    });
    let mut word = 1u32;
    let sand = image::RgbImage::from_fn(48, 32, |_, _| {
        word = word.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        image::Rgb([120 + (word >> 24) as u8 / 5; 3])
    });
    for (name, picture) in [("stripes.png", &stripes), ("sand.png", &sand)] {
        picture.save(shell.path(name)).unwrap();
    }
    let made = |name: &str, options: &str| {
        shell.succeed(&format!("{name} -o out.png -s 2 --grain 0 {options}"));
        pictures::open(shell.path("out.png")).to_rgb8()
    };
    let differ = |name: &str, one: &str, other: &str| made(name, one) != made(name, other);
    assert!(differ("stripes.png", "--coherence 0", "--coherence 1"));
    assert!(differ("sand.png", "--coherence 0 --texture 0", "--coherence 0 --texture 1"));
    // What has lines has no such texture.
    assert!(!differ("stripes.png", "--texture 0", "--texture 1"));
}

#[test]
fn an_output_reduced_again_is_the_input_as_far_as_fidelity_asks() {
    let shell = Shell::new();
    shell.picture("in.png", 50, 34);
    let input = pictures::open(shell.path("in.png")).to_rgb8();
    // Of a size that is no multiple, too.
    for size in ["200x136", "160x102"] {
        let far = |fidelity: f64| {
            shell.succeed(&format!("in.png -o out.png --size {size} --fidelity {fidelity}"));
            let made = pictures::open(shell.path("out.png")).to_rgb16();
            let small = image::imageops::thumbnail(&made, input.width(), input.height());
            let far = small.iter().zip(input.iter());
            let far = far.map(|(a, b)| (f64::from(*a) / 257.0 - f64::from(*b)).powi(2));
            (far.sum::<f64>() / input.len() as f64).sqrt()
        };
        let (none, half, all) = (far(0.0), far(0.5), far(1.0));
        assert!(half < 0.85 * none && all < 0.75 * none, "{size}: {none} {half} {all}");
    }
    // At the input's own size there is nothing that it could not keep.
    let own = |fidelity: u8| {
        shell.succeed(&format!("in.png -o out.png -s 1 --fidelity {fidelity}"));
        pictures::open(shell.path("out.png")).to_rgb8()
    };
    assert_eq!(own(0), own(1));
    assert!(own(1) != input);
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_batch_and_the_threads() {
    let shell = Shell::new();
    // Three regions of the embedded model in a row, at its one step; of the tiny one many more.
    shell.picture("in.png", 150, 40);
    let embedded = "in.png -s 4 --seed 7".to_owned();
    let tiny = format!("in.png -s 4 --denoise-steps 2 --model {}", tiny().display());
    let (one, three) = ("--batch 1 --threads 1", "--batch 2 --threads 3");
    for (base, others) in
        [(embedded, &[three][..]), (format!("{tiny} --seed 7"), &[one, three, "--batch 64"])]
    {
        shell.succeed(&format!("{base} -o a.png"));
        for other in others {
            shell.succeed(&format!("{base} -o b.png {other}"));
            assert!(shell.bytes("a.png") == shell.bytes("b.png"), "{base} {other}");
        }
    }
    shell.succeed(&format!("{tiny} --seed 8 -o b.png"));
    assert!(shell.bytes("a.png") != shell.bytes("b.png"));
}

#[test]
fn fresh_noise_and_guidance_do_not_depend_on_batch_and_threads() {
    let shell = Shell::new();
    shell.picture("in.png", 60, 40);
    let base = format!(
        "in.png -s 4 --sampler tcd --eta 0.3 --guidance 2 --negative-prompt blurry --steps 4 \
         --denoise-steps 2 --model {}",
        tiny().display()
    );
    shell.succeed(&format!("{base} -o a.png --batch 1 --threads 1"));
    shell.succeed(&format!("{base} -o b.png --batch 3 --threads 2"));
    assert!(shell.bytes("a.png") == shell.bytes("b.png"));
    let settings = cupscale::image::read_settings(&shell.path("a.png")).unwrap().unwrap();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    let expected = serde_json::json!({
        "sampler": "tcd", "eta": 0.3, "guidance": 2.0, "negative_prompt": "blurry", "steps": 4,
        "denoise_steps": 2,
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(&settings[key], value, "{key}");
    }
    // It has no part in where TCD puts its timesteps.
    assert!(settings.get("spacing").is_none());
}

#[test]
fn every_prior_and_the_prompt_change_the_picture() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 28);
    let base = format!("in.png -o out.tif -s 4 --strength 0.2 --model {}", tiny().display());
    shell.succeed(&base);
    let all = pictures::open(shell.path("out.tif"));
    for option in [
        "--gsp 0",
        "--gsp 1",
        "--rap 0",
        "--rsp 0",
        "--captioner none",
        "--fusion average",
        "--overlap 0.25",
        "--steps 5",
        "--prompt autumn",
    ] {
        shell.succeed(&format!("{base} {option}"));
        assert!(pictures::open(shell.path("out.tif")) != all, "{option} changes nothing");
    }
}

#[test]
fn every_choice_of_sampling_gives_another_picture() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    let base = format!("in.png -o out.tif -s 4 --strength 0.2 --model {}", tiny().display());
    let mut seen = Vec::new();
    for option in [
        "",
        "--guidance 3",
        "--guidance 3 --negative-prompt blurry",
        "--eta 0.5",
        "--spacing leading",
        "--timesteps 300,200",
        "--sampler tcd",
        "--sampler tcd --eta 0",
        "--sampler lcm",
        "--sampler euler --spacing linspace",
        "--sampler euler-a",
        "--sampler heun",
        "--sampler dpmpp-sde",
        "--sampler dpmpp-2s",
    ] {
        shell.succeed(&format!("{base} {option}"));
        let picture = pictures::open(shell.path("out.tif"));
        assert!(!seen.contains(&picture), "{option} changes nothing");
        seen.push(picture);
    }
}

#[test]
fn a_profile_is_a_row_of_defaults_that_options_go_before_and_balanced_is_none_at_all() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 28);
    let base = format!("in.png -o out.png -s 4 --model {}", tiny().display());
    let made = |options: &str| {
        shell.succeed(&format!("{base} {options}"));
        let settings = cupscale::image::read_settings(&shell.path("out.png")).unwrap().unwrap();
        let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
        (shell.bytes("out.png"), settings)
    };
    let plain = made("");
    assert!(made("--profile balanced") == plain);
    let (faithful, settings) = made("--profile faithful");
    assert!(faithful != plain.0);
    assert!(made("--denoise-steps 2 --blend 0.7").0 == faithful);
    assert_eq!((&settings["denoise_steps"], &settings["gsp"]), (&2.into(), &0.2.into()));
    assert!(settings.get("profile").is_none());
    // What is typed goes before the row, and the rest of the row stays.
    let own = made("--profile faithful --strength 0.2 --gsp 0.1").1;
    assert_eq!((&own["denoise_steps"], &own["gsp"]), (&2.into(), &0.1.into()));
    assert_eq!(own["blend"], 0.7);
    let fast = made("--profile fast").1;
    assert_eq!((&fast["denoise_steps"], &fast["overlap"]), (&3.into(), &0.25.into()));
    let all = made("--profile creative --steps 4").1;
    assert_eq!((&all["steps"], &all["denoise_steps"]), (&4.into(), &3.into()));
    let plan = |options: &str| {
        let plan = shell.succeed(&format!("plan {base} {options}"));
        String::from_utf8(plan).unwrap()
    };
    assert!(plan("--profile fast").contains("profile       fast: 3 of 8 steps, overlap 0.25\n"));
    assert!(plan("--profile fast --overlap 0.4").contains("fast: 3 of 8 steps\n"));
    assert!(!plan("").contains("profile"));
    let message = shell.fail(&format!("{base} --profile bold"), 2);
    assert!(message.contains("faithful, balanced, creative, fast"), "{message}");
}

#[test]
fn a_model_may_name_its_profile_and_reuse_keeps_the_values() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 28);
    copy_folder(&tiny(), &shell.path("model"));
    let file = shell.path("model/model_index.json");
    let mut index: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    index["cupscale"] = serde_json::json!({"profile": "faithful"});
    fs::write(&file, index.to_string()).unwrap();
    let plan = |options: &str| {
        let line = format!("plan in.png --model model {options}");
        String::from_utf8(shell.succeed(&line)).unwrap()
    };
    assert!(plan("").contains("profile       faithful: 2 of 8 steps, blend 0.7"));
    assert!(plan("--profile fast").contains("profile       fast: 3 of 8"));
    // A picture that had no profile has none again.
    shell.succeed("in.png -o out.png --model model --profile balanced --denoise-steps 2");
    shell.succeed("in.png -o again.png --model model --reuse out.png");
    assert!(shell.bytes("out.png") == shell.bytes("again.png"));
    index["cupscale"] = serde_json::json!({"profile": "bold"});
    fs::write(&file, index.to_string()).unwrap();
    let message = shell.fail("plan in.png --model model", 1);
    assert!(message.contains("model_index.json") && message.contains("bold"), "{message}");
}

#[test]
fn moved_grids_give_the_same_bytes_whatever_the_batch_and_are_planned_and_recorded() {
    let shell = Shell::new();
    shell.picture("in.png", 40, 28);
    let base = format!("in.png -s 4 --denoise-steps 2 --overlap 0.25 --model {}", tiny().display());
    shell.succeed(&format!("{base} -o plain.png"));
    shell.succeed(&format!("{base} -o a.png --tile-jitter --batch 1 --threads 1"));
    shell.succeed(&format!("{base} -o b.png --tile-jitter --batch 3 --threads 2"));
    shell.succeed(&format!("{base} -o again.png --reuse a.png"));
    assert!(shell.bytes("a.png") == shell.bytes("b.png"));
    assert!(shell.bytes("a.png") == shell.bytes("again.png"));
    assert!(shell.bytes("a.png") != shell.bytes("plain.png"));
    let plan = |options: &str| {
        String::from_utf8(shell.succeed(&format!("plan {base} {options}"))).unwrap()
    };
    // 160 × 112 pixels are 40 × 28 latent ones in regions of 12.
    let jittered = plan("--tile-jitter");
    assert!(jittered.contains("regions       15 (5 × 3)"), "{jittered}");
    assert!(jittered.contains("jitter        24 regions (6 × 4) in each step"), "{jittered}");
    let calls =
        |steps: usize, regions: usize| format!("calls         {} regions", steps * (regions + 1));
    assert!(jittered.contains(&calls(2, 24)), "{jittered}");
    assert!(plan("").contains(&calls(2, 15)));
    // One region has nowhere to go.
    let small = "plan in.png --size 40x40 --tile-jitter --model";
    let small = shell.succeed(&format!("{small} {}", tiny().display()));
    assert!(!String::from_utf8(small).unwrap().contains("jitter"));
}

#[test]
fn noise_levels_of_the_command_line_make_another_picture_and_are_recorded() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    let model = format!("--model {} --sampler euler --steps 6", tiny().display());
    let plan = |options: &str| {
        String::from_utf8(shell.succeed(&format!("plan in.png {model} {options}"))).unwrap()
    };
    assert!(plan("--sigmas karras").contains("timesteps, karras sigmas"));
    assert!(!plan("").contains("sigmas"));
    let job = |options: &str| {
        shell.succeed(&format!("in.png -o out.png -s 2 --fresh {model} {options}"));
        shell.bytes("out.png")
    };
    job("");
    let plain = pictures::open(shell.path("out.png")).to_rgb8();
    let [karras, beta] = ["karras", "beta"].map(|sigmas| job(&format!("--sigmas {sigmas}")));
    assert_ne!(karras, beta);
    assert_ne!(plain, pictures::open(shell.path("out.png")).to_rgb8());
    let settings = cupscale::image::read_settings(&shell.path("out.png")).unwrap().unwrap();
    let settings: serde_json::Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["sigmas"], "beta");
    fs::rename(shell.path("out.png"), shell.path("first.png")).unwrap();
    // Reused, and against what a folder asks for.
    shell
        .succeed(&format!("in.png -o out.png -s 2 --reuse first.png --model {}", tiny().display()));
    assert_eq!(shell.bytes("out.png"), beta);
    job("--sigmas simple");
    assert_eq!(plain, pictures::open(shell.path("out.png")).to_rgb8());
    for sampler in ["ddim", "tcd", "lcm"] {
        let options = format!("in.png {model} --sampler {sampler} --sigmas karras");
        let options = options.replace("--sampler euler ", "");
        let line = shell.fail(&options, 2);
        assert!(line.contains(&format!("the sampler {sampler} has no karras sigmas")), "{line}");
    }
    let line = shell.fail(&format!("in.png {model} --sigmas normal"), 2);
    assert!(line.contains("simple, karras, exponential, beta"), "{line}");
    // A model of one's own may be run with them.
    let models = shell.path("models");
    let add = format!("models add own {} --sampler euler --sigmas exponential", tiny().display());
    let mut command = shell.command(&add);
    assert!(command.env("CUPSCALE_MODELS", &models).output().unwrap().status.success());
    let mut command = shell.command("plan in.png --model own");
    let output = command.env("CUPSCALE_MODELS", &models).output().unwrap();
    let plan = String::from_utf8(output.stdout).unwrap();
    assert!(plan.contains("euler") && plan.contains("exponential sigmas"), "{plan}");
}
