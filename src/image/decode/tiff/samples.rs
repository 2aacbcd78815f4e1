//! Samples of a TIFF: bits of a row to numbers, and numbers to grey, RGB or ink by the file's kind of colour.
//! Source: TIFF 6.0, sections 8, 16 (inks), 20, 21 (YCbCr) and 23 (CIE L*a*b*); CIE 15 for the last.

use half::f16;

/// Number format of samples (tag 339).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Unsigned,
    Signed,
    Float,
}

/// Width, format and byte order of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Kind {
    pub bits: u16,
    pub format: Format,
    pub little: bool,
}

impl Kind {
    /// `true` for the widths that are read. (Of 24 bits, programs do not even read their own files.)
    pub(super) fn is_known(self) -> bool {
        match self.format {
            Format::Float => matches!(self.bits, 16 | 32 | 64),
            _ => matches!(self.bits, 1..=16 | 32),
        }
    }

    /// Appends the first `count` samples of a row, as they stand: whole numbers from 0 (signed ones begin at their lowest), floats.
    pub(super) fn numbers(self, row: &[u8], count: usize, out: &mut Vec<f64>) {
        let (bits, little) = (self.bits, self.little);
        if self.format == Format::Float {
            let size = usize::from(bits / 8);
            let values = row.chunks_exact(size).take(count);
            out.extend(values.map(|bytes| float(bytes, little)));
            return;
        }
        let offset = if self.format == Format::Signed { 1u64 << (bits - 1) } else { 0 };
        let flip = |value: u64| (value ^ offset) as f64;
        match bits {
            8 => out.extend(row.iter().take(count).map(|&v| flip(v.into()))),
            16 | 24 | 32 => {
                let size = usize::from(bits / 8);
                out.extend(
                    row.chunks_exact(size).take(count).map(|bytes| flip(whole(bytes, little))),
                );
            }
            // Packed from the most significant bit on, whatever the order of bytes.
            _ => out.extend((0..count).map(|i| {
                let first = i * usize::from(bits);
                let mut value = 0;
                for bit in first..first + usize::from(bits) {
                    value = value << 1 | u64::from(row[bit / 8] >> (7 - bit % 8) & 1);
                }
                flip(value)
            })),
        }
    }

    /// The number that stands for 1.
    pub(super) fn maximum(self) -> f64 {
        match self.format {
            Format::Float => 1.0,
            _ => ((1u64 << self.bits) - 1) as f64,
        }
    }
}

pub(super) fn whole(bytes: &[u8], little: bool) -> u64 {
    let add = |sum: u64, &byte: &u8| sum << 8 | u64::from(byte);
    if little { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
}

fn float(bytes: &[u8], little: bool) -> f64 {
    let bits = whole(bytes, little);
    match bytes.len() {
        2 => f16::from_bits(bits as u16).to_f64(),
        4 => f32::from_bits(bits as u32).into(),
        _ => f64::from_bits(bits),
    }
}

/// Meaning of the samples of a pixel (tag 262), with what it needs.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Colour {
    WhiteIsZero,
    BlackIsZero,
    Rgb,
    /// Red, green and blue in [0, 1] of each index.
    Palette(Vec<[f32; 3]>),
    Cmyk,
    YCbCr(YCbCr),
    /// CIE L*a*b*; whether a* and b* are stored from −128 on (ICC) or as signed numbers.
    Lab {
        shifted: bool,
    },
}

/// Numbers of a YCbCr picture.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct YCbCr {
    /// Shares of red, green and blue in the luma.
    pub luma: [f64; 3],
    /// Black and white of each channel, as stored.
    pub range: [f64; 6],
}

impl Colour {
    /// Samples per pixel that carry the colour.
    pub(super) fn samples(&self) -> usize {
        match self {
            Self::WhiteIsZero | Self::BlackIsZero | Self::Palette(_) => 1,
            Self::Rgb | Self::YCbCr(_) | Self::Lab { .. } => 3,
            Self::Cmyk => 4,
        }
    }

    /// One pixel's numbers to channels in [0, 1].
    pub(super) fn channels(&self, numbers: &[f64], kind: Kind, range: Range, out: &mut Vec<f32>) {
        let unit = |v| range.unit(v);
        match self {
            Self::BlackIsZero => out.push(unit(numbers[0])),
            Self::WhiteIsZero => out.push(1.0 - unit(numbers[0])),
            Self::Rgb | Self::Cmyk => out.extend(numbers.iter().map(|&v| unit(v))),
            Self::Palette(entries) => {
                let entry = entries.get(numbers[0] as usize).copied();
                out.extend(entry.unwrap_or_default());
            }
            Self::YCbCr(ycbcr) => out.extend(ycbcr.rgb(numbers, kind.maximum())),
            Self::Lab { shifted } => out.extend(lab(numbers, kind, *shifted)),
        }
    }
}

/// Numbers that stand for 0 and for 1, and where they are cut: at 1, or above it where light above white is kept.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Range {
    pub black: f64,
    pub white: f64,
    pub top: f64,
}

impl Range {
    /// All that there is room for; floats go to 1.
    pub(super) fn of(kind: Kind) -> Self {
        Self { black: 0.0, white: kind.maximum(), top: kind.maximum() }
    }

    /// A number's place in it, not below 0 and not above [`limit`](Self::limit).
    pub(super) fn unit(self, v: f64) -> f32 {
        if v.is_nan() {
            0.0
        } else {
            ((v - self.black) / (self.white - self.black)).clamp(0.0, self.limit()) as f32
        }
    }

    /// Place of the top: 1 but where light above white is kept.
    pub(super) fn limit(self) -> f64 {
        if self.top == self.white {
            1.0
        } else {
            (self.top - self.black) / (self.white - self.black)
        }
    }
}

impl YCbCr {
    fn rgb(&self, numbers: &[f64], maximum: f64) -> [f32; 3] {
        let [red, green, blue] = self.luma;
        let code = |i: usize, range: f64| {
            let (black, white) = (self.range[2 * i], self.range[2 * i + 1]);
            (numbers[i] - black) * range / (white - black)
        };
        // Chroma's full range is one step short of half, as section 21 has it.
        let half = (maximum / 2.0).floor();
        let (y, cb, cr) = (code(0, maximum), code(1, half), code(2, half));
        let r = y + cr * (2.0 - 2.0 * red);
        let b = y + cb * (2.0 - 2.0 * blue);
        let g = (y - red * r - blue * b) / green;
        [r, g, b].map(|v| (v / maximum).clamp(0.0, 1.0) as f32)
    }
}

/// sRGB of a CIE L*a*b* pixel whose white is D50, as files have it.
fn lab(numbers: &[f64], kind: Kind, shifted: bool) -> [f32; 3] {
    let whole = kind.maximum() + 1.0;
    let steps = whole / 256.0;
    let signed = |v: f64| {
        if shifted {
            v / steps - 128.0
        } else {
            // Two's complement.
            (if v >= whole / 2.0 { v - whole } else { v }) / steps
        }
    };
    let top = if shifted { 255.0 * steps } else { kind.maximum() };
    let lightness = numbers[0] / top * 100.0;
    let fy = (lightness + 16.0) / 116.0;
    let (fx, fz) = (fy + signed(numbers[1]) / 500.0, fy - signed(numbers[2]) / 200.0);
    let curve = |f: f64| if f > 6.0 / 29.0 { f * f * f } else { (f - 4.0 / 29.0) * 108.0 / 841.0 };
    let (x, y, z) = (0.964_22 * curve(fx), curve(fy), 0.825_21 * curve(fz));
    // XYZ of D50 to linear sRGB (Bradford adaptation, as ICC's sRGB profiles have it).
    let linear = [
        3.133_856 * x - 1.616_867 * y - 0.490_615 * z,
        -0.978_768 * x + 1.916_142 * y + 0.033_454 * z,
        0.071_945 * x - 0.228_991 * y + 1.405_243 * z,
    ];
    linear.map(|v| {
        let v = v.clamp(0.0, 1.0);
        let coded = if v <= 0.003_130_8 { 12.92 * v } else { 1.055 * v.powf(1.0 / 2.4) - 0.055 };
        coded as f32
    })
}
