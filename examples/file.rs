//! File to file: enlarges one picture with the embedded model, and shows how far it is.
//!
//! ```sh
//! cargo run --release --example file -- samples/nuthatch.jpg nuthatch_2x.png
//! ```

use std::{env, error::Error, path::PathBuf};

use cupscale::{
    backend::DeviceSpec,
    canvas::SizeSpec,
    image::{self, Format, Input, Output},
    pipeline::{self, Engine, Progress, Settings, Stage, WorkOptions},
    weights::{ModelFiles, ModelSource},
};

/// One line for each stage.
struct Lines;

impl Progress for Lines {
    fn begin(&mut self, stage: Stage, total: usize) {
        eprintln!("{}: {total} {}", stage.verb(), stage.unit());
    }

    fn advance(&mut self, _: usize) {}

    fn note(&mut self, text: &str) {
        eprintln!("note: {text}");
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(input), Some(output)) = (arguments.next(), arguments.next()) else {
        return Err("usage: file INPUT OUTPUT".into());
    };
    let format =
        Format::from_extension(&output).ok_or("the output's name has no known extension")?;

    let model = ModelFiles::open(ModelSource::Embedded)?;
    let engine = Engine::load(&model, &DeviceSpec::Auto.open()?)?;
    let picture = image::decode(&Input::Path(input))?;

    // Quick: a small factor, two steps, and little overlap. `Settings::default()` alone is slower and better.
    let mut settings = Settings::default();
    settings.size = SizeSpec::Scale(1.5);
    settings.steps = Some(2);
    settings.overlap = Some(0.25);

    let output = Output::Path(output);
    let work = WorkOptions::default();
    let report =
        pipeline::upscale(&engine, &picture, &output, format, &settings, &work, &mut Lines)?;
    println!("{}: {} × {}", output.name(), report.width, report.height);
    Ok(())
}
