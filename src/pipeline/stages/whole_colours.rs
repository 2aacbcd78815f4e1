//! Colours that depend on the whole decoded picture: its rows are kept as they are decoded, in a file without a name, and
//! are measured on the way; when all are there, they are finished band by band.

use std::{ops::Range, path::Path};

use super::{canvased::Canvased, context::Context};
use crate::pipeline::{
    colour_match::{ColourMatch, Measure},
    error::Error,
    finish::{BAND, Finish},
    work::maps::MapFile,
};

/// The decoded rows of a picture, and what is known of their colours.
pub struct WholeColours<'a> {
    finish: Finish,
    source: Canvased<'a>,
    width: usize,
    height: usize,
    folder: &'a Path,
    rows: MapFile,
    picture: Measure,
}

impl<'a> WholeColours<'a> {
    /// No row yet, in a file in `folder`; `None` where the colours of a pixel depend on its surroundings alone.
    ///
    /// # Errors
    /// A size that the picture cannot be resized to; a file that cannot be made.
    pub fn new(context: &Context<'a>, folder: &'a Path) -> Result<Option<Self>, Error> {
        let finish = Finish::new(&context.spec.settings, &context.spec.plan.geometry);
        let Some(picture) = finish.measure() else { return Ok(None) };
        let canvas = context.spec.plan.geometry.canvas;
        let (width, height) = (canvas.width, canvas.height);
        let source = Canvased::of_output(context, finish)?;
        let rows = MapFile::create(folder, (width, 3))?;
        Ok(Some(Self { finish, source, width, height, folder, rows, picture }))
    }

    /// Keeps decoded rows from row `top`, `[rows, width, 3]` in −1…1. They come in order.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn put(&mut self, top: usize, rows: &[f32]) -> Result<(), Error> {
        self.picture.add(rows, self.width);
        let written = self.rows.write(top, 0..self.width, rows);
        written.map_err(|error| Error::in_file(self.folder, error))
    }

    /// Gives the finished rows from row `first`, `[rows, width, 3]` in 0…1, to `take`, band by band, when all are kept.
    ///
    /// # Errors
    /// Errors of `take`; a file that cannot be read.
    pub fn finish(
        &mut self,
        first: usize,
        mut take: impl FnMut(Range<usize>, Vec<f32>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let bands = |first| {
            (first..self.height).step_by(BAND).map(|top| top..(top + BAND).min(self.height))
        };
        let Some(mut input) = self.finish.measure() else { return Ok(()) };
        for rows in bands(0) {
            input.add(&self.source.window(0..self.width, rows), self.width);
        }
        let Some(colours) = ColourMatch::new(&self.picture, &input) else { return Ok(()) };
        for rows in bands(first) {
            let rim = self.finish.rest_rim();
            let wide = rows.start.saturating_sub(rim)..(rows.end + rim).min(self.height);
            let read = self.rows.read(wide.clone(), 0..self.width);
            let mut pixels = read.map_err(|error| Error::in_file(self.folder, error))?;
            colours.apply(&mut pixels);
            let beside = self.source.beside(self.finish, 0..self.width, wide.clone(), true);
            self.finish.rest(&mut pixels, &beside, (wide.start, 0), self.width);
            let own = rows.start - wide.start..rows.end - wide.start;
            let own = &pixels[own.start * 3 * self.width..own.end * 3 * self.width];
            take(rows, own.iter().map(|value| (value * 0.5 + 0.5).clamp(0.0, 1.0)).collect())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::{
        decode,
        testing::{Bench, Fake, Watcher, context, job, picture},
        write::{RowWriter, Target},
    };
    use crate::{
        image::{EncodeOptions, Encoder, Format, Output},
        pipeline::{
            grain::Grain,
            settings::{ColourFix, Settings},
        },
    };

    /// The samples of an output that is computed in tiles of this side.
    fn made(settings: Settings, tile: usize) -> Vec<u8> {
        let (runner, picture, bench) = (Fake::idle(), picture(), Bench::new());
        let mut spec = job(settings);
        let canvas = spec.plan.geometry.canvas;
        spec.plan.tile_rows = spec.plan.geometry.tiles(canvas.latent_height, tile);
        spec.plan.tile_columns = spec.plan.geometry.tiles(canvas.latent_width, tile);
        let context = context(&runner, &picture, &spec);
        let mut work = bench.open(&spec);
        let z = &mut work.files.z[spec.plan.sampling.steps.len() % 2];
        for (at, value) in z.as_mut_slice().iter_mut().enumerate() {
            *value = (at * 29 % 23) as f32 / 16.0 - 0.5;
        }
        let options = EncodeOptions::like(&picture);
        let encoder = Encoder::new("out.png", Format::Png, 60, 40, options).unwrap();
        let (output, mut watcher) = (Output::Path(bench.output()), Watcher::default());
        let target = Target::Picture(Box::new(encoder), &output);
        let mut writer = RowWriter::open(target, &mut work, &mut watcher).unwrap();
        decode::canvas(&context, &mut writer, &mut work, &mut watcher).unwrap();
        writer.finish(&mut work, &mut watcher).unwrap();
        pictures::open(bench.output()).to_rgb8().into_raw()
    }

    /// The samples of the resized input.
    fn resized() -> Vec<u8> {
        let picture = picture();
        let rows = picture.resizer(60, 40).unwrap().rows(0..40);
        rows.iter().map(|value| (value * 255.0).round() as u8).collect()
    }

    const FIXES: [ColourFix; 4] =
        [ColourFix::Wavelet, ColourFix::Adain, ColourFix::Lab, ColourFix::None];

    #[test]
    fn no_share_of_the_repaint_is_the_resized_input_and_half_lies_between() {
        let between =
            |(a, b, half): (u8, u8, u8)| f32::from(half) - (f32::from(a) + f32::from(b)) / 2.0;
        for colour_fix in FIXES {
            let of = |blend| made(Settings { colour_fix, blend, ..Settings::default() }, 20);
            let (none, half, all) = (of(0.0), of(0.5), of(1.0));
            let off = none.iter().zip(resized()).filter(|(a, b)| a.abs_diff(*b) > 0).count();
            assert_eq!(off, 0, "{colour_fix:?}");
            assert!(none != all, "{colour_fix:?}");
            let mut pixels = none.iter().zip(&all).zip(&half);
            assert!(pixels.all(|((a, b), half)| between((*a, *b, *half)).abs() <= 1.0));
        }
    }

    fn defaults_of(colour_fix: ColourFix) -> Settings {
        Settings { colour_fix, ..Settings::default() }
    }

    #[test]
    fn the_picture_depends_on_no_tile() {
        for colour_fix in FIXES {
            for (detail_only, amounts) in [(false, None), (true, None), (false, Some((0.8, 2.0)))] {
                let (sharpen, grain) = amounts.unzip();
                let (fidelity, coherence) = (amounts.map(|_| 0.9), amounts.map(|_| 0.8));
                let texture = amounts.map(|_| 0.7);
                let defaults = Settings::default();
                let settings = Settings {
                    colour_fix,
                    sharpen,
                    grain,
                    fidelity,
                    coherence,
                    texture,
                    detail_only,
                    ..defaults
                };
                let whole = made(settings.clone(), 80);
                let far = |tile: usize| {
                    let tiled = made(settings.clone(), tile);
                    tiled.iter().zip(&whole).filter(|(a, b)| a.abs_diff(**b) > 1).count()
                };
                let case = format!("{colour_fix:?} {detail_only} {amounts:?}");
                assert_eq!((far(20), far(34)), (0, 0), "{case}");
                assert_eq!(
                    whole == made(defaults_of(colour_fix), 80),
                    !detail_only && amounts.is_none(),
                    "{case}"
                );
            }
        }
    }

    #[test]
    fn the_grain_of_a_pixel_depends_on_its_place_alone_with_every_fix() {
        let mut grain = vec![0.0; 3 * 60 * 40];
        Grain::new(8.0, 0).add(&mut grain, &[1.0; 60 * 40], (0, 0), 60);
        for colour_fix in FIXES {
            let with =
                |amount| made(Settings { grain: Some(amount), ..defaults_of(colour_fix) }, 20);
            let (clean, grainy) = (with(0.0), with(8.0));
            let (mut off, mut seen) = (0, 0);
            let pixels = clean.chunks(3).zip(grainy.chunks(3)).zip(grain.chunks(3));
            for ((clean, grainy), grain) in pixels {
                // Where there is room on both sides.
                if clean.iter().all(|value| (60..195).contains(value)) {
                    let expected = f32::from(clean[0]) + grain[0] * 127.5;
                    seen += 1;
                    off += usize::from((f32::from(grainy[0]) - expected).abs() > 1.5);
                }
            }
            // A few of them are flat.
            assert!(seen > 80 && off * 10 < seen, "{colour_fix:?}: {off} of {seen}");
        }
    }

    #[test]
    fn adain_gives_the_mean_and_the_deviation_of_the_input() {
        let measured = |samples: &[u8]| {
            [0, 1, 2].map(|channel| {
                let values = || samples.iter().skip(channel).step_by(3).map(|v| f64::from(*v));
                let count = (samples.len() / 3) as f64;
                let mean = values().sum::<f64>() / count;
                let variance = values().map(|v| (v - mean).powi(2)).sum::<f64>() / count;
                (mean, variance.sqrt())
            })
        };
        let of = |colour_fix| measured(&made(Settings { colour_fix, ..Settings::default() }, 20));
        let (own, other, wanted) =
            (of(ColourFix::Adain), of(ColourFix::None), measured(&resized()));
        for ((own, other), wanted) in own.into_iter().zip(other).zip(wanted) {
            // What lies beyond the range is cut.
            assert!(
                (own.0 - wanted.0).abs() < 3.0 && (own.1 - wanted.1).abs() < 6.0,
                "{own:?} {wanted:?}"
            );
            assert!((other.0 - wanted.0).abs() > 10.0, "{other:?} {wanted:?}");
        }
    }

    #[test]
    fn the_light_alone_keeps_the_colours_of_the_input() {
        let settings = Settings { detail_only: true, ..Settings::default() };
        let (made, resized) = (made(settings, 20), resized());
        let chroma = |rgb: &[u8]| {
            [i32::from(rgb[0]) - i32::from(rgb[1]), i32::from(rgb[2]) - i32::from(rgb[1])]
        };
        let (mut same, mut inside) = (0, 0);
        for (made, resized) in made.chunks_exact(3).zip(resized.chunks_exact(3)) {
            if made.iter().all(|value| (3..253).contains(value)) {
                inside += 1;
                let near =
                    chroma(made).iter().zip(chroma(resized)).all(|(a, b)| (a - b).abs() <= 2);
                same += usize::from(near);
            }
        }
        assert!(inside > 500 && same == inside, "{same} of {inside}");
    }
}
