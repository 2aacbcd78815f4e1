//! Use of a control (a ControlNet) in a job: how strong it is, in which steps, and what its picture shows.

use std::sync::Arc;

use crate::{
    image::{Picture, blur_radius, blurred, canny},
    model::denoiser::ControlKind,
};

/// Standard deviation of a blur as a share of a region's side: 9 of 512 pixels, the default of the preprocessors that
/// blur for ControlNets.
const BLUR: f64 = 9.0 / 512.0;

/// Pixels around a region whose edges are found with its own, so that those of neighbours meet. Weak edges that hang
/// together with strong ones by a longer way alone are no edges.
const CANNY_MARGIN: usize = 64;

/// What is made of the resized input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum PictureFilter {
    None,
    Canny,
    /// with this standard deviation in pixels
    Blur(f64),
}

impl PictureFilter {
    /// Pixels around a window that its values depend on.
    pub(crate) fn margin(self) -> usize {
        match self {
            Self::None => 0,
            Self::Canny => CANNY_MARGIN,
            Self::Blur(sigma) => blur_radius(sigma),
        }
    }

    /// The picture `[height, width, 3]`, filtered.
    pub(crate) fn apply(self, rgb: Vec<f32>, width: usize, height: usize) -> Vec<f32> {
        match self {
            Self::None => rgb,
            Self::Canny => canny(&rgb, width, height),
            Self::Blur(sigma) => blurred(&rgb, width, height, sigma),
        }
    }
}

/// Bytes of a pixel of a control's picture.
pub(crate) const PIXEL_BYTES: usize = 3 * size_of::<f32>();

/// Use of one of an engine's controls in a job.
///
/// ```
/// use cupscale::pipeline::ControlUse;
///
/// let mut first = ControlUse::of(0);
/// first.scale = 0.6;
/// first.end = 0.8;
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct ControlUse {
    /// Which of the engine's controls, counted from 0. One may be used more than once.
    pub control: usize,
    /// Factor of what it adds, from 0 to [`MOST_SCALE`](Self::MOST_SCALE); 1 is as it was trained.
    pub scale: f64,
    /// Share of the steps that run before it begins, from 0.
    pub start: f64,
    /// Share of the steps that run where it ends, above `start`, to 1.
    pub end: f64,
    /// What its picture shows.
    pub kind: ControlKind,
    /// A picture in place of the one that is made of the input. It is used as it is, resized to the output.
    pub picture: Option<OwnControlPicture>,
}

/// A control's picture that the user brings.
#[derive(Clone, Debug)]
pub struct OwnControlPicture {
    /// Its name, for the output's metadata.
    pub name: String,
    /// The picture, of any size.
    pub picture: Arc<Picture>,
}

impl PartialEq for OwnControlPicture {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.picture == other.picture
    }
}

impl ControlUse {
    /// The largest scale.
    pub const MOST_SCALE: f64 = 10.0;

    /// The engine's control of this number in all steps, as it was trained, with the input as its picture.
    #[must_use]
    pub fn of(control: usize) -> Self {
        Self { control, scale: 1.0, start: 0.0, end: 1.0, kind: ControlKind::Tile, picture: None }
    }

    /// `true` if it adds something in step `index` of so many that run (diffusers' `control_guidance_start` and `_end`).
    #[must_use]
    pub fn works_in(&self, index: usize, steps: usize) -> bool {
        let steps = steps as f64;
        let is_before = index as f64 / steps < self.start;
        let is_behind = (index + 1) as f64 / steps > self.end;
        self.scale > 0.0 && !is_before && !is_behind
    }

    /// What is made of the resized picture, for regions of `side` pixels.
    pub(crate) fn filter(&self, side: usize) -> PictureFilter {
        match (&self.picture, self.kind) {
            (Some(_), _) | (None, ControlKind::Tile) => PictureFilter::None,
            (None, ControlKind::Canny) => PictureFilter::Canny,
            (None, ControlKind::Blur) => PictureFilter::Blur(BLUR * side as f64),
        }
    }

    /// Bytes on the host of making one picture of this height and width, for regions of `side` pixels.
    pub(crate) fn making_bytes(&self, (height, width): (usize, usize), side: usize) -> usize {
        let filter = self.filter(side);
        let margin = 2 * filter.margin();
        let window = (height + margin) * (width + margin) * PIXEL_BYTES;
        // Its source's resized rows, the window, and what is made of it.
        match filter {
            PictureFilter::None => 2 * window,
            PictureFilter::Canny | PictureFilter::Blur(_) => 4 * window,
        }
    }

    /// The reason why no job can use it, if there is one.
    pub(crate) fn fault(&self) -> Option<String> {
        if !(0.0..=Self::MOST_SCALE).contains(&self.scale) {
            return Some(format!("a scale of {}, not from 0 to {}", self.scale, Self::MOST_SCALE));
        }
        let is_range = 0.0 <= self.start && self.start < self.end && self.end <= 1.0;
        (!is_range).then(|| {
            format!("steps from {} to {}, which is no range within 0 to 1", self.start, self.end)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_of_the_steps_is_what_diffusers_makes_of_it() {
        let works = |start: f64, end: f64, steps: usize| -> Vec<usize> {
            let one = ControlUse { start, end, ..ControlUse::of(0) };
            (0..steps).filter(|&index| one.works_in(index, steps)).collect()
        };
        // `1.0 - float(i / len(timesteps) < s or (i + 1) / len(timesteps) > e)`
        assert_eq!(works(0.0, 1.0, 4), [0, 1, 2, 3]);
        assert_eq!(works(0.25, 0.75, 4), [1, 2]);
        assert_eq!(works(0.3, 0.8, 4), [2]);
        assert_eq!(works(0.0, 0.5, 5), [0, 1]);
        assert_eq!(works(0.0, 0.2, 4), [0; 0]);
        assert!(!ControlUse { scale: 0.0, ..ControlUse::of(0) }.works_in(0, 4));
    }

    #[test]
    fn what_no_job_can_use_says_why() {
        let fault = |scale: f64, start: f64, end: f64| {
            ControlUse { scale, start, end, ..ControlUse::of(0) }.fault()
        };
        assert_eq!(fault(0.5, 0.0, 1.0), None);
        for (scale, start, end, word) in [
            (-1.0, 0.0, 1.0, "scale of -1"),
            (f64::NAN, 0.0, 1.0, "scale of NaN"),
            (11.0, 0.0, 1.0, "not from 0 to 10"),
            (1.0, 0.5, 0.5, "from 0.5 to 0.5"),
            (1.0, -0.1, 0.5, "from -0.1"),
            (1.0, 0.1, 1.5, "to 1.5"),
            (1.0, f64::NAN, 1.0, "from NaN"),
        ] {
            assert!(fault(scale, start, end).unwrap().contains(word), "{word}");
        }
    }
}
