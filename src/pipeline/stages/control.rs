//! Pictures of controls (docs/method.md §4b): for a region its place in the resized input, or in what is made of it, at
//! the region's own number of pixels; for the low-resolution pass the whole of it.

use std::ops::Range;

use super::context::Context;
use crate::{
    canvas::{Region, latent::reflect},
    image::Resizer,
    pipeline::{
        control::{ControlUse, PictureFilter},
        error::Error,
    },
};

/// Where the pictures of one control come from.
pub struct ControlSource<'a> {
    pub of: &'a ControlUse,
    /// the picture at the output's size
    canvas: Resizer<'a>,
    /// the picture at the size of the low-resolution pass, if there is one
    low_resolution: Option<Resizer<'a>>,
    filter: PictureFilter,
    /// pixels for each side of a latent pixel
    factor: usize,
}

impl<'a> ControlSource<'a> {
    /// The sources of all controls of a job, in the order of its settings.
    ///
    /// # Errors
    /// A size that a picture cannot be resized to.
    pub fn all(context: &Context<'a>) -> Result<Vec<Self>, Error> {
        let geometry = &context.spec.plan.geometry;
        let factor = geometry.shape.factor;
        context
            .spec
            .settings
            .controls
            .iter()
            .map(|of| {
                let picture = of.picture.as_ref().map_or(context.picture, |own| &*own.picture);
                let resized =
                    |width: usize, height: usize| picture.resizer(width as u32, height as u32);
                let low = geometry.low_resolution;
                Ok(Self {
                    of,
                    canvas: resized(geometry.canvas.width, geometry.canvas.height)?,
                    low_resolution: low
                        .map(|(height, width)| resized(width * factor, height * factor))
                        .transpose()?,
                    filter: of.filter(geometry.shape.region * factor),
                    factor,
                })
            })
            .collect()
    }

    /// Adds the picture of a region, `[f·height, f·width, 3]` in 0..=1, to `out`. Beyond the picture it is mirrored, as the
    /// canvas is.
    pub fn region(&self, region: &Region, out: &mut Vec<f32>) {
        let pixels =
            |start: usize, length: usize| start * self.factor..(start + length) * self.factor;
        let (columns, rows) = (pixels(region.x, region.width), pixels(region.y, region.height));
        window(&self.canvas, self.filter, columns, rows, out);
    }

    /// The picture of the low-resolution pass, `[f·height, f·width, 3]` in 0..=1.
    pub fn whole(&self) -> Vec<f32> {
        let mut out = Vec::new();
        if let Some(resizer) = &self.low_resolution {
            let (width, height) = resizer.size();
            window(resizer, self.filter, 0..width as usize, 0..height as usize, &mut out);
        }
        out
    }
}

/// Adds the window of these columns and rows to `out`, filtered: only what the window needs is read and made.
fn window(
    resizer: &Resizer<'_>,
    filter: PictureFilter,
    columns: Range<usize>,
    rows: Range<usize>,
    out: &mut Vec<f32>,
) {
    let (width, height) = resizer.size();
    let (width, height) = (width as usize, height as usize);
    let margin = filter.margin();
    let needed = |range: &Range<usize>, length: usize| {
        let places = range.clone().map(|at| reflect(at, length));
        let (low, high) = places.fold((length, 0), |(low, high), at| (low.min(at), high.max(at)));
        low.saturating_sub(margin)..(high + 1 + margin).min(length)
    };
    let (source_x, source_y) = (needed(&columns, width), needed(&rows, height));
    let rgb = resizer.window(
        source_x.start as u32..source_x.end as u32,
        source_y.start as u32..source_y.end as u32,
    );
    let made = filter.apply(rgb, source_x.len(), source_y.len());
    let row = source_x.len() * 3;
    out.reserve(columns.len() * rows.len() * 3);
    for y in rows {
        let line = &made[(reflect(y, height) - source_y.start) * row..][..row];
        for x in columns.clone() {
            let at = (reflect(x, width) - source_x.start) * 3;
            out.extend_from_slice(&line[at..at + 3]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::testing::{Fake, context, job, picture},
        *,
    };
    use std::sync::Arc;

    use crate::{
        image::{Picture, blurred},
        model::denoiser::ControlKind,
        pipeline::{control::OwnControlPicture, job::JobSpec, settings::Settings},
    };

    fn job_with(of: ControlUse) -> JobSpec {
        job(Settings { controls: vec![of], ..Settings::default() })
    }

    #[test]
    fn a_region_sees_its_place_in_the_resized_input_and_beyond_it_the_mirrored_picture() {
        let (runner, picture) = (Fake::idle(), picture());
        let spec = job_with(ControlUse::of(0));
        let context = context(&runner, &picture, &spec);
        let sources = ControlSource::all(&context).unwrap();
        let geometry = &spec.plan.geometry;
        let (width, height) = (geometry.canvas.width, geometry.canvas.height);
        let whole = picture.resizer(width as u32, height as u32).unwrap().rows(0..height as u32);
        let mut seen = 0;
        for region in geometry.grid.regions() {
            let mut out = Vec::new();
            sources[0].region(&region, &mut out);
            let f = geometry.shape.factor;
            assert_eq!(out.len(), region.height * region.width * f * f * 3);
            for (index, pixel) in out.chunks_exact(3).enumerate() {
                let (x, y) = (
                    region.x * f + index % (region.width * f),
                    region.y * f + index / (region.width * f),
                );
                let (x, y) = (reflect(x, width), reflect(y, height));
                assert_eq!(pixel, &whole[(y * width + x) * 3..][..3]);
                seen += 1;
            }
        }
        assert!(seen > width * height);
    }

    #[test]
    fn a_blur_is_cut_out_of_that_of_the_whole_and_an_own_picture_is_used_as_it_is() {
        let (runner, picture) = (Fake::idle(), picture());
        let own = Picture::from_rgb(2, 1, vec![0.0, 0.0, 0.0, 1.0, 1.0, 1.0]).unwrap();
        let blur = ControlUse { kind: ControlKind::Blur, ..ControlUse::of(0) };
        for (of, expected) in [
            (blur.clone(), None),
            (
                ControlUse {
                    picture: Some(OwnControlPicture {
                        name: "own".to_owned(),
                        picture: Arc::new(own.clone()),
                    }),
                    ..blur
                },
                Some(own),
            ),
        ] {
            let spec = job_with(of);
            let context = context(&runner, &picture, &spec);
            let source = &ControlSource::all(&context).unwrap()[0];
            let geometry = &spec.plan.geometry;
            let (width, height) = (geometry.canvas.width, geometry.canvas.height);
            let resized = |picture: &Picture| {
                let resizer = picture.resizer(width as u32, height as u32).unwrap();
                resizer.rows(0..height as u32)
            };
            let whole = match &expected {
                Some(own) => resized(own),
                None => {
                    let side = geometry.shape.region * geometry.shape.factor;
                    blurred(&resized(&picture), width, height, 9.0 / 512.0 * side as f64)
                }
            };
            let region = geometry.grid.regions().nth(1).unwrap();
            let mut out = Vec::new();
            source.region(&region, &mut out);
            let f = geometry.shape.factor;
            for (index, pixel) in out.chunks_exact(3).enumerate() {
                let (x, y) = (
                    region.x * f + index % (region.width * f),
                    region.y * f + index / (region.width * f),
                );
                let at = (reflect(y, height) * width + reflect(x, width)) * 3;
                let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-6;
                assert!(pixel.iter().zip(&whole[at..at + 3]).all(near));
            }
        }
    }
}
