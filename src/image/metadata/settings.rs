//! The settings that this program writes into its outputs, read back.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::Path;

use super::budget::Budget;
use super::{DEFAULT_MAX_METADATA, exr, jpeg, png, tiff, webp, xmp};
use crate::image::error::Result;
use crate::image::format::Format;
use crate::image::input::read_error;

/// The settings that an output of this program carries, as the text given to
/// [`EncodeOptions::settings`](crate::image::EncodeOptions::settings); `None` when there are none, or when the file is no
/// picture. Reads only the metadata, so it is cheap for pictures of any size.
///
/// # Errors
/// A file that cannot be opened.
pub fn read_settings(path: &Path) -> Result<Option<String>> {
    let name = path.display().to_string();
    let mut file = BufReader::new(File::open(path).map_err(|e| read_error(&name, e))?);
    // A damaged file has no settings to offer; what is wrong with it is for `decode` to say.
    Ok(settings_of(&name, &mut file))
}

/// The same of a file in memory; `None` as well where it is damaged.
#[must_use]
pub fn settings_in(bytes: &[u8]) -> Option<String> {
    settings_of("picture in memory", &mut Cursor::new(bytes))
}

fn settings_of<F: Read + Seek>(name: &str, file: &mut F) -> Option<String> {
    let mut head = Vec::new();
    file.take(16).read_to_end(&mut head).ok()?;
    file.seek(SeekFrom::Start(0)).ok()?;
    let mut budget = Budget::new(name, DEFAULT_MAX_METADATA);
    let packet = match Format::sniff(&head)? {
        Format::Png => return png::settings(file, &mut budget),
        Format::Jpeg => jpeg::packet(file),
        Format::WebP => webp::packet(file, &mut budget),
        Format::Tiff => tiff::packet(file, &budget),
        Format::Exr => return exr::settings(file, DEFAULT_MAX_METADATA),
        Format::Ppm | Format::Pam | Format::Farbfeld => return None,
    };
    packet.as_deref().and_then(xmp::settings)
}
