//! Samples of files that go above 1, which is white, to light and through a shoulder into the working range, and back.
//! Above 1 a tone curve goes on as it ends: as a power of the sample.

use super::colour::{Colour, Curve, map_values, srgb_encode, srgb_linear};
use super::light::Shoulder;

impl Colour {
    /// `true` if the tone curves are known above white as well.
    pub(crate) fn goes_above_white(&self) -> bool {
        !matches!(self, Self::Tables { .. })
    }

    /// The brightest light that a file's samples up to `top` can mean.
    pub(crate) fn light(&self, top: f32) -> f32 {
        let of = |channel| self.light_of(channel, f64::from(top));
        [0, 1, 2].map(of).into_iter().fold(0.0, f64::max).min(f32::MAX.into()) as f32
    }

    /// File samples, not below 0, to working-space samples below a shoulder.
    pub(crate) fn enter_shoulder(&self, rgb: &mut [f32], shoulder: Shoulder) {
        map_values(rgb, |channel, v| shoulder.encode(self.light_of(channel, v.max(0.0).into())));
    }

    /// Working-space samples below a shoulder to file samples; the inverse of [`Colour::enter_shoulder`].
    pub(crate) fn leave_shoulder(&self, rgb: &mut [f32], shoulder: Shoulder) {
        map_values(rgb, |channel, v| {
            let light = shoulder.decode(v.into());
            match self {
                Self::Curves(curves) => curves[channel].encoded_above(light),
                Self::Same | Self::Tables { .. } => srgb_encode(light),
            }
        });
    }

    fn light_of(&self, channel: usize, v: f64) -> f64 {
        match self {
            Self::Curves(curves) => curves[channel].linear_above(v),
            Self::Same | Self::Tables { .. } => srgb_linear(v),
        }
    }
}

impl Shoulder {
    /// Light, not below 0, to working-space samples.
    pub(crate) fn to_working(self, rgb: &mut [f32]) {
        map_values(rgb, |_, v| self.encode(v.into()));
    }
}

impl Curve {
    /// [`Curve::linear`], which above 1 goes on as a power of the value.
    fn linear_above(&self, x: f64) -> f64 {
        let below = self.linear(x.min(1.0));
        if x > 1.0 { below * x.powf(self.exponent_at_white()) } else { below }
    }

    /// The inverse of [`Curve::linear_above`].
    fn encoded_above(&self, y: f64) -> f64 {
        let white = self.linear(1.0);
        if y > white { (y / white).powf(1.0 / self.exponent_at_white()) } else { self.encoded(y) }
    }

    /// Exponent with which light goes up with the value where the curve ends.
    fn exponent_at_white(&self) -> f64 {
        let step = match self {
            Self::Parametric { .. } => 1e-4,
            // Between its last two samples.
            Self::Table(values) => 1.0 / (values.len() - 1) as f64,
        };
        let (white, before) = (self.linear(1.0), self.linear(1.0 - step));
        let exponent = (white / before).ln() / -(-step).ln_1p();
        if exponent.is_finite() { exponent.clamp(0.1, 10.0) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use moxcms::{ColorProfile, ToneReprCurve};

    use super::*;
    use crate::image::colour::conversion;

    fn profile(trc: ToneReprCurve) -> Vec<u8> {
        let mut profile = ColorProfile::new_srgb();
        profile.cicp = None;
        profile.red_trc = Some(trc.clone());
        profile.green_trc = Some(trc.clone());
        profile.blue_trc = Some(trc);
        profile.encode().unwrap()
    }

    #[test]
    fn samples_above_white_come_back_through_every_kind_of_curve() {
        let square: Vec<u16> = (0..1024u32).map(|i| (i * i / 16) as u16).collect();
        for (colour, light_of_3) in [
            (Colour::Same, srgb_linear(3.0)),
            (conversion(&profile(ToneReprCurve::Parametric(vec![1.0])), false).unwrap(), 3.0),
            (conversion(&profile(ToneReprCurve::Parametric(vec![1.8])), false).unwrap(), 7.2247),
            (conversion(&profile(ToneReprCurve::Lut(square)), false).unwrap(), 9.0),
        ] {
            let peak = colour.light(3.0);
            assert!((f64::from(peak) / light_of_3 - 1.0).abs() < 2e-3, "{peak} {light_of_3}");
            let shoulder = Shoulder::new(peak);
            let samples: Vec<f32> = (0..3000).map(|i| i as f32 / 1000.0).collect();
            let mut rgb = samples.clone();
            colour.enter_shoulder(&mut rgb, shoulder);
            assert!(rgb.iter().all(|v| (0.0..=1.0).contains(v)));
            colour.leave_shoulder(&mut rgb, shoulder);
            for (got, want) in rgb.iter().zip(&samples).skip(40) {
                assert!((got - want).abs() <= 1e-3 * want, "{got} {want}");
            }
            assert!(rgb[0].abs() < 1e-6);
        }
    }
}
