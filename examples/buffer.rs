//! Memory to memory: pixels go in, as an editor's plug-in holds them, and an encoded picture comes out.
//!
//! ```sh
//! cargo run --release --example buffer
//! ```

use std::error::Error;

use cupscale::{
    backend::DeviceSpec,
    canvas::SizeSpec,
    image::{Buffer, Format, Input, Output, Picture, decode},
    pipeline::{self, Engine, Settings, Silent, WorkOptions},
    weights::{ModelFiles, ModelSource},
};

fn main() -> Result<(), Box<dyn Error>> {
    // A picture of one's own: a disk before a gradient.
    let (width, height) = (96, 64);
    let mut rgb = Vec::new();
    for y in 0..height {
        for x in 0..width {
            let inside = (x - 48_i32).pow(2) + (y - 32_i32).pow(2) < 400;
            rgb.extend(if inside { [200, 60, 40] } else { [40, 80, (100 + x) as u8] });
        }
    }
    let picture = Picture::from_rgb8(width as u32, height as u32, &rgb)?;

    let model = ModelFiles::open(ModelSource::Embedded)?;
    let engine = Engine::load(&model, &DeviceSpec::Auto.open()?)?;
    let mut settings = Settings::default();
    settings.size = SizeSpec::Scale(2.0);
    settings.steps = Some(2);
    settings.prompt = "a red disk".to_owned();

    // What a killed job has done is kept in the user's cache, unless a folder is named.
    let work = WorkOptions::default();
    let buffer = Buffer::default();
    let output = Output::Buffer(buffer.clone());
    pipeline::upscale(&engine, &picture, &output, Format::Png, &settings, &work, &mut Silent)?;
    let png = buffer.take();

    // The bytes are a whole file, and can be an input again.
    let enlarged = decode(&Input::Bytes(png.into()))?;
    assert_eq!((enlarged.width, enlarged.height), (192, 128));
    println!("{} × {}", enlarged.width, enlarged.height);
    Ok(())
}
