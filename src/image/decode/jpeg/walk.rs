//! Walk over the scans of a JPEG, block by block: which rows the data really hold, whether the end
//! marker is there, and, where wanted, the coefficients. Decoders for speed paint grey over what is missing and
//! call it a picture; the walk says so before a single pixel is allocated.
//! Source: ITU-T T.81, B.2.3 and G.1.

use super::entropy::{self, Band, Bits, Block, Stop, Table};
use super::frame::{Frame, Refusal};

/// Scans beyond this many make no picture better (progressive scripts have some ten); libjpeg's users stop there too.
const MAX_SCANS: usize = 100;

/// Result of a walk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reach {
    /// Rows of the picture, from the top, of which every component has data.
    pub rows: usize,
    /// Every row is there, and in a progressive file every bit of every coefficient.
    pub complete: bool,
    /// The end-of-image marker was seen.
    pub end: bool,
    /// The first trouble met.
    pub stop: Option<Stop>,
    /// Number of scans begun.
    pub scans: usize,
}

/// Blocks of each component, and the tables to scale them with.
pub(super) struct Coefficients<B> {
    pub blocks: Vec<Vec<B>>,
    /// For each component, in zigzag order.
    pub tables: Vec<[u16; 64]>,
}

/// Walks over a whole file (`bytes` from its SOI marker on).
///
/// # Errors
/// Tables or scan headers that make no sense. Data that end or break are no error: see [`Reach`].
pub(super) fn walk<B: Block>(
    bytes: &[u8],
    frame: &Frame,
) -> Result<(Reach, Coefficients<B>), Refusal> {
    let stored = (0..frame.components.len()).map(|c| frame.stored_blocks(c));
    let mut walk = Walk {
        frame,
        dc: [const { None }; 4],
        ac: [const { None }; 4],
        scale: [None; 4],
        interval: 0,
        latched: vec![None; frame.components.len()],
        blocks: stored.map(|(across, down)| vec![B::EMPTY; across * down]).collect(),
        block_rows: vec![0; frame.components.len()],
        bits_left: vec![[None; 64]; frame.components.len()],
    };
    let mut reach = Reach { rows: 0, complete: false, end: false, stop: None, scans: 0 };
    let mut at = 2;
    loop {
        at = Bits::new(bytes, at).marker();
        let Some(&marker) = bytes.get(at + 1) else { break };
        at += 2;
        if marker == 0xD9 {
            reach.end = true;
            break;
        }
        if matches!(marker, 0x01 | 0xD0..=0xD8) {
            continue;
        }
        let Some(data) = segment(bytes, at) else { break };
        at += 2 + data.len();
        match marker {
            0xC4 => walk.huffman_tables(data)?,
            0xDB => walk.quantisation_tables(data)?,
            0xDD => walk.interval = usize::from(be_u16(data, 0).unwrap_or(0)),
            0xDA => {
                reach.scans += 1;
                if reach.scans > MAX_SCANS {
                    return Err(Refusal::Damaged("too many scans"));
                }
                let mut bits = Bits::new(bytes, at);
                reach.stop = walk.scan(data, &mut bits)?.err();
                if reach.stop.is_some() {
                    break;
                }
                at = bits.marker();
            }
            _ => {}
        }
    }
    let rows = (0..frame.components.len()).map(|c| frame.rows(c, walk.block_rows[c]));
    reach.rows = rows.min().unwrap_or(0);
    let all_bits = walk.bits_left.iter().flatten().all(|&left| left == Some(0));
    reach.complete = reach.rows == frame.height
        && if frame.progressive { all_bits } else { reach.stop.is_none() };
    let tables = walk.latched.into_iter().map(|table| table.unwrap_or([1; 64])).collect();
    Ok((reach, Coefficients { blocks: walk.blocks, tables }))
}

/// The contents of the segment whose length is at `at`; `None` if it is not wholly there.
fn segment(bytes: &[u8], at: usize) -> Option<&[u8]> {
    let length = usize::from(be_u16(bytes, at)?);
    bytes.get(at + 2..at + length.max(2))
}

pub(super) fn be_u16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

struct Walk<'a, B> {
    frame: &'a Frame,
    dc: [Option<Table>; 4],
    ac: [Option<Table>; 4],
    scale: [Option<[u16; 64]>; 4],
    /// Units between restart markers; 0 without any.
    interval: usize,
    /// The quantisation table that was in force when a component's first scan began.
    latched: Vec<Option<[u16; 64]>>,
    blocks: Vec<Vec<B>>,
    /// Rows of blocks, of each component, that have their first coefficient.
    block_rows: Vec<usize>,
    /// Of a progressive frame: bits still to come of each coefficient; `None` before the first.
    bits_left: Vec<[Option<u32>; 64]>,
}

impl<B: Block> Walk<'_, B> {
    fn huffman_tables(&mut self, mut data: &[u8]) -> Result<(), Refusal> {
        let bad = Refusal::Damaged("a Huffman table makes no sense");
        while let Some((&head, rest)) = data.split_first() {
            let counts: &[u8; 16] = rest.first_chunk().ok_or(bad.clone())?;
            let total: usize = counts.iter().map(|&n| usize::from(n)).sum();
            let symbols = rest.get(16..16 + total).ok_or(bad.clone())?;
            let kind = match head >> 4 {
                0 => &mut self.dc,
                1 => &mut self.ac,
                _ => return Err(bad),
            };
            let slot = kind.get_mut(usize::from(head & 15)).ok_or(bad.clone())?;
            *slot = Some(Table::new(counts, symbols).ok_or(bad.clone())?);
            data = &rest[16 + total..];
        }
        Ok(())
    }

    fn quantisation_tables(&mut self, mut data: &[u8]) -> Result<(), Refusal> {
        let bad = Refusal::Damaged("a quantisation table makes no sense");
        while let Some((&head, rest)) = data.split_first() {
            let wide = head >> 4 != 0;
            let length = if wide { 128 } else { 64 };
            let values = rest.get(..length).ok_or(bad.clone())?;
            let slot = self.scale.get_mut(usize::from(head & 15)).ok_or(bad.clone())?;
            let mut table = [0; 64];
            for (i, value) in table.iter_mut().enumerate() {
                *value = if wide {
                    u16::from_be_bytes([values[2 * i], values[2 * i + 1]])
                } else {
                    values[i].into()
                };
            }
            *slot = Some(table);
            data = &rest[length..];
        }
        Ok(())
    }

    /// One scan: the outer error is a header that makes no sense, the inner one data that end or break.
    fn scan(&mut self, header: &[u8], bits: &mut Bits) -> Result<Result<(), Stop>, Refusal> {
        let bad = || Refusal::Damaged("a scan header makes no sense");
        let (&count, rest) = header.split_first().ok_or_else(bad)?;
        let count = usize::from(count);
        let (parts, tail) = rest.split_at_checked(2 * count).ok_or_else(bad)?;
        let &[first, last, shifts, ..] = tail else { return Err(bad()) };
        let mut members = Vec::new();
        for part in parts.chunks_exact(2) {
            let mut components = self.frame.components.iter();
            let c = components.position(|component| component.id == part[0]).ok_or_else(bad)?;
            let (dc, ac) = (usize::from(part[1] >> 4), usize::from(part[1] & 15));
            if dc > 3 || ac > 3 || members.iter().any(|member: &Member| member.component == c) {
                return Err(bad());
            }
            members.push(Member { component: c, dc, ac, prediction: 0 });
            if self.latched[c].is_none() {
                self.latched[c] = self.scale[self.frame.components[c].table];
            }
            if self.latched[c].is_none() {
                return Err(Refusal::Damaged("a scan without its quantisation table"));
            }
        }
        let (first, last) = (usize::from(first), usize::from(last));
        let (before, shift) = (u32::from(shifts >> 4), u32::from(shifts & 15));
        if members.is_empty() || members.len() > 4 {
            return Err(bad());
        }
        let pass = if !self.frame.progressive {
            Pass::Sequential
        } else if shift > 13 || last > 63 || first > last || (first == 0) != (last == 0) {
            return Err(bad());
        } else {
            let band = Band { first, last, shift };
            match (first, before) {
                (0, 0) => Pass::FirstDc(shift),
                (0, _) => Pass::RefinedDc(shift),
                _ if members.len() > 1 => return Err(bad()),
                (_, 0) => Pass::FirstAc(band),
                _ => Pass::RefinedAc(band),
            }
        };
        for member in &members {
            let needs_dc = matches!(pass, Pass::Sequential | Pass::FirstDc(_));
            let needs_ac = matches!(pass, Pass::Sequential | Pass::FirstAc(_) | Pass::RefinedAc(_));
            if needs_dc && self.dc[member.dc].is_none() || needs_ac && self.ac[member.ac].is_none()
            {
                return Err(Refusal::Damaged("a scan without its Huffman table"));
            }
        }
        let result = self.units(&mut members, pass, bits);
        if result.is_ok() && self.frame.progressive {
            for member in &members {
                self.bits_left[member.component][first..=last].fill(Some(shift));
            }
        }
        Ok(result)
    }

    fn units(&mut self, members: &mut [Member], pass: Pass, bits: &mut Bits) -> Result<(), Stop> {
        let frame = self.frame;
        let alone = match members {
            [only] => Some(only.component),
            _ => None,
        };
        let (across, down) = alone.map_or_else(|| frame.units(), |c| frame.blocks(c));
        let (mut left, mut number, mut run) = (self.interval, 0, 0);
        for y in 0..down {
            for x in 0..across {
                if self.interval > 0 && left == 0 {
                    bits.restart(number)?;
                    (left, number, run) = (self.interval, (number + 1) % 8, 0);
                    members.iter_mut().for_each(|member| member.prediction = 0);
                }
                left = left.wrapping_sub(1);
                for member in members.iter_mut() {
                    let c = member.component;
                    let (h, v) = match alone {
                        Some(_) => (1, 1),
                        None => (frame.components[c].h, frame.components[c].v),
                    };
                    let stride = frame.stored_blocks(c).0;
                    for block in 0..h * v {
                        let at = (y * v + block / h) * stride + x * h + block % h;
                        self.block(member, pass, bits, &mut run, at)?;
                    }
                }
            }
            if matches!(pass, Pass::Sequential | Pass::FirstDc(_)) {
                for member in members.iter() {
                    let c = member.component;
                    let v = if alone.is_some() { 1 } else { frame.components[c].v };
                    self.block_rows[c] = self.block_rows[c].max((y + 1) * v);
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn block(
        &mut self,
        member: &mut Member,
        pass: Pass,
        bits: &mut Bits,
        run: &mut u32,
        at: usize,
    ) -> Result<(), Stop> {
        let block = &mut self.blocks[member.component][at];
        match pass {
            Pass::Sequential => {
                let tables = (table(&self.dc, member.dc)?, table(&self.ac, member.ac)?);
                entropy::sequential(bits, tables, &mut member.prediction, block)
            }
            Pass::FirstDc(shift) => {
                let dc = table(&self.dc, member.dc)?;
                entropy::first_dc(bits, dc, &mut member.prediction, shift, block)
            }
            Pass::RefinedDc(shift) => entropy::refined_dc(bits, shift, block),
            Pass::FirstAc(band) => {
                entropy::first_ac(bits, table(&self.ac, member.ac)?, band, run, block)
            }
            Pass::RefinedAc(band) => {
                entropy::refined_ac(bits, table(&self.ac, member.ac)?, band, run, block)
            }
        }
    }
}

/// A table whose presence was checked when the scan began.
fn table(tables: &[Option<Table>; 4], n: usize) -> Result<&Table, Stop> {
    tables[n].as_ref().ok_or(Stop::Damaged)
}

/// A component in a scan.
struct Member {
    component: usize,
    dc: usize,
    ac: usize,
    /// First coefficient of the block before.
    prediction: i32,
}

/// What a scan brings.
#[derive(Clone, Copy)]
enum Pass {
    Sequential,
    FirstDc(u32),
    RefinedDc(u32),
    FirstAc(Band),
    RefinedAc(Band),
}
