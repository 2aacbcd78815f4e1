//! Shared test support: a temporary folder with a command in it, so that a whole-program test reads like
//! a shell session; fixtures and tensors; models, and a hub that serves them.

#![allow(dead_code, unused_imports, reason = "each test program uses its own part")]

pub mod control;
pub mod drawn;
pub mod enlarger;
pub mod flux2_klein;
mod folder;
pub mod http;
pub mod hub_server;
pub mod models;
pub mod models_bench;
pub mod pixart;
pub mod random_llava;
pub mod sd3;
pub mod single_file;
pub mod tensors;
pub mod unet;
pub mod z_image;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use pictures::{Rgb, RgbImage};
use tempfile::TempDir;

pub use folder::copy_folder;

/// A folder of its own for one test.
pub struct Shell {
    dir: TempDir,
    /// What the program keeps for the user: captions, speeds. Beside the folder, of which tests count the files.
    cache: TempDir,
}

impl Shell {
    pub fn new() -> Self {
        Self { dir: TempDir::new().unwrap(), cache: TempDir::new().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// `cupscale-fast` with these arguments, split at spaces, in the folder.
    pub fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(assert_cmd::cargo::cargo_bin!("cupscale-fast"));
        command
            .current_dir(self.dir.path())
            .args(arguments.split_whitespace())
            .stdin(Stdio::null())
            .env("XDG_CACHE_HOME", self.cache.path())
            .env_remove("RUST_LOG");
        command
    }

    pub fn run(&self, arguments: &str) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Runs, expects success, and returns standard output.
    pub fn succeed(&self, arguments: &str) -> Vec<u8> {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments}: {}", stderr(&output));
        output.stdout
    }

    /// Runs, expects this exit code with one clean line on standard error, and returns the line.
    pub fn fail(&self, arguments: &str, code: i32) -> String {
        let output = self.run(arguments);
        let message = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{arguments}: {message}");
        assert_eq!(message.trim_end().lines().count(), 1, "{arguments}: {message}");
        assert!(!message.contains("panicked"), "{message}");
        message
    }

    /// Writes a picture with shapes, texture and a gradient, so that every stage has something to
    /// do. The format is the name's.
    pub fn picture(&self, name: &str, width: u32, height: u32) -> PathBuf {
        let path = self.path(name);
        pictures::save(test_picture(width, height).into(), &path);
        path
    }

    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(self.dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    pub fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.path(name)).unwrap()
    }
}

/// This test program once more with only one test in it: by the module where it is (`module_path!()`), and
/// its name.
pub fn only(module: &str, test: &str) -> Command {
    let (_program, module) = module.split_once("::").unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("{module}::{test}"), "--nocapture"]);
    command
}

pub fn test_picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let (fx, fy) = (x as f32 / width as f32, y as f32 / height as f32);
        let disc = (fx - 0.5).hypot(fy - 0.4) < 0.25;
        let grain = ((x * 7919 + y * 104_729) % 37) as f32 / 37.0 * 30.0;
        let [r, g, b] = if disc { [210.0, 120.0, 40.0] } else { [60.0, 90.0 + 80.0 * fy, 150.0] };
        Rgb([(r + grain) as u8, (g + grain) as u8, (b + 60.0 * fx) as u8])
    })
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn size(path: &Path) -> (u32, u32) {
    pictures::size(path)
}

/// A file or folder of the fixtures.
pub fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(path)
}

/// Lets a moment of a process pass that is watched, which has all of the machine meanwhile.
pub fn pause() {
    std::thread::sleep(std::time::Duration::from_micros(100));
}

/// A model of random weights, whose jobs take a moment, in the shape of SDXL.
pub fn tiny() -> PathBuf {
    fixture("img2img/model")
}

/// Options of a job whose picture is not what is tested: one step at twice the size on the [`tiny`] model.
pub fn quick() -> String {
    format!("-s 2 --denoise-steps 1 --captioner none --model {}", tiny().display())
}

/// The embedded model as a folder.
pub fn mini() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("models/mini")
}

pub fn on_threads<T: Send>(threads: usize, f: impl FnOnce() -> T + Send) -> T {
    rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap().install(f)
}
