//! Huffman-coded blocks of a JPEG, sequential and progressive, without their pixels: enough to know how
//! far a file's data reaches, and to collect coefficients where another decoder gets them wrong.
//! Source: ITU-T T.81, annexes C, F.2.2 and G.1.2.

/// Reason for which a scan ends before its last block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stop {
    /// No more data.
    Missing,
    /// A code that no table has, or one that leads out of its block.
    Damaged,
}

/// Zigzag position of each coefficient, row by row.
#[rustfmt::skip]
pub(super) const ZIGZAG: [u8; 64] = [
    0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5,
    12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
    35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51,
    58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
];

/// What is kept of a block; positions are in zigzag order.
pub(super) trait Block: Clone {
    /// A block without coefficients.
    const EMPTY: Self;
    fn set(&mut self, at: usize, value: i32);
    fn is_set(&self, at: usize) -> bool;
    /// A coefficient that is set gains this much in magnitude, unless it has that bit.
    fn refine(&mut self, at: usize, bit: i32);
    /// The first coefficient gains this bit, as a number in two's complement.
    fn refine_first(&mut self, bit: i32);
}

/// Nothing is kept: a sequential scan that is only counted.
impl Block for () {
    const EMPTY: Self = ();
    fn set(&mut self, _: usize, _: i32) {}
    fn is_set(&self, _: usize) -> bool {
        false
    }
    fn refine(&mut self, _: usize, _: i32) {}
    fn refine_first(&mut self, _: i32) {}
}

/// A bit per coefficient that is not zero, which a refining scan depends on.
impl Block for u64 {
    const EMPTY: Self = 0;
    fn set(&mut self, at: usize, value: i32) {
        *self |= u64::from(value != 0) << at;
    }
    fn is_set(&self, at: usize) -> bool {
        *self >> at & 1 == 1
    }
    fn refine(&mut self, _: usize, _: i32) {}
    fn refine_first(&mut self, _: i32) {}
}

/// The coefficients themselves, as they are coded.
impl Block for [i16; 64] {
    const EMPTY: Self = [0; 64];
    fn set(&mut self, at: usize, value: i32) {
        self[at] = value.clamp(i16::MIN.into(), i16::MAX.into()) as i16;
    }
    fn is_set(&self, at: usize) -> bool {
        self[at] != 0
    }
    fn refine(&mut self, at: usize, bit: i32) {
        let value = i32::from(self[at]);
        if value.abs() & bit == 0 {
            self.set(at, value + bit * value.signum());
        }
    }
    fn refine_first(&mut self, bit: i32) {
        self.set(0, i32::from(self[0]) | bit);
    }
}

/// A reader of bits that stops at a marker.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    /// Place of the next byte to be taken in.
    at: usize,
    /// Bits taken in, from the most significant end.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8], at: usize) -> Self {
        Self { bytes, at, buffer: 0, count: 0 }
    }

    fn fill(&mut self) {
        while self.count <= 56 {
            let Some(&byte) = self.bytes.get(self.at) else { return };
            if byte == 0xFF {
                if self.bytes.get(self.at + 1) != Some(&0) {
                    return;
                }
                self.at += 1;
            }
            self.at += 1;
            self.buffer |= u64::from(byte) << (56 - self.count);
            self.count += 8;
        }
    }

    /// The next bits, with zeros behind the last one.
    fn peek(&self, n: u32) -> usize {
        (self.buffer >> (64 - n)) as usize
    }

    fn skip(&mut self, n: u32) -> Result<(), Stop> {
        if n > self.count {
            return Err(Stop::Missing);
        }
        self.buffer <<= n;
        self.count -= n;
        Ok(())
    }

    /// `n` bits, at most 16, as a number.
    fn take(&mut self, n: u32) -> Result<i32, Stop> {
        if n == 0 {
            return Ok(0);
        }
        if self.count < n {
            self.fill();
        }
        let value = self.peek(n) as i32;
        self.skip(n)?;
        Ok(value)
    }

    /// A signed number of `size` bits (T.81, F.2.2.1, EXTEND).
    fn signed(&mut self, size: u32) -> Result<i32, Stop> {
        let value = self.take(size)?;
        Ok(if size > 0 && value < 1 << (size - 1) { value - (1 << size) + 1 } else { value })
    }

    /// Goes behind the restart marker of this number, 0 to 7.
    pub(super) fn restart(&mut self, number: u8) -> Result<(), Stop> {
        self.at = self.marker();
        (self.buffer, self.count) = (0, 0);
        match self.bytes.get(self.at..self.at + 2) {
            Some(&[_, marker]) if marker == 0xD0 + number => {
                self.at += 2;
                Ok(())
            }
            Some(&[_, 0xD0..=0xD7]) => Err(Stop::Damaged),
            _ => Err(Stop::Missing),
        }
    }

    /// Place of the next marker, or the end of the file.
    pub(super) fn marker(&self) -> usize {
        let mut at = self.at;
        while let Some(&byte) = self.bytes.get(at) {
            match (byte, self.bytes.get(at + 1)) {
                (0xFF, Some(0)) => at += 2,
                (0xFF, Some(0xFF)) => at += 1,
                (0xFF, Some(_)) => return at,
                _ => at += 1,
            }
        }
        self.bytes.len()
    }
}

/// Bits that a code is looked up by at once.
const FAST: u32 = 9;

/// A Huffman table.
#[derive(Clone)]
pub(super) struct Table {
    /// For each beginning of `FAST` bits: length of its code (0: longer) and symbol.
    fast: Vec<(u8, u8)>,
    /// For each length: the first code that is longer, left-aligned to 16 bits, and what leads from a code to its symbol.
    limits: [(u32, i32); 17],
    symbols: Vec<u8>,
}

impl Table {
    /// A table from the number of codes of each length, 1 to 16, and their symbols; `None` when there are more codes than bits can tell apart.
    pub(super) fn new(counts: &[u8; 16], symbols: &[u8]) -> Option<Self> {
        let mut fast = vec![(0, 0); 1 << FAST];
        let mut limits = [(0, 0); 17];
        let (mut code, mut index) = (0u32, 0usize);
        for length in 1..=16u32 {
            limits[length as usize].1 = index as i32 - code as i32;
            for _ in 0..counts[length as usize - 1] {
                let symbol = *symbols.get(index)?;
                if code >> length != 0 {
                    return None;
                }
                if length <= FAST {
                    let first = (code << (FAST - length)) as usize;
                    fast[first..first + (1 << (FAST - length))].fill((length as u8, symbol));
                }
                code += 1;
                index += 1;
            }
            limits[length as usize].0 = code << (16 - length);
            code <<= 1;
        }
        Some(Self { fast, limits, symbols: symbols[..index].to_vec() })
    }

    #[inline]
    fn symbol(&self, bits: &mut Bits) -> Result<u8, Stop> {
        if bits.count < 32 {
            bits.fill();
        }
        let (length, symbol) = self.fast[bits.peek(FAST)];
        if length > 0 {
            bits.skip(length.into())?;
            return Ok(symbol);
        }
        let ahead = bits.peek(16) as u32;
        for length in FAST + 1..=16 {
            let (limit, offset) = self.limits[length as usize];
            if ahead < limit {
                let index = (ahead >> (16 - length)) as i32 + offset;
                let symbol = self.symbols.get(usize::try_from(index).unwrap_or(usize::MAX));
                bits.skip(length)?;
                return symbol.copied().ok_or(Stop::Damaged);
            }
        }
        // Behind the last bit there are zeros, which may be no code.
        Err(if bits.count < 16 { Stop::Missing } else { Stop::Damaged })
    }
}

/// A block of a sequential scan.
pub(super) fn sequential<B: Block>(
    bits: &mut Bits,
    (dc, ac): (&Table, &Table),
    prediction: &mut i32,
    block: &mut B,
) -> Result<(), Stop> {
    first_dc(bits, dc, prediction, 0, block)?;
    let mut at = 1;
    while at < 64 {
        let symbol = ac.symbol(bits)?;
        let (run, size) = (usize::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if run < 15 {
                break;
            }
            at += 16;
            continue;
        }
        at += run;
        if at > 63 {
            return Err(Stop::Damaged);
        }
        block.set(at, bits.signed(size)?);
        at += 1;
    }
    Ok(())
}

/// The first coefficient, as a difference from the one before, `shift` bits short.
pub(super) fn first_dc<B: Block>(
    bits: &mut Bits,
    dc: &Table,
    prediction: &mut i32,
    shift: u32,
    block: &mut B,
) -> Result<(), Stop> {
    let size = u32::from(dc.symbol(bits)?);
    if size > 16 {
        return Err(Stop::Damaged);
    }
    *prediction = prediction.wrapping_add(bits.signed(size)?);
    block.set(0, prediction.wrapping_shl(shift));
    Ok(())
}

/// One more bit of the first coefficient.
pub(super) fn refined_dc<B: Block>(bits: &mut Bits, shift: u32, block: &mut B) -> Result<(), Stop> {
    if bits.take(1)? == 1 {
        block.refine_first(1 << shift);
    }
    Ok(())
}

/// The band of coefficients of an AC scan, and how many bits short they are.
#[derive(Clone, Copy)]
pub(super) struct Band {
    pub first: usize,
    pub last: usize,
    pub shift: u32,
}

/// Coefficients of a band for the first time; `run` is the number of blocks left that are empty.
pub(super) fn first_ac<B: Block>(
    bits: &mut Bits,
    ac: &Table,
    band: Band,
    run: &mut u32,
    block: &mut B,
) -> Result<(), Stop> {
    if *run > 0 {
        *run -= 1;
        return Ok(());
    }
    let mut at = band.first;
    while at <= band.last {
        let symbol = ac.symbol(bits)?;
        let (zeros, size) = (u32::from(symbol >> 4), u32::from(symbol & 15));
        if size == 0 {
            if zeros < 15 {
                *run = (1 << zeros) + bits.take(zeros)? as u32 - 1;
                break;
            }
            at += 16;
            continue;
        }
        at += zeros as usize;
        if at > band.last {
            return Err(Stop::Damaged);
        }
        block.set(at, bits.signed(size)? << band.shift);
        at += 1;
    }
    Ok(())
}

/// One more bit of a band's coefficients.
pub(super) fn refined_ac<B: Block>(
    bits: &mut Bits,
    ac: &Table,
    band: Band,
    run: &mut u32,
    block: &mut B,
) -> Result<(), Stop> {
    let bit = 1 << band.shift;
    let mut at = band.first;
    while *run == 0 && at <= band.last {
        let symbol = ac.symbol(bits)?;
        let (mut zeros, size) = (u32::from(symbol >> 4), symbol & 15);
        let value = match size {
            0 if zeros < 15 => {
                *run = (1 << zeros) + bits.take(zeros)? as u32;
                break;
            }
            0 => 0,
            1 => {
                if bits.take(1)? == 1 {
                    bit
                } else {
                    -bit
                }
            }
            _ => return Err(Stop::Damaged),
        };
        // Coefficients that are set get their bit; zeros are counted off.
        while at <= band.last {
            if block.is_set(at) {
                if bits.take(1)? == 1 {
                    block.refine(at, bit);
                }
            } else if zeros == 0 {
                break;
            } else {
                zeros -= 1;
            }
            at += 1;
        }
        if value != 0 {
            if at > band.last {
                return Err(Stop::Damaged);
            }
            block.set(at, value);
        }
        at += 1;
    }
    if *run > 0 {
        for at in at..=band.last {
            if block.is_set(at) && bits.take(1)? == 1 {
                block.refine(at, bit);
            }
        }
        *run -= 1;
    }
    Ok(())
}
