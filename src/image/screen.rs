//! Curves of HDR screens, whose numbers a picture keeps as they are: the light that they mean, for formats that hold light
//! or end at white. White is at 203 cd/m² (ITU-R BT.2408), and a screen of HLG goes up to 1000 cd/m².
//! Source: ITU-R BT.2100, tables 4 and 5.

use moxcms::{ColorProfile, TransferCharacteristics};

/// Light of white in cd/m².
const WHITE: f64 = 203.0;

/// A curve of HDR screens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ScreenCurve {
    /// Perceptual quantizer, SMPTE ST 2084.
    Pq,
    /// Hybrid log-gamma.
    Hlg,
}

impl ScreenCurve {
    /// The curve of a profile that says that it is one.
    pub(crate) fn of(icc: &[u8]) -> Option<Self> {
        let profile = ColorProfile::new_from_slice(icc).ok()?;
        match profile.cicp?.transfer_characteristics {
            TransferCharacteristics::Smpte2084 => Some(Self::Pq),
            TransferCharacteristics::Hlg => Some(Self::Hlg),
            _ => None,
        }
    }

    /// Light of a number in [0, 1]; white is 1.
    pub(crate) fn light(self, v: f64) -> f64 {
        let v = v.clamp(0.0, 1.0);
        match self {
            Self::Pq => {
                let power = v.powf(1.0 / 78.84375);
                let above = (power - 0.8359375).max(0.0);
                10_000.0 / WHITE
                    * (above / (18.8515625 - 18.6875 * power)).powf(1.0 / 0.1593017578125)
            }
            Self::Hlg => {
                let scene = if v <= 0.5 {
                    v * v / 3.0
                } else {
                    (((v - 0.559_910_73) / 0.178_832_77).exp() + 0.284_668_92) / 12.0
                };
                1000.0 / WHITE * scene.powf(1.2)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_white_and_of_the_brightest_light_are_those_of_the_recommendations() {
        // BT.2408: white is at 58 % of PQ and 75 % of HLG.
        assert!((ScreenCurve::Pq.light(0.5807) - 1.0).abs() < 0.01);
        assert!((ScreenCurve::Hlg.light(0.75) - 1.0).abs() < 0.01);
        assert!((ScreenCurve::Pq.light(1.0) * WHITE - 10_000.0).abs() < 0.1);
        assert!((ScreenCurve::Hlg.light(1.0) * WHITE - 1000.0).abs() < 0.1);
        assert!(ScreenCurve::Pq.light(0.0) == 0.0 && ScreenCurve::Hlg.light(0.0) == 0.0);
    }
}
