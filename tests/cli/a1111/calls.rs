//! What the calls answer: the bytes of the command line, progress, ends, and refusals.

use std::{fs, io::Write as _, net::TcpStream, time::Instant};

use serde_json::{Value, json};

use super::{PATIENCE, Server, file, info, mask, picture, written};

#[test]
fn extras_have_the_bytes_of_the_command_line() {
    let server = Server::on_tiny("--captioner none");
    let shell = &server.shell;
    let (first, second) = (picture(shell, "a.png", 40, 30), picture(shell, "b.png", 24, 24));
    let single = json!({"image": format!("data:image/png;base64,{first}"), "upscaling_resize": 1.5,
        "upscaler_1": "R-ESRGAN 4x+", "gfpgan_visibility": 0.5});
    let answer = server.post("extra-single-image", single);
    assert!(file(&answer["image"]) == written(shell, "a.png -s 1.5 --captioner none", &[]));
    let html = answer["html_info"].as_str().unwrap();
    assert!(html.contains("R-ESRGAN 4x+") && html.contains("gfpgan_visibility"), "{html}");

    let plain = json!({"image": first, "upscaler_1": "Lanczos"});
    let answer = server.post("extra-single-image", plain);
    assert!(file(&answer["image"]) == written(shell, "a.png -s 2 --blend 0 --captioner none", &[]));

    let list = json!([{"data": first, "name": "a.png"}, {"data": second, "name": "b"}]);
    let batch = json!({"imageList": list, "resize_mode": 1, "upscaling_resize_w": 48, "upscaling_resize_h": 48,
        "upscaling_crop": false});
    let answer = server.post("extra-batch-images", batch);
    let images = answer["images"].as_array().unwrap();
    assert_eq!(images.len(), 2);
    assert!(file(&images[0]) == written(shell, "a.png --size 64x48 --captioner none", &[]));
    assert!(file(&images[1]) == written(shell, "b.png --size 48x48 --captioner none", &[]));

    let cut = json!({"image": first, "resize_mode": 1, "upscaling_resize_w": 60, "upscaling_resize_h": 60});
    let answer = server.post("extra-single-image", cut);
    fs::write(shell.path("cut.png"), file(&answer["image"])).unwrap();
    assert_eq!(crate::common::size(&shell.path("cut.png")), (60, 60));
    server.is_empty();
}

#[test]
fn img2img_has_the_bytes_of_the_command_line_and_tells_its_seed() {
    let server = Server::on_tiny("--captioner none");
    let shell = &server.shell;
    let (init, mask) = (picture(shell, "a.png", 40, 30), mask(shell, "mask.png", 40, 30));
    let request = json!({"init_images": [init], "prompt": "a (red:1.2) barn", "negative_prompt": "blurry", "steps": 6,
        "cfg_scale": 2, "sampler_name": "Euler a", "scheduler": "Karras", "denoising_strength": 0.4, "seed": 5,
        "width": 60, "height": 45, "mask": mask, "mask_blur": 2, "inpaint_full_res": false,
        "inpainting_mask_invert": 1, "do_not_save_samples": true, "sauce": 1});
    let answer = server.post("img2img", request.clone());
    let options = "a.png --size 60x45 --steps 6 --guidance 2 --sampler euler-a --sigmas karras --strength 0.4 --seed 5 \
        --mask mask.png --invert-mask --mask-feather 6 --captioner none --prompt-syntax weighted";
    let prompts = ["--prompt", "a (red:1.2) barn", "--negative-prompt", "blurry"];
    assert!(file(&answer["images"][0]) == written(shell, options, &prompts));
    let told = info(&answer);
    assert_eq!((&told["seed"], &told["all_seeds"]), (&json!(5), &json!([5])));
    assert_eq!((&told["width"], &told["height"]), (&json!(60), &json!(45)));
    assert_eq!((&told["sampler_name"], &told["steps"]), (&json!("Euler a"), &json!(6)));
    assert!(told["notes"].to_string().contains("without effect here: sauce"), "{told}");
    let text = told["infotexts"][0].as_str().unwrap();
    assert!(text.contains("Negative prompt: blurry") && text.contains("Seed: 5,"), "{text}");
    assert_eq!(answer["parameters"]["init_images"], Value::Null);
    assert_eq!(answer["parameters"]["prompt"], "a (red:1.2) barn");

    // The text is also in the picture, for clients that ask for it there.
    let read = server.post("png-info", json!({"image": answer["images"][0]}));
    assert_eq!(read["info"].as_str(), Some(text));
    assert_eq!(read["parameters"]["Seed"], "5");

    // A random seed is told, and makes the same picture when it is sent.
    let random =
        json!({"init_images": [init], "seed": -1, "denoising_strength": 0.3, "batch_size": 2});
    let answer = server.post("img2img", random);
    let seeds = info(&answer)["all_seeds"].clone();
    let seed = seeds[0].as_u64().unwrap();
    assert_eq!(seeds, json!([seed, seed + 1]));
    assert_ne!(answer["images"][0], answer["images"][1]);
    let again = json!({"init_images": [init], "seed": seed + 1, "denoising_strength": 0.3});
    assert_eq!(server.post("img2img", again)["images"][0], answer["images"][1]);

    let mut quiet = request;
    quiet["send_images"] = json!(false);
    assert_eq!(server.post("img2img", quiet)["images"], json!([]));
    server.is_empty();
}

#[test]
fn a_model_of_few_steps_keeps_its_own_sampling_unless_it_is_asked_otherwise() {
    let server = Server::start("--captioner none");
    let shell = &server.shell;
    let init = picture(shell, "a.png", 32, 32);
    let request = json!({"init_images": [init], "steps": 20, "cfg_scale": 7, "sampler_name": "DPM++ 2M Karras",
        "denoising_strength": 0.5, "seed": 3});
    let answer = server.post("img2img", request.clone());
    let own =
        shell.succeed("a.png --size 32x32 --strength 0.5 --seed 3 --captioner none -o - -f png -q");
    assert!(file(&answer["images"][0]) == own);
    let told = info(&answer);
    assert!(told["notes"][0].as_str().unwrap().contains("made for 4 steps"), "{told}");
    assert_eq!((&told["steps"], &told["sd_model_name"]), (&json!(4), &json!("mini")));

    let mut asked = request;
    asked["override_settings"] = json!({"cupscale_sampling": "request"});
    (asked["steps"], asked["cfg_scale"]) = (json!(6), json!(1.5));
    let answer = server.post("img2img", asked);
    let options = "a.png --size 32x32 --strength 0.5 --seed 3 --steps 6 --guidance 1.5 --sampler dpmpp-2m --sigmas karras \
        --captioner none -o - -f png -q";
    assert!(file(&answer["images"][0]) == shell.succeed(options));
    // For that request alone.
    assert_eq!(server.get("/sdapi/v1/options")["cupscale_sampling"], "auto");
}

/// A request that takes a while.
fn slow(init: &str) -> Value {
    json!({"init_images": [init], "width": 640, "height": 640, "steps": 200, "denoising_strength": 1, "n_iter": 3})
}

#[test]
fn progress_is_told_and_an_interrupt_ends_the_call() {
    let server = Server::on_tiny("--captioner none");
    let idle = server.progress();
    assert_eq!((&idle["progress"], &idle["state"]["job_count"]), (&json!(0.0), &json!(0)));
    server.post("interrupt", json!({}));
    let init = picture(&server.shell, "a.png", 64, 64);
    let call = server.send("POST", "/sdapi/v1/img2img", Some(&slow(&init).to_string()));
    let is_at_work =
        |it: &Value| it["progress"].as_f64() > Some(0.01) && it["state"]["sampling_steps"] != 0;
    let running = server.until("progress", is_at_work);
    let state = &running["state"];
    assert_eq!((&state["job_count"], &state["job"]), (&json!(3), &json!("scripts_img2img")));
    assert_eq!(state["job_timestamp"].as_str().unwrap().len(), 14);
    assert!(running["progress"].as_f64() < Some(1.0) && running["current_image"].is_null());
    let begun = Instant::now();
    while server.get("/sdapi/v1/progress")["current_image"].is_null() {
        assert!(begun.elapsed() < PATIENCE, "no picture of the unfinished result");
    }
    let image = server.get("/sdapi/v1/progress")["current_image"].clone();
    assert!(file(&image).starts_with(b"\x89PNG"));
    assert_eq!(server.post("interrupt", json!({})), json!({}));
    let (status, answer) = Server::read(call);
    assert_eq!((status, &answer["images"]), (200, &json!([])), "{answer}");
    let told = info(&answer);
    assert_eq!(told["interrupted"], true);
    assert_eq!(told["all_seeds"].as_array().unwrap().len(), 3);
    let over = server.progress();
    assert_eq!((&over["progress"], &over["state"]["interrupted"]), (&json!(0.0), &json!(true)));
    server.is_empty();

    // A picture that is skipped does not end the call.
    let mut request = slow(&init);
    request["n_iter"] = json!(2);
    let call = server.send("POST", "/sdapi/v1/img2img", Some(&request.to_string()));
    server.until("the first picture", |it| it["progress"].as_f64() > Some(0.01));
    server.post("skip", json!({}));
    server.until("the second picture", |it| {
        it["state"]["job_no"] == 1 && it["progress"].as_f64() > Some(0.5)
    });
    server.post("interrupt", json!({}));
    let (status, answer) = Server::read(call);
    assert_eq!(status, 200, "{answer}");
    assert!(info(&answer)["notes"].to_string().contains("picture 1 of 2: skipped"), "{answer}");
}

#[test]
fn a_client_that_goes_away_ends_its_job() {
    let server = Server::on_tiny("--captioner none");
    let init = picture(&server.shell, "a.png", 64, 64);
    let running = server.send("POST", "/sdapi/v1/img2img", Some(&slow(&init).to_string()));
    server.until("progress", |it| it["progress"].as_f64() > Some(0.01));
    let extras = json!({"image": init, "upscaling_resize": 8}).to_string();
    let waiting = server.send("POST", "/sdapi/v1/extra-single-image", Some(&extras));
    let begun = Instant::now();
    while server.get("/v1/info")["waiting"] != 1 {
        assert!(begun.elapsed() < PATIENCE);
    }
    drop(waiting);
    drop(running);
    server.until("nothing", |it| it["progress"] == 0.0);
    server.is_empty();
    // Half a request is none.
    let mut half = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "POST /sdapi/v1/img2img HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{{",
        server.address
    );
    half.write_all(head.as_bytes()).unwrap();
    drop(half);
    server.is_empty();
}

#[test]
fn what_cannot_be_done_is_refused_in_the_form_that_clients_read() {
    let server = Server::on_tiny("--captioner none --max-pixels 1000000 --max-body 2MiB");
    let shell = &server.shell;
    let init = picture(shell, "a.png", 16, 16);
    let with = |field: &str, value: Value| {
        let mut request = json!({"init_images": [init], "width": 16, "height": 16});
        request[field] = value;
        request
    };
    for (request, status, said) in [
        (json!({}), 404, "Init image not found"),
        (with("init_images", json!(["aGVsbG8="])), 422, "init_images[0]"),
        (with("init_images", json!(["http://127.0.0.1/a.png"])), 422, "fetches nothing"),
        (with("init_images", json!([7])), 422, "string"),
        (with("width", json!(100_000)), 413, "this server takes"),
        (with("width", json!("wide")), 422, "a whole number"),
        (with("steps", json!(5000)), 422, "steps"),
        (with("sampler_name", json!("k_odd")), 404, "Sampler not found"),
        (with("sampler_name", json!("Flow Euler")), 200, ""),
        (with("script_name", json!("X/Y/Z plot")), 422, "Script 'X/Y/Z plot' not found"),
        (with("tiling", json!(true)), 422, "tiling"),
        (with("prompt", json!("<lora:none:1>")), 422, "none"),
        (
            with("alwayson_scripts", json!({"controlnet": {"args": [{"model": "canny"}]}})),
            422,
            "--control",
        ),
        (
            with("override_settings", json!({"sd_model_checkpoint": "far"})),
            404,
            "\"far\" not found",
        ),
    ] {
        if status == 200 {
            // Not for this model, which keeps its own.
            let answer = server.post("img2img", request);
            assert!(info(&answer)["notes"].to_string().contains("flow-euler"), "{answer}");
            continue;
        }
        server.refused("img2img", &request, status, said);
    }
    server.refused("extra-single-image", &json!({"image": "~"}), 422, "image: no base64");
    server.refused("extra-batch-images", &json!({}), 422, "imageList");
    server.refused("options", &json!({"samples_format": "gif"}), 422, "samples_format");
    server.refused("options", &json!({"sd_model_checkpoint": "/etc/passwd"}), 404, "not found");
    server.refused("txt2img", &json!({"prompt": "a bird"}), 501, "generate");
    server.refused("interrogate", &json!({"image": init}), 501, "captions");
    server.refused("img2img", &json!({"init_images": ["A".repeat(3 << 20)]}), 413, "larger than 2");
    let (status, answer) = Server::read(server.send("POST", "/sdapi/v1/img2img", Some("{")));
    assert_eq!(status, 422, "{answer}");
    let (status, _) = Server::read(server.send("POST", "/sdapi/v1/img2img", None));
    assert_eq!(status, 415);
    let (status, _) = server.ask("GET", "/sdapi/v1/progress?skip_current_image=maybe", None);
    assert_eq!(status, 422);
    let (status, _) = server.ask("GET", "/sdapi/v1/nothing", None);
    assert_eq!(status, 404);
    server.is_empty();
}

#[test]
fn options_hold_for_later_calls_and_a_token_is_the_password_of_basic() {
    let mut server = Server::on_tiny("--captioner none --token 0123456789");
    let (status, _) = server.ask("GET", "/sdapi/v1/options", None);
    assert_eq!(status, 401);
    server.token = Some("0123456789");
    let options = server.get("/sdapi/v1/options");
    let models = server.get("/sdapi/v1/sd-models");
    assert_eq!(models[0]["title"], options["sd_model_checkpoint"]);
    // What was read is sent back, as some clients do, with another model: the embedded one.
    let mut chosen = options;
    chosen["sd_model_checkpoint"] = json!("mini");
    chosen["samples_format"] = json!("jpg");
    assert_eq!(server.post("options", chosen), Value::Null);
    let init = picture(&server.shell, "a.png", 16, 16);
    let request = json!({"init_images": [init], "denoising_strength": 0.2, "seed": 1});
    let answer = server.post("img2img", request);
    assert!(file(&answer["images"][0]).starts_with(&[0xff, 0xd8]));
    assert_eq!(info(&answer)["sd_model_name"], "mini");
}
