//! Shape of the jobs that a denoiser can do.

/// Properties of a denoiser that decide the shape of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenoiserShape {
    /// Channels of a latent and of a prediction.
    pub channels: usize,
    /// Side of a square that it was trained on, in latent pixels; a multiple of `multiple`.
    pub native: usize,
    /// Number that heights and widths must be multiples of, in latent pixels; at least 1.
    pub multiple: usize,
    /// `true` if it takes the low-resolution latent as well, in channels behind those of the sample.
    pub sees_low_resolution: bool,
}

impl DenoiserShape {
    /// The largest native size believed, in latent pixels: sixteen times SDXL's.
    const MAX_NATIVE: usize = 2048;

    /// The shape of a denoiser with these channels and this native height and width.
    pub(super) fn new(
        (inputs, outputs): (usize, usize),
        native: Option<(usize, usize)>,
        multiple: usize,
    ) -> Result<Self, String> {
        let sees_low_resolution = match inputs {
            own if own == outputs => false,
            own if own == 2 * outputs => true,
            own => {
                return Err(format!(
                    "takes {own} channels: neither the latent's {outputs} nor twice as many (an inpainting \
                     model?)"
                ));
            }
        };
        let native = match native {
            Some((height, width))
                if height == width
                    && height.is_multiple_of(multiple)
                    && (1..=Self::MAX_NATIVE).contains(&height) =>
            {
                height
            }
            Some((height, width)) => {
                return Err(format!(
                    "has a native size of {width} × {height} latent pixels, which is no square, no multiple \
                     of {multiple}, or above {}",
                    Self::MAX_NATIVE
                ));
            }
            None => return Err("names no native size (sample_size)".to_owned()),
        };
        Ok(Self { channels: outputs, native, multiple, sees_low_resolution })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shape_that_no_job_can_have_is_refused() {
        let shape = |channels, native| DenoiserShape::new(channels, native, 8);
        let plain = shape((4, 4), Some((128, 128))).unwrap();
        assert!(!plain.sees_low_resolution);
        assert!(shape((8, 4), Some((64, 64))).unwrap().sees_low_resolution);
        for (channels, native, word) in [
            ((9, 4), Some((64, 64)), "inpainting"),
            ((4, 4), Some((64, 72)), "no square"),
            ((4, 4), Some((60, 60)), "no multiple of 8"),
            ((4, 4), Some((4096, 4096)), "above 2048"),
            ((4, 4), None, "sample_size"),
        ] {
            let reason = shape(channels, native).unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }
}
