//! Range of a TIFF's numbers where the file does not say it: floats, signed numbers and 32 bits are read once, before the
//! pixels, for what they go up to. Whoever writes such files seldom fills the whole range.

use std::cell::RefCell;
use std::io::{Read, Seek};

use super::convert::{Ranges, numbers};
use super::layout::Layout;
use super::rows::each_row;
use super::samples::{Colour, Format, Range};

/// Floats go up to a few times white where they are light, and to 255 and more where they count to something.
const BRIGHT: f64 = 32.0;

/// What stands for 0 and 1, and what is to be said of it.
///
/// # Errors
/// Colours in signed numbers below 0, which programs disagree about.
pub(super) fn ranges<S: Read + Seek>(
    source: &RefCell<S>,
    layout: &Layout,
) -> Result<(Ranges, Option<String>), &'static str> {
    let kind = layout.kind;
    let whole = Range::of(kind);
    let both = |range| Ranges { colour: range, alpha: range };
    if kind.format == Format::Unsigned && kind.bits < 32 {
        return Ok((both(whole), None));
    }
    let seen = Seen::of(source, layout);
    match kind.format {
        Format::Float => {
            let is_light = matches!(layout.colour, Colour::BlackIsZero | Colour::Rgb);
            let (white, note) = if is_light && seen.goes_above_white() {
                (1.0, None)
            } else {
                seen.white_of_floats()
            };
            let top = if is_light && seen.goes_above_white() { seen.largest } else { white };
            let colour = Range { black: 0.0, white, top };
            let alpha =
                if seen.largest_alpha > 1.0 { Range { top: white, ..colour } } else { whole };
            Ok((Ranges { colour, alpha }, note))
        }
        Format::Unsigned => {
            let white = counted_to(seen.largest);
            if seen.largest == 0.0 || white >= whole.white {
                return Ok((both(whole), None));
            }
            let note = format!("32 bits that go up to {}: {white} is taken as white", seen.largest);
            Ok((both(Range { black: 0.0, white, top: white }), Some(note)))
        }
        Format::Signed => {
            // Numbers begin at the lowest one.
            let zero = (whole.white + 1.0) / 2.0;
            if seen.smallest >= zero {
                let note = format!("signed samples: 0 is taken as black, {} as white", zero - 1.0);
                return Ok((both(Range { black: zero, ..whole }), Some(note)));
            }
            if layout.colour.samples() > 1 {
                return Err("colours in signed numbers below 0");
            }
            let note =
                format!("signed samples: -{zero} is taken as black, {} as white", zero - 1.0);
            Ok((both(whole), Some(note)))
        }
    }
}

/// What numbers usually count to that go up to `largest`.
fn counted_to(largest: f64) -> f64 {
    match largest {
        ..=255.0 => 255.0,
        ..=65_535.0 => 65_535.0,
        _ => f64::INFINITY,
    }
}

/// What a look at all numbers shows.
struct Seen {
    smallest: f64,
    largest: f64,
    largest_alpha: f64,
    /// Samples above 1, of how many.
    above: u64,
    all: u64,
}

impl Seen {
    fn of<S: Read + Seek>(source: &RefCell<S>, layout: &Layout) -> Self {
        let mut seen =
            Self { smallest: f64::INFINITY, largest: 0.0, largest_alpha: 0.0, above: 0, all: 0 };
        let mut row = Vec::new();
        // What breaks here breaks again when the rows are read.
        let _ = each_row(source, layout, &mut |planes| {
            row.clear();
            numbers(layout, planes, &mut row);
            for pixel in row.chunks_exact(layout.samples) {
                for &v in pixel[..layout.colour.samples()].iter().filter(|v| v.is_finite()) {
                    seen.all += 1;
                    seen.above += u64::from(v > 1.0);
                    seen.smallest = seen.smallest.min(v);
                    seen.largest = seen.largest.max(v);
                }
                if let Some((at, _)) = layout.alpha {
                    seen.largest_alpha = seen.largest_alpha.max(pixel[at]);
                }
            }
            Ok(())
        });
        seen
    }

    /// Samples above 1 are light above white.
    fn goes_above_white(&self) -> bool {
        self.above > 0 && (self.above * 2 <= self.all || self.largest <= BRIGHT)
    }

    /// Where few samples are above 1 they are highlights, and cut; where most are, they count to something.
    fn white_of_floats(&self) -> (f64, Option<String>) {
        let largest = self.largest;
        if self.above == 0 {
            return (1.0, None);
        }
        if self.above * 2 <= self.all {
            let percent = self.above as f64 * 100.0 / self.all as f64;
            let note =
                format!("{percent:.2} % of the samples are above 1 (up to {largest:.4}): cut to 1");
            return (1.0, Some(note));
        }
        let white = if largest <= 65_535.0 { counted_to(largest) } else { largest };
        let note = format!("most samples are above 1 (up to {largest}): {white} is taken as white");
        (white, Some(note))
    }
}
