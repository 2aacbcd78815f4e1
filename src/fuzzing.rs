//! What fuzz targets reach of the inside: readers of foreign bytes that no public function offers alone. It exists only
//! under `--cfg fuzzing` (`fuzz/run.sh`), so that nothing becomes public for the sake of a test.

use std::io::{self, Cursor};
use std::path::Path;

use crate::image::metadata::ifd::{self, Exif};
use crate::image::metadata::xmp::{self, Additions};
use crate::image::metadata::{self, Metadata};
use crate::image::metadata::{iptc, photoshop};
use crate::image::{InputKind, Text};
use crate::model::llava::{LlavaError, LlavaTokenizer};
use crate::pipeline::work::journal::{Done, Journal, Record};

pub use crate::weights::fuzzing as weights;

/// Metadata of a picture file and the number of warnings; `None` where a profile is beyond the limit.
pub fn metadata(
    kind: InputKind,
    file: &[u8],
    page: usize,
    limit: u64,
) -> Option<(Metadata, usize)> {
    let mut file = Cursor::new(file);
    let read = match kind {
        InputKind::Written(format) => metadata::read("fuzz", format, &mut file, page, limit),
        _ => metadata::read_boxes("fuzz", &mut file, limit),
    };
    read.ok().map(|(metadata, warnings)| (metadata, warnings.len()))
}

/// An EXIF block as this program writes it anew.
pub fn exif_anew(block: &[u8]) -> Option<Vec<u8>> {
    Exif::parse(block).map(Exif::into_bytes)
}

/// Orientation of an EXIF block, 1 to 8.
pub fn orientation(block: &[u8]) -> u8 {
    ifd::orientation(block)
}

/// Changes an EXIF block as those of outputs are changed.
pub fn exif_of_output(block: &mut Vec<u8>, width: u32, height: u32) {
    ifd::drop_thumbnail(block);
    ifd::set_upright(block);
    ifd::set_size(block, width, height);
}

/// An EXIF block with a comment; `None` where it has one already.
pub fn exif_with_comment(block: Option<&[u8]>, comment: &str) -> Option<Vec<u8>> {
    ifd::add_comment(block, comment)
}

/// An XMP packet with settings and a text added.
pub fn xmp_with(packet: Option<Vec<u8>>, settings: &str, text: Option<&Text>) -> Vec<u8> {
    let texts = text.into_iter().collect();
    xmp::with(packet, &Additions { settings: Some(("fuzz", settings)), texts })
}

/// Settings in an XMP packet.
pub fn xmp_settings(packet: &[u8]) -> Option<String> {
    xmp::settings(packet)
}

/// A packet changed as those of outputs are changed, and the texts taken out of it, at most 16.
pub fn xmp_of_output(packet: Vec<u8>, width: u32, height: u32) -> (Vec<u8>, Vec<Text>) {
    let packet = xmp::with_size(xmp::upright(xmp::alone(packet)), width, height);
    let (packet, texts) = xmp::take_texts(packet, 16);
    (xmp::without_settings(packet).unwrap_or_default(), texts)
}

/// A packet joined with what continues it, if that is announced.
pub fn xmp_joined(packet: Vec<u8>, more: Vec<u8>) -> Vec<u8> {
    let more = xmp::extension(&packet).map(|_| more);
    xmp::joined(packet, more).unwrap_or_else(|packet| packet)
}

/// What is kept of Photoshop's image resources, or of IPTC's records alone.
pub fn photoshop_kept(block: &[u8]) -> Option<Vec<u8>> {
    photoshop::of_any(block)
}

/// A new packet that says the fields of IPTC's records.
pub fn iptc_in_xmp(records: &[u8]) -> Vec<u8> {
    iptc::with_properties(None, &photoshop::properties(records))
}

/// Tokens before and after the picture in a prompt with this text, from which special tokens are taken out.
///
/// # Errors
/// Those of the tokenizer.
pub fn llava_prompt(
    tokenizer: &LlavaTokenizer,
    text: &str,
    image_token: u32,
) -> Result<(Vec<u32>, Vec<u32>), LlavaError> {
    let prompt = format!("<image>\n{}", tokenizer.plain(text));
    tokenizer.split(&prompt, image_token).map(|prompt| (prompt.before, prompt.after))
}

/// Progress that a journal states of a job with 4 tiles, 3 steps of 5 regions and 64 rows:
/// tiles, low resolution (0 or 1), steps, regions and rows.
///
/// # Errors
/// A journal that no such job writes.
pub fn journal(path: &Path) -> io::Result<[usize; 5]> {
    let all =
        Done { enlarged: false, tiles: 4, low_resolution: true, steps: 3, regions: 5, rows: 64 };
    let journal = Journal::open(path, &all).map_err(io::Error::other)?;
    let Done { enlarged: _, tiles, low_resolution, steps, regions, rows } = journal.done();
    Ok([tiles, low_resolution.into(), steps, regions, rows])
}

/// Adds a record to a journal that [`journal`] reads: encoded tiles or decoded rows.
///
/// # Errors
/// Those of [`journal`] and of writing.
pub fn journal_append(path: &Path, tiles: usize, rows: usize) -> io::Result<()> {
    let all =
        Done { enlarged: false, tiles: 4, low_resolution: true, steps: 3, regions: 5, rows: 64 };
    let mut journal = Journal::open(path, &all).map_err(io::Error::other)?;
    let record = if rows > 0 { Record::Decoded { rows } } else { Record::Encoded { tiles } };
    journal.append(record).map_err(io::Error::other)
}
