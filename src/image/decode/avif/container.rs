//! The file around an AVIF: which items are the picture, its transparency and its metadata, of which tiles they are made, and
//! how they are turned. Nothing is decoded, and no length is believed beyond the file.
//! Source: ISO/IEC 14496-12 (boxes); ISO/IEC 23008-12, 6.5, 6.6 and 9 (items, properties, grids); AV1 Image File Format 1.1.

use std::ops::Range;

/// Items, properties, references and tiles of a file that are looked at.
const MOST: usize = 4096;

/// Why a file is not read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Refusal {
    Damaged(&'static str),
    Unsupported(&'static str),
}

type Result<T> = std::result::Result<T, Refusal>;

const TRUNCATED: Refusal = Refusal::Damaged("truncated");

/// One channel group, colours or transparency: tiles of one size, row by row.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Layer {
    pub width: u32,
    pub height: u32,
    pub rows: usize,
    pub columns: usize,
    /// Coded data of each tile.
    pub tiles: Vec<Vec<u8>>,
}

/// Colour that is stated by numbers (ITU-T H.273).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Numbers {
    pub primaries: u16,
    pub transfer: u16,
    pub matrix: u16,
    pub full_range: bool,
}

/// What a file holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Contents {
    pub colours: Layer,
    pub alpha: Option<Layer>,
    /// Colours are multiplied by the transparency.
    pub premultiplied: bool,
    /// Quarter turns against the clock.
    pub turns: u8,
    /// Mirrored, after the turns: top to bottom (0) or left to right (1).
    pub mirror: Option<u8>,
    /// Bits of a sample, of the first channel.
    pub depth: u8,
    pub is_grey: bool,
    pub numbers: Option<Numbers>,
    pub icc: Option<Vec<u8>>,
    pub exif: Option<Vec<u8>>,
    pub xmp: Option<Vec<u8>>,
}

/// Bytes that are read in order.
#[derive(Clone)]
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(TRUNCATED)?;
        self.0 = rest;
        Ok(taken)
    }

    /// A number of up to eight bytes.
    fn number(&mut self, bytes: usize) -> Result<u64> {
        Ok(self.take(bytes)?.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
    }

    fn u16(&mut self) -> Result<u16> {
        Ok(self.number(2)? as u16)
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(self.number(4)? as u32)
    }

    /// Version and flags of a full box.
    fn version(&mut self) -> Result<(u8, u32)> {
        let head = self.u32()?;
        Ok(((head >> 24) as u8, head & 0xFF_FFFF))
    }

    /// The next box: its kind and contents.
    fn next_box(&mut self) -> Result<Option<([u8; 4], Bytes<'a>)>> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let stated = self.number(4)?;
        let kind = self.take(4)?;
        let kind = [kind[0], kind[1], kind[2], kind[3]];
        let length = match stated {
            0 => self.0.len() as u64,
            1 => self.number(8)?.checked_sub(16).ok_or(TRUNCATED)?,
            stated => stated.checked_sub(8).ok_or(TRUNCATED)?,
        };
        let length = usize::try_from(length).map_err(|_| TRUNCATED)?;
        Ok(Some((kind, Bytes(self.take(length)?))))
    }

    /// Every box in these bytes.
    fn boxes(mut self) -> Result<Vec<([u8; 4], Bytes<'a>)>> {
        let mut found = Vec::new();
        while let Some(next) = self.next_box()? {
            if found.len() == MOST {
                return Err(Refusal::Damaged("too many boxes"));
            }
            found.push(next);
        }
        Ok(found)
    }
}

/// An item of the file.
#[derive(Default)]
struct Item<'a> {
    id: u32,
    kind: [u8; 4],
    /// Type of a `mime` item.
    mime: &'a [u8],
    /// The pieces lie in the box `idat`, and not in the file.
    is_inside: bool,
    pieces: Vec<Range<u64>>,
    /// Numbers of properties, from 1.
    properties: Vec<usize>,
}

/// A reference from an item to others.
struct Reference {
    kind: [u8; 4],
    from: u32,
    to: Vec<u32>,
}

#[derive(Default)]
struct Meta<'a> {
    primary: u32,
    items: Vec<Item<'a>>,
    properties: Vec<([u8; 4], &'a [u8])>,
    references: Vec<Reference>,
    inside: &'a [u8],
}

/// Reads what an AVIF holds.
///
/// # Errors
/// Files that are cut short, contradict themselves, or are made of other items than pictures and grids of pictures.
pub(super) fn contents(file: &[u8]) -> Result<Contents> {
    let mut at = Bytes(file);
    let mut meta = None;
    // The boxes behind the pictures' data may be cut off.
    while meta.is_none() {
        match at.next_box()? {
            Some((kind, body)) if kind == *b"meta" => meta = Some(body),
            Some(_) => {}
            None => return Err(Refusal::Unsupported("an animation without a still picture")),
        }
    }
    let Some(body) = meta else { return Err(TRUNCATED) };
    let meta = Meta::read(body)?;
    let primary = meta.item(meta.primary)?;
    let mut found =
        Contents { colours: meta.layer(file, primary)?, depth: 8, ..Contents::default() };
    for (kind, data) in meta.properties_of(primary) {
        let mut data = Bytes(data);
        match &kind {
            b"irot" => found.turns = data.number(1)? as u8 & 3,
            b"imir" => found.mirror = Some(data.number(1)? as u8 & 1),
            b"pixi" => {
                data.version()?;
                let channels = data.number(1)?;
                found.depth = data.number(1)? as u8;
                found.is_grey = channels == 1;
            }
            b"colr" => match data.take(4)? {
                b"nclx" => {
                    let [primaries, transfer, matrix] = [data.u16()?, data.u16()?, data.u16()?];
                    let full_range = data.number(1)? & 0x80 != 0;
                    found.numbers = Some(Numbers { primaries, transfer, matrix, full_range });
                }
                b"prof" | b"rICC" => found.icc = Some(data.0.to_vec()),
                _ => {}
            },
            _ => {}
        }
    }
    // The configuration is that of the tiles, where there are any.
    let coded = meta.tiles(primary).first().copied().unwrap_or(meta.primary);
    for (kind, data) in meta.properties_of(meta.item(coded)?) {
        if kind == *b"av1C"
            && let Some(flags) = data.get(2)
        {
            found.is_grey |= flags & 0x10 != 0;
            found.depth = match (flags & 0x40 != 0, flags & 0x20 != 0) {
                (false, _) => 8,
                (true, false) => 10,
                (true, true) => 12,
            };
        }
    }
    let of_primary = |reference: &&Reference| reference.to.contains(&meta.primary);
    for reference in meta.references.iter().filter(of_primary) {
        let item = meta.item(reference.from)?;
        match &reference.kind {
            b"auxl" if meta.is_alpha(item) => found.alpha = Some(meta.layer(file, item)?),
            b"cdsc" if item.kind == *b"Exif" => {
                let data = meta.data(file, item)?;
                // Before the block stands where in it the header is.
                let start = Bytes(&data).u32().map_or(0, |at| at as usize + 4);
                found.exif = data.get(start..).map(<[u8]>::to_vec);
            }
            b"cdsc" if item.mime == b"application/rdf+xml" => {
                found.xmp = Some(meta.data(file, item)?);
            }
            _ => {}
        }
    }
    found.premultiplied = (meta.references.iter())
        .any(|reference| reference.kind == *b"prem" && reference.from == meta.primary);
    if let Some(alpha) = &found.alpha
        && (alpha.width, alpha.height) != (found.colours.width, found.colours.height)
    {
        return Err(Refusal::Unsupported("transparency of another size"));
    }
    Ok(found)
}

impl<'a> Meta<'a> {
    fn read(mut body: Bytes<'a>) -> Result<Self> {
        body.version()?;
        let mut meta = Self::default();
        let boxes = body.boxes()?;
        // Items come first: others speak of them.
        for (_, body) in boxes.iter().filter(|(kind, _)| kind == b"iinf") {
            meta.item_infos(body.clone())?;
        }
        for (kind, mut body) in boxes {
            match &kind {
                b"pitm" => {
                    let (version, _) = body.version()?;
                    meta.primary = body.number(if version == 0 { 2 } else { 4 })? as u32;
                }
                b"iloc" => meta.locations(body)?,
                b"iref" => meta.item_references(body)?,
                b"idat" => meta.inside = body.0,
                b"iprp" => {
                    let parts = body.boxes()?;
                    for (_, body) in parts.iter().filter(|(kind, _)| kind == b"ipco") {
                        let found = body.clone().boxes()?;
                        meta.properties = found.into_iter().map(|(kind, b)| (kind, b.0)).collect();
                    }
                    for (_, body) in parts.into_iter().filter(|(kind, _)| kind == b"ipma") {
                        meta.associations(body)?;
                    }
                }
                _ => {}
            }
        }
        Ok(meta)
    }

    fn item_infos(&mut self, mut body: Bytes<'a>) -> Result<()> {
        let (version, _) = body.version()?;
        body.number(if version == 0 { 2 } else { 4 })?;
        for (kind, mut body) in body.boxes()? {
            if kind != *b"infe" {
                continue;
            }
            let (version, _) = body.version()?;
            if !matches!(version, 2 | 3) {
                continue;
            }
            let id = body.number(if version == 2 { 2 } else { 4 })? as u32;
            body.u16()?;
            let kind = body.take(4)?;
            let mut item =
                Item { id, kind: [kind[0], kind[1], kind[2], kind[3]], ..Item::default() };
            if item.kind == *b"mime" {
                // A name and a type, each with a zero at its end.
                item.mime = body.0.split(|&byte| byte == 0).nth(1).unwrap_or_default();
            }
            self.items.push(item);
        }
        Ok(())
    }

    fn locations(&mut self, mut body: Bytes<'a>) -> Result<()> {
        let (version, _) = body.version()?;
        let sizes = body.u16()?;
        let size = |at: u16| usize::from(sizes >> at & 15);
        let (of_offset, of_length, of_base) = (size(12), size(8), size(4));
        let of_index = if version == 0 { 0 } else { size(0) };
        if [of_offset, of_length, of_base, of_index].iter().any(|&size| size > 8) {
            return Err(Refusal::Damaged("lengths of so many bytes"));
        }
        let of_id = if version < 2 { 2 } else { 4 };
        for _ in 0..body.number(of_id)? {
            let id = body.number(of_id)? as u32;
            let way = if version == 0 { 0 } else { body.u16()? & 15 };
            body.u16()?;
            let base = body.number(of_base)?;
            let mut pieces = Vec::new();
            for _ in 0..body.u16()? {
                body.number(of_index)?;
                let start = base.saturating_add(body.number(of_offset)?);
                let length = body.number(of_length)?;
                // No length is the rest.
                let end = if of_length == 0 { u64::MAX } else { start.saturating_add(length) };
                pieces.push(start..end);
            }
            if let Some(item) = self.items.iter_mut().find(|item| item.id == id) {
                if way > 1 {
                    return Err(Refusal::Unsupported("items made of other items"));
                }
                item.is_inside = way == 1;
                item.pieces = pieces;
            }
        }
        Ok(())
    }

    fn item_references(&mut self, mut body: Bytes<'a>) -> Result<()> {
        let (version, _) = body.version()?;
        let of_id = if version == 0 { 2 } else { 4 };
        for (kind, mut body) in body.boxes()? {
            let from = body.number(of_id)? as u32;
            let mut to = Vec::new();
            for _ in 0..body.u16()? {
                to.push(body.number(of_id)? as u32);
            }
            self.references.push(Reference { kind, from, to });
        }
        Ok(())
    }

    fn associations(&mut self, mut body: Bytes<'a>) -> Result<()> {
        let (version, flags) = body.version()?;
        for _ in 0..body.u32()? {
            let id = body.number(if version == 0 { 2 } else { 4 })? as u32;
            let mut properties = Vec::new();
            for _ in 0..body.number(1)? {
                // The highest bit says that the property is essential.
                let number = match flags & 1 {
                    0 => body.number(1)? & 0x7F,
                    _ => body.number(2)? & 0x7FFF,
                };
                properties.push(number as usize);
            }
            if let Some(item) = self.items.iter_mut().find(|item| item.id == id) {
                item.properties = properties;
            }
        }
        Ok(())
    }

    fn item(&self, id: u32) -> Result<&Item<'a>> {
        let item = self.items.iter().find(|item| item.id == id);
        item.ok_or(Refusal::Damaged("an item that is not there"))
    }

    fn properties_of(&self, item: &Item<'a>) -> impl Iterator<Item = ([u8; 4], &'a [u8])> {
        item.properties.iter().filter_map(|&n| self.properties.get(n.checked_sub(1)?).copied())
    }

    fn is_alpha(&self, item: &Item<'a>) -> bool {
        let names: [&[u8]; 2] =
            [b"urn:mpeg:mpegB:cicp:systems:auxiliary:alpha", b"urn:mpeg:hevc:2015:auxid:1"];
        self.properties_of(item).any(|(kind, data)| {
            kind == *b"auxC"
                && data.get(4..).is_some_and(|name| names.iter().any(|own| name.starts_with(own)))
        })
    }

    /// Items that a grid is made of, row by row; none for another item.
    fn tiles(&self, item: &Item<'a>) -> &[u32] {
        let is_own =
            |reference: &&Reference| reference.kind == *b"dimg" && reference.from == item.id;
        self.references.iter().find(is_own).map_or(&[], |reference| &reference.to)
    }

    /// The data of an item, put together.
    fn data(&self, file: &[u8], item: &Item<'a>) -> Result<Vec<u8>> {
        let from = if item.is_inside { self.inside } else { file };
        let mut data = Vec::new();
        for piece in &item.pieces {
            let end = if piece.end == u64::MAX { from.len() as u64 } else { piece.end };
            let range = usize::try_from(piece.start).ok().zip(usize::try_from(end).ok());
            let piece = range.and_then(|(start, end)| from.get(start..end)).ok_or(TRUNCATED)?;
            // Pieces may overlap, and so could be longer than the file.
            if data.len() + piece.len() > file.len() {
                return Err(Refusal::Damaged("an item longer than the file"));
            }
            data.extend_from_slice(piece);
        }
        Ok(data)
    }

    fn layer(&self, file: &[u8], item: &Item<'a>) -> Result<Layer> {
        if item.kind == *b"av01" {
            let (width, height) = self.size(item)?;
            let tiles = vec![self.data(file, item)?];
            return Ok(Layer { width, height, rows: 1, columns: 1, tiles });
        }
        if item.kind != *b"grid" {
            return Err(Refusal::Unsupported("a picture derived from others"));
        }
        let data = self.data(file, item)?;
        let mut data = Bytes(&data);
        data.number(1)?;
        let of_side = if data.number(1)? & 1 == 0 { 2 } else { 4 };
        let (rows, columns) = (data.number(1)? as usize + 1, data.number(1)? as usize + 1);
        let (width, height) = (data.number(of_side)? as u32, data.number(of_side)? as u32);
        let ids = self.tiles(item);
        if ids.len() != rows * columns {
            return Err(Refusal::Damaged("a grid without all of its tiles"));
        }
        let mut tiles = Vec::new();
        let mut all = 0;
        for &id in ids {
            let tile = self.item(id)?;
            if tile.kind != *b"av01" {
                return Err(Refusal::Unsupported("a grid of something else than pictures"));
            }
            tiles.push(self.data(file, tile)?);
            all += tiles.last().map_or(0, Vec::len);
            if all > file.len() {
                return Err(Refusal::Damaged("tiles longer than the file"));
            }
        }
        Ok(Layer { width, height, rows, columns, tiles })
    }

    /// Width and height of an item.
    fn size(&self, item: &Item<'a>) -> Result<(u32, u32)> {
        let mut found = self.properties_of(item).filter(|(kind, _)| kind == b"ispe");
        let (_, data) = found.next().ok_or(Refusal::Damaged("a picture without a size"))?;
        let mut data = Bytes(data);
        data.version()?;
        Ok((data.u32()?, data.u32()?))
    }
}
