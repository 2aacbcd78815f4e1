//! The door of `serve` that plug-ins know, as its clients meet it.

mod calls;
mod clients;

use std::{
    fs,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpStream},
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use pictures::{Rgb, RgbImage};
use serde_json::{Value, json};

use crate::common::{Shell, http, pause, tiny};

/// Time within which anything must happen.
const PATIENCE: Duration = Duration::from_secs(120);

/// A server, and the folder of what it is asked for.
struct Server {
    shell: Shell,
    child: Child,
    address: SocketAddr,
    token: Option<&'static str>,
}

impl Server {
    fn start(options: &str) -> Self {
        let shell = Shell::new();
        let jobs = shell.path("jobs");
        let mut child = shell
            .command(&format!("serve --listen 127.0.0.1:0 --jobs-dir {} {options}", jobs.display()))
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap().trim_end_matches('/');
        Self { shell, child, address: address.parse().unwrap(), token: None }
    }

    /// A server on the model of random weights, whose steps nobody recommends.
    fn on_tiny(options: &str) -> Self {
        Self::start(&format!("--model {} {options}", tiny().display()))
    }

    /// Sends a request; the connection is for its answer.
    fn send(&self, method: &str, path: &str, body: Option<&str>) -> TcpStream {
        let mut stream = http::connect(self.address);
        let token =
            self.token.map(|token| format!("Basic {}", STANDARD.encode(format!("anyone:{token}"))));
        let mut headers: Vec<(&str, &str)> = Vec::new();
        headers.extend(token.as_deref().map(|token| ("Authorization", token)));
        headers.extend(body.map(|_| ("Content-Type", "application/json")));
        let body = body.unwrap_or_default().as_bytes();
        http::send(&mut stream, self.address, method, path, &headers, body);
        stream
    }

    /// Status and JSON of an answer.
    fn read(stream: TcpStream) -> (u16, Value) {
        let answer = http::answer(&mut BufReader::new(stream));
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> (u16, Value) {
        Self::read(self.send(method, path, body.map(Value::to_string).as_deref()))
    }

    fn get(&self, path: &str) -> Value {
        let (status, answer) = self.ask("GET", path, None);
        assert_eq!(status, 200, "{path}: {answer}");
        answer
    }

    fn post(&self, call: &str, body: Value) -> Value {
        let (status, answer) = self.ask("POST", &format!("/sdapi/v1/{call}"), Some(&body));
        assert_eq!(status, 200, "{call}: {answer}");
        answer
    }

    /// Expects that a call is refused, in the form of A1111.
    fn refused(&self, call: &str, body: &Value, status: u16, said: &str) {
        let (got, answer) = self.ask("POST", &format!("/sdapi/v1/{call}"), Some(body));
        let detail = answer["detail"].as_str().unwrap_or_default();
        assert_eq!(got, status, "{call}: {answer}");
        assert!(detail.contains(said) && detail.lines().count() == 1, "{call}: {answer}");
        assert!(answer["error"].is_string() && answer["errors"].is_string(), "{answer}");
        assert!(
            answer["body"].is_string() && !detail.contains(self.shell.path("").to_str().unwrap())
        );
    }

    fn progress(&self) -> Value {
        self.get("/sdapi/v1/progress?skip_current_image=true")
    }

    /// Waits until the progress is so.
    fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let progress = self.progress();
            if is(&progress) {
                return progress;
            }
            assert!(begun.elapsed() < PATIENCE, "{what}: {progress}");
            pause();
        }
    }

    /// Waits until the server has no job, and nothing of one on its disk.
    fn is_empty(&self) {
        let begun = Instant::now();
        loop {
            let jobs = self.get("/v1/jobs");
            let names =
                fs::read_dir(self.shell.path("jobs")).unwrap().map(|it| it.unwrap().file_name());
            let left: Vec<_> = names.filter(|name| name != "lock").collect();
            if jobs["jobs"] == json!([]) && left.is_empty() {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{jobs} {left:?}");
            thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The base64 of a picture in the shell's folder, which it makes.
fn picture(shell: &Shell, name: &str, width: u32, height: u32) -> String {
    STANDARD.encode(fs::read(shell.picture(name, width, height)).unwrap())
}

/// The base64 of a mask whose right half is white.
fn mask(shell: &Shell, name: &str, width: u32, height: u32) -> String {
    let path = shell.path(name);
    let half = |x, _| Rgb([if 2 * x < width { 0 } else { 255 }; 3]);
    pictures::save(RgbImage::from_fn(width, height, half).into(), &path);
    STANDARD.encode(fs::read(path).unwrap())
}

fn file(base64: &Value) -> Vec<u8> {
    STANDARD.decode(base64.as_str().expect("a picture")).unwrap()
}

fn info(answer: &Value) -> Value {
    serde_json::from_str(answer["info"].as_str().unwrap()).unwrap()
}

/// What the command line writes.
fn written(shell: &Shell, options: &str, prompts: &[&str]) -> Vec<u8> {
    let mut command =
        shell.command(&format!("{options} -o - -f png -q --model {}", tiny().display()));
    let output = command.args(prompts).output().unwrap();
    assert!(output.status.success(), "{options}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}
