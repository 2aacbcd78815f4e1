//! Light above white: the transform between scene-referred light and the working range, [0, 1], in which a picture is
//! resized and repainted (docs/method.md §9).
//!
//! Up to half of white it is sRGB's curve to the letter. Above, a shoulder continues the curve with the same slope and
//! goes over into a logarithm, which reaches 1 at the brightest light of the picture. So nothing is cut, black, greys and
//! skin keep the numbers that the model was trained on, and the way back is exact.

use super::colour::{srgb_encode, srgb_linear};

/// Light from which on the shoulder takes over; white is 1.
const KNEE: f64 = 0.5;

/// Light of a picture that goes above white.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Light {
    /// The brightest light of the picture, on a scale on which white is 1.
    pub peak: f32,
    /// The file's numbers are light itself, and not encoded by a tone curve.
    pub linear: bool,
}

/// The transform for pictures with a certain brightest light.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Shoulder {
    /// Sharpness of the bend into the logarithm; `None` where no light is above white, and sRGB's curve does.
    bend: Option<f64>,
    /// sRGB's curve at the knee, and its slope there.
    knee: f64,
    slope: f64,
}

impl Shoulder {
    pub(crate) fn new(peak: f32) -> Self {
        let peak = f64::from(peak);
        let (knee, slope) = (srgb_encode(KNEE), 1.055 / 2.4 * KNEE.powf(1.0 / 2.4 - 1.0));
        if peak.is_nan() || peak <= 1.0 {
            return Self { bend: None, knee, slope };
        }
        // The sharper the bend, the farther the room above the knee reaches.
        let reaches = |bend: f64| slope / bend * (bend * (peak - KNEE)).ln_1p() <= 1.0 - knee;
        let (mut low, mut high) = (1e-3f64, 1e6f64);
        // Halves on a scale of factors: as often as f64 has digits.
        for _ in 0..100 {
            let middle = (low * high).sqrt();
            if reaches(middle) { high = middle } else { low = middle }
        }
        Self { bend: Some(high), knee, slope }
    }

    /// Working-space value of light; 1 at the peak.
    pub(crate) fn encode(self, light: f64) -> f64 {
        match self.bend {
            Some(bend) if light > KNEE => {
                (self.knee + (bend * (light - KNEE)).ln_1p() * self.slope / bend).min(1.0)
            }
            _ => srgb_encode(light.clamp(0.0, 1.0)),
        }
    }

    /// Light of a working-space value; the inverse of [`encode`](Self::encode).
    pub(crate) fn decode(self, value: f64) -> f64 {
        let value = value.clamp(0.0, 1.0);
        match self.bend {
            Some(bend) if value > self.knee => {
                KNEE + ((value - self.knee) * bend / self.slope).exp_m1() / bend
            }
            _ => srgb_linear(value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn light_comes_back_through_an_f32_to_a_thousandth() {
        for peak in [0.7, 1.0, 1.0001, 1.3, 4.0, 64.0, 65_504.0, 1e9, f32::MAX] {
            let shoulder = Shoulder::new(peak);
            for i in 0..=4000 {
                // From a hundred-thousandth up, at equal factors.
                let light = f64::from(peak) * 10f64.powf(-f64::from(i) / 4000.0 * 5.0);
                let back = shoulder.decode(f64::from(shoulder.encode(light) as f32));
                let cut = light.min(f64::from(peak).max(1.0));
                assert!((back - cut).abs() <= 1e-3 * cut, "peak {peak}: {light} became {back}");
            }
            assert_eq!(shoulder.decode(shoulder.encode(0.0)), 0.0);
        }
    }

    #[test]
    fn the_curve_is_srgbs_below_the_knee_and_smooth_and_rising_above() {
        for peak in [1.5, 16.0, 65_504.0] {
            let shoulder = Shoulder::new(peak);
            for i in 0..=500 {
                let light = f64::from(i) / 1000.0;
                assert_eq!(shoulder.encode(light), srgb_encode(light));
            }
            let step = 1e-4;
            let rise = |from: f64| (shoulder.encode(from + step) - shoulder.encode(from)) / step;
            assert!((rise(KNEE - step) / rise(KNEE) - 1.0).abs() < 0.01);
            let steps = (0..1000).map(|i| KNEE + (f64::from(peak) - KNEE) * f64::from(i) / 1000.0);
            let values: Vec<f64> = steps.map(|light| shoulder.encode(light)).collect();
            assert!(values.windows(2).all(|pair| pair[0] < pair[1]));
            assert!((shoulder.encode(peak.into()) - 1.0).abs() < 1e-9);
        }
    }

    #[test]
    fn a_picture_that_ends_at_white_has_srgbs_curve() {
        let shoulder = Shoulder::new(1.0);
        assert_eq!(shoulder.encode(0.8), srgb_encode(0.8));
        assert!((shoulder.encode(3.0) - 1.0).abs() < 1e-9);
    }
}
