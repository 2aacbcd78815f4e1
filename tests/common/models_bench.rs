//! A hub on the loopback, a models folder of its own, and the program between them.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    hub_server::{COMMIT, HubServer},
    stderr,
};

pub const UNET: &str = "unet/diffusion_pytorch_model.safetensors";
/// Large enough for many chunks, small enough for many tests.
pub const LARGE: usize = 1_500_000;

/// A hub, a models folder of its own, and the program.
pub struct Bench {
    pub dir: TempDir,
    pub hub: HubServer,
}

impl Bench {
    /// The hub has a model of three files, a LoRA and a VAE; the registry pins nothing.
    pub fn new() -> Self {
        let bench = Self { dir: TempDir::new().unwrap(), hub: HubServer::start() };
        bench.hub.put("tests/tiny/model_index.json", br#"{"_class_name": "X"}"#);
        bench.hub.put("tests/tiny/unet/config.json", b"{}");
        bench.hub.put(&format!("tests/tiny/{UNET}"), &noise(1, LARGE));
        bench.hub.put("tests/lora/fast.safetensors", &noise(2, 200_000));
        bench.hub.put("tests/vae/config.json", b"{\"vae\": 1}");
        bench.hub.put("tests/vae/diffusion_pytorch_model.safetensors", &noise(3, 90_000));
        bench.registry(&|_| {});
        bench
    }

    /// Writes the registry of the models folder, after `change`.
    pub fn registry(&self, change: &dyn Fn(&mut Value)) {
        let file = |path: &str| json!({ "path": path, "size": null, "sha256": null });
        let licence = json!({ "name": "MIT", "url": "https://licence.example", "commercial": true, "accept": null });
        let mut registry = json!({ "version": 1, "models": [
            { "name": "tiny", "title": "A model", "kind": "diffusion", "licence": licence,
              "sources": [{ "repository": "tests/tiny", "revision": null, "role": "model",
                            "files": [file("model_index.json"), file("unet/*"), {"path": "*.txt", "size": null, "sha256": null, "optional": true}] }],
              "run": { "sampler": "ddim", "steps": 50, "native_size": 64 } },
            { "name": "tiny-lora", "title": "A LoRA", "kind": "lora", "licence": licence,
              "sources": [{ "repository": "tests/lora", "revision": null, "role": "lora",
                            "files": [file("fast.safetensors")] }] },
            { "name": "tiny-vae", "title": "A VAE", "kind": "vae", "licence": licence,
              "sources": [{ "repository": "tests/vae", "revision": null, "role": "vae",
                            "files": [file("config.json"), file("diffusion_pytorch_model.safetensors")] }] },
            { "name": "tiny-fast", "title": "Fewer steps", "kind": "diffusion", "licence": licence,
              "base": "tiny", "sources": [],
              "run": { "sampler": "tcd", "steps": 8, "native_size": 64, "vae": "tiny-vae",
                       "loras": [{ "model": "tiny-lora", "scale": 0.5 }] } },
        ]});
        change(&mut registry);
        fs::create_dir_all(self.models()).unwrap();
        fs::write(self.models().join("registry.json"), registry.to_string()).unwrap();
    }

    pub fn models(&self) -> PathBuf {
        self.dir.path().join("models")
    }

    /// Path of a downloaded file of a hub repository.
    pub fn stored(&self, repository: &str, path: &str) -> PathBuf {
        self.models().join("files").join(repository.replace('/', "--")).join(COMMIT).join(path)
    }

    pub fn environment(&self, command: &mut Command) {
        command.current_dir(self.dir.path()).stdin(Stdio::null());
        for name in ["HF_TOKEN", "HF_HUB_OFFLINE", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
            .env("CUPSCALE_MODELS", self.models())
            .env("HF_ENDPOINT", &self.hub.origin)
            .env("HF_HOME", self.dir.path().join("hf"))
            .env("HOME", self.dir.path());
    }

    /// `cupscale-fast models` with these arguments, split at spaces.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cupscale-fast"));
        self.environment(&mut command);
        command.arg("models").args(arguments.split_whitespace());
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn succeed(&self, arguments: &str) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Expects exit code 1 and one line, which is returned.
    pub fn fail(&self, arguments: &str) -> String {
        one_line(&self.run(arguments), 1)
    }

    pub fn list(&self) -> Value {
        serde_json::from_str(&self.succeed("list --json")).unwrap()
    }

    pub fn state(&self, name: &str) -> String {
        let list = self.list();
        let mut models = list["models"].as_array().unwrap().iter();
        let model = models.find(|model| model["name"] == name).unwrap();
        model["state"].as_str().unwrap().to_owned()
    }

    pub fn manifest(&self, name: &str) -> Value {
        let file = self.models().join(name).join("manifest.json");
        serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
    }
}

/// Expects this exit code, and one clean last line besides notes; returns the line.
pub fn one_line(output: &Output, code: i32) -> String {
    let text = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{text}");
    let lines: Vec<_> = text.lines().filter(|line| line.starts_with("cupscale-fast: ")).collect();
    assert!(lines.len() == 1 && text.ends_with(&format!("{}\n", lines[0])), "{text}");
    lines[0].to_owned()
}

/// Bytes without a pattern, the same ones for the same seed (xorshift).
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect()
}

pub fn part(file: &Path) -> PathBuf {
    PathBuf::from(format!("{}.part", file.display()))
}

pub fn wait_until(condition: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(30);
    while !condition() {
        assert!(Instant::now() < end, "waited in vain");
        sleep(Duration::from_millis(5));
    }
}
