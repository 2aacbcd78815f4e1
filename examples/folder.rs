//! A folder of pictures: one engine for all of them, loaded once; a picture that fails does not stop the others.
//!
//! ```sh
//! cargo run --release --example folder -- samples enlarged
//! ```

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
};

use cupscale::{
    backend::DeviceSpec,
    canvas::SizeSpec,
    image::{self, Format, Input, Output},
    pipeline::{self, Engine, Settings, Silent, WorkOptions},
    weights::{ModelFiles, ModelSource},
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = env::args_os().skip(1).map(PathBuf::from);
    let (Some(folder), Some(target)) = (arguments.next(), arguments.next()) else {
        return Err("usage: folder FOLDER TARGET".into());
    };
    fs::create_dir_all(&target)?;

    let model = ModelFiles::open(ModelSource::Embedded)?;
    let engine = Engine::load(&model, &DeviceSpec::Auto.open()?)?;
    // Quick: the size stays, two steps, and regions that do not overlap.
    let mut settings = Settings::default();
    settings.size = SizeSpec::Scale(1.0);
    settings.steps = Some(2);
    settings.overlap = Some(0.0);

    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        let Some(format) = Format::from_extension(&path) else { continue };
        let name = path.file_name().unwrap_or_default();
        match enlarge(&engine, &settings, &path, &target.join(name), format) {
            Ok(()) => println!("{}", path.display()),
            Err(error) => eprintln!("{error}"),
        }
    }
    Ok(())
}

fn enlarge(
    engine: &Engine,
    settings: &Settings,
    from: &Path,
    to: &Path,
    format: Format,
) -> Result<(), pipeline::Error> {
    let picture = image::decode(&Input::Path(from.to_owned()))?;
    let output = Output::Path(to.to_owned());
    let work = WorkOptions::default();
    pipeline::upscale(engine, &picture, &output, format, settings, &work, &mut Silent)?;
    Ok(())
}
