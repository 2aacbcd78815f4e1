//! The bit stream of lossless WebP, written in two passes over pixels that come one after the other:
//! the first counts symbols, the second writes them with the codes that follow from the counts. So
//! no pass holds a picture. (`image-webp`'s encoder takes and holds whole pictures: three times.)
//!
//! Parts of the format in use: subtracted green, one predictor (12, the clamped gradient) for the whole
//! picture, runs of equal pixels, one group of prefix codes. Source: RFC 9649, sections 3 and 4.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, Write};

/// A pixel of the stream: red, green, blue, alpha.
pub(super) type Pixel = [u8; 4];

/// Longest prefix code of pixels, and of the lengths of such codes, in bits.
const MAX_LENGTH: u8 = 15;
const MAX_LENGTH_OF_LENGTHS: u8 = 7;
/// Longest run: the largest length that a symbol stands for.
const MAX_RUN: u32 = 4096;
/// The predictor that guesses left + above − above-left, clamped.
const GRADIENT: u8 = 12;
/// The distance symbol of "the pixel to the left".
const LEFT: u8 = 1;
/// Sizes of the alphabets of green and run lengths, red, blue, and alpha.
const ALPHABETS: [usize; 4] = [256 + 24, 256, 256, 256];
/// Order in which the lengths of code lengths are stored.
const LENGTH_ORDER: [usize; 19] =
    [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];

/// Residuals of a picture's rows after green subtraction and prediction.
pub(super) struct Predictor {
    above: Vec<Pixel>,
    row: Vec<Pixel>,
}

impl Predictor {
    pub(super) fn new(width: usize) -> Self {
        Self { above: Vec::with_capacity(width), row: Vec::with_capacity(width) }
    }

    /// The residuals of the next row, left to right, given to `take`.
    pub(super) fn row(&mut self, pixels: impl Iterator<Item = Pixel>, mut take: impl FnMut(Pixel)) {
        std::mem::swap(&mut self.above, &mut self.row);
        self.row.clear();
        for (x, [red, green, blue, alpha]) in pixels.enumerate() {
            let pixel = [red.wrapping_sub(green), green, blue.wrapping_sub(green), alpha];
            let guess = match (x.checked_sub(1), self.above.get(x)) {
                (None, None) => [0, 0, 0, 255],
                (Some(left), None) => self.row[left],
                (None, Some(&above)) => above,
                (Some(left), Some(above)) => gradient(&self.row[left], above, &self.above[left]),
            };
            take(std::array::from_fn(|i| pixel[i].wrapping_sub(guess[i])));
            self.row.push(pixel);
        }
    }
}

fn gradient(left: &Pixel, above: &Pixel, corner: &Pixel) -> Pixel {
    std::array::from_fn(|i| {
        let guess = i16::from(left[i]) + i16::from(above[i]) - i16::from(corner[i]);
        guess.clamp(0, 255) as u8
    })
}

/// A pixel, or how often the one before it is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Pixel(Pixel),
    Run(u32),
}

/// Run-length tokenizer of pixels.
#[derive(Default)]
struct Runs {
    last: Option<Pixel>,
    length: u32,
}

impl Runs {
    /// The token that ends because of `pixel`, if one does, and the pixel's own if it has one.
    fn push(&mut self, pixel: Pixel) -> [Option<Token>; 2] {
        if self.last == Some(pixel) {
            let full = (self.length == MAX_RUN).then(|| self.end()).flatten();
            self.length += 1;
            return [full, None];
        }
        let run = self.end();
        self.last = Some(pixel);
        [run, Some(Token::Pixel(pixel))]
    }

    fn end(&mut self) -> Option<Token> {
        let length = std::mem::take(&mut self.length);
        (length > 0).then_some(Token::Run(length))
    }
}

/// The symbol of a run's length, with its extra bits and how many they are.
fn run_symbol(length: u32) -> (usize, u32, u8) {
    let rest = length - 1;
    if rest < 4 {
        return (256 + rest as usize, 0, 0);
    }
    let extra = rest.ilog2() - 1;
    let second = (rest >> extra) & 1;
    let symbol = 256 + 2 * (extra + 1) + second;
    (symbol as usize, rest & ((1 << extra) - 1), extra as u8)
}

/// The first pass: counts symbols.
pub(super) struct Counter {
    runs: Runs,
    counts: [Vec<u64>; 4],
    extra_bits: u64,
}

impl Counter {
    pub(super) fn new() -> Self {
        let counts = ALPHABETS.map(|symbols| vec![0; symbols]);
        Self { runs: Runs::default(), counts, extra_bits: 0 }
    }

    /// The next residual.
    pub(super) fn push(&mut self, pixel: Pixel) {
        let tokens = self.runs.push(pixel);
        tokens.into_iter().flatten().for_each(|token| self.count(token));
    }

    fn count(&mut self, token: Token) {
        match token {
            Token::Pixel([red, green, blue, alpha]) => {
                for (counts, value) in self.counts.iter_mut().zip([green, red, blue, alpha]) {
                    counts[usize::from(value)] += 1;
                }
            }
            Token::Run(length) => {
                let (symbol, _, extra) = run_symbol(length);
                self.counts[0][symbol] += 1;
                self.extra_bits += u64::from(extra);
            }
        }
    }

    /// Prefix codes for the counted symbols.
    pub(super) fn codes(mut self) -> Codes {
        if let Some(run) = self.runs.end() {
            self.count(run);
        }
        let codes = self.counts.each_ref().map(|counts| Code::new(counts, MAX_LENGTH));
        let of_pixels = self.counts.iter().zip(&codes).map(|(counts, code)| code.bits(counts));
        Codes { pixel_bits: of_pixels.sum::<u64>() + self.extra_bits, codes }
    }
}

/// The codes of a picture.
pub(super) struct Codes {
    /// Prefix codes of green and run lengths, red, blue, and alpha.
    codes: [Code; 4],
    /// Bits of all pixels together.
    pixel_bits: u64,
}

impl Codes {
    /// The second pass, up to the first pixel: writes the header to memory, and tells how many bytes the
    /// whole stream will have.
    pub(super) fn header(&self, width: u32, height: u32, alpha: bool) -> (Bits<Vec<u8>>, u64) {
        let mut bits = Bits::new(Vec::new());
        let mut put = |value: u32, count: u8| bits.put(value, count).expect("memory takes all");
        put(0x2f, 8);
        put(width - 1, 14);
        put(height - 1, 14);
        put(u32::from(alpha), 1);
        put(0, 3); // version
        put(0b101, 3); // a transform: subtract green
        put(0b001, 3); // a transform: predict,
        put(7, 3); // in blocks of 2⁹ pixels
        put(0, 1); // whose modes are coded without a cache of colours,
        bits.put_single(GRADIENT);
        (0..4).for_each(|_| bits.put_single(0)); // all alike, in no bits
        let mut put = |value: u32, count: u8| bits.put(value, count).expect("memory takes all");
        put(0, 1); // no further transform
        put(0, 1); // no cache of colours
        put(0, 1); // one group of codes
        self.codes.iter().for_each(|code| code.store(&mut bits));
        bits.put_single(LEFT);
        let total = (bits.written() + self.pixel_bits).div_ceil(8);
        (bits, total)
    }

    /// Starts the pixels after a header.
    pub(super) fn pixels<W: Write>(&self, bits: Bits<W>) -> PixelWriter<'_, W> {
        PixelWriter { codes: &self.codes, runs: Runs::default(), bits }
    }
}

/// The second pass: the same residuals again, as bits.
pub(super) struct PixelWriter<'a, W> {
    codes: &'a [Code; 4],
    runs: Runs,
    bits: Bits<W>,
}

impl<W: Write> PixelWriter<'_, W> {
    /// The next residual.
    pub(super) fn push(&mut self, pixel: Pixel) -> io::Result<()> {
        let tokens = self.runs.push(pixel);
        tokens.into_iter().flatten().try_for_each(|token| self.write(token))
    }

    fn write(&mut self, token: Token) -> io::Result<()> {
        match token {
            Token::Pixel([red, green, blue, alpha]) => {
                for (code, value) in self.codes.iter().zip([green, red, blue, alpha]) {
                    code.put(usize::from(value), &mut self.bits)?;
                }
                Ok(())
            }
            Token::Run(length) => {
                let (symbol, extra, count) = run_symbol(length);
                self.codes[0].put(symbol, &mut self.bits)?;
                self.bits.put(extra, count)
            }
        }
    }

    /// Ends the stream.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if let Some(run) = self.runs.end() {
            self.write(run)?;
        }
        self.bits.finish()
    }
}

/// A canonical prefix code.
#[derive(Debug)]
struct Code {
    /// Code length of each symbol in bits; 0 where it has no code, and everywhere if there is one symbol only.
    lengths: Vec<u8>,
    /// Code of each symbol, first bit lowest.
    codes: Vec<u16>,
    /// The symbol of a code with just one.
    single: Option<usize>,
}

impl Code {
    /// The shortest code of at most `limit` bits a symbol, near enough: where Huffman's own is longer,
    /// rare symbols count as less rare.
    fn new(counts: &[u64], limit: u8) -> Self {
        let used = counts.iter().filter(|&&count| count > 0).count();
        if used < 2 {
            let single = counts.iter().position(|&count| count > 0).unwrap_or(0);
            let (lengths, codes) = (vec![0; counts.len()], vec![0; counts.len()]);
            return Self { lengths, codes, single: Some(single) };
        }
        let mut floor = 1;
        let lengths = loop {
            let lengths = huffman_lengths(counts, floor);
            if lengths.iter().all(|&length| length <= limit) {
                break lengths;
            }
            floor *= 2;
        };
        let mut codes = vec![0; counts.len()];
        let mut next = 0u16;
        for length in 1..=limit {
            for (code, _) in codes.iter_mut().zip(&lengths).filter(|(_, own)| **own == length) {
                *code = next.reverse_bits() >> (16 - length);
                next += 1;
            }
            next <<= 1;
        }
        Self { lengths, codes, single: None }
    }

    fn put<W: Write>(&self, symbol: usize, bits: &mut Bits<W>) -> io::Result<()> {
        bits.put(u32::from(self.codes[symbol]), self.lengths[symbol])
    }

    /// Total bits of symbols with these counts.
    fn bits(&self, counts: &[u64]) -> u64 {
        counts.iter().zip(&self.lengths).map(|(count, &length)| count * u64::from(length)).sum()
    }

    /// Writes the code itself: every symbol's length, in a code of their own.
    fn store(&self, bits: &mut Bits<Vec<u8>>) {
        if let Some(single) = self.single {
            // Green always has a pixel's symbol, the others have no others: it fits a byte.
            return bits.put_single(single as u8);
        }
        let mut counts = [0; LENGTH_ORDER.len()];
        self.lengths.iter().for_each(|&length| counts[usize::from(length)] += 1);
        let code = Self::new(&counts, MAX_LENGTH_OF_LENGTHS);
        let mut put = |value: u32, count: u8| bits.put(value, count).expect("memory takes all");
        put(0, 1); // not the simple form
        put(LENGTH_ORDER.len() as u32 - 4, 4);
        for length in LENGTH_ORDER {
            // Of one length alone it need only be seen that there is one.
            let is_single = code.single == Some(length);
            put(if is_single { 1 } else { code.lengths[length].into() }, 3);
        }
        put(0, 1); // all symbols
        for &length in &self.lengths {
            code.put(usize::from(length), bits).expect("memory takes all");
        }
    }
}

/// Lengths of Huffman's code, where what occurs counts at least `floor` times; at least two symbols occur.
fn huffman_lengths(counts: &[u64], floor: u64) -> Vec<u8> {
    let symbols: Vec<usize> = (0..counts.len()).filter(|&symbol| counts[symbol] > 0).collect();
    // Leaves first, in the order of `symbols`; then inner nodes, each above its children.
    let mut parents = vec![0; 2 * symbols.len() - 1];
    let mut heap: BinaryHeap<_> = (symbols.iter().enumerate())
        .map(|(node, &symbol)| Reverse((counts[symbol].max(floor), node)))
        .collect();
    for inner in symbols.len()..parents.len() {
        let mut weight = 0;
        for _ in 0..2 {
            if let Some(Reverse((own, node))) = heap.pop() {
                weight += own;
                parents[node] = inner;
            }
        }
        heap.push(Reverse((weight, inner)));
    }
    let mut depths = vec![0u8; parents.len()];
    for node in (0..parents.len() - 1).rev() {
        depths[node] = depths[parents[node]].saturating_add(1);
    }
    let mut lengths = vec![0; counts.len()];
    for (&symbol, &depth) in symbols.iter().zip(&depths) {
        lengths[symbol] = depth;
    }
    lengths
}

/// A writer of bits, the lowest of a byte first.
pub(super) struct Bits<W> {
    writer: W,
    buffer: u64,
    /// Bits in the buffer, below 32 between calls.
    pending: u8,
    bytes: u64,
}

impl<W: Write> Bits<W> {
    fn new(writer: W) -> Self {
        Self { writer, buffer: 0, pending: 0, bytes: 0 }
    }

    /// The `count` lowest bits of `value`, at most 32; the others must be 0.
    fn put(&mut self, value: u32, count: u8) -> io::Result<()> {
        self.buffer |= u64::from(value) << self.pending;
        self.pending += count;
        if self.pending >= 32 {
            self.writer.write_all(&(self.buffer as u32).to_le_bytes())?;
            self.buffer >>= 32;
            self.pending -= 32;
            self.bytes += 4;
        }
        Ok(())
    }

    /// Bits put so far.
    fn written(&self) -> u64 {
        8 * self.bytes + u64::from(self.pending)
    }

    fn finish(mut self) -> io::Result<W> {
        let bytes = self.pending.div_ceil(8).into();
        self.writer.write_all(&self.buffer.to_le_bytes()[..bytes])?;
        Ok(self.writer)
    }
}

impl Bits<Vec<u8>> {
    /// A code of one symbol, which takes no bits where it is used.
    fn put_single(&mut self, symbol: u8) {
        // The simple form, of one symbol, of eight bits.
        let code = 0b101 | u32::from(symbol) << 3;
        self.put(code, 11).expect("memory takes all");
    }

    /// Goes on in `writer`, with what is in memory first.
    pub(super) fn into_writer<W: Write>(self, mut writer: W) -> io::Result<Bits<W>> {
        writer.write_all(&self.writer)?;
        Ok(Bits { writer, buffer: self.buffer, pending: self.pending, bytes: self.bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_of_a_run_is_what_its_symbol_and_bits_say() {
        for length in 1..=MAX_RUN {
            let (symbol, extra, count) = run_symbol(length);
            let prefix = symbol as u32 - 256;
            assert!(prefix < 24);
            // RFC 9649, section 4.2.2.
            let decoded = if prefix < 4 {
                prefix + 1
            } else {
                let bits = (prefix - 2) >> 1;
                assert_eq!(bits, u32::from(count));
                ((2 + (prefix & 1)) << bits) + extra + 1
            };
            assert_eq!(decoded, length);
        }
    }

    #[test]
    fn codes_are_complete_free_of_prefixes_and_never_too_long() {
        // Fibonacci's numbers make Huffman's longest codes.
        let mut steep = vec![1u64, 1];
        (2..40).for_each(|i| steep.push(steep[i - 1] + steep[i - 2]));
        let mut sparse = vec![0; 280];
        (sparse[3], sparse[279]) = (1_000_000, 1);
        for counts in [steep, sparse, vec![7; 256], (0..280).map(|i| i % 5 * (i + 1)).collect()] {
            for limit in [MAX_LENGTH, 9] {
                let code = Code::new(&counts, limit);
                let mut sum = 0u32;
                for (symbol, &count) in counts.iter().enumerate() {
                    assert_eq!(count > 0, code.lengths[symbol] > 0);
                    assert!(code.lengths[symbol] <= limit);
                    if count > 0 {
                        sum += 1 << (limit - code.lengths[symbol]);
                    }
                }
                assert_eq!(sum, 1 << limit, "Kraft's sum");
            }
        }
    }

    #[test]
    fn a_run_longer_than_the_longest_becomes_several() {
        let mut runs = Runs::default();
        let mut tokens: Vec<Token> =
            (0..2 * MAX_RUN + 3).flat_map(|_| runs.push([1; 4])).flatten().collect();
        tokens.extend(runs.end());
        let expected = [Token::Pixel([1; 4]), Token::Run(4096), Token::Run(4096), Token::Run(2)];
        assert_eq!(tokens, expected);
    }
}
