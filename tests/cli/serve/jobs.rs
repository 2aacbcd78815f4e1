//! Jobs of the server: their bytes, what is refused, the queue, their events.

use std::{
    fs,
    io::{BufReader, Write as _},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Server, check_error, left, png, quickly, slowly};
use crate::common::{
    Shell,
    http::{Part, chunk, connect, form, head, send},
    tiny,
};

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
