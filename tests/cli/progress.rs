//! Progress: JSON lines by their schema, on standard error and on a descriptor; previews; how long a plan says it takes.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::common::{Shell, size, stderr};

/// A job of a second.
const QUICK: &str = "-s 4 --steps 2 --denoise-steps 2";

fn schema() -> Value {
    serde_json::from_str(include_str!("../../docs/progress.schema.json")).unwrap()
}

/// Whether a value is what a schema of one field says, in the words that the schema uses.
fn fits(schema: &Value, value: &Value) -> bool {
    let is = |name: &str| match name {
        "null" => value.is_null(),
        "string" => value.is_string(),
        "number" => value.is_number(),
        "integer" => value.is_u64() || value.is_i64(),
        other => panic!("the schema has a type {other}"),
    };
    let of_type = match &schema["type"] {
        Value::Null => true,
        Value::String(name) => is(name),
        names => names.as_array().unwrap().iter().any(|name| is(name.as_str().unwrap())),
    };
    let at = |name: &str| schema.get(name).and_then(Value::as_f64);
    let number = value.as_f64();
    of_type
        && schema.get("const").is_none_or(|one| one == value)
        && schema.get("enum").is_none_or(|all| all.as_array().unwrap().contains(value))
        && at("minimum").is_none_or(|least| number.is_none_or(|number| number >= least))
        && at("maximum").is_none_or(|most| number.is_none_or(|number| number <= most))
}

/// The event of a line, which must be exactly what one branch of the schema says, without a field beyond it.
fn checked(schema: &Value, line: &str) -> Value {
    let value: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
    let fields = value.as_object().unwrap();
    let branches = schema["oneOf"].as_array().unwrap();
    let holds = |branch: &&Value| {
        let known = branch["properties"].as_object().unwrap();
        let required = branch["required"].as_array().unwrap();
        required.iter().all(|name| fields.contains_key(name.as_str().unwrap()))
            && fields
                .iter()
                .all(|(name, value)| known.get(name).is_some_and(|schema| fits(schema, value)))
    };
    assert_eq!(branches.iter().filter(holds).count(), 1, "{line}");
    value
}

fn events(lines: &str) -> Vec<Value> {
    let schema = schema();
    lines.lines().map(|line| checked(&schema, line)).collect()
}

fn names(events: &[Value]) -> BTreeSet<&str> {
    events.iter().map(|event| event["event"].as_str().unwrap()).collect()
}

#[test]
fn every_line_of_a_job_is_in_the_schema() {
    let shell = Shell::new();
    shell.picture("in.png", 90, 60);
    let output =
        shell.run(&format!("in.png -o out.jpg {QUICK} --progress json --preview look.png"));
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = events(&stderr(&output));
    assert_eq!(
        names(&lines),
        BTreeSet::from(["job", "stage", "progress", "preview", "done"]),
        "{lines:?}"
    );
    let of = |name: &'static str| lines.iter().filter(move |event| event["event"] == name);
    assert!(lines.iter().all(|event| event["event"] == "done" || event["file"] == "in.png"));
    let job = of("job").next().unwrap();
    assert_eq!((job["width"].as_u64(), job["steps"].as_u64()), (Some(360), Some(2)));
    // The input as it is encoded, each of two steps, and the decoded picture.
    let steps: Vec<_> =
        of("preview").map(|it| (it["stage"].as_str(), it["step"].as_u64())).collect();
    let denoise = |step| (Some("denoise"), Some(step));
    assert_eq!(steps, [denoise(0), denoise(1), denoise(2), (Some("decode"), Some(2))]);
    let elapsed: Vec<f64> = of("progress").map(|it| it["elapsed_s"].as_f64().unwrap()).collect();
    assert!(elapsed.is_sorted());
}

#[test]
fn every_line_of_a_folder_is_in_the_schema_and_names_its_picture() {
    let shell = Shell::new();
    std::fs::create_dir(shell.path("shots")).unwrap();
    shell.picture("shots/a.png", 30, 20);
    shell.picture("shots/b.png", 30, 20);
    std::fs::write(shell.path("shots/c.png"), b"\x89PNG\r\n\x1a\nbroken").unwrap();
    let output = shell.run(&format!("shots -o big {QUICK} --progress json"));
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    let json: String =
        said.lines().filter(|line| line.starts_with('{')).map(|line| format!("{line}\n")).collect();
    let lines = events(&json);
    for state in ["begun", "done", "failed"] {
        assert!(lines.iter().any(|event| event["state"] == state), "{state}: {said}");
    }
    let files: BTreeSet<_> = lines
        .iter()
        .filter(|event| event["event"] == "progress")
        .map(|event| event["file"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(files.len(), 2, "{files:?}");
}

#[cfg(unix)]
#[test]
fn a_descriptor_gets_the_lines_and_standard_error_stays_for_people() {
    let shell = Shell::new();
    shell.picture("in.png", 30, 20);
    let command = shell.command(&format!("in.png -o out.png {QUICK} --progress-fd 7"));
    let output = std::process::Command::new("sh")
        .current_dir(shell.path("."))
        .args(["-c", "exec \"$0\" \"$@\" 7>lines"])
        .arg(command.get_program())
        .args(command.get_args())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let lines = events(&String::from_utf8(shell.bytes("lines")).unwrap());
    assert_eq!(lines.last().unwrap()["event"], "done");
    assert!(!stderr(&output).contains('{') && stderr(&output).contains("out.png"));

    // What is no open descriptor for writing is refused before any work.
    for (fd, reason) in [("9", "not open"), ("1", "standard output"), ("2", "--progress json")] {
        let message = shell.fail(&format!("in.png -o no.png --progress-fd {fd}"), 2);
        assert!(message.contains(reason), "{message}");
    }
    let output = std::process::Command::new("sh")
        .current_dir(shell.path("."))
        .args(["-c", "exec \"$0\" in.png -o no.png --progress-fd 7 7<in.png"])
        .arg(command.get_program())
        .output()
        .unwrap();
    assert!(stderr(&output).contains("not open for writing"), "{}", stderr(&output));
    assert!(!shell.path("no.png").exists());
}

#[test]
fn a_preview_is_like_the_output_and_changes_no_byte_of_it() {
    let shell = Shell::new();
    shell.picture("in.png", 90, 60);
    shell.succeed(&format!("in.png -o plain.png {QUICK}"));
    shell.succeed(&format!("in.png -o out.png {QUICK} --preview look.png"));
    assert_eq!(shell.bytes("plain.png"), shell.bytes("out.png"));
    let (output, look) =
        (pictures::open(shell.path("out.png")), pictures::open(shell.path("look.png")));
    let (output, look) = (output.to_rgb8(), look.to_rgb8());
    assert_eq!(look.dimensions(), (360, 240));
    let far = output
        .pixels()
        .zip(look.pixels())
        .filter(|(a, b)| a.0.iter().zip(b.0).any(|(a, b)| a.abs_diff(b) > 1));
    assert_eq!(far.count(), 0, "the last preview is the output, made small");

    let message = shell.fail("in.png --preview look", 2);
    assert!(message.contains("--preview look") && message.contains("format"), "{message}");
    let message = shell.fail("in.png --preview no/such/look.png", 1);
    assert!(message.contains("does not exist"), "{message}");
    for target in ["in.png", "in_4x.png"] {
        let message = shell.fail(&format!("in.png --preview {target}"), 2);
        assert!(message.contains(target), "{message}");
    }
}

#[test]
fn a_large_output_has_a_small_preview() {
    let shell = Shell::new();
    shell.picture("in.png", 400, 20);
    shell.succeed("in.png -o out.png -s 4 --steps 1 --denoise-steps 1 --preview look.jpg");
    assert_eq!(size(&shell.path("out.png")), (1600, 80));
    assert_eq!(size(&shell.path("look.jpg")), (800, 40));
}

#[test]
fn a_plan_says_how_long_it_takes_by_a_measurement_and_then_by_earlier_jobs() {
    let shell = Shell::new();
    shell.picture("in.png", 90, 60);
    let run = |arguments: &str| {
        let output =
            shell.command(arguments).env("XDG_CACHE_HOME", shell.path("cache")).output().unwrap();
        assert!(output.status.success(), "{}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    };
    let plan = run(&format!("plan in.png {QUICK}"));
    assert!(plan.trim_end().ends_with("by a short measurement"), "{plan}");
    assert!(!shell.path("cache").exists(), "a plan writes nothing");
    run(&format!("in.png {QUICK}"));
    run(&format!("in.png {QUICK} --seed 1"));
    let plan = run(&format!("plan in.png {QUICK}"));
    assert!(plan.trim_end().ends_with("by 2 earlier jobs with this model here"), "{plan}");
    let json: Value = serde_json::from_str(&run(&format!("plan in.png {QUICK} --json"))).unwrap();
    assert_eq!(
        (json["width"].as_u64(), json["time"]["earlier_jobs"].as_u64()),
        (Some(360), Some(2))
    );
    let seconds = json["time"]["seconds"].as_f64().unwrap();
    assert!(seconds > 0.0 && seconds < 600.0, "{seconds}");
    // A job begins with what is known of earlier ones; what is damaged counts for nothing.
    std::fs::write(shell.path("cache/cupscale/speeds.json"), b"{\"version\":1,").unwrap();
    let plan = run(&format!("plan in.png {QUICK}"));
    assert!(plan.contains("by a short measurement"), "{plan}");
}
