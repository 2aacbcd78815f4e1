//! Colour conversion between the samples of a file and the model's working space.
//!
//! The model was trained on sRGB, so it wants sRGB's tone curve. It does not need sRGB's primaries, and
//! forcing a wide-gamut photo (every iPhone's is Display P3) into them would clip its strongest colours
//! for good. So for the usual kind of profile, three primaries and three tone curves, only the curves
//! are exchanged for sRGB's: the *working space* is the picture's own primaries with sRGB's curve.
//! This is invertible, nothing clips, and for sRGB and Display P3 it is no conversion at all.
//! On the way out the curves are exchanged back and the profile is kept as it is.
//!
//! Profiles made of lookup tables (some scanners, CMYK) go through moxcms to sRGB and, where the profile
//! can do it, back; colours outside sRGB clip to its surface there. A profile that cannot be inverted
//! or does not fit its picture is dropped, the output is plain sRGB, and a [`Warning`](super::Warning) says so.
//! A missing profile means sRGB. The numbers of pictures for HDR screens (PQ, HLG) stay as they are: their curves are made for
//! the eye, as sRGB's is, and on its scale all but the brightest lights would be near black.

use std::sync::Arc;

use moxcms::{
    ColorProfile, DataColorSpace, Layout, ProfileText, RenderingIntent, ToneReprCurve,
    TransformExecutor, TransformOptions,
};
use rayon::prelude::*;

/// Pixels converted by one task.
const CHUNK: usize = 1 << 14;

type Transform = Arc<dyn TransformExecutor<f32> + Send + Sync>;

/// The name that a colour profile gives itself; `None` for one without a name, or that is damaged.
#[must_use]
pub fn profile_name(icc: &[u8]) -> Option<String> {
    let name = match ColorProfile::new_from_slice(icc).ok()?.description? {
        ProfileText::PlainString(text) => text,
        ProfileText::Localizable(texts) => texts.into_iter().next()?.value,
        ProfileText::Description(text) if text.ascii_string.is_empty() => text.unicode_string,
        ProfileText::Description(text) => text.ascii_string,
    };
    let name = name.trim_matches(|c: char| c == '\0' || c.is_whitespace());
    (!name.is_empty()).then(|| name.to_owned())
}

/// Conversion between samples of a file and working-space samples, in both directions.
#[derive(Clone)]
pub(crate) enum Colour {
    /// The file's numbers are the working space's.
    Same,
    /// Own primaries; the tone curves of red, green and blue differ from sRGB's.
    Curves(Box<[Curve; 3]>),
    /// Lookup-table profile: to sRGB and back.
    Tables { to: Transform, from: Transform },
}

/// A profile's conversion, or why it has none.
pub(crate) type Conversion = std::result::Result<Colour, String>;

/// The conversion for an RGB or greyscale picture with this profile.
/// `Err` says why the profile cannot be kept.
pub(crate) fn conversion(icc: &[u8], grey: bool) -> Conversion {
    let profile =
        ColorProfile::new_from_slice(icc).map_err(|_| "the profile is damaged".to_owned())?;
    if is_hdr(&profile) {
        return Ok(Colour::Same);
    }
    match profile.color_space {
        DataColorSpace::Gray if grey => {
            let curve = curve_of(profile.gray_trc.as_ref())?;
            Ok(curves([curve.clone(), curve.clone(), curve]))
        }
        DataColorSpace::Rgb if profile.is_matrix_shaper() => Ok(curves([
            curve_of(profile.red_trc.as_ref())?,
            curve_of(profile.green_trc.as_ref())?,
            curve_of(profile.blue_trc.as_ref())?,
        ])),
        DataColorSpace::Rgb => {
            let srgb = ColorProfile::new_srgb();
            let to = transform(&profile, &srgb, Layout::Rgb)?;
            let from = transform(&srgb, &profile, Layout::Rgb)?;
            Ok(Colour::Tables { to, from })
        }
        other => Err(format!("a {other:?} profile on another kind of picture")),
    }
}

/// `true` for a profile whose curve is one of HDR screens.
fn is_hdr(profile: &ColorProfile) -> bool {
    use moxcms::TransferCharacteristics::{Hlg, Smpte2084};
    profile.cicp.is_some_and(|cicp| matches!(cicp.transfer_characteristics, Smpte2084 | Hlg))
}

/// For a grey picture with a profile for RGB, which no format allows: a grey one with the same tone curve; `Err` says why
/// there is none. `None` when the profile is another.
pub(crate) fn grey_instead(icc: &[u8]) -> Option<std::result::Result<Vec<u8>, String>> {
    let profile = ColorProfile::new_from_slice(icc).ok()?;
    if profile.color_space != DataColorSpace::Rgb {
        return None;
    }
    let why = || "a profile for RGB on a grey picture".to_owned();
    let grey = || {
        let red = curve_of(profile.red_trc.as_ref()).ok()?;
        let others = [&profile.green_trc, &profile.blue_trc];
        let same = others.into_iter().all(|trc| {
            curve_of(trc.as_ref()).is_ok_and(|curve| {
                (0..=255).map(|i| f64::from(i) / 255.0).all(|v| {
                    (srgb_encode(curve.linear(v)) - srgb_encode(red.linear(v))).abs() < 0.25 / 255.0
                })
            })
        });
        (same && profile.is_matrix_shaper()).then(|| grey_profile(profile.red_trc.clone()?))?
    };
    Some(grey().ok_or_else(why))
}

/// A profile of grey with this tone curve.
pub(crate) fn grey_profile(curve: ToneReprCurve) -> Option<Vec<u8>> {
    let mut profile = ColorProfile::new_gray_with_gamma(2.2);
    profile.gray_trc = Some(curve);
    encoded(&profile)
}

/// A profile's bytes, the same at any time.
pub(crate) fn encoded(profile: &ColorProfile) -> Option<Vec<u8>> {
    let mut bytes = profile.encode().ok()?;
    // The date of creation: year, month, day, hour, minute, second.
    let date = [2026u16, 1, 1, 0, 0, 0].map(u16::to_be_bytes);
    bytes.get_mut(24..36)?.copy_from_slice(date.as_flattened());
    Some(bytes)
}

fn transform(
    from: &ColorProfile,
    to: &ColorProfile,
    layout: Layout,
) -> std::result::Result<Transform, String> {
    let options = TransformOptions {
        rendering_intent: RenderingIntent::RelativeColorimetric,
        prefer_fixed_point: false,
        ..TransformOptions::default()
    };
    from.create_transform_f32(layout, to, Layout::Rgb, options)
        .map_err(|_| "the profile works in one direction only".to_owned())
}

/// Conversion of working-space samples to sRGB, for a screen.
pub(crate) struct ScreenColours(Option<Transform>);

impl ScreenColours {
    /// The conversion for a picture with this profile. Where there is none, as for lookup tables, whose working space is
    /// sRGB, and for grey, samples stay as they are.
    pub(super) fn new(icc: Option<&[u8]>) -> Self {
        let transform = || {
            let mut working = ColorProfile::new_from_slice(icc?).ok()?;
            if is_hdr(&working)
                || working.color_space != DataColorSpace::Rgb
                || !working.is_matrix_shaper()
            {
                return None;
            }
            let srgb = ColorProfile::new_srgb();
            working.cicp = None;
            working.red_trc.clone_from(&srgb.red_trc);
            working.green_trc.clone_from(&srgb.green_trc);
            working.blue_trc.clone_from(&srgb.blue_trc);
            self::transform(&working, &srgb, Layout::Rgb).ok()
        };
        Self(transform())
    }

    /// Converts samples, `[.., 3]` in [0, 1], in place.
    pub(crate) fn apply(&self, rgb: &mut [f32]) {
        if let Some(transform) = &self.0 {
            run(transform, rgb);
        }
    }
}

impl Colour {
    /// File samples to working-space samples, `[.., 3]` interleaved, in [0, 1], in place.
    pub(crate) fn to_working(&self, rgb: &mut [f32]) {
        match self {
            Self::Same => {}
            Self::Curves(curves) => {
                map_channels(rgb, |channel, v| srgb_encode(curves[channel].linear(f64::from(v))))
            }
            Self::Tables { to, .. } => run(to, rgb),
        }
    }

    /// Working-space samples to file samples; the inverse of [`Colour::to_working`].
    pub(crate) fn to_file(&self, rgb: &mut [f32]) {
        match self {
            Self::Same => {}
            Self::Curves(curves) => {
                map_channels(rgb, |channel, v| curves[channel].encoded(srgb_linear(f64::from(v))))
            }
            Self::Tables { from, .. } => run(from, rgb),
        }
    }
}

/// Maps every sample of `[.., 3]`, given its channel, in place.
pub(super) fn map_values(rgb: &mut [f32], f: impl Fn(usize, f32) -> f64 + Sync) {
    rgb.par_chunks_mut(3 * CHUNK).for_each(|chunk| {
        for pixel in chunk.chunks_exact_mut(3) {
            for (channel, v) in pixel.iter_mut().enumerate() {
                *v = f(channel, *v) as f32;
            }
        }
    });
}

fn map_channels(rgb: &mut [f32], f: impl Fn(usize, f32) -> f64 + Sync) {
    map_values(rgb, |channel, v| f(channel, v.clamp(0.0, 1.0)));
}

fn run(transform: &Transform, rgb: &mut [f32]) {
    rgb.par_chunks_mut(3 * CHUNK).for_each(|chunk| {
        let mut source = chunk.to_vec();
        source.iter_mut().for_each(|v| *v = v.clamp(0.0, 1.0));
        if transform.transform(&source, chunk).is_err() {
            // Only lengths that are no multiple of a pixel can fail, and these are not.
            chunk.copy_from_slice(&source);
        }
        chunk.iter_mut().for_each(|v| *v = unit(*v));
    });
}

/// A sample in [0, 1]. Tables of a profile may be computed to no number at all, which is black.
fn unit(v: f32) -> f32 {
    if v.is_nan() { 0.0 } else { v.clamp(0.0, 1.0) }
}

/// Conversion of CMYK ink amounts in [0, 1] (1 = full ink) to sRGB.
pub(crate) struct CmykToRgb {
    /// Through the profile, if it is one for CMYK.
    profiled: Option<Transform>,
}

impl CmykToRgb {
    /// Conversion through this profile.
    pub(crate) fn new(icc: Option<&[u8]>) -> Self {
        let profiled = icc
            .and_then(|icc| ColorProfile::new_from_slice(icc).ok())
            .filter(|profile| profile.color_space == DataColorSpace::Cmyk)
            .and_then(|profile| transform(&profile, &ColorProfile::new_srgb(), Layout::Rgba).ok());
        Self { profiled }
    }

    /// `[.., 3]` of `[.., 4]`.
    pub(crate) fn convert(&self, cmyk: &[f32]) -> Vec<f32> {
        let mut rgb = vec![0.0; cmyk.len() / 4 * 3];
        rgb.par_chunks_mut(3 * CHUNK).zip(cmyk.par_chunks(4 * CHUNK)).for_each(|(rgb, cmyk)| {
            if let Some(transform) = &self.profiled
                && transform.transform(cmyk, rgb).is_ok()
            {
                rgb.iter_mut().for_each(|v| *v = unit(*v));
                return;
            }
            for (rgb, ink) in rgb.chunks_exact_mut(3).zip(cmyk.chunks_exact(4)) {
                for (v, ink_of) in rgb.iter_mut().zip(ink) {
                    *v = (1.0 - ink_of) * (1.0 - ink[3]);
                }
            }
        });
        rgb
    }
}

/// sRGB's tone curve, IEC 61966-2-1, linear light to encoded.
pub(crate) fn srgb_encode(v: f64) -> f64 {
    if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 }
}

/// sRGB's tone curve, encoded to linear light.
pub(crate) fn srgb_linear(v: f64) -> f64 {
    if v <= 0.040_45 { v / 12.92 } else { ((v + 0.055) / 1.055).powf(2.4) }
}

/// One tone curve of a profile: encoded to linear light, on [0, 1]. ICC.1:2022, 10.6 and 10.18.
#[derive(Clone, Debug)]
pub(crate) enum Curve {
    /// `(a·x + b)^g + e` from `d` on, `c·x + f` below.
    Parametric { g: f64, a: f64, b: f64, c: f64, d: f64, e: f64, f: f64 },
    /// Samples at equal distances, never falling.
    Table(Vec<f64>),
}

fn curve_of(trc: Option<&ToneReprCurve>) -> std::result::Result<Curve, String> {
    let gamma = |g: f64| Curve::parametric([g, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]);
    let number = |v: &f32| f64::from(*v);
    let curve = match trc {
        Some(ToneReprCurve::Lut(table)) => match table.as_slice() {
            [] => gamma(1.0),
            [fixed8] => gamma(f64::from(*fixed8) / 256.0),
            table => {
                let mut values: Vec<f64> = table.iter().map(|&v| f64::from(v) / 65535.0).collect();
                // A curve that falls somewhere has no inverse; flatten the dip.
                for i in 1..values.len() {
                    values[i] = values[i].max(values[i - 1]);
                }
                Curve::Table(values)
            }
        },
        Some(ToneReprCurve::Parametric(p)) => {
            let p: Vec<f64> = p.iter().map(number).collect();
            match p[..] {
                [g] => gamma(g),
                [g, a, b] if a != 0.0 => Curve::parametric([g, a, b, 0.0, -b / a, 0.0, 0.0]),
                [g, a, b, c] if a != 0.0 => Curve::parametric([g, a, b, 0.0, -b / a, c, c]),
                [g, a, b, c, d] => Curve::parametric([g, a, b, c, d, 0.0, 0.0]),
                [g, a, b, c, d, e, f] => Curve::parametric([g, a, b, c, d, e, f]),
                _ => return Err("a tone curve of an unknown kind".to_owned()),
            }
        }
        None => return Err("the profile has no tone curve".to_owned()),
    };
    let usable = match &curve {
        Curve::Parametric { g, a, .. } => *g > 0.0 && *a > 0.0 && g.is_finite(),
        Curve::Table(values) => values.last() > values.first(),
    };
    if usable { Ok(curve) } else { Err("a tone curve that cannot be inverted".to_owned()) }
}

/// [`Colour::Same`] where all three curves are sRGB's to within a quarter of an 8-bit step.
fn curves(curves: [Curve; 3]) -> Colour {
    let is_srgb = |curve: &Curve| {
        (0..=255).all(|i| {
            let v = f64::from(i) / 255.0;
            (srgb_encode(curve.linear(v)) - v).abs() < 0.25 / 255.0
        })
    };
    if curves.iter().all(is_srgb) { Colour::Same } else { Colour::Curves(Box::new(curves)) }
}

impl Curve {
    fn parametric([g, a, b, c, d, e, f]: [f64; 7]) -> Self {
        Self::Parametric { g, a, b, c, d, e, f }
    }

    /// Encoded value to linear light, both in [0, 1].
    pub(super) fn linear(&self, x: f64) -> f64 {
        let y = match self {
            &Self::Parametric { g, a, b, c, d, e, f } => {
                if x >= d {
                    (a * x + b).max(0.0).powf(g) + e
                } else {
                    c * x + f
                }
            }
            Self::Table(values) => {
                let at = x * (values.len() - 1) as f64;
                let i = (at as usize).min(values.len() - 2);
                values[i] + (values[i + 1] - values[i]) * (at - i as f64)
            }
        };
        y.clamp(0.0, 1.0)
    }

    /// Linear light to encoded value: the inverse of [`Curve::linear`].
    pub(super) fn encoded(&self, y: f64) -> f64 {
        let x = match self {
            &Self::Parametric { g, a, b, c, d, e, f } => {
                let at_d = (a * d + b).max(0.0).powf(g) + e;
                if y >= at_d {
                    ((y - e).max(0.0).powf(1.0 / g) - b) / a
                } else if c > 0.0 {
                    (y - f) / c
                } else {
                    d.max(0.0)
                }
            }
            Self::Table(values) => {
                // On a flat stretch its dark end, so that black comes back as black.
                let i = values.partition_point(|&v| v < y).clamp(1, values.len() - 1);
                let (low, high) = (values[i - 1], values[i]);
                let part = if high > low { (y - low) / (high - low) } else { 0.0 };
                ((i - 1) as f64 + part) / (values.len() - 1) as f64
            }
        };
        x.clamp(0.0, 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> Vec<f32> {
        // Three different ramps, so that a swapped channel shows.
        (0..=255u32).flat_map(|i| [i, 255 - i, i * 7 % 256].map(|v| v as f32 / 255.0)).collect()
    }

    #[test]
    fn srgb_and_display_p3_need_no_conversion() {
        for profile in [ColorProfile::new_srgb(), ColorProfile::new_display_p3()] {
            let colour = conversion(&profile.encode().unwrap(), false).unwrap();
            assert!(matches!(colour, Colour::Same));
        }
    }

    #[test]
    fn adobe_rgb_takes_srgbs_curve_and_comes_back_unclipped() {
        let icc = ColorProfile::new_adobe_rgb().encode().unwrap();
        let colour = conversion(&icc, false).unwrap();
        let mut rgb = ramp();
        colour.to_working(&mut rgb);
        // Adobe RGB's 128 is linear 0.2195 (gamma 563/256), which sRGB encodes as 0.5058.
        let linear = (128.0f64 / 255.0).powf(563.0 / 256.0);
        let want = 1.055 * linear.powf(1.0 / 2.4) - 0.055;
        assert!((f64::from(rgb[3 * 128]) - want).abs() < 1e-4);
        colour.to_file(&mut rgb);
        for (got, want) in rgb.iter().zip(ramp()) {
            assert!((got - want).abs() < 2e-5, "{got} {want}");
        }
    }

    #[test]
    fn every_kind_of_tone_curve_is_undone_by_its_inverse() {
        let table: Vec<u16> = (0..1024u32).map(|i| (i * i / 16) as u16).collect();
        for trc in [
            ToneReprCurve::Lut(vec![]),
            ToneReprCurve::Lut(vec![461]),
            ToneReprCurve::Lut(table),
            ToneReprCurve::Parametric(vec![2.2]),
            ToneReprCurve::Parametric(vec![2.4, 1.0 / 1.055, 0.055 / 1.055, 1.0 / 12.92, 0.04045]),
            ToneReprCurve::Parametric(vec![3.0, 0.86, 0.14, 0.11, 0.08, 0.0, 0.0]),
        ] {
            let curve = curve_of(Some(&trc)).unwrap();
            for i in 0..=1000 {
                let x = f64::from(i) / 1000.0;
                let back = curve.encoded(curve.linear(x));
                // A table is flat for its first few entries at the dark end: there the place is
                // lost, but never the light.
                assert!((curve.linear(back) - curve.linear(x)).abs() < 1e-6, "at {x}: {back}");
                assert!((back - x).abs() < 4e-3, "at {x}: {back}");
            }
            assert_eq!(curve.encoded(curve.linear(0.0)), 0.0);
            for i in 50..=1000 {
                let x = f64::from(i) / 1000.0;
                assert!((curve.encoded(curve.linear(x)) - x).abs() < 1e-6, "at {x}");
            }
        }
    }

    #[test]
    fn a_screen_gets_srgb_whatever_the_primaries() {
        // Display P3's numbers for sRGB's pure green and mid grey (Apple's ColorSync calculator).
        let icc = ColorProfile::new_display_p3().encode().unwrap();
        let mut rgb = [0.4584, 0.9853, 0.2983, 0.5, 0.5, 0.5];
        ScreenColours::new(Some(&icc)).apply(&mut rgb);
        for (got, want) in rgb.iter().zip([0.0, 1.0, 0.0, 0.5, 0.5, 0.5]) {
            assert!((got - want).abs() < 0.01, "{rgb:?}");
        }
        for icc in [None, Some(b"not a profile".as_slice())] {
            let mut same = [0.1, 0.2, 0.3];
            ScreenColours::new(icc).apply(&mut same);
            assert_eq!(same, [0.1, 0.2, 0.3]);
        }
    }

    #[test]
    fn a_damaged_or_foreign_profile_is_refused_with_a_reason() {
        assert!(conversion(b"not a profile", false).is_err());
        let grey = ColorProfile::new_gray_with_gamma(2.2).encode().unwrap();
        assert!(conversion(&grey, false).is_err());
        assert!(conversion(&grey, true).is_ok());
    }

    #[test]
    fn cmyk_without_profile_follows_the_ink_model() {
        let rgb = CmykToRgb::new(None).convert(&[0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5]);
        assert_eq!(rgb, [1.0, 1.0, 1.0, 0.0, 0.5, 0.5]);
    }
}
