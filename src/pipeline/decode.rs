//! From the canvas to the output: the VAE's decoder tile by tile, one band of tiles at a time
//! straight into the picture's writer, so that nothing holds the whole output.

use std::ops::Range;

use candle_core::{DType, Tensor};

use crate::{
    canvas::Latent,
    image::{Picture, PictureWriter},
};

use super::{Engine, Error, Plan, Progress, Stage, tiles::mirrored};

/// Decodes `z`, crops it to the output's exact size, and writes it.
pub(super) fn canvas(
    engine: &Engine,
    picture: &Picture,
    plan: &Plan,
    z: &Latent,
    writer: &mut PictureWriter,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let size = plan.canvas;
    let f = engine.shape().factor;
    let alpha = picture.alpha_resizer(size.width as u32, size.height as u32)?;
    progress.begin(Stage::Decode, plan.tile_rows.len() * plan.tile_columns.len());
    for row in &plan.tile_rows {
        let top = row.core.start * f;
        let bottom = (row.core.end * f).min(size.height);
        if top >= bottom {
            // Nothing but padding lies here.
            progress.advance(plan.tile_columns.len());
            continue;
        }
        let mut band = vec![0.0f32; (bottom - top) * size.width * 3];
        for column in &plan.tile_columns {
            if progress.interrupted() {
                return Err(Error::Interrupted);
            }
            let (left, right) = (column.core.start * f, (column.core.end * f).min(size.width));
            if left < right {
                let latents = window(z, column.padded(), row.padded());
                let shape = (1, row.padded().len(), column.padded().len(), z.channels());
                let pixels: Vec<f32> = engine
                    .vae
                    .decode(&Tensor::from_vec(latents, shape, &engine.device)?)?
                    .narrow(1, row.pad * f, bottom - top)?
                    .narrow(2, column.pad * f, right - left)?
                    .to_dtype(DType::F32)?
                    .flatten_all()?
                    .to_vec1()?;
                if !pixels.iter().all(|value| value.is_finite()) {
                    return Err(Error::NonFinite(Stage::Decode));
                }
                let lines = pixels.chunks_exact((right - left) * 3);
                for (line, out) in lines.zip(band.chunks_exact_mut(size.width * 3)) {
                    for (value, out) in line.iter().zip(&mut out[left * 3..right * 3]) {
                        *out = (value * 0.5 + 0.5).clamp(0.0, 1.0);
                    }
                }
            }
            progress.advance(1);
        }
        let alpha = alpha.as_ref().map(|alpha| alpha.rows(top as u32..bottom as u32));
        writer.write_rows(&band, alpha.as_deref())?;
    }
    Ok(())
}

/// The window of columns `x` and rows `y` of the latent, continued by reflection, `[y, x, C]`.
fn window(z: &Latent, x: Range<isize>, y: Range<isize>) -> Vec<f32> {
    let channels = z.channels();
    let mut out = Vec::with_capacity(x.len() * y.len() * channels);
    for y in y {
        let y = mirrored(y, z.height());
        let row = z.rows(y..y + 1);
        for x in x.clone() {
            let at = mirrored(x, z.width()) * channels;
            out.extend_from_slice(&row[at..at + channels]);
        }
    }
    out
}
