//! The program as a server: what it answers, what it refuses, and what is left of it.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::PathBuf,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::common::{
    Shell,
    http::{Answer, Part, ask, chunk, connect, form, head, send},
    tiny,
};

/// The server, which ends with this.
struct Server {
    child: Child,
    address: SocketAddr,
    headers: Vec<(String, String)>,
}

impl Server {
    /// A server on the tiny model, with jobs in the folder `jobs` of the shell.
    fn start(shell: &Shell, options: &str) -> Self {
        let model = tiny();
        let line = format!(
            "serve --listen 127.0.0.1:0 --jobs-dir jobs --model {} {options}",
            model.display()
        );
        Self::run(&mut shell.command(&line))
    }

    fn run(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let Some(address) = line.trim().strip_prefix("http://").and_then(|it| it.strip_suffix('/'))
        else {
            let mut said = String::new();
            child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
            panic!("{line}{said}");
        };
        Self { address: address.parse().unwrap(), child, headers: Vec::new() }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let own = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let headers: Vec<_> = own.chain(headers.iter().copied()).collect();
        ask(self.address, method, path, &headers, body)
    }

    fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, &[], &[])
    }

    fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, &[], &[])
    }

    fn post(&self, path: &str, body: &Value) -> Answer {
        self.ask("POST", path, &[("Content-Type", "application/json")], body.to_string().as_bytes())
    }

    fn send(&self, parts: &[Part<'_>]) -> Answer {
        let (media_type, body) = form(parts);
        self.ask("POST", "/v1/jobs", &[("Content-Type", &media_type)], &body)
    }

    /// Sends a picture with settings; returns the id of the job.
    fn submit(&self, picture: &[u8], settings: &Value) -> String {
        let settings = settings.to_string();
        let parts = [("picture", Some("in.png"), picture), ("settings", None, settings.as_bytes())];
        let taken = self.send(&parts);
        assert_eq!(taken.status, 202, "{taken:?}");
        taken.json()["id"].as_str().unwrap().to_owned()
    }

    fn job(&self, id: &str) -> Value {
        self.get(&format!("/v1/jobs/{id}")).json()
    }

    /// Waits until `is_so` of a job.
    fn until(&self, id: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let job = self.job(id);
            if is_so(&job) {
                return job;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "{job}");
            sleep(Duration::from_millis(20));
        }
    }

    fn ended(&self, id: &str) -> Value {
        self.until(id, |job| !["waiting", "running"].contains(&job["state"].as_str().unwrap()))
    }

    fn result(&self, id: &str) -> Vec<u8> {
        let job = self.ended(id);
        assert_eq!(job["state"], "done", "{job}");
        let result = self.get(&format!("/v1/jobs/{id}/result"));
        assert_eq!(result.status, 200);
        assert_eq!(job["bytes"], result.body.len(), "{job}");
        result.body
    }

    /// Ends it with a signal; the exit code, and what it said.
    #[cfg(unix)]
    fn end(mut self, signal: i32) -> (Option<i32>, String) {
        // SAFETY: a signal to a child that has not been waited for.
        unsafe { libc::kill(self.child.id() as i32, signal) };
        let code = self.child.wait().unwrap().code();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (code, said)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn png(shell: &Shell, width: u32, height: u32) -> Vec<u8> {
    fs::read(shell.picture("in.png", width, height)).unwrap()
}

/// A job of a moment.
fn quickly() -> Value {
    json!({"scale": 2, "denoise-steps": 1, "captioner": "none"})
}

/// A job that ends long after the test.
fn slowly() -> Value {
    json!({"scale": 4, "steps": 1000, "denoise-steps": 1000, "captioner": "none", "gsp": 0, "rap": 0, "rsp": 0})
}

/// What lies in the jobs' folder.
fn left(shell: &Shell) -> Vec<String> {
    let entries = fs::read_dir(shell.path("jobs")).unwrap();
    let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<_> = names.filter(|name| name != "lock").collect();
    names.sort();
    names
}

/// Checks an error: its status, its kind, a part of what it says, and that it names no place of the disk.
fn check_error(shell: &Shell, answer: &Answer, status: u16, kind: &str, said: &str) {
    assert_eq!(answer.status, status, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"), "{answer:?}");
    let error = &answer.json()["error"];
    let message = error["message"].as_str().unwrap();
    assert_eq!(error["kind"], kind, "{message}");
    assert!(message.contains(said) && message.lines().count() == 1, "{message}");
    let place = shell.path("").display().to_string();
    for path in [place.trim_end_matches('/'), "/tests/", "/new-", env!("CARGO_MANIFEST_DIR")] {
        assert!(!message.contains(path), "{message}");
    }
}

#[test]
fn a_job_has_the_bytes_that_the_command_line_writes() {
    let shell = Shell::new();
    let server = Server::start(&shell, "");
    let picture = png(&shell, 40, 30);
    let model = tiny().display().to_string();
    let mask = fs::read(shell.picture("mask.png", 20, 15)).unwrap();
    shell.succeed(&format!("caption in.png -s 2 --model {model} -o given.json -q"));
    let edited =
        String::from_utf8(shell.bytes("given.json")).unwrap().replacen("colours", "paint", 1);
    fs::write(shell.path("given.json"), &edited).unwrap();
    let cases: [(Value, Value, &[Part<'_>], &str, &str); 5] = [
        (
            json!({}),
            json!({"format": "jpeg", "quality": 80}),
            &[],
            "-f jpeg --quality 80",
            "my photo_4x.jpg",
        ),
        (
            json!({"size": "77x51", "seed": 7, "denoise-steps": 1, "prompt": "dusk"}),
            json!({}),
            &[],
            "--size 77x51 --seed 7 --denoise-steps 1 --prompt dusk -f png",
            "my photo_77x51.png",
        ),
        (json!({"scale": 2}), json!({"format": "tiff"}), &[], "-s 2 -f tiff", "my photo_2x.tif"),
        (
            json!({"scale": 2, "mask-feather": 3, "invert-mask": true}),
            json!({}),
            &[("mask", Some("m.png"), &mask)],
            "-s 2 --mask mask.png --mask-feather 3 --invert-mask -f png",
            "my photo_2x.png",
        ),
        (
            json!({"scale": 2}),
            json!({}),
            &[("captions", None, edited.as_bytes())],
            "-s 2 --captions given.json -f png",
            "my photo_2x.png",
        ),
    ];
    for (settings, output, more, options, name) in cases {
        let (settings, output) = (settings.to_string(), output.to_string());
        let mut parts = vec![
            ("settings", None, settings.as_bytes()),
            ("picture", Some("my photo.png"), &*picture),
            ("output", None, output.as_bytes()),
        ];
        parts.extend_from_slice(more);
        let taken = server.send(&parts);
        assert_eq!(taken.status, 202, "{taken:?}");
        let id = taken.json()["id"].as_str().unwrap().to_owned();
        assert_eq!(taken.header("location"), Some(&*format!("/v1/jobs/{id}")));
        let result = server.result(&id);
        let expected = shell.succeed(&format!("in.png -o - --model {model} {options} -q"));
        assert!(result == expected, "{options}");
        let fetched = server.get(&format!("/v1/jobs/{id}/result"));
        let disposition = fetched.header("content-disposition").unwrap();
        assert!(disposition.contains(&format!("filename=\"{name}\"")), "{disposition}");
        assert!(server.get(&format!("/v1/jobs/{id}/input")).body == picture);
        let captions = server.get(&format!("/v1/jobs/{id}/captions"));
        assert!(captions.json()["regions"].is_array());
    }
    // The captions alone.
    let settings = json!({"scale": 2}).to_string();
    let taken = server.send(&[
        ("picture", Some("in.png"), &picture),
        ("kind", None, b"captions"),
        ("settings", None, settings.as_bytes()),
    ]);
    let id = taken.json()["id"].as_str().unwrap().to_owned();
    let document = server.result(&id);
    assert!(document == shell.succeed(&format!("caption in.png -s 2 --model {model} -q")));
    assert!(document == server.get(&format!("/v1/jobs/{id}/captions")).body);
    let job = server.job(&id);
    assert_eq!((&job["format"], &job["width"]), (&json!("json"), &json!(80)), "{job}");
}

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
fn what_is_no_job_is_refused_and_leaves_nothing() {
    let shell = Shell::new();
    let server = Server::start(&shell, "--max-body 1MiB --max-pixels 1M");
    let picture = png(&shell, 40, 30);
    let large = fs::read(shell.picture("large.png", 1001, 1000)).unwrap();
    let whole: &[u8] = &picture;
    let of = |settings: &'static str| {
        vec![("picture", Some("a.png"), whole), ("settings", None, settings.as_bytes())]
    };
    let with = |name: &'static str, value: &'static [u8]| {
        vec![("picture", Some("a.png"), whole), (name, None, value)]
    };
    let cases: Vec<(Vec<Part<'_>>, u16, &str, &str)> = vec![
        (vec![("settings", None, b"{}")], 400, "request", "`picture` is missing"),
        (of("{"), 400, "request", "settings"),
        (of("[]"), 400, "request", "settings"),
        (of(r#"{"scal": 2}"#), 422, "settings", "did you mean --scale?"),
        (of(r#"{"scale": 0}"#), 422, "settings", "not above 0"),
        (of(r#"{"model": "x"}"#), 422, "settings", "when `serve` starts"),
        (of(r#"{"mask": "/etc/passwd"}"#), 422, "settings", "the part `mask`"),
        (of(r#"{"captions": "/etc/passwd"}"#), 422, "settings", "the part `captions`"),
        (of(r#"{"reuse": "/etc/passwd"}"#), 422, "settings", "reuse"),
        (of(r#"{"scale": 40}"#), 413, "too_large", "1600 × 1200"),
        (of(r#"{"steps": 2, "denoise-steps": 3}"#), 422, "settings", "--denoise-steps 3"),
        (
            of(r#"{"prompt": "<lora:x:1>", "prompt-syntax": "weighted"}"#),
            422,
            "settings",
            "start it with --lora",
        ),
        (with("output", br#"{"pix": "rgb24"}"#), 422, "settings", "pix"),
        (with("output", br#"{"format": "bmp"}"#), 422, "settings", "bmp"),
        (with("output", br#"{"format": "png", "quality": 90}"#), 422, "settings", "quality"),
        (with("output", br#"{"form": "png"}"#), 400, "request", "form"),
        (with("kind", b"paint"), 400, "request", "kind"),
        (with("model", b"/etc"), 422, "settings", "not installed"),
        (with("seconds", b"0"), 422, "settings", "seconds"),
        (with("size", b"2"), 400, "request", "`size` is unknown"),
        (with("picture", b"x"), 400, "request", "twice"),
        (with("mask", b"no picture"), 422, "settings", "the mask: not a readable image"),
        (with("captions", b"{}"), 422, "settings", "the captions"),
        // Cut off within its header.
        (vec![("picture", Some("a.png"), &picture[..30])], 422, "input", "a.png"),
        (
            vec![("picture", Some("../../b.png"), b"no picture")],
            422,
            "input",
            "b.png: not a readable image",
        ),
        (vec![("picture", Some("c.png"), &large)], 413, "too_large", "1001 × 1000"),
    ];
    for (parts, status, kind, said) in &cases {
        check_error(&shell, &server.send(parts), *status, kind, said);
    }
    let (media_type, body) = form(&[("picture", None, &vec![0; 2 << 20])]);
    let sent = |media_type: &str, body: &[u8]| {
        server.ask("POST", "/v1/jobs", &[("Content-Type", media_type)], body)
    };
    check_error(&shell, &sent(&media_type, &body), 413, "too_large", "1.0 MiB");
    check_error(&shell, &sent("application/json", b"{}"), 415, "unsupported", "multipart");
    check_error(&shell, &sent("multipart/form-data", &body[..100]), 400, "request", "");
    check_error(&shell, &sent(&media_type, &body[..100]), 400, "request", "form");
    let no_job = "0123456789abcdef0123456789abcdef";
    for path in ["", "/result", "/preview", "/input", "/captions", "/events"] {
        let answer = server.get(&format!("/v1/jobs/{no_job}{path}"));
        check_error(&shell, &answer, 404, "not_found", "no job");
    }
    for id in ["..%2f..%2fetc", "lock", "%ff", "0123456789ABCDEF0123456789abcdef"] {
        check_error(&shell, &server.get(&format!("/v1/jobs/{id}/result")), 404, "not_found", "");
    }
    // A client that goes away while it sends.
    let mut stream = connect(server.address);
    let head = format!(
        "POST /v1/jobs HTTP/1.1\r\nHost: {}\r\nContent-Type: {media_type}\r\nContent-Length: 100000\r\n\r\n",
        server.address
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&body[..50_000]).unwrap();
    let begun = Instant::now();
    while left(&shell).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(20), "the upload is nowhere");
        sleep(Duration::from_millis(5));
    }
    drop(stream);
    while !left(&shell).is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(40), "{:?}", left(&shell));
        sleep(Duration::from_millis(5));
    }
    assert_eq!(server.get("/v1/jobs").json(), json!({"jobs": []}));
}

#[test]
fn the_queue_has_a_bound_and_jobs_are_cancelled_wherever_they_are() {
    let shell = Shell::new();
    let server = Server::start(&shell, "--queue 2");
    let picture = png(&shell, 64, 48);
    let running = server.submit(&picture, &slowly());
    server.until(&running, |job| job["state"] == "running" && job["stage"] == "denoise");
    let first = server.submit(&picture, &quickly());
    let second = server.submit(&picture, &quickly());
    assert_eq!(
        (&server.job(&first)["ahead"], &server.job(&second)["ahead"]),
        (&json!(0), &json!(1))
    );
    let full = server.send(&[("picture", Some("in.png"), &picture)]);
    check_error(&shell, &full, 429, "busy", "2 jobs wait");
    assert!(full.header("retry-after").unwrap().parse::<u32>().unwrap() > 0);
    assert_eq!(server.get("/health").status, 200);
    let info = server.get("/v1/info").json();
    assert_eq!((&info["running"], &info["waiting"]), (&json!(running), &json!(2)));
    let conflict = server.get(&format!("/v1/jobs/{running}/result"));
    check_error(&shell, &conflict, 409, "conflict", "running");
    // A preview, because somebody looks.
    let begun = Instant::now();
    let preview = loop {
        let preview = server.get(&format!("/v1/jobs/{running}/preview"));
        if preview.status == 200 {
            break preview;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{preview:?}");
        sleep(Duration::from_millis(20));
    };
    assert_eq!(preview.header("content-type"), Some("image/jpeg"));
    assert!(preview.body.starts_with(&[0xff, 0xd8]));
    // One that waits.
    let cancelled = server.delete(&format!("/v1/jobs/{first}"));
    assert_eq!((cancelled.status, &cancelled.json()["state"]), (202, &json!("cancelled")));
    assert_eq!(server.job(&second)["ahead"], 0);
    // The one that runs.
    let cancelled = server.delete(&format!("/v1/jobs/{running}"));
    assert_eq!(cancelled.status, 202);
    let job = server.ended(&running);
    assert_eq!((&job["state"], &job["error"]), (&json!("cancelled"), &Value::Null), "{job}");
    let files: Vec<_> = fs::read_dir(shell.path("jobs").join(&running)).unwrap().collect();
    assert_eq!(files.len(), 1, "{files:?}");
    server.result(&second);
    let listed = server.get("/v1/jobs").json();
    let ids: Vec<_> =
        listed["jobs"].as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap()).collect();
    assert_eq!(ids, [&*second, &*first, &*running]);
    for id in [&running, &first, &second] {
        assert_eq!(server.delete(&format!("/v1/jobs/{id}")).status, 204);
        check_error(&shell, &server.get(&format!("/v1/jobs/{id}")), 404, "not_found", "no job");
    }
    assert_eq!(left(&shell), [""; 0]);
}

/// Reads events to the end of the stream: their names and data.
fn events(server: &Server, id: &str) -> Vec<(String, Value)> {
    let mut stream = connect(server.address);
    send(&mut stream, server.address, "GET", &format!("/v1/jobs/{id}/events"), &[], &[]);
    let mut stream = BufReader::new(stream);
    let (status, headers) = head(&mut stream);
    assert_eq!(status, 200);
    assert!(headers.contains(&("content-type".to_owned(), "text/event-stream".to_owned())));
    let mut text = Vec::new();
    while let Some(chunk) = chunk(&mut stream) {
        text.extend(chunk);
    }
    let text = String::from_utf8(text).unwrap();
    let events = text.split("\n\n").filter(|event| event.starts_with("event:"));
    let of = |event: &str| {
        let (name, data) = event.split_once('\n').unwrap();
        let name = name.strip_prefix("event: ").unwrap().to_owned();
        (name, serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap())
    };
    events.map(of).collect()
}

#[test]
fn events_tell_of_a_job_from_where_it_is_to_its_end() {
    let shell = Shell::new();
    let server = Server::start(&shell, "");
    let picture = png(&shell, 64, 48);
    let settings = json!({"scale": 3, "steps": 60, "denoise-steps": 60});
    let before = server.submit(&picture, &settings);
    let id = server.submit(&picture, &settings);
    let told = events(&server, &id);
    let first = &told[0];
    assert_eq!((&*first.0, &first.1["id"]), ("job", &json!(id)));
    let last = told.last().unwrap();
    assert_eq!((&*last.0, &last.1["state"]), ("job", &json!("done")), "{last:?}");
    let of = |name: &str| {
        told.iter().filter(|event| event.0 == name).map(|event| &event.1).collect::<Vec<_>>()
    };
    let stages: Vec<_> = of("job").iter().filter_map(|job| job["stage"].as_str()).collect();
    assert!(stages.contains(&"denoise"), "{stages:?}");
    let progress = of("progress");
    assert!(
        !progress.is_empty() && !of("preview").is_empty() && of("captions").len() == 1,
        "{told:?}"
    );
    for event in &progress {
        let share = event["share"].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&share) && event["unit"].is_string(), "{event}");
    }
    assert_eq!(server.job(&before)["state"], "done");
    // Of a job that has ended one event is left.
    let told = events(&server, &id);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1["state"], "done");
    // Whoever goes away in the middle is not missed.
    let slow = server.submit(&picture, &slowly());
    let mut stream = connect(server.address);
    send(&mut stream, server.address, "GET", &format!("/v1/jobs/{slow}/events"), &[], &[]);
    head(&mut BufReader::new(stream));
    server.delete(&format!("/v1/jobs/{slow}"));
    assert_eq!(server.ended(&slow)["state"], "cancelled");
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
    let broken: PathBuf = shell.path("broken");
    crate::common::copy_folder(&tiny(), &broken);
    added("broken", "broken");
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
