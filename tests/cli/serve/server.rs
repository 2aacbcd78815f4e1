//! The server itself: what it tells, who may ask, restarts, limits, models, its command line.

use std::{fs, net::SocketAddr, path::PathBuf};

use serde_json::{Value, json};

use super::{Server, check_error, png, quickly, slowly};
use crate::common::{
    Shell,
    http::{ask, connect, send},
    tiny,
};

#[test]
fn the_server_tells_what_it_is_and_what_a_job_would_do() {
    let shell = Shell::new();
    let server = Server::start(&shell, "--queue 3 --max-pixels 2M --max-time 500");
    assert_eq!(server.get("/health").json(), json!({"status": "ok"}));
    let page = server.get("/");
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(page.header("content-security-policy").unwrap().contains("default-src 'none'"));
    let info = server.get("/v1/info").json();
    assert_eq!(info["models"][0]["name"], "model", "{info}");
    assert_eq!(info["models"][0]["is_default"], true, "{info}");
    let limits = json!({"body": 268_435_456, "pixels": 2_000_000, "seconds": 500, "waiting": 3});
    assert_eq!(info["limits"], limits);
    let settings: Vec<_> = info["settings"].as_array().unwrap().iter().collect();
    assert!(settings.contains(&&json!("scale")) && !settings.contains(&&json!("mask")), "{info}");
    assert!(!info.to_string().contains("/fixtures"), "{info}");
    let plan =
        server.post("/v1/plan", &json!({"width": 40, "height": 30, "settings": {"scale": 2}}));
    assert_eq!(plan.status, 200, "{plan:?}");
    assert_eq!((&plan.json()["width"], &plan.json()["height"]), (&json!(80), &json!(60)));
    let api = server.get("/openapi.json").json();
    assert_eq!(api["openapi"].as_str().unwrap().split('.').next(), Some("3"), "{api}");
    let paths =
        ["/health", "/v1/info", "/v1/plan", "/v1/jobs", "/v1/jobs/{id}", "/v1/jobs/{id}/events"];
    for path in paths {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    for (body, status, kind, said) in [
        (json!({"width": 40}), 400, "request", "height"),
        (json!({"width": 0, "height": 30}), 422, "settings", ""),
        (
            json!({"width": 40, "height": 30, "settings": {"scal": 2}}),
            422,
            "settings",
            "did you mean --scale?",
        ),
        (
            json!({"width": 40, "height": 30, "settings": {"steps": 2, "denoise-steps": 3}}),
            422,
            "settings",
            "--denoise-steps 3",
        ),
        (json!({"width": 4000, "height": 3000}), 413, "too_large", "2000000"),
        (json!({"width": 1000, "height": 1000}), 413, "too_large", "4000 × 4000"),
        (json!({"width": 40, "height": 30, "model": "../x"}), 422, "settings", "not installed"),
    ] {
        check_error(&shell, &server.post("/v1/plan", &body), status, kind, said);
    }
    let text = [("Content-Type", "text/plain")];
    check_error(&shell, &server.ask("POST", "/v1/plan", &text, b"{}"), 415, "unsupported", "json");
    check_error(&shell, &server.get("/v2"), 404, "not_found", "/v2");
    let wrong = server.ask("PUT", "/v1/jobs", &[], b"");
    check_error(&shell, &wrong, 405, "method", "method");
    assert!(wrong.header("allow").is_some_and(|allowed| allowed.contains("POST")), "{wrong:?}");
}

#[test]
fn only_who_may_ask_is_answered() {
    let shell = Shell::new();
    let options =
        "--token 0123456789abcdef --allow-host studio.local --allow-origin https://studio.example";
    let server = Server::start(&shell, options);
    let asked = |method: &str, path: &str, headers: &[(&str, &str)]| {
        ask(server.address, method, path, headers, &[])
    };
    let bearer = ("Authorization", "Bearer 0123456789abcdef");
    for path in ["/", "/health", "/openapi.json"] {
        assert_eq!(asked("GET", path, &[]).status, 200, "{path}");
    }
    for headers in [
        &[][..],
        &[("Authorization", "Bearer 0123456789abcdee")],
        &[("Authorization", "Basic Og==")],
    ] {
        let refused = asked("GET", "/v1/jobs", headers);
        check_error(&shell, &refused, 401, "unauthorized", "token");
        assert!(refused.header("www-authenticate").unwrap().starts_with("Bearer"), "{refused:?}");
    }
    check_error(&shell, &asked("POST", "/v1/jobs", &[]), 401, "unauthorized", "token");
    check_error(&shell, &asked("GET", "/nothing", &[]), 401, "unauthorized", "token");
    assert_eq!(asked("GET", "/v1/jobs", &[bearer]).status, 200);
    // name:0123456789abcdef
    let basic = ("Authorization", "Basic bmFtZTowMTIzNDU2Nzg5YWJjZGVm");
    assert_eq!(asked("GET", "/v1/jobs", &[basic]).status, 200);
    // A site that has made this address its own name.
    for host in ["evil.example", "evil.example:7860", "127.0.0.1.evil.example", "192.168.0.1"] {
        check_error(
            &shell,
            &asked("GET", "/health", &[("Host", host)]),
            403,
            "forbidden",
            "--allow-host",
        );
    }
    for host in ["localhost", "127.0.0.1:1", "[::1]", "STUDIO.local:7860"] {
        assert_eq!(asked("GET", "/health", &[("Host", host)]).status, 200, "{host}");
    }
    let twice = [("Host", "localhost"), ("Host", "evil.example")];
    assert_ne!(asked("GET", "/health", &twice).status, 200);
    // Pages of other sites.
    for origin in ["https://evil.example", "null", "http://localhost:1"] {
        let refused = asked("GET", "/v1/jobs", &[bearer, ("Origin", origin)]);
        check_error(&shell, &refused, 403, "forbidden", "--allow-origin");
        assert_eq!(refused.header("access-control-allow-origin"), None);
    }
    let own = format!("http://{}", server.address);
    let answer = asked("GET", "/v1/jobs", &[bearer, ("Origin", &own)]);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    let site = ("Origin", "https://studio.example");
    let answer = asked("GET", "/v1/jobs", &[bearer, site]);
    assert_eq!(answer.header("access-control-allow-origin"), Some(site.1));
    let method = ("Access-Control-Request-Method", "POST");
    let preflight = asked("OPTIONS", "/v1/jobs", &[site, method]);
    assert_eq!(preflight.status, 204);
    assert!(preflight.header("access-control-allow-headers").unwrap().contains("authorization"));
    assert!(preflight.header("access-control-allow-methods").unwrap().contains("DELETE"));
    check_error(
        &shell,
        &asked("OPTIONS", "/v1/jobs", &[("Origin", "https://evil.example"), method]),
        403,
        "forbidden",
        "",
    );
    for path in ["/health", "/v1/jobs"] {
        let answer = asked("GET", path, &[bearer]);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(answer.header("cross-origin-resource-policy"), Some("same-origin"));
    }
}

#[cfg(unix)]
#[test]
fn beyond_the_loopback_a_token_is_made_and_told_once() {
    let shell = Shell::new();
    let line = format!("serve --listen 0.0.0.0:0 --model {}", tiny().display());
    let server = Server::run(&mut shell.command(&line));
    let address = SocketAddr::from(([127, 0, 0, 1], server.address.port()));
    assert_eq!(ask(address, "GET", "/v1/jobs", &[], &[]).status, 401);
    // Any address is the machine's own, and no name but the loopback's.
    assert_eq!(ask(address, "GET", "/health", &[("Host", "192.168.7.7:1")], &[]).status, 200);
    assert_eq!(ask(address, "GET", "/health", &[("Host", "evil.example")], &[]).status, 403);
    let (code, said) = server.end(libc::SIGTERM);
    assert_eq!(code, Some(130), "{said}");
    let token = said.lines().find_map(|line| line.strip_prefix("token: ")).unwrap();
    let token = token.split(' ').next().unwrap();
    assert!(token.len() == 32 && said.contains(&format!("/#token={token}")), "{said}");
    assert!(said.contains("not encrypted"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_start_goes_on_with_what_a_killed_server_was_at() {
    let shell = Shell::new();
    let picture = png(&shell, 64, 48);
    let settings =
        json!({"scale": 2, "steps": 150, "denoise-steps": 150, "captioner": "none", "seed": 5});
    let server = Server::start(&shell, "");
    let done = server.submit(&picture, &quickly());
    let first = server.result(&done);
    let id = server.submit(&picture, &settings);
    let waiting = server.submit(&picture, &quickly());
    server.until(&id, |job| job["stage"] == "denoise" && job["done"].as_u64().unwrap() > 20);
    // While a client follows it.
    let mut stream = connect(server.address);
    send(&mut stream, server.address, "GET", &format!("/v1/jobs/{id}/events"), &[], &[]);
    server.end(libc::SIGKILL);
    fs::create_dir(shell.path("jobs/new-0123456789abcdef0123456789abcdef")).unwrap();
    fs::create_dir(shell.path("jobs/holiday")).unwrap();

    let server = Server::start(&shell, "");
    let job = server.until(&id, |job| job["stage"] == "denoise");
    let notes = job["notes"].to_string();
    assert!(notes.contains("going on with what is done in its work folder"), "{job}");
    assert!(server.result(&done) == first);
    server.until(&id, |job| job["done"].as_u64().unwrap() > 60);
    // The polite end does the same.
    let (code, said) = server.end(libc::SIGINT);
    assert_eq!(code, Some(130), "{said}");
    assert!(said.contains("holiday") && shell.path("jobs/holiday").is_dir(), "{said}");

    let server = Server::start(&shell, "");
    let model = tiny().display().to_string();
    let expected = shell.succeed(&format!(
        "in.png -o - -f png -s 2 --steps 150 --denoise-steps 150 --captioner none --seed 5 --model {model} -q"
    ));
    assert!(server.result(&id) == expected);
    server.result(&waiting);
    // A second server has no business there.
    let said =
        shell.fail(&format!("serve --listen 127.0.0.1:0 --jobs-dir jobs --model {model}"), 1);
    assert!(said.contains("another server") && said.contains("--jobs-dir"), "{said}");
    let names = fs::read_dir(shell.path("jobs").join(&id)).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["captions.json", "input", "job.json", "result.png"]);
}

#[test]
fn a_job_that_runs_too_long_is_ended_and_the_next_one_runs() {
    let shell = Shell::new();
    let server = Server::start(&shell, "--max-time 1");
    let picture = png(&shell, 64, 48);
    let slow = server.submit(&picture, &slowly());
    let settings = slowly().to_string();
    let hasty = server.send(&[
        ("picture", Some("in.png"), &picture),
        ("settings", None, settings.as_bytes()),
        ("seconds", None, b"0.3"),
    ]);
    let hasty = hasty.json()["id"].as_str().unwrap().to_owned();
    let quick = server.submit(&picture, &quickly());
    for id in [&slow, &hasty] {
        let job = server.ended(id);
        assert_eq!(
            (&job["state"], &job["error"]["kind"]),
            (&json!("failed"), &json!("timeout")),
            "{job}"
        );
        assert!(!shell.path("jobs").join(id).join("work").exists());
        assert_eq!(server.get(&format!("/v1/jobs/{id}/input")).status, 200);
    }
    server.result(&quick);
}

#[test]
fn a_job_may_name_an_installed_model_and_fails_alone_where_that_cannot_be_loaded() {
    let shell = Shell::new();
    let models = shell.path("models");
    let model = tiny().display().to_string();
    let added = |name: &str, folder: &str| {
        let mut add = shell.command(&format!("models add {name} {folder}"));
        let output = add.env("CUPSCALE_MODELS", &models).output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    added("other", &model);
    // Of another name: a folder of the model's own name, where the server starts, would be taken for it.
    let broken: PathBuf = shell.path("folder");
    crate::common::copy_folder(&tiny(), &broken);
    added("broken", "folder");
    // Of the same length, so that the list of models does not see it.
    let config = broken.join("unet/config.json");
    let length = fs::read(&config).unwrap().len();
    fs::write(config, format!("{:<length$}", "{")).unwrap();
    let line = format!("serve --listen 127.0.0.1:0 --jobs-dir jobs --model {model}");
    let server = Server::run(shell.command(&line).env("CUPSCALE_MODELS", &models));
    let names = |info: &Value| -> Vec<String> {
        let models = info["models"].as_array().unwrap().iter();
        models.map(|model| model["name"].as_str().unwrap().to_owned()).collect()
    };
    let info = server.get("/v1/info").json();
    assert!(names(&info).contains(&"other".to_owned()), "{info}");
    let picture = png(&shell, 40, 30);
    let settings = quickly().to_string();
    let run = |name: &str| {
        let parts = [
            ("picture", Some("in.png"), &*picture),
            ("settings", None, settings.as_bytes()),
            ("model", None, name.as_bytes()),
        ];
        let taken = server.send(&parts);
        assert_eq!(taken.status, 202, "{taken:?}");
        taken.json()["id"].as_str().unwrap().to_owned()
    };
    let of_other = run("other");
    let mut command = shell
        .command("in.png -o - -s 2 --denoise-steps 1 --captioner none -f png -q --model other");
    let expected = command.env("CUPSCALE_MODELS", &models).output().unwrap().stdout;
    assert!(server.result(&of_other) == expected);
    assert_eq!(server.job(&of_other)["model"], "other");
    let loaded = server.get("/v1/info").json();
    let loaded = loaded["models"].as_array().unwrap().iter().find(|model| model["loaded"] == true);
    assert_eq!(loaded.unwrap()["name"], "other");
    let failed = server.ended(&run("broken"));
    assert_eq!(
        (&failed["state"], &failed["error"]["kind"]),
        (&json!("failed"), &json!("failed")),
        "{failed}"
    );
    let message = failed["error"]["message"].as_str().unwrap();
    assert!(message.contains("config.json") && !message.contains('/'), "{message}");
    // The next one has the model of the start again.
    let again = server.submit(&picture, &quickly());
    let expected = shell.succeed(&format!(
        "in.png -o - -s 2 --denoise-steps 1 --captioner none -f png -q --model {model}"
    ));
    assert!(server.result(&again) == expected);
}

#[test]
fn the_command_line_of_the_server_is_checked() {
    let shell = Shell::new();
    for (line, said) in [
        ("serve --scale 2", "--scale is a setting of each request: `serve` itself"),
        ("serve -o x", "--output is not for `serve`, whose pictures come and go as requests"),
        ("serve --work-dir x", "--jobs-dir"),
        ("serve --listen here", "127.0.0.1:7860"),
        ("serve --token short", "8 characters"),
        ("serve --allow-origin *", "an origin"),
        ("serve --queue 0", "--queue"),
        ("serve --max-pixels none", "pixels"),
    ] {
        let message = shell.fail(line, 2);
        assert!(message.contains(said), "{line}: {message}");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let message = shell
        .fail(&format!("serve --listen {address} --jobs-dir jobs --model {}", tiny().display()), 1);
    assert!(message.contains(&address.to_string()), "{message}");
    let help = String::from_utf8(shell.succeed("serve --help")).unwrap();
    assert!(help.contains("--allow-host") && !help.contains("--scale"), "{help}");
}
