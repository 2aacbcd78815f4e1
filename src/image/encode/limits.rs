//! Limits of the formats: the check that an output's size fits, before any work is done.

use crate::image::{
    error::{ImageError, Result},
    format::Format,
};

impl Format {
    /// Checks that an output of this size fits; call it before any work is done.
    ///
    /// # Errors
    /// [`ImageError::ZeroSize`], or [`ImageError::FormatLimit`], which names the limit and offers TIFF.
    pub fn check_size(self, name: &str, width: u32, height: u32) -> Result<()> {
        if width == 0 || height == 0 {
            return Err(ImageError::ZeroSize { name: name.to_owned(), width, height });
        }
        let limit = self.max_side();
        if width > limit || height > limit {
            return Err(ImageError::FormatLimit {
                name: name.to_owned(),
                format: self,
                limit,
                width,
                height,
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_wider_than_the_format_allows_is_refused_with_the_limit_and_an_alternative() {
        let message = Format::WebP.check_size("out.webp", 16_384, 10).unwrap_err().to_string();
        assert!(message.contains("16383") && message.contains("TIFF"), "{message}");
        assert!(Format::WebP.check_size("out.webp", 16_383, 10).is_ok());
        assert!(Format::Jpeg.check_size("out.jpg", 10, 65_501).is_err());
        assert!(Format::Tiff.check_size("out.tif", 100_000, 100_000).is_ok());
        assert!(Format::Png.check_size("out.png", 0, 5).is_err());
    }
}
