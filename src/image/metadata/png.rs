//! Metadata of PNG, found by a walk over the chunks: the `png` crate inflates texts and profiles without a bound.
//! Source: PNG specification, third edition, sections 4.3 (precedence of colour chunks) and 11.3.

use std::io::{self, Read, Seek, SeekFrom};

use super::budget::{Block, Budget};
use super::colour_chunks::{self, ColourChunk};
use super::text::{MAX_TEXTS, Text, from_latin1, raw_profile};
use super::{JPEG_EXIF, JPEG_XMP, Metadata, orientation_alone, plausible_dpi, xmp};
use crate::image::error::Result;

/// Keyword of the text chunk that holds the settings.
pub(crate) const SETTINGS_KEYWORD: &str = "cupscale";
/// Keyword under which an XMP packet is stored.
pub(crate) const XMP_KEYWORD: &str = "XML:com.adobe.xmp";
/// Beginning of the keywords under which ImageMagick stores blocks of other formats.
const RAW_PROFILE: &str = "Raw profile type ";
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
            String::from_utf8(data).unwrap_or_else(|error| from_latin1(error.as_bytes()))
        } else {
            from_latin1(&data)
        };
        if let Some(kind) = keyword.strip_prefix(RAW_PROFILE)
            && keep_raw_profile(kind, &text, &mut metadata)
        {
            continue;
        }
        metadata.texts.push(Text { keyword, text, language, translated });
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
                    Some(keyword) => chunks.texts.push((from_latin1(&keyword), place)),
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
            language = from_latin1(&data.name()?);
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
        "xmp" => {
            if let Some(packet) = raw_profile(text) {
                metadata.xmp.get_or_insert(packet);
            }
            true
        }
        _ => false,
    }
}
