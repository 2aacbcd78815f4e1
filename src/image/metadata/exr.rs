//! Attributes of an OpenEXR that this program reads and writes beside the standard ones.

use std::io::Read;

use exr::meta::MetaData;
use exr::meta::attribute::{AttributeValue, Text};
use exr::meta::header::Header;

/// Attribute of the program's settings.
pub(crate) const SETTINGS: &str = "cupscale";
/// Attribute of an XMP packet, as other programs name it.
pub(crate) const XMP: &str = "xmp";

/// An attribute that is no standard one.
pub(crate) fn find<'a>(header: &'a Header, name: &str) -> Option<&'a AttributeValue> {
    let name = Text::new_or_none(name)?;
    let own = header.own_attributes.other.get(&name);
    own.or_else(|| header.shared_attributes.other.get(&name))
}

/// The settings in a file of which at most `limit` bytes are looked at.
pub(super) fn settings(file: impl Read, limit: u64) -> Option<String> {
    let read = MetaData::read_from_buffered(file.take(limit), false).ok()?;
    match find(read.headers.first()?, SETTINGS) {
        Some(AttributeValue::Text(settings)) => Some(settings.to_string()),
        _ => None,
    }
}
