//! Colour that a PNG states without a profile: which of its chunks counts, and the profile that says the same.
//!
//! The profile serves the conversion and the other formats; a PNG is written with the chunks as they were, so that
//! every viewer shows the output as it shows the input.
//! Source: PNG specification, third edition, 4.3 and 11.3.2; ITU-T H.273.

use moxcms::{
    Chromaticity, CicpColorPrimaries, CicpProfile, ColorPrimaries, ColorProfile,
    MatrixCoefficients, ToneReprCurve, TransferCharacteristics,
};

use super::Metadata;
use super::budget::Budget;
use crate::image::colour;
use crate::image::error::Warning;

/// gAMA of a picture in sRGB, for readers that know no other chunk.
const SRGB_GAMMA: u32 = 45_455;
/// cHRM of sRGB: x and y of white, red, green and blue.
const SRGB_PRIMARIES: [f64; 8] = [0.3127, 0.329, 0.64, 0.33, 0.3, 0.6, 0.15, 0.06];

/// A chunk of a PNG that says what its numbers mean: cICP, mDCV, cLLI, sRGB, gAMA or cHRM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ColourChunk {
    /// The chunk's type.
    pub kind: [u8; 4],
    /// Its data.
    pub data: Vec<u8>,
}

/// Puts into the metadata which of the chunks count, and a profile for those. cICP goes before a profile in the file,
/// which goes before sRGB, which goes before gAMA and cHRM.
pub(crate) fn resolve(
    metadata: &mut Metadata,
    chunks: Vec<ColourChunk>,
    grey: bool,
    budget: &mut Budget<'_>,
) {
    let find = |kind: &[u8; 4]| {
        chunks.iter().find(|chunk| chunk.kind == *kind).map(|chunk| chunk.data.as_slice())
    };
    let counted: &[[u8; 4]] = if let Some(code) = find(b"cICP")
        && let Some(profile) = code_points(code, budget)
    {
        metadata.icc = encoded(profile, grey);
        &[*b"cICP", *b"mDCV", *b"cLLI", *b"sRGB", *b"gAMA", *b"cHRM"]
    } else if metadata.icc.is_some() {
        &[]
    } else if find(b"sRGB").is_some() {
        &[*b"sRGB", *b"gAMA", *b"cHRM"]
    } else {
        let gamma = find(b"gAMA").and_then(gamma);
        let primaries = find(b"cHRM").and_then(chromaticities);
        if let Some(profile) = measured(gamma, primaries) {
            metadata.icc = encoded(profile, grey);
        }
        match (gamma, primaries) {
            (Some(_), Some(_)) => &[*b"gAMA", *b"cHRM"],
            (Some(_), None) => &[*b"gAMA"],
            (None, Some(_)) => &[*b"cHRM"],
            (None, None) => &[],
        }
    };
    metadata.colour_chunks =
        chunks.into_iter().filter(|chunk| counted.contains(&chunk.kind)).collect();
}

/// The profile of pictures in HEIF, which say their primaries and their transfer by numbers; `None` for sRGB, and for what
/// is unknown or unspecified, which is taken as sRGB. Video's transfer function is shown as sRGB's, as everywhere.
#[cfg(any(feature = "avif", feature = "heic"))]
pub(crate) fn profile_of_code_points(primaries: u16, transfer: u16, grey: bool) -> Option<Vec<u8>> {
    let transfer = if matches!(transfer, 1 | 2 | 6 | 14 | 15) { 13 } else { transfer };
    let primaries = if matches!(primaries, 2) { 1 } else { primaries };
    if (primaries, transfer) == (1, 13) {
        return None;
    }
    let data = [u8::try_from(primaries).ok()?, u8::try_from(transfer).ok()?, 0, 1];
    encoded(code_points(&data, &mut Budget::new("", 0))?, grey)
}

/// The profile of cICP: primaries, transfer, matrix, range. `None` for points that no profile can say.
fn code_points(data: &[u8], budget: &mut Budget<'_>) -> Option<ColorProfile> {
    let [primaries, transfer, matrix, range] = *data else { return None };
    let cicp = CicpProfile {
        color_primaries: CicpColorPrimaries::try_from(primaries).ok()?,
        transfer_characteristics: TransferCharacteristics::try_from(transfer).ok()?,
        matrix_coefficients: MatrixCoefficients::Identity,
        full_range: true,
    };
    let mut profile = ColorProfile::new_from_cicp(cicp);
    if matrix != 0 || range != 1 || profile.red_trc.is_none() || !usable(&profile) {
        let why = format!("its code points {primaries}-{transfer}-{matrix}-{range} are not known");
        budget.warn(Warning::ProfileDropped(why));
        return None;
    }
    profile.rendering_intent = moxcms::RenderingIntent::RelativeColorimetric;
    Some(profile)
}

/// The profile of gAMA (the exponent from light to numbers) and cHRM; `None` for what sRGB means by them.
fn measured(gamma: Option<f64>, primaries: Option<[f64; 8]>) -> Option<ColorProfile> {
    let srgb_gamma = f64::from(SRGB_GAMMA) / 1e5;
    let like_srgb = |values: [f64; 8]| {
        values.iter().zip(SRGB_PRIMARIES).all(|(value, own)| (value - own).abs() < 2e-3)
    };
    let usual_gamma = gamma.is_none_or(|gamma| (gamma - srgb_gamma).abs() < 1e-4);
    if usual_gamma && primaries.is_none_or(like_srgb) {
        return None;
    }
    let mut profile = ColorProfile::new_srgb();
    if let Some(values) = primaries {
        let at = |i: usize| Chromaticity::new(values[i] as f32, values[i + 1] as f32);
        let primaries = ColorPrimaries { red: at(2), green: at(4), blue: at(6) };
        profile.update_rgb_colorimetry(at(0).to_xyyb(), primaries);
    }
    profile.cicp = None;
    profile.description = None;
    if let Some(gamma) = gamma {
        let curve = ToneReprCurve::Parametric(vec![(1.0 / gamma) as f32]);
        profile.red_trc = Some(curve.clone());
        profile.green_trc = Some(curve.clone());
        profile.blue_trc = Some(curve);
    }
    usable(&profile).then_some(profile)
}

/// `true` if the colours of a profile are finite.
fn usable(profile: &ColorProfile) -> bool {
    [profile.red_colorant, profile.green_colorant, profile.blue_colorant]
        .iter()
        .all(|colour| [colour.x, colour.y, colour.z].iter().all(|v| v.is_finite() && v.abs() < 8.0))
}

fn encoded(profile: ColorProfile, grey: bool) -> Option<Vec<u8>> {
    if grey { colour::grey_profile(profile.red_trc?) } else { colour::encoded(&profile) }
}

fn gamma(data: &[u8]) -> Option<f64> {
    let value = u32::from_be_bytes(data.try_into().ok()?);
    (1_000..=1_000_000).contains(&value).then(|| f64::from(value) / 1e5)
}

fn chromaticities(data: &[u8]) -> Option<[f64; 8]> {
    if data.len() != 32 {
        return None;
    }
    let mut values = [0.0; 8];
    for (value, bytes) in values.iter_mut().zip(data.chunks_exact(4)) {
        *value = f64::from(u32::from_be_bytes(bytes.try_into().ok()?)) / 1e5;
    }
    // White has light, and every colour lies in the diagram.
    let inside =
        values.chunks_exact(2).all(|xy| xy[1] <= 1.1 && xy[0] <= 1.1 && xy[0] + xy[1] <= 1.2);
    (inside && values[0] > 0.0 && values[1] > 0.0).then_some(values)
}
