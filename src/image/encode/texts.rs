//! Places of settings and texts in an output: chunks in PNG; in the other formats the comment of the EXIF block, JPEG's
//! comments, and the XMP packet.

use super::jpeg::MAX_PACKET;
use super::options::{EncodeOptions, SOFTWARE};
use crate::image::error::Warning;
use crate::image::format::Format;
use crate::image::metadata::text::{COMMENT, COPYRIGHT, MAX_PLACED, PARAMETERS};
use crate::image::metadata::{ifd, iptc, photoshop, xmp};

/// Most bytes of an EXIF block with a comment in a JPEG: a segment without its prefix.
const MAX_EXIF: usize = 65_533 - 6;

/// Bytes that a packet may grow by what stands around settings and texts, and by their escaped characters.
const ROOM: usize = 16 << 10;

/// Moves the texts and the settings to where the format has a place for them. What stays in the texts are chunks of a
/// PNG or comments of a JPEG.
pub(super) fn place(options: &mut EncodeOptions, format: Format, warnings: &mut Vec<Warning>) {
    if !format.has_metadata() {
        return leave_out(options, format, warnings);
    }
    if matches!(format, Format::Png | Format::WebP | Format::Exr) {
        say_iptc(options);
    }
    if format == Format::Exr {
        // Packet, settings and two kinds of text are attributes of it.
        if options.exif.take().is_some() {
            warnings.push(Warning::MetadataDropped("EXIF", format));
        }
        let count = options.texts.len();
        options.texts.retain(|text| matches!(text.keyword.as_str(), COMMENT | COPYRIGHT));
        if options.texts.len() < count {
            warnings.push(Warning::MetadataDropped("a text", format));
        }
        return;
    }
    if format == Format::Png {
        // Those of an earlier run; the new ones are a text.
        options.xmp = options.xmp.take().and_then(xmp::without_settings);
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
    let carried = || options.texts.iter().filter(|text| !stays(&text.keyword));
    let sizes = carried().map(|text| text.text.len()).sum::<usize>()
        + options.settings.as_ref().map_or(0, String::len)
        + options.xmp.as_ref().map_or(0, Vec::len);
    // A packet that goes into parts gets no settings: they stand in the one that announces the parts, so that they
    // are found without putting the parts together.
    let in_parts = format == Format::Jpeg
        && options.xmp.as_deref().is_some_and(xmp::is_rdf)
        && sizes > MAX_PACKET - ROOM;
    let settings = if in_parts { None } else { options.settings.take() };
    let additions = xmp::Additions {
        settings: settings.as_deref().map(|settings| (SOFTWARE, settings)),
        texts: carried().collect(),
    };
    if additions.settings.is_some() || !additions.texts.is_empty() {
        options.xmp = Some(xmp::with(options.xmp.take(), &additions));
    } else if in_parts {
        options.xmp = options.xmp.take().and_then(xmp::without_settings);
    }
    // Escaped, it is larger than it seemed.
    let too_large = options.xmp.as_ref().is_some_and(|packet| packet.len() > MAX_PACKET);
    if format == Format::Jpeg && too_large && settings.is_some() {
        options.xmp = options.xmp.take().and_then(xmp::without_settings);
        options.settings = settings;
    }
    options.texts.retain(|text| stays(&text.keyword));
}

/// Says IPTC's fields in the packet, where it does not say them already, and can be added to.
fn say_iptc(options: &mut EncodeOptions) {
    let records = options.photoshop.as_deref().and_then(photoshop::iptc);
    let properties = records.map(photoshop::properties).unwrap_or_default();
    if !properties.is_empty() && options.xmp.as_deref().is_none_or(xmp::is_rdf) {
        options.xmp = Some(iptc::with_properties(options.xmp.take(), &properties));
    }
}

/// Takes out what a format of samples alone has no place for, and says what of the picture's own it was.
fn leave_out(options: &mut EncodeOptions, format: Format, warnings: &mut Vec<Warning>) {
    let mut drop = |what, was: bool| {
        if was {
            warnings.push(Warning::MetadataDropped(what, format));
        }
    };
    drop("EXIF", options.exif.take().is_some());
    drop("XMP", options.xmp.take().is_some());
    drop("IPTC", options.photoshop.take().is_some());
    drop("text", !std::mem::take(&mut options.texts).is_empty());
    drop("resolution", options.dpi.take().is_some());
    options.settings = None;
}
