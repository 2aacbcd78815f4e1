//! Primaries: the places of red, green, blue and white in the diagram of colours, as a profile or in numbers; and colours
//! in those of sRGB, for formats that hold neither. What lies outside of sRGB is cut to its surface.

use moxcms::{Chromaticity, ColorPrimaries, ColorProfile, DataColorSpace, Matrix3d, ToneReprCurve};

use super::colour::{self, srgb_encode, srgb_linear};

/// x and y of the primaries and of white (CIE 1931).
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Chromaticities {
    pub red: [f64; 2],
    pub green: [f64; 2],
    pub blue: [f64; 2],
    pub white: [f64; 2],
}

/// Those of sRGB.
const SRGB: Chromaticities = Chromaticities {
    red: [0.64, 0.33],
    green: [0.3, 0.6],
    blue: [0.15, 0.06],
    white: [0.3127, 0.329],
};

impl Chromaticities {
    fn all(&self) -> [[f64; 2]; 4] {
        [self.red, self.green, self.blue, self.white]
    }

    fn is_srgb(&self) -> bool {
        let pairs = self.all().into_iter().zip(SRGB.all());
        pairs.into_iter().all(|(a, b)| (a[0] - b[0]).abs() < 2e-3 && (a[1] - b[1]).abs() < 2e-3)
    }
}

/// The profile of these primaries with sRGB's curve; `None` where it would be sRGB, or where they are no primaries.
pub(crate) fn profile(given: Chromaticities) -> Option<ColorProfile> {
    let inside =
        |[x, y]: [f64; 2]| x.is_finite() && y.is_finite() && x.abs() < 2.0 && y.abs() < 2.0;
    if given.is_srgb() || !given.all().into_iter().all(inside) || given.white[1] < 0.01 {
        return None;
    }
    let at = |[x, y]: [f64; 2]| Chromaticity::new(x as f32, y as f32);
    let mut profile = ColorProfile::new_srgb();
    let primaries =
        ColorPrimaries { red: at(given.red), green: at(given.green), blue: at(given.blue) };
    profile.update_rgb_colorimetry(at(given.white).to_xyyb(), primaries);
    profile.description = None;
    let usable =
        profile.colorant_matrix().v.iter().flatten().all(|v| v.is_finite() && v.abs() < 8.0);
    usable.then_some(profile)
}

/// The primaries of the working space of a picture whose profile this is; sRGB's where it has none or another kind.
pub(crate) fn chromaticities(icc: Option<&[u8]>) -> Chromaticities {
    let of_profile = |icc| {
        let profile = ColorProfile::new_from_slice(icc).ok()?;
        if profile.color_space != DataColorSpace::Rgb || !profile.is_matrix_shaper() {
            return None;
        }
        // Colorants are adapted to D50; one that does not say from where is taken from sRGB's white.
        let to_d50 =
            profile.chromatic_adaptation.or(ColorProfile::new_srgb().chromatic_adaptation)?;
        let own = to_d50.inverse().mat_mul(profile.colorant_matrix());
        let column = |c: usize| [own.v[0][c], own.v[1][c], own.v[2][c]];
        let white = [0, 1, 2].map(|row| own.v[row].iter().sum::<f64>());
        let xy = |[x, y, z]: [f64; 3]| [x / (x + y + z), y / (x + y + z)];
        let found = Chromaticities {
            red: xy(column(0)),
            green: xy(column(1)),
            blue: xy(column(2)),
            white: xy(white),
        };
        found.all().iter().flatten().all(|v| v.is_finite()).then_some(found)
    };
    icc.and_then(of_profile).filter(|found| !found.is_srgb()).unwrap_or(SRGB)
}

/// A profile for light itself in the working space of a picture whose profile this is, or of grey.
pub(crate) fn linear(icc: Option<&[u8]>, grey: bool) -> Option<Vec<u8>> {
    let curve = ToneReprCurve::Parametric(vec![1.0]);
    if grey {
        return colour::grey_profile(curve);
    }
    let own = icc.and_then(|icc| ColorProfile::new_from_slice(icc).ok());
    let own = own.filter(|own| own.color_space == DataColorSpace::Rgb && own.is_matrix_shaper());
    let mut profile = own.unwrap_or_else(ColorProfile::new_srgb);
    profile.cicp = None;
    profile.description = None;
    profile.red_trc = Some(curve.clone());
    profile.green_trc = Some(curve.clone());
    profile.blue_trc = Some(curve);
    colour::encoded(&profile)
}

/// Conversion of working-space samples to sRGB.
pub(crate) struct ToSrgb(Matrix3d);

/// The conversion for a picture whose profile this is; `None` where its working space is sRGB, as that of a grey picture
/// is and one whose profile is made of tables.
pub(crate) fn to_srgb(icc: &[u8]) -> Option<ToSrgb> {
    let profile = ColorProfile::new_from_slice(icc).ok()?;
    if profile.color_space != DataColorSpace::Rgb || !profile.is_matrix_shaper() {
        return None;
    }
    let matrix = profile.transform_matrix(&ColorProfile::new_srgb());
    let is_near = |row: usize, column: usize, v: f64| {
        (v - if row == column { 1.0 } else { 0.0 }).abs() < 2e-3
    };
    let rows = matrix.v.iter().enumerate();
    let is_srgb = rows
        .into_iter()
        .all(|(row, values)| values.iter().enumerate().all(|(column, &v)| is_near(row, column, v)));
    (!is_srgb).then_some(ToSrgb(matrix))
}

impl ToSrgb {
    /// Converts `[.., 3]` samples in place.
    pub(crate) fn convert(&self, rgb: &mut [f32]) {
        for pixel in rgb.chunks_exact_mut(3) {
            let light = [0, 1, 2].map(|c| srgb_linear(f64::from(pixel[c]).clamp(0.0, 1.0)));
            for (v, row) in pixel.iter_mut().zip(&self.0.v) {
                let light: f64 = row.iter().zip(light).map(|(m, v)| m * v).sum();
                *v = srgb_encode(light.clamp(0.0, 1.0)) as f32;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn primaries_come_back_from_their_profile() {
        // ACES' AP1, whose white is not D65; Rec. 2020.
        let aces = Chromaticities {
            red: [0.713, 0.293],
            green: [0.165, 0.83],
            blue: [0.128, 0.044],
            white: [0.32168, 0.33767],
        };
        let wide = Chromaticities {
            red: [0.708, 0.292],
            green: [0.17, 0.797],
            blue: [0.131, 0.046],
            white: [0.3127, 0.329],
        };
        for given in [aces, wide] {
            let icc = colour::encoded(&profile(given).unwrap()).unwrap();
            let found = chromaticities(Some(&icc));
            for (a, b) in found.all().iter().flatten().zip(given.all().iter().flatten()) {
                assert!((a - b).abs() < 5e-4, "{found:?}");
            }
            let linear = linear(Some(&icc), false).unwrap();
            assert_eq!(chromaticities(Some(&linear)), found);
        }
        assert!(profile(SRGB).is_none());
        assert_eq!(chromaticities(None), SRGB);
        let nonsense = Chromaticities { white: [0.3, 0.0], ..aces };
        assert!(profile(nonsense).is_none());
    }

    #[test]
    fn display_p3_becomes_srgb_and_srgb_stays() {
        assert!(to_srgb(&ColorProfile::new_srgb().encode().unwrap()).is_none());
        let grey = ColorProfile::new_gray_with_gamma(2.2).encode().unwrap();
        assert!(to_srgb(&grey).is_none());
        let p3 = to_srgb(&ColorProfile::new_display_p3().encode().unwrap()).unwrap();
        // Greys stay; a colour inside sRGB, by the matrix of CSS Color 4; P3's red, which lies outside.
        let mut rgb = [0.5, 0.5, 0.5, 0.5, 0.4, 0.3, 1.0, 0.0, 0.0];
        p3.convert(&mut rgb);
        let want = [0.5, 0.5, 0.5, 0.5193, 0.3951, 0.2845, 1.0, 0.0, 0.0];
        for (got, want) in rgb.iter().zip(want) {
            assert!((got - want).abs() < 5e-4, "{rgb:?}");
        }
    }
}
