//! Metadata of PNG, found by a walk over the chunks: the `png` crate inflates texts and profiles without a bound.
//! Source: PNG specification, third edition, sections 4.3 (precedence of colour chunks) and 11.3.

use std::io::{self, Read, Seek, SeekFrom};

use super::budget::{Block, Budget};
use super::colour_chunks::{self, ColourChunk};
use super::photoshop;
use super::text::{MAX_TEXTS, Text, from_latin1, raw_profile};
use super::{JPEG_EXIF, JPEG_XMP, Metadata, orientation_alone, plausible_dpi, xmp};
use crate::image::error::Result;

/// Keyword of the text chunk that holds the settings.
pub(crate) const SETTINGS_KEYWORD: &str = "cupscale";
/// Keyword under which an XMP packet is stored.
pub(crate) const XMP_KEYWORD: &str = "XML:com.adobe.xmp";
/// Beginning of the keywords under which ImageMagick stores blocks of other formats.
pub(crate) const RAW_PROFILE: &str = "Raw profile type ";
/// Beginning of the keywords under which ImageMagick copies single fields of an EXIF block.
const EXIF_COPY: &str = "exif:";
/// Longest keyword or language tag that is read, in bytes.
const MAX_NAME: usize = 255;
/// Most bytes of a chunk that is read in passing.
const SMALL: u64 = 64;

/// Place of a chunk's data in the file.
#[derive(Debug, Clone, Copy)]
struct Place {
    kind: [u8; 4],
    start: u64,
    length: u64,
}

/// What a walk over the chunks finds.
#[derive(Default)]
struct Chunks {
    grey: bool,
    profile: Option<Place>,
    exif: Option<Place>,
    /// Texts with their keywords.
    texts: Vec<(String, Place)>,
    /// There are more texts than are carried.
    more_texts: bool,
    colour: Vec<ColourChunk>,
    dpi: Option<(f64, f64)>,
}

/// Metadata of a PNG, from its beginning; a file that ends early gives what there is.
///
/// # Errors
/// A colour profile beyond the budget.
pub(crate) fn read<F: Read + Seek>(file: &mut F, budget: &mut Budget<'_>) -> Result<Metadata> {
    let mut chunks = Chunks::default();
    // Where the walk ends early, the decoder has to say why.
    let _ = walk(file, &mut chunks, false);
    let mut metadata = Metadata { dpi: chunks.dpi, ..Metadata::default() };
    if let Some(place) = chunks.profile {
        let block = read_profile(file, place, budget).unwrap_or(Block::Damaged);
        metadata.icc = budget.profile(block)?;
    }
    colour_chunks::resolve(&mut metadata, chunks.colour, chunks.grey, budget);
    if let Some(place) = chunks.exif {
        metadata.exif = exif(file, place, budget);
    }
    if chunks.more_texts {
        budget.too_large("a part of the texts");
    }
    // The packet goes before the texts, as what most programs read.
    chunks.texts.sort_by_key(|(keyword, _)| keyword != XMP_KEYWORD);
    for (keyword, place) in chunks.texts {
        if keyword == SETTINGS_KEYWORD || (keyword == XMP_KEYWORD && metadata.xmp.is_some()) {
            continue;
        }
        let what = if keyword == XMP_KEYWORD { "XMP" } else { "a text" };
        let read = read_text(file, place, budget);
        let (block, language, translated) =
            read.unwrap_or((Block::Damaged, String::new(), String::new()));
        let Some(data) = budget.wanted(what, block) else { continue };
        if keyword == XMP_KEYWORD {
            metadata.xmp = Some(data);
            continue;
        }
        let text = if place.kind == *b"iTXt" {
            String::from_utf8(data).unwrap_or_else(|error| from_latin1(error.into_bytes()))
        } else {
            // Characters beyond ASCII take twice their bytes.
            if !data.is_ascii() && data.len() as u64 > budget.left() {
                budget.too_large(what);
                continue;
            }
            budget.spend(if data.is_ascii() { 0 } else { data.len() as u64 });
            from_latin1(data)
        };
        if let Some(kind) = keyword.strip_prefix(RAW_PROFILE)
            && keep_raw_profile(kind, &text, &mut metadata)
        {
            continue;
        }
        metadata.texts.push(Text { keyword, text, language, translated });
    }
    if metadata.exif.is_some() {
        // They would go on stating the input's size and orientation.
        metadata.texts.retain(|text| !text.keyword.starts_with(EXIF_COPY));
    }
    if let Some(packet) = metadata.xmp.take() {
        let (packet, texts) = xmp::take_texts(packet, MAX_TEXTS);
        metadata.xmp = Some(packet);
        metadata.texts.extend(texts);
    }
    Ok(metadata)
}

/// The settings that a PNG of this program carries.
pub(crate) fn settings<F: Read + Seek>(file: &mut F, budget: &mut Budget<'_>) -> Option<String> {
    let mut chunks = Chunks::default();
    let _ = walk(file, &mut chunks, true);
    let own = chunks.texts.into_iter().find(|(keyword, _)| keyword == SETTINGS_KEYWORD);
    match read_text(file, own?.1, budget) {
        Ok((Block::Whole(data), ..)) => String::from_utf8(data).ok(),
        _ => None,
    }
}

/// Walks over all chunks, or those before the pixels.
fn walk<F: Read + Seek>(file: &mut F, chunks: &mut Chunks, head_only: bool) -> io::Result<()> {
    file.seek(SeekFrom::Start(8))?;
    let mut start = 16;
    loop {
        let mut head = [0; 8];
        file.read_exact(&mut head)?;
        let [a, b, c, d, kind @ ..] = head;
        let length = u64::from(u32::from_be_bytes([a, b, c, d]));
        let place = Place { kind, start, length };
        let mut passed = 0;
        match &kind {
            b"IEND" => return Ok(()),
            b"IDAT" if head_only => return Ok(()),
            b"iCCP" if chunks.profile.is_none() => chunks.profile = Some(place),
            b"eXIf" if chunks.exif.is_none() => chunks.exif = Some(place),
            b"tEXt" | b"zTXt" | b"iTXt" => {
                let mut data = Data::new(file, place);
                let keyword = data.name().ok();
                passed = data.passed();
                match keyword {
                    Some(_) if chunks.texts.len() == MAX_TEXTS => chunks.more_texts = true,
                    Some(keyword) => chunks.texts.push((from_latin1(keyword), place)),
                    None => {}
                }
            }
            b"IHDR" | b"pHYs" | b"cICP" | b"gAMA" | b"cHRM" | b"sRGB" | b"mDCV" | b"cLLI"
                if length <= SMALL =>
            {
                let mut data = Vec::new();
                file.by_ref().take(length).read_to_end(&mut data)?;
                passed = data.len() as u64;
                match &kind {
                    b"IHDR" => chunks.grey = matches!(data.get(9), Some(0 | 4)),
                    b"pHYs" => chunks.dpi = dpi(&data),
                    _ if chunks.colour.iter().all(|chunk| chunk.kind != kind) => {
                        chunks.colour.push(ColourChunk { kind, data });
                    }
                    _ => {}
                }
            }
            kind if !kind.iter().all(u8::is_ascii_alphabetic) => return Ok(()),
            _ => {}
        }
        file.seek_relative((length - passed + 4) as i64)?;
        start += length + 12;
    }
}

fn dpi(data: &[u8]) -> Option<(f64, f64)> {
    let [a, b, c, d, e, f, g, h, 1] = *data else { return None };
    let per_inch = |bytes| f64::from(u32::from_be_bytes(bytes)) * 0.0254;
    plausible_dpi(per_inch([a, b, c, d]), per_inch([e, f, g, h]))
}

/// Data of a chunk, whose checksum is computed on the way.
struct Data<'f, F> {
    file: io::Take<&'f mut F>,
    length: u64,
    sum: crc32fast::Hasher,
}

impl<'f, F: Read> Data<'f, F> {
    /// For a file that is at the chunk's data.
    fn new(file: &'f mut F, place: Place) -> Self {
        let mut sum = crc32fast::Hasher::new();
        sum.update(&place.kind);
        Self { file: file.take(place.length), length: place.length, sum }
    }

    fn passed(&self) -> u64 {
        self.length - self.file.limit()
    }

    /// The bytes up to the next zero, which is passed.
    fn name(&mut self) -> io::Result<Vec<u8>> {
        let mut name = Vec::new();
        loop {
            match self.byte()? {
                0 => return Ok(name),
                _ if name.len() == MAX_NAME => return Err(io::ErrorKind::InvalidData.into()),
                byte => name.push(byte),
            }
        }
    }

    fn byte(&mut self) -> io::Result<u8> {
        let mut byte = [0];
        self.read_exact(&mut byte)?;
        Ok(byte[0])
    }

    /// Everything up to the end of the chunk, as it is.
    fn rest(&mut self, budget: &mut Budget<'_>) -> io::Result<Block> {
        let length = self.file.limit();
        budget.take(self, length)
    }

    /// The block, if the chunk is as it was written.
    fn checked(mut self, block: Block) -> io::Result<Block> {
        if !matches!(block, Block::Whole(_)) {
            return Ok(block);
        }
        io::copy(&mut self, &mut io::sink())?;
        let mut stated = [0; 4];
        self.file.into_inner().read_exact(&mut stated)?;
        let same = self.sum.finalize().to_be_bytes() == stated;
        Ok(if same { block } else { Block::Damaged })
    }
}

impl<F: Read> Read for Data<'_, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.sum.update(&buffer[..count]);
        Ok(count)
    }
}

fn data_at<F: Read + Seek>(file: &mut F, place: Place) -> io::Result<Data<'_, F>> {
    file.seek(SeekFrom::Start(place.start))?;
    Ok(Data::new(file, place))
}

/// Body of iCCP: name, 0, method, stream.
fn read_profile<F: Read + Seek>(
    file: &mut F,
    place: Place,
    budget: &mut Budget<'_>,
) -> io::Result<Block> {
    let mut data = data_at(file, place)?;
    data.name()?;
    data.byte()?;
    let block = budget.inflate(&mut data);
    data.checked(block)
}

/// The text of a chunk, its language and its keyword in that language. Bodies: keyword, 0, and then in tEXt the text, in
/// zTXt method and stream, in iTXt compression flag and method, language, 0, translation, 0, text or stream.
fn read_text<F: Read + Seek>(
    file: &mut F,
    place: Place,
    budget: &mut Budget<'_>,
) -> io::Result<(Block, String, String)> {
    let mut data = data_at(file, place)?;
    data.name()?;
    let (mut language, mut translated) = (String::new(), String::new());
    let compressed = match &place.kind {
        b"zTXt" => {
            data.byte()?;
            true
        }
        b"iTXt" => {
            let compressed = data.byte()? == 1;
            data.byte()?;
            language = from_latin1(data.name()?);
            translated = String::from_utf8_lossy(&data.name()?).into_owned();
            compressed
        }
        _ => false,
    };
    let block = if compressed { budget.inflate(&mut data) } else { data.rest(budget)? };
    Ok((data.checked(block)?, language, translated))
}

fn exif<F: Read + Seek>(file: &mut F, place: Place, budget: &mut Budget<'_>) -> Option<Vec<u8>> {
    let mut data = data_at(file, place).ok()?;
    let mut block = data.rest(budget).ok()?;
    if matches!(block, Block::TooLarge) {
        return orientation_alone(&mut data, budget);
    }
    block = data.checked(block).ok()?;
    budget.wanted("EXIF", block)
}

/// Takes a block that ImageMagick stored as a text, unless the file has the block itself; `false` for kinds that stay
/// texts.
fn keep_raw_profile(kind: &str, text: &str, metadata: &mut Metadata) -> bool {
    match kind {
        "exif" | "APP1" | "app1" => {
            let Some(block) = raw_profile(text) else { return true };
            if let Some(packet) = block.strip_prefix(JPEG_XMP) {
                metadata.xmp.get_or_insert_with(|| packet.to_vec());
            } else {
                let block = block.strip_prefix(JPEG_EXIF).unwrap_or(&block);
                metadata.exif.get_or_insert_with(|| block.to_vec());
            }
            true
        }
        "iptc" | "8bim" => {
            let Some(block) = raw_profile(text).and_then(|block| photoshop::of_any(&block)) else {
                return false;
            };
            metadata.photoshop.get_or_insert(block);
            true
        }
        "xmp" => {
            if let Some(packet) = raw_profile(text) {
                metadata.xmp.get_or_insert(packet);
            }
            true
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Cursor, Write};

    use flate2::{Compression, write::ZlibEncoder};

    use super::*;
    use crate::image::error::Warning;

    fn chunk(kind: &[u8; 4], parts: &[&[u8]]) -> Vec<u8> {
        let data = parts.concat();
        let sum = crc32fast::hash(&[kind, data.as_slice()].concat());
        [&(data.len() as u32).to_be_bytes(), &kind[..], &data, &sum.to_be_bytes()].concat()
    }

    fn deflated(data: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn read_from(chunks: &[Vec<u8>], limit: u64) -> (Result<Metadata>, Vec<Warning>) {
        let header = chunk(b"IHDR", &[&[0, 0, 0, 1, 0, 0, 0, 1, 8, 2, 0, 0, 0]]);
        let file = [&b"\x89PNG\r\n\x1a\n"[..], &header, &chunks.concat()].concat();
        let mut budget = Budget::new("x.png", limit);
        let metadata = read(&mut Cursor::new(file), &mut budget);
        (metadata, budget.into_warnings())
    }

    #[test]
    fn texts_of_every_kind_are_read_before_and_behind_the_pixels() {
        let packed = deflated("a木".as_bytes());
        let mut damaged = chunk(b"tEXt", &[b"Comment\0hello"]);
        *damaged.last_mut().unwrap() ^= 1;
        let (metadata, warnings) = read_from(
            &[
                chunk(b"tEXt", &[b"Title\0Gr\xfcn"]),
                damaged,
                chunk(b"iTXt", &[b"Description\0\x01\0ja\0k\xe6\x9c\xa8\0", &packed]),
                chunk(b"iTXt", &[b"cupscale\0\0\0\0\0{}"]),
                chunk(b"IDAT", &[]),
                chunk(b"zTXt", &[b"workflow\0\0", &deflated(b"{\"nodes\":[]}")]),
                chunk(b"tEXt", &[b"exif:Orientation\x006"]),
                chunk(b"tEXt", &[b"Raw profile type exif\0\nexif\n    10\n45786966000049492a00\n"]),
                chunk(b"IEND", &[]),
            ],
            1000,
        );
        let metadata = metadata.unwrap();
        let mut described = Text::new("Description".into(), "a木".into());
        (described.language, described.translated) = ("ja".into(), "k木".into());
        let title = Text::new("Title".into(), "Grün".into());
        let workflow = Text::new("workflow".into(), "{\"nodes\":[]}".into());
        assert_eq!(metadata.texts, [title, described, workflow]);
        assert_eq!(metadata.exif.as_deref(), Some(&b"II*\0"[..]));
        assert_eq!(warnings, [Warning::MetadataDamaged("a text")]);
    }

    #[test]
    fn what_goes_beyond_the_budget_is_left_out_unless_the_colours_need_it() {
        let bomb = deflated(&vec![0; 1 << 20]);
        let xmp = chunk(b"iTXt", &[b"XML:com.adobe.xmp\0\x01\0\0\0", &bomb]);
        let orientation = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x06\0\0\0\0\0\0\0";
        let exif = chunk(b"eXIf", &[orientation, &[0; 5000]]);
        let (metadata, warnings) = read_from(&[xmp, exif], 4096);
        let metadata = metadata.unwrap();
        assert_eq!(metadata.xmp, None);
        assert_eq!(super::super::ifd::orientation(&metadata.exif.unwrap()), 6);
        let too_large = |what| Warning::MetadataTooLarge { what, limit: 4096 };
        assert_eq!(warnings, [too_large("EXIF"), too_large("XMP")]);
        let profile = chunk(b"iCCP", &[b"x\0\0", &bomb]);
        assert!(read_from(&[profile], 4096).0.is_err());
    }

    #[test]
    fn the_chunk_that_goes_before_the_others_says_what_colours_mean() {
        let gamma = |value: u32| chunk(b"gAMA", &[&value.to_be_bytes()]);
        let code = chunk(b"cICP", &[&[12, 13, 0, 1]]);
        let srgb = chunk(b"sRGB", &[&[0]]);
        let profile = chunk(b"iCCP", &[b"x\0\0", &deflated(b"a profile")]);
        for (chunks, icc, kept) in [
            (vec![gamma(45_455)], false, 1),
            (vec![gamma(100_000)], true, 1),
            (vec![gamma(0)], false, 0),
            (vec![gamma(100_000), srgb.clone()], false, 2),
            (vec![gamma(100_000), profile.clone(), srgb], true, 0),
            (vec![gamma(100_000), profile, code], true, 2),
        ] {
            let (metadata, warnings) = read_from(&chunks, 1 << 20);
            let metadata = metadata.unwrap();
            assert_eq!((metadata.icc.is_some(), metadata.colour_chunks.len()), (icc, kept));
            assert_eq!(warnings, []);
        }
        // Linear light: half of it is 188 in sRGB. The profile is the same at any time.
        let metadata = read_from(&[gamma(100_000)], 1 << 20).0.unwrap();
        let colour = crate::image::colour::conversion(&metadata.icc.unwrap(), false).unwrap();
        let mut half = [0.5f32; 3];
        colour.to_working(&mut half);
        assert!((half[1] - 188.0 / 255.0).abs() < 2e-3, "{half:?}");
    }

    #[test]
    fn a_file_that_ends_anywhere_gives_what_there_is() {
        let chunks = [
            chunk(b"gAMA", &[&[0, 0, 1, 0]]),
            chunk(b"zTXt", &[b"k\0\0", &deflated(b"text")]),
            chunk(b"IEND", &[]),
        ]
        .concat();
        for end in 0..chunks.len() {
            read_from(&[chunks[..end].to_vec()], 100).0.unwrap();
        }
    }
}
