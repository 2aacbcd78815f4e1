//! Shape of the jobs that a denoiser can do.

/// Properties of a denoiser that decide the shape of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenoiserShape {
    /// Channels of a latent and of a prediction.
    pub channels: usize,
    /// Native size: side of the square that it was trained on, in latent pixels; a multiple of `multiple`.
    pub native: usize,
    /// Number that heights and widths must be multiples of, in latent pixels; at least 1.
    pub multiple: usize,
    /// Largest height and width, in latent pixels, where there is one: a multiple of `multiple`, at least `native`.
    pub largest: Option<usize>,
    /// `true` if it takes the low-resolution latent as well, in channels behind those of the sample.
    pub sees_low_resolution: bool,
}

impl DenoiserShape {
    /// Largest native size that is accepted, in latent pixels: sixteen times SDXL's.
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
            // What a mask covers is blanked before such a model sees it, so that with all of the picture covered it would
            // see nothing of the picture but the noised latent.
            own if own == 2 * outputs + 1 => {
                return Err(format!(
                    "takes {own} channels, a mask and the masked picture beside the latent: an inpainting \
                     model, which would not see what it repaints; use the model that it was made from"
                ));
            }
            own => {
                return Err(format!(
                    "takes {own} channels: neither the latent's {outputs} nor twice as many"
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
        Ok(Self { channels: outputs, native, multiple, largest: None, sees_low_resolution })
    }

    /// The same shape for samples of at most so many latent pixels a side.
    pub(super) fn with_largest(self, largest: usize) -> Result<Self, String> {
        if largest < self.native || !largest.is_multiple_of(self.multiple) {
            return Err(format!(
                "takes {largest} latent pixels a side at most, its native size is {}",
                self.native
            ));
        }
        Ok(Self { largest: Some(largest), ..self })
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
        assert_eq!(plain.with_largest(192).unwrap().largest, Some(192));
        assert!(plain.with_largest(96).is_err() && plain.with_largest(193).is_err());
        assert!(shape((8, 4), Some((64, 64))).unwrap().sees_low_resolution);
        for (channels, native, word) in [
            ((9, 4), Some((64, 64)), "an inpainting model"),
            ((7, 4), Some((64, 64)), "nor twice as many"),
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
