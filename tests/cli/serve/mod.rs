//! The program as a server: what it answers, what it refuses, and what is left of it.

mod jobs;
mod server;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use crate::common::{
    Shell,
    http::{Answer, Part, ask, form},
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
