//! Requests of plug-ins as their code sends them, in its order and with its defaults, and what that code reads of the answers.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

use super::{Server, file, info, mask, picture};

/// Auto-Photoshop-StableDiffusion-Plugin 1.4 (Photoshop).
#[test]
fn photoshop_starts_repaints_inpaints_and_enlarges() {
    let server = Server::on_tiny("--captioner none");
    // Its start. It reads names, and takes 404 for an extension that is not there.
    assert_eq!(server.get("/user"), Value::Null);
    let samplers = server.get("/sdapi/v1/samplers");
    let sampler = samplers[0]["name"].as_str().unwrap();
    let models = server.get("/sdapi/v1/sd-models");
    let title = models[0]["title"].clone();
    assert_eq!(server.get("/sdapi/v1/options")["sd_model_checkpoint"], title);
    let upscalers = server.get("/sdapi/v1/upscalers");
    let upscalers: Vec<_> = upscalers.as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert!(upscalers.contains(&&json!("Lanczos")), "{upscalers:?}");
    let scripts = server.get("/sdapi/v1/scripts");
    assert!(scripts["img2img"].as_array().unwrap().contains(&json!("ultimate sd upscale")));
    assert_eq!(server.get("/sdapi/v1/loras"), json!([]));
    assert_eq!(server.get("/sdapi/v1/embeddings")["loaded"], json!({}));
    for path in [
        "/controlnet/module_list?alias_names=true",
        "/controlnet/model_list",
        "/controlnet/version",
        "/config",
    ] {
        assert_eq!(server.ask("GET", path, None).0, 404, "{path}");
    }
    assert_eq!(server.post("options", json!({"sd_model_checkpoint": title})), Value::Null);
    assert_eq!(server.post("options", json!({"inpainting_mask_weight": 1})), Value::Null);

    let init = picture(&server.shell, "a.png", 64, 48);
    let dictionary = json!({"game": "unreal"});
    let mut request = json!({
        "selection_info": {"left": 0, "top": 0, "width": 64, "height": 48}, "denoising_strength": 0.3,
        "init_images": [init], "alwayson_scripts": {"ADetailer": {"args": [false, {"ad_model": "face_yolov8n.pt"}]}},
        "prompt": "a bird", "negative_prompt": "blurry", "original_prompt": "a bird",
        "original_negative_prompt": "blurry", "clip_skip": 1, "steps": 4, "sampler_index": sampler, "width": 64,
        "height": 48, "batch_size": 1, "cfg_scale": 1.5, "seed": "-1", "mask_blur": 4, "use_sharp_mask": false,
        "use_prompt_shortcut": false, "prompt_shortcut_ui_dict": dictionary, "uniqueDocumentId": "e3f4",
        "mode": "img2img", "restore_faces": false, "tiling": false,
    });
    let answer = server.post("img2img", request.clone());
    let images = answer["images"].as_array().unwrap();
    assert_eq!(images.len(), 1);
    // It asks for the text of each picture, and cuts it into lines and at commas.
    let read = server.post(
        "png-info",
        json!({"image": format!("data:image/png;base64,{}", images[0].as_str().unwrap())}),
    );
    let text = read["info"].as_str().unwrap();
    let (prompts, rest) = text.rsplit_once('\n').unwrap();
    assert_eq!(
        prompts.split("Negative prompt: ").map(str::trim).collect::<Vec<_>>(),
        ["a bird", "blurry"]
    );
    let seed = rest.split(',').find_map(|part| part.trim().strip_prefix("Seed: ")).unwrap();
    assert_eq!(json!(seed.parse::<u64>().unwrap()), info(&answer)["seed"]);

    // Inpainting, at the size of the sliders, which are not the selection's.
    let white = mask(&server.shell, "mask.png", 64, 48);
    for (name, value) in [
        ("mode", json!("inpaint")),
        ("inpaint_full_res", json!(false)),
        ("inpaint_full_res_padding", json!(0)),
        ("inpainting_fill", json!(1)),
        ("mask_expansion", json!(0)),
        ("mask", json!(white)),
        ("expanded_mask", json!(white)),
        ("seed", json!("77")),
        ("width", json!(128)),
        ("height", json!(96)),
        ("script_name", json!("ultimate sd upscale")),
        (
            "script_args",
            json!(["", 512, 0, 8, 32, 64, 0.35, 16, 0, true, 0, false, 4, 0, 2, 2048, 2048, 2]),
        ),
    ] {
        request[name] = value;
    }
    let answer = server.post("img2img", request);
    let told = info(&answer);
    assert_eq!(
        (&told["width"], &told["height"], &told["seed"]),
        (&json!(128), &json!(96), &json!(77))
    );
    assert!(told["notes"].to_string().contains("script ultimate sd upscale"), "{told}");

    let extras = json!({
        "resize_mode": 0, "show_extras_results": true, "gfpgan_visibility": 0, "codeformer_visibility": 0,
        "codeformer_weight": 0, "upscaling_resize": 2, "upscaling_resize_w": 128, "upscaling_resize_h": 96,
        "upscaling_crop": true, "upscaler_1": "None", "upscaler_2": "None", "extras_upscaler_2_visibility": 0,
        "upscale_first": false, "image": init,
    });
    let answer = server.post("extra-single-image", extras);
    assert!(file(&answer["image"]).starts_with(b"\x89PNG"));
    let progress = server.get("/sdapi/v1/progress?skip_current_image=false");
    assert_eq!((&progress["progress"], &progress["current_image"]), (&json!(0.0), &Value::Null));
    assert!(server.post("interrupt", json!({})).is_object());
}

/// Cyanic SD (Krita).
#[test]
fn krita_starts_repaints_and_enlarges() {
    let server = Server::on_tiny("--captioner none");
    // Without this one it takes the server for absent.
    assert_eq!(server.get("/queue/status")["queue_size"], 0);
    let title = server.get("/sdapi/v1/sd-models")[0]["title"].clone();
    for list in ["sd-vae", "face-restorers", "prompt-styles", "loras", "hypernetworks"] {
        assert_eq!(server.get(&format!("/sdapi/v1/{list}")), json!([]), "{list}");
    }
    assert!(server.get("/sdapi/v1/samplers").as_array().unwrap().len() > 10);
    assert!(server.get("/sdapi/v1/upscalers")[0]["name"].is_string());
    assert!(server.get("/sdapi/v1/scripts")["txt2img"].is_array());
    assert!(server.get("/sdapi/v1/embeddings")["loaded"].is_object());
    let options = server.get("/sdapi/v1/options");
    assert_eq!(options["sd_model_checkpoint"], title);
    // Half of SD.Next's own options would make it take the server for that.
    assert!(!options.as_object().unwrap().keys().any(|name| name.contains("_sep")));

    // It sends pictures as they are in memory, without a head.
    let init = picture(&server.shell, "a.png", 48, 48);
    let request = json!({
        "width": 48, "height": 48, "prompt": "a bird", "negative_prompt": "", "denoising_strength": 0.3, "batch_size": 1,
        "n_iter": 2, "cfg_scale": 1.0, "seed": -1, "subseed": -1, "subseed_strength": 0.0, "steps": 3,
        "sampler_name": "DPM++ 2M", "styles": [], "alwayson_scripts": {}, "init_images": [init], "resize_mode": 0,
        "override_settings": {"sd_model_checkpoint": title, "sd_vae": "Automatic", "img2img_color_correction": true},
        "override_settings_restore_afterwards": false,
    });
    let answer = server.post("img2img", request);
    // It counts pictures by these, and takes more for those of ControlNets.
    let parameters = &answer["parameters"];
    let expected =
        parameters["batch_size"].as_u64().unwrap() * parameters["n_iter"].as_u64().unwrap();
    assert_eq!(answer["images"].as_array().unwrap().len() as u64, expected);
    // It knows a PNG by how its base64 begins.
    assert!(answer["images"][0].as_str().unwrap().starts_with("iVBORw0KGgo"));
    assert_eq!(info(&answer)["all_seeds"].as_array().unwrap().len(), 2);

    let extras = json!({"resize_mode": 1, "upscaling_resize": 2.0, "upscaling_resize_w": 96, "upscaling_resize_h": 60,
        "upscaling_crop": true, "upscaler_1": "", "image": init, "override_settings": {},
        "override_settings_restore_afterwards": false});
    let answer = server.post("extra-single-image", extras);
    assert!(answer["image"].as_str().unwrap().starts_with("iVBORw0KGgo"));
    let state = &server.get("/sdapi/v1/progress")["state"];
    assert_eq!((&state["skipped"], &state["interrupted"]), (&json!(false), &json!(false)));
}

/// Stable Boy 0.4 and Stable-Gimpfusion 1.0 (GIMP).
#[test]
fn gimp_repaints_what_is_selected_and_enlarges() {
    let server = Server::on_tiny("--captioner none");
    let init = picture(&server.shell, "a.png", 40, 40);
    let white = mask(&server.shell, "mask.png", 40, 40);
    // Stable Boy asks for nothing before, and its sliders send floats and texts.
    let request = json!({
        "prompt": "a bird", "negative_prompt": "", "steps": 3.0, "sampler_index": "Euler a", "batch_size": 2,
        "cfg_scale": 1.5, "seed": "5", "restore_faces": true, "width": 40, "height": 40, "denoising_strength": 0.3,
        "init_images": [format!("data:image/png;base64,{init}")], "inpainting_mask_invert": 1, "inpainting_fill": 1,
        "mask_blur": 4.0, "inpaint_full_res": true, "inpaint_full_res_padding": 0,
        "mask": format!("data:image/png;base64,{white}"),
    });
    let answer = server.post("img2img", request);
    assert_eq!(answer["images"].as_array().unwrap().len(), 2);
    assert_eq!(info(&answer)["all_seeds"], json!([5, 6]));
    let extras = json!({"upscaling_resize": 2, "upscaler_1": "SwinIR_4x", "upscaler_2": "None",
        "extras_upscaler_2_visibility": 0.0, "image": format!("data:image/png;base64,{init}")});
    assert!(server.post("extra-single-image", extras)["image"].is_string());

    // Stable-Gimpfusion fills its menus; its addresses end with an empty query.
    let options = server.get("/sdapi/v1/options?");
    let models = server.get("/sdapi/v1/sd-models?");
    let titles: Vec<_> = models.as_array().unwrap().iter().map(|model| &model["title"]).collect();
    assert!(titles.contains(&&options["sd_model_checkpoint"]));
    let unit =
        json!({"input_image": "", "mask": "", "module": "none", "model": "none", "weight": 1.0});
    let request = json!({
        "resize_mode": 0, "init_images": [init], "prompt": "a bird", "negative_prompt": "", "denoising_strength": 0.8,
        "steps": 4, "cfg_scale": 7.5, "width": 40.0, "height": 40.0, "sampler_index": "DPM adaptive", "batch_size": 1,
        "seed": -1, "alwayson_scripts": {"controlnet": {"args": [unit, null]}, "never oom integrated": {"args": [true, true]}},
    });
    let (status, answer) = server.ask("POST", "/sdapi/v1/img2img?", Some(&request));
    assert_eq!(status, 200, "{answer}");
    // A layer for each seed, with its text.
    let told = info(&answer);
    let seeds = told["all_seeds"].as_array().unwrap();
    assert_eq!((seeds.len(), told["infotexts"].as_array().unwrap().len()), (1, 1));
    let notes = told["notes"].to_string();
    assert!(notes.contains("DPM adaptive") && notes.contains("never oom integrated"), "{notes}");
    assert!(STANDARD.decode(answer["images"][0].as_str().unwrap()).is_ok());
}

/// Open WebUI and SillyTavern, which make pictures from words alone: they start, and are told that this is not here.
#[test]
fn clients_that_only_make_pictures_from_words_are_told_so() {
    let server = Server::on_tiny("--captioner none");
    let options = server.get("/sdapi/v1/options");
    assert!(options["sd_model_checkpoint"].is_string() && options.get("forge_preset").is_none());
    assert_eq!(server.post("options", options), Value::Null);
    for list in
        ["upscalers", "latent-upscale-modes", "sd-vae", "samplers", "schedulers", "sd-models"]
    {
        assert!(server.get(&format!("/sdapi/v1/{list}")).is_array(), "{list}");
    }
    let progress = server.get("/sdapi/v1/progress");
    assert_eq!((&progress["progress"], &progress["state"]["job_count"]), (&json!(0.0), &json!(0)));
    let request =
        json!({"prompt": "a bird", "batch_size": 1, "width": 512, "height": 512, "steps": 20});
    server.refused("txt2img", &request, 501, "makes none from words");
}
