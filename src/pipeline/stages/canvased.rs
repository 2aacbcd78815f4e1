//! Picture on the canvas: the input resized to the output's size and continued to the canvas's, as the encoder sees
//! it and as the colour fix compares with it; and the job's mask at the same size.

use std::ops::Range;

use super::context::Context;
use crate::{
    canvas::latent::{reflect, reflected},
    image::{Picture, Resizer},
    pipeline::{
        back_projection::InputPixels,
        error::Error,
        finish::{Beside, Finish, Told},
        mask::MaskWindows,
    },
};

/// The resized picture, continued by reflection on the right and at the bottom, where it fills the canvas.
pub struct Canvased<'a> {
    resizer: Resizer<'a>,
    /// The input itself at the output's size, where a network has made the picture: it says what lines and textures there are.
    plain: Option<Resizer<'a>>,
    /// The input at its own size, where finishing looks at it.
    input: Option<Resizer<'a>>,
    mask: Option<MaskWindows<'a>>,
    width: usize,
    height: usize,
}

impl<'a> Canvased<'a> {
    /// `picture` resized to `width × height` image pixels.
    ///
    /// # Errors
    /// A size that it cannot be resized to.
    pub fn new(picture: &'a Picture, width: usize, height: usize) -> Result<Self, Error> {
        let resizer = picture.resizer(width as u32, height as u32)?;
        Ok(Self { resizer, plain: None, input: None, mask: None, width, height })
    }

    /// The picture of a job at its output's size, with what `finish` looks at: the job's mask, the input itself.
    ///
    /// # Errors
    /// A size that they cannot be resized to.
    pub fn of_output(context: &Context<'a>, finish: Finish) -> Result<Self, Error> {
        let spec = context.spec;
        let canvas = spec.plan.geometry.canvas;
        let mask = spec.settings.mask.as_ref();
        let mask = mask.map(|mask| mask.at(canvas.width, canvas.height)).transpose()?;
        let picture = context.picture;
        let input = finish.projection.map(|_| picture.resizer(picture.width, picture.height));
        let input = input.transpose()?;
        let plain = context
            .enlarged
            .is_some()
            .then(|| picture.resizer(canvas.width as u32, canvas.height as u32));
        let plain = plain.transpose()?;
        Ok(Self { plain, input, mask, ..Self::new(context.source(), canvas.width, canvas.height)? })
    }

    /// What `finish` looks at in columns `x` and rows `y` of the picture; with the mask if it is mixed in now.
    pub fn beside(&self, finish: Finish, x: Range<usize>, y: Range<usize>, masked: bool) -> Beside {
        let input = self.input.as_ref().zip(finish.projection).map(|(input, projection)| {
            let (columns, rows) = projection.inside(&x, &y);
            let of = |range: &Range<usize>| range.start as u32..range.end as u32;
            let mut values = input.window(of(&columns), of(&rows));
            values.iter_mut().for_each(|value| *value = 2.0 * *value - 1.0);
            InputPixels { columns, rows, values }
        });
        let shares = if masked { self.shares(x.clone(), y.clone()) } else { None };
        Beside { source: self.window(x, y), told: Told::default(), input, shares }
    }

    /// As [`beside`](Self::beside), for a tile of these columns and rows.
    pub fn beside_tile(&self, finish: Finish, x: Range<usize>, y: Range<usize>) -> Beside {
        let plain = self.plain.as_ref().unwrap_or(&self.resizer);
        let told = finish.told(&x, &y, |columns, rows| self.window_of(plain, columns, rows));
        // A mask comes last of all.
        Beside { told, ..self.beside(finish, x, y, !finish.needs_whole()) }
    }

    /// The share of the repaint in the pixels of columns `x` and rows `y` of the picture, `[y, x]`; `None` without a mask.
    pub fn shares(&self, x: Range<usize>, y: Range<usize>) -> Option<Vec<f32>> {
        self.mask.as_ref().map(|mask| mask.window(x, y))
    }

    /// The window of columns `x` and rows `y`, `[y, x, 3]`, in the VAE's range −1..=1.
    pub fn window(&self, x: Range<usize>, y: Range<usize>) -> Vec<f32> {
        self.window_of(&self.resizer, x, y)
    }

    fn window_of(&self, resizer: &Resizer<'_>, x: Range<usize>, y: Range<usize>) -> Vec<f32> {
        // Mirrored pixels lie elsewhere in the picture: widen the window until it holds them.
        let (source_x, source_y) = (reflected(&x, self.width), reflected(&y, self.height));
        let pixels = resizer.window(
            source_x.start as u32..source_x.end as u32,
            source_y.start as u32..source_y.end as u32,
        );
        let row = source_x.len() * 3;
        let mut out = Vec::with_capacity(x.len() * y.len() * 3);
        for y in y {
            let line = &pixels[(reflect(y, self.height) - source_y.start) * row..][..row];
            for x in x.clone() {
                let at = (reflect(x, self.width) - source_x.start) * 3;
                out.extend(line[at..at + 3].iter().map(|value| 2.0 * value - 1.0));
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_past_the_end_is_the_mirrored_picture_in_the_range_of_the_vae() {
        let (width, height) = (4u32, 3u32);
        let rgb = (0..width * height * 3).map(|at| at as f32 / 36.0).collect();
        let picture = Picture::from_rgb(width, height, rgb).unwrap();
        let source = Canvased::new(&picture, 4, 3).unwrap();
        let inside = source.window(0..4, 0..3);
        assert!(inside.iter().all(|value| (-1.0..=1.0).contains(value)));
        let around = source.window(1..7, 1..5);
        let pixel = |window: &[f32], width: usize, x: usize, y: usize| {
            window[(y * width + x) * 3..][..3].to_vec()
        };
        for (y, inner_y) in [1, 2, 1, 0].into_iter().enumerate() {
            for (x, inner_x) in [1, 2, 3, 2, 1, 0].into_iter().enumerate() {
                assert_eq!(pixel(&around, 6, x, y), pixel(&inside, 4, inner_x, inner_y));
            }
        }
    }
}
