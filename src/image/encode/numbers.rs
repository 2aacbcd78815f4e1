//! Meaning of the numbers in a file: by its profile, as sRGB where the format holds none, or light itself.

use super::options::EncodeOptions;
use super::shape::SampleShape;
use crate::image::colour::{self, Colour};
use crate::image::error::Warning;
use crate::image::format::Format;
use crate::image::light::Shoulder;
use crate::image::primaries::{self, ToSrgb};
use crate::image::screen::ScreenCurve;

/// Conversion of working-space samples to the numbers of a file.
pub(super) enum Numbers {
    /// Up to 1, encoded by the tone curve of the file's profile.
    Encoded(Colour),
    /// Up to 1, in sRGB.
    Srgb(Option<ToSrgb>),
    /// Above 1 where there is light above white, encoded by the curve of the file's profile.
    Above(Colour, Shoulder),
    /// Light, multiplied by alpha.
    Light(Cut),
}

/// What working-space samples mean by light above white.
#[derive(Clone, Copy)]
pub(super) enum Cut {
    Shoulder(Shoulder),
    Screen(ScreenCurve),
}

impl Cut {
    pub(super) fn light(self, v: f64) -> f64 {
        match self {
            Self::Shoulder(shoulder) => shoulder.decode(v),
            Self::Screen(curve) => curve.light(v),
        }
    }
}

impl Numbers {
    /// Decides the numbers, and by what light above white is to be cut before; the profile in the options becomes the one that the file gets.
    pub(super) fn of(
        format: Format,
        shape: SampleShape,
        options: &mut EncodeOptions,
        warnings: &mut Vec<Warning>,
    ) -> (Self, Option<Cut>) {
        let peak = options.light.map_or(1.0, |light| light.peak);
        let screen = options.icc.as_deref().and_then(ScreenCurve::of).map(Cut::Screen);
        let shoulder = options.light.map(|light| Cut::Shoulder(Shoulder::new(light.peak)));
        if format == Format::Exr {
            let plain = Cut::Shoulder(Shoulder::new(1.0));
            return (Self::Light(shoulder.or(screen).unwrap_or(plain)), None);
        }
        if !format.has_metadata() {
            let cut = shoulder.or(screen);
            if peak > 1.0 || shoulder.is_none() && screen.is_some() {
                warnings.push(Warning::HighlightsCut(format));
            }
            return (Self::Srgb(without_profile(format, options, warnings)), cut);
        }
        if let Some(light) = options.light.filter(|_| shape.depth.is_float()) {
            if light.linear {
                options.icc = primaries::linear(options.icc.as_deref(), shape.grey);
                options.colour_chunks.clear();
            }
            let colour = with_profile(shape, options, warnings);
            return (Self::Above(colour, Shoulder::new(peak)), None);
        }
        if peak > 1.0 {
            warnings.push(Warning::HighlightsCut(format));
        }
        (Self::Encoded(with_profile(shape, options, warnings)), shoulder)
    }
}

/// The conversion for a file with the profile in the options, which goes if it is of no use.
fn with_profile(
    shape: SampleShape,
    options: &mut EncodeOptions,
    warnings: &mut Vec<Warning>,
) -> Colour {
    if let Some(grey) = options.icc.as_deref().filter(|_| shape.grey).and_then(colour::grey_instead)
    {
        warnings.push(match &grey {
            Ok(_) => Warning::GreyProfile,
            Err(why) => Warning::ProfileDropped(why.clone()),
        });
        options.icc = grey.ok();
    }
    match options.icc.as_deref() {
        None => Colour::Same,
        Some(icc) => colour::conversion(icc, shape.grey).unwrap_or_else(|why| {
            warnings.push(Warning::ProfileDropped(why));
            options.icc = None;
            options.colour_chunks.clear();
            Colour::Same
        }),
    }
}

/// The conversion for a format that holds no profile.
fn without_profile(
    format: Format,
    options: &mut EncodeOptions,
    warnings: &mut Vec<Warning>,
) -> Option<ToSrgb> {
    options.colour_chunks.clear();
    let icc = options.icc.take()?;
    let to_srgb = primaries::to_srgb(&icc);
    // Nothing is lost of a profile that says sRGB.
    let is_srgb = matches!(colour::conversion(&icc, options.grey), Ok(Colour::Same));
    if to_srgb.is_some() || !is_srgb || ScreenCurve::of(&icc).is_some() {
        warnings.push(Warning::ProfileDropped(format!("{format} holds none")));
    }
    to_srgb
}
