//! A conversation with `pipe`, as an editor has it.

use std::{
    fs,
    io::{Read as _, Write as _},
    process::{Child, ChildStdin, ChildStdout, Stdio},
};

use cupscale::pipe::frame::{self, LARGEST_HEADER, read_head, read_payload};
use serde_json::{Value, json};

use crate::common::{Shell, quick, test_picture, tiny};

/// Settings of a request whose picture is not what is tested.
fn quickly() -> Value {
    json!({"scale": 2, "denoise-steps": 1, "captioner": "none"})
}

/// The program at the other end of the pipes.
struct Editor {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    hello: Value,
}

impl Editor {
    fn start(shell: &Shell, options: &str) -> Self {
        let mut child = shell
            .command(&format!("pipe --model {} {options}", tiny().display()))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let mut editor = Self { child, stdin, stdout, hello: Value::Null };
        editor.hello = editor.next().0;
        editor
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stdin.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn send_raw(&mut self, header: &[u8], payload: &[u8]) {
        let stdin = self.stdin.as_mut().unwrap();
        frame::write(stdin, header, (&mut &*payload, payload.len() as u64)).unwrap();
    }

    fn send(&mut self, header: &Value, payload: &[u8]) {
        self.send_raw(header.to_string().as_bytes(), payload);
    }

    fn next(&mut self) -> (Value, Vec<u8>) {
        let stdout = self.stdout.as_mut().unwrap();
        let head = read_head(stdout).unwrap().expect("the conversation goes on");
        let header = serde_json::from_slice(&head.header).unwrap();
        (header, read_payload(stdout, head.payload).unwrap())
    }

    /// The next answer of this type, and the types of those before it.
    fn until(&mut self, kind: &str) -> (Value, Vec<u8>, Vec<String>) {
        let mut before = Vec::new();
        loop {
            let (answer, payload) = self.next();
            if answer["type"] == kind {
                return (answer, payload, before);
            }
            assert!(answer["type"] != "bye" && answer["type"] != "error", "{answer}");
            before.push(answer["type"].as_str().unwrap().to_owned());
        }
    }

    /// Expects this error of a request.
    fn refused(&mut self, id: &Value, kind: &str, said: &str) {
        let (answer, _) = loop {
            let (answer, payload) = self.next();
            if answer["type"] != "accepted" {
                break (answer, payload);
            }
        };
        assert_eq!((&answer["type"], &answer["id"]), (&json!("error"), id), "{answer}");
        assert_eq!(answer["kind"], kind, "{answer}");
        assert!(answer["message"].as_str().unwrap().contains(said), "{answer}");
    }

    /// Closes the input; the exit code, what is said on standard error, and the last answer.
    fn end(mut self) -> (Option<i32>, String, Value) {
        self.stdin = None;
        let mut last = Value::Null;
        if let Some(stdout) = &mut self.stdout {
            while let Some(head) = read_head(stdout).unwrap() {
                last = serde_json::from_slice(&head.header).unwrap();
                read_payload(stdout, head.payload).unwrap();
            }
        }
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (self.child.wait().unwrap().code(), said, last)
    }
}

fn png(shell: &Shell, width: u32, height: u32) -> Vec<u8> {
    fs::read(shell.picture("in.png", width, height)).unwrap()
}

#[test]
fn a_request_gets_the_bytes_that_the_command_line_writes() {
    let shell = Shell::new();
    let bytes = png(&shell, 40, 30);
    let mut editor = Editor::start(&shell, "");
    assert_eq!(editor.hello["protocol"], "cupscale-pipe");
    assert_eq!(editor.hello["version"], 1);
    for format in editor.hello["formats"].as_array().unwrap() {
        assert!(format.as_str().unwrap().parse::<cupscale::image::Format>().is_ok());
    }
    for (id, settings, output, options) in [
        (json!(1), json!({}), json!({"format": "jpeg", "quality": 80}), "-f jpeg --quality 80"),
        (
            json!("second"),
            json!({"size": "77x51", "prompt": "an old harbour", "seed": 7, "denoise-steps": 1}),
            json!({}),
            "--size 77x51 --seed 7 --denoise-steps 1",
        ),
    ] {
        let request = json!({"type": "upscale", "id": id, "settings": settings, "output": output});
        editor.send(&request, &bytes);
        let (accepted, _) = editor.next();
        assert_eq!((&accepted["type"], &accepted["id"]), (&json!("accepted"), &id), "{accepted}");
        let (result, payload, before) = editor.until("result");
        assert_eq!(result["id"], id);
        assert!(before.iter().any(|kind| kind == "progress"), "{before:?}");
        let mut command =
            shell.command(&format!("in.png -o - -f png --model {} {options} -q", tiny().display()));
        if settings["prompt"].is_string() {
            command.args(["--prompt", "an old harbour"]);
        }
        if options.contains("jpeg") {
            command =
                shell.command(&format!("in.png -o - --model {} {options} -q", tiny().display()));
        }
        assert!(payload == command.output().unwrap().stdout, "{id}");
    }
    // Raw pixels both ways.
    let rgb = test_picture(40, 30).into_raw();
    let input = json!({"pix": "rgb24", "width": 40, "height": 30});
    editor.send(&json!({"type": "upscale", "id": 3, "settings": quickly(), "input": input}), &rgb);
    let (result, payload, _) = editor.until("result");
    assert_eq!(
        (&result["pix"], &result["width"], &result["height"]),
        (&json!("rgb24"), &json!(80), &json!(60))
    );
    shell.succeed(&format!("in.png -o out.png {}", quick()));
    assert!(payload == pictures::open(shell.path("out.png")).into_rgb8().into_raw());
    // Pictures of what is not done yet change nothing.
    editor.send(
        &json!({"type": "upscale", "id": 5, "settings": quickly(), "input": input, "preview": true}),
        &rgb,
    );
    let (preview, picture, _) = editor.until("preview");
    assert_eq!((&preview["id"], &preview["format"]), (&json!(5), &json!("jpeg")), "{preview}");
    let size = [&preview["width"], &preview["height"]].map(|side| side.as_u64().unwrap() as u32);
    let shown = pictures::decode(&picture).to_rgb8();
    assert_eq!(shown.dimensions(), (size[0], size[1]));
    assert!(editor.until("result").1 == payload);
    // And a plan, by a profile.
    let input = json!({"width": 40, "height": 30});
    let settings = json!({"profile": "fast"});
    editor.send(&json!({"type": "plan", "id": 6, "settings": settings, "input": input}), b"");
    let (plan, _, _) = editor.until("plan");
    assert!(plan["text"].as_str().unwrap().contains("fast: 3 of 8 steps"), "{plan}");
    editor.send(&json!({"type": "plan", "id": 4, "settings": {"scale": 3}, "input": input}), b"");
    let (plan, _, _) = editor.until("plan");
    assert_eq!((&plan["width"], &plan["height"]), (&json!(120), &json!(90)), "{plan}");
    assert!(plan["text"].as_str().unwrap().contains("120 × 90 px"), "{plan}");
    let (code, said, last) = editor.end();
    assert_eq!((code, said.as_str(), &last["type"]), (Some(0), "", &json!("bye")));
    assert_eq!(shell.names(), ["in.png", "out.png"]);
}

#[test]
fn a_mask_comes_with_the_picture_or_lies_on_the_disk() {
    let shell = Shell::new();
    let bytes = png(&shell, 40, 30);
    let half = pictures::RgbImage::from_fn(80, 60, |x, _| {
        pictures::Rgb([if x < 30 { 0 } else { 255 }; 3])
    });
    pictures::save(half.into(), &shell.path("mask.png"));
    let mask = shell.bytes("mask.png");
    let line = format!("in.png -o - -f png {} -q --mask mask.png --mask-feather 4", quick());
    let expected = shell.succeed(&line);
    let mut editor = Editor::start(&shell, "");
    let mut settings = quickly();
    settings["mask-feather"] = 4.into();
    let part = json!({"bytes": mask.len()});
    let request = json!({"type": "upscale", "id": 1, "settings": settings, "mask": part});
    let both = [bytes.clone(), mask.clone()].concat();
    editor.send(&request, &both);
    assert!(editor.until("result").1 == expected);
    settings["mask"] = shell.path("mask.png").to_str().into();
    editor.send(&json!({"type": "upscale", "id": 2, "settings": settings}), &bytes);
    assert!(editor.until("result").1 == expected);
    let request = json!({"type": "upscale", "id": 3, "settings": settings, "mask": part});
    editor.send(&request, &both);
    editor.refused(&json!(3), "settings", "send one");
    let part = json!({"bytes": both.len() + 1});
    editor.send(&json!({"type": "upscale", "id": 4, "mask": part}), &both);
    editor.refused(&json!(4), "settings", "of a payload of");
    settings["mask"] = "nothing.png".into();
    editor.send(&json!({"type": "upscale", "id": 5, "settings": settings}), &bytes);
    editor.refused(&json!(5), "settings", "the mask: nothing.png");
    assert_eq!(editor.end().0, Some(0));
}

#[test]
fn nothing_that_a_request_does_ends_the_conversation() {
    let shell = Shell::new();
    let bytes = png(&shell, 16, 12);
    let mut editor = Editor::start(&shell, "");
    let null = Value::Null;
    editor.send_raw(b"{\"type\": \"upscale\", ", b"payload");
    editor.refused(&null, "request", "no JSON");
    editor.send_raw(b"", b"");
    editor.refused(&null, "request", "no JSON");
    editor.send(&json!({"type": "enlarge", "id": 1}), b"x");
    editor.refused(&json!(1), "request", "enlarge");
    editor.send(&json!({"type": "upscale", "id": 2, "setings": {}}), &bytes);
    editor.refused(&json!(2), "request", "setings");
    editor.send(&json!({"type": "cancel", "id": 3}), b"");
    editor.refused(&json!(3), "request", "no request with this id");
    let raw = |width: u32| json!({"pix": "rgb24", "width": width, "height": 2});
    for (settings, input, output, payload, kind, said) in [
        (
            json!({"promt": "x"}),
            null.clone(),
            json!({}),
            &bytes[..],
            "settings",
            "did you mean --prompt?",
        ),
        (json!({"scale": 0}), null.clone(), json!({}), &bytes, "settings", "not above 0"),
        (json!({"scale": {}}), null.clone(), json!({}), &bytes, "settings", "`scale`"),
        (json!({"scale": 2, "size": "5x5"}), null.clone(), json!({}), &bytes, "settings", "--s"),
        (json!({"model": "x"}), null.clone(), json!({}), &bytes, "settings", "when `pipe` starts"),
        (
            json!({"captioner": "llava"}),
            null.clone(),
            json!({}),
            &bytes,
            "settings",
            "start `pipe`",
        ),
        (
            json!({"prompt": "<lora:x:0.5> a cat", "prompt-syntax": "weighted"}),
            null.clone(),
            json!({}),
            &bytes,
            "settings",
            "start it with --lora x:0.5",
        ),
        (
            json!({"prompt": "a [cat:dog:0.5]", "prompt-syntax": "weighted"}),
            null.clone(),
            json!({}),
            &bytes,
            "settings",
            "prompt editing",
        ),
        (json!({"denoise-steps": 999}), null.clone(), json!({}), &bytes, "settings", "999"),
        (json!({}), null.clone(), json!({"format": "gif"}), &bytes, "settings", "gif"),
        (
            json!({}),
            null.clone(),
            json!({"format": "png", "pix": "rgba"}),
            &bytes,
            "settings",
            "either",
        ),
        (
            json!({}),
            null.clone(),
            json!({"format": "jpeg", "quality": 0}),
            &bytes,
            "settings",
            "quality",
        ),
        (json!({}), null.clone(), json!({"quality": 9}), &bytes, "settings", "quality"),
        (json!({}), null.clone(), json!({}), b"no picture", "input", "not a readable image"),
        (json!({}), null.clone(), json!({}), &bytes[..bytes.len() / 2], "input", "not a readable"),
        (json!({}), null.clone(), json!({}), b"", "input", "empty"),
        (
            json!({"long-edge": 20000}),
            null.clone(),
            json!({"format": "webp"}),
            &bytes,
            "input",
            "16383",
        ),
        (json!({}), raw(9), json!({}), &bytes, "input", "bytes of the pixels"),
        (json!({}), raw(0), json!({}), b"", "settings", "0"),
        (json!({"scale": 1e9}), null.clone(), json!({}), &bytes, "settings", "pixels"),
    ] {
        let mut request =
            json!({"type": "upscale", "id": "x", "settings": settings, "output": output});
        if !input.is_null() {
            request["input"] = input;
        }
        editor.send(&request, payload);
        editor.refused(&json!("x"), kind, said);
    }
    editor.send(&json!({"type": "upscale", "id": "x", "settings": quickly()}), &bytes);
    let (result, payload, _) = editor.until("result");
    assert_eq!((&result["id"], &result["format"]), (&json!("x"), &json!("png")));
    assert_eq!(pictures::decode(&payload).to_rgb8().dimensions(), (32, 24));
    let (code, said, _) = editor.end();
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[test]
fn requests_wait_in_turn_and_are_cancelled_where_they_are() {
    let shell = Shell::new();
    let bytes = png(&shell, 200, 200);
    let mut editor = Editor::start(&shell, "");
    let long = json!({"scale": 3, "steps": 50, "denoise-steps": 50});
    editor.send(&json!({"type": "upscale", "id": "long", "settings": long}), &bytes);
    editor.until("progress");
    for id in 0..8 {
        editor.send(&json!({"type": "upscale", "id": id, "settings": quickly()}), b"no picture");
        let (accepted, _, _) = editor.until("accepted");
        assert_eq!((&accepted["id"], &accepted["waiting"]), (&json!(id), &json!(id + 1)));
    }
    let next_error = |editor: &mut Editor| loop {
        let (answer, _) = editor.next();
        if answer["type"] == "error" {
            break answer;
        }
        assert!(answer["type"] == "progress" || answer["type"] == "note", "{answer}");
    };
    editor.send(&json!({"type": "upscale", "id": "one too many"}), &bytes);
    let busy = next_error(&mut editor);
    assert_eq!((&busy["kind"], &busy["id"]), (&json!("busy"), &json!("one too many")));
    editor.send(&json!({"type": "cancel", "id": 7}), b"");
    assert_eq!(editor.until("cancelled").0["id"], 7);
    editor.send(&json!({"type": "upscale", "id": 3}), b"");
    let twice = next_error(&mut editor);
    assert_eq!((&twice["kind"], &twice["id"]), (&json!("request"), &json!(3)));
    editor.send(&json!({"type": "ping", "id": "there?"}), b"");
    assert_eq!(editor.until("pong").0["id"], "there?");
    editor.send(&json!({"type": "cancel", "id": "long"}), b"");
    assert_eq!(editor.until("cancelled").0["id"], "long");
    for id in 0..7 {
        let failed = next_error(&mut editor);
        assert_eq!((&failed["kind"], &failed["id"]), (&json!("input"), &json!(id)));
    }
    editor.send(&json!({"type": "upscale", "id": "long", "settings": long}), &bytes);
    editor.until("progress");
    editor.send(&json!({"type": "shutdown"}), b"");
    assert_eq!(editor.until("cancelled").0["id"], "long");
    let (code, said, last) = editor.end();
    assert_eq!((code, said.as_str(), &last["type"]), (Some(0), "", &json!("bye")));
}

#[test]
fn a_broken_frame_ends_the_conversation_after_what_was_accepted() {
    let shell = Shell::new();
    let bytes = png(&shell, 16, 12);
    for broken in [&(LARGEST_HEADER + 1).to_le_bytes()[..], &[2, 0, 0]] {
        let mut editor = Editor::start(&shell, "");
        editor.send(&json!({"type": "upscale", "id": 1, "settings": quickly()}), &bytes);
        let mut broken = broken.to_vec();
        if broken.len() == 4 {
            broken.extend([0; 20]);
        }
        editor.write(&broken);
        editor.stdin = None;
        editor.until("result");
        let (error, _) = editor.next();
        assert_eq!((&error["type"], &error["kind"]), (&json!("error"), &json!("request")));
        let (code, said, last) = editor.end();
        assert_eq!((code, &last["type"]), (Some(1), &json!("bye")));
        assert!(said.starts_with("cupscale-fast: stdin: "), "{said}");
        assert_eq!(said.lines().count(), 1, "{said}");
    }
}

#[test]
fn an_editor_that_goes_away_ends_the_program_quietly() {
    let shell = Shell::new();
    let bytes = png(&shell, 100, 100);
    let mut editor = Editor::start(&shell, "");
    let long = json!({"steps": 50, "denoise-steps": 50});
    editor.send(&json!({"type": "upscale", "id": 1, "settings": long}), &bytes);
    editor.until("progress");
    editor.stdout = None;
    let (code, said, _) = editor.end();
    assert_eq!((code, said.as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_conversation_that_waits_and_one_at_work() {
    let shell = Shell::new();
    let bytes = png(&shell, 100, 100);
    for is_at_work in [false, true] {
        let mut editor = Editor::start(&shell, "");
        if is_at_work {
            let long = json!({"steps": 50, "denoise-steps": 50});
            editor.send(&json!({"type": "upscale", "id": 1, "settings": long}), &bytes);
            editor.until("progress");
        }
        let id = editor.child.id().to_string();
        let kill = std::process::Command::new("kill").args(["-INT", &id]).status();
        assert!(kill.unwrap().success());
        let stdin = editor.stdin.take();
        assert_eq!(editor.end().0, Some(130));
        drop(stdin);
    }
}

#[test]
fn what_is_of_a_request_is_refused_when_the_program_starts() {
    let shell = Shell::new();
    for (option, said) in [
        ("--scale 2", "--scale is a setting of each request"),
        ("--prompt x", "--prompt is a setting of each request"),
        ("--resume", "--resume is not for `pipe`"),
        ("-f png", "--format is not for `pipe`"),
        ("in.png", "is not for `pipe`"),
        ("--modl x", "did you mean --model?"),
    ] {
        let message = shell.fail(&format!("pipe {option}"), 2);
        assert!(message.contains(said), "{message}");
    }
    assert!(shell.fail("pipe --model nowhere", 1).contains("nowhere"));
    let help = String::from_utf8(shell.succeed("pipe --help")).unwrap();
    assert!(help.contains("--model") && !help.contains("--scale"), "{help}");
}
