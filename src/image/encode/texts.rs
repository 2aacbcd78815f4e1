//! Places of settings and texts in an output: chunks in PNG; in the other formats the comment of the EXIF block, JPEG's
//! comments, and the XMP packet.

use super::options::{EncodeOptions, SOFTWARE};
use crate::image::error::Warning;
use crate::image::format::Format;
use crate::image::metadata::text::{COMMENT, MAX_PLACED, PARAMETERS};
use crate::image::metadata::{ifd, xmp};

/// Most bytes of an EXIF block with a comment in a JPEG: a segment without its prefix.
const MAX_EXIF: usize = 65_533 - 6;

/// Moves the texts and the settings to where the format has a place for them. What stays in the texts are chunks of a
/// PNG or comments of a JPEG.
pub(super) fn place(options: &mut EncodeOptions, format: Format, warnings: &mut Vec<Warning>) {
    if format == Format::Png {
        // Those of an earlier run; the new ones are a text.
        options.xmp = options.xmp.take().map(xmp::without_settings);
        return;
    }
    let mut room = MAX_PLACED;
    let count = options.texts.len();
    options.texts.retain(|text| {
        let fits = text.keyword.len() + text.text.len() <= room;
        room -= if fits { text.keyword.len() + text.text.len() } else { 0 };
        fits
    });
    if options.texts.len() < count {
        warnings.push(Warning::MetadataDropped("a text", format));
    }
    let is_comment = |keyword: &str| keyword == COMMENT && format != Format::Jpeg;
    let comment = options
        .texts
        .iter()
        .position(|text| text.keyword == PARAMETERS)
        .or_else(|| options.texts.iter().position(|text| is_comment(&text.keyword)));
    // A large block is left as it is: with a comment it would be written anew.
    let small = options.exif.as_ref().is_none_or(|block| block.len() <= MAX_PLACED);
    if let Some(place) = comment.filter(|_| small) {
        let block = ifd::add_comment(options.exif.as_deref(), &options.texts[place].text);
        if let Some(block) = block.filter(|b| format != Format::Jpeg || b.len() <= MAX_EXIF) {
            options.exif = Some(block);
            options.texts.remove(place);
        }
    }
    let stays = |keyword: &str| keyword == COMMENT && format == Format::Jpeg;
    let settings = options.settings.take();
    let additions = xmp::Additions {
        settings: settings.as_deref().map(|settings| (SOFTWARE, settings)),
        texts: options.texts.iter().filter(|text| !stays(&text.keyword)).collect(),
    };
    if additions.settings.is_some() || !additions.texts.is_empty() {
        options.xmp = Some(xmp::with(options.xmp.take(), &additions));
    }
    options.texts.retain(|text| stays(&text.keyword));
}
