//! The output of a job that repaints nothing: the resized input, band by band, without a network.

use super::{canvased::Canvased, context::Context, decode::unit, write::RowWriter};
use crate::pipeline::{
    error::Error,
    finish::BAND,
    progress::{Progress, Stage},
    work::{files::Files, folder::WorkFolder},
};

/// Gives the rows of the resized picture to the writer. They are those that a share of 0 of a repaint would give, to the bit.
///
/// # Errors
/// Errors of the picture, the writer and the work folder; an interruption.
pub fn canvas(
    context: &Context<'_>,
    writer: &mut RowWriter<'_>,
    work: &mut WorkFolder,
    progress: &mut dyn Progress,
) -> Result<(), Error> {
    let size = context.spec.plan.geometry.canvas;
    let (width, height) = (size.width, size.height);
    let source = Canvased::new(context.source(), width, height)?;
    let alpha = context.picture.alpha_resizer(width as u32, height as u32)?;
    let WorkFolder { files: Files { rows: kept, .. }, journal, .. } = work;
    let bands = (0..height).step_by(BAND).map(|top| top..(top + BAND).min(height));
    progress.begin(Stage::Decode, bands.len());
    for rows in bands {
        if progress.interrupted() {
            return Err(Error::Interrupted(None));
        }
        let window = source.window(0..width, rows.clone());
        let rgb: Vec<f32> = window.into_iter().map(unit).collect();
        let alpha = alpha.as_ref().map(|it| it.rows(rows.start as u32..rows.end as u32));
        writer.put(rows, &rgb, alpha.as_deref(), (kept.as_mut(), journal))?;
        progress.advance(1);
    }
    Ok(())
}
