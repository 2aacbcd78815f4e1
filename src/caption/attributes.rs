//! The embedded captioner: describes a region by measured attributes, in plain words.
//!
//! A port of `models/train/attributes.py`, with which `models/mini` was trained: the same steps, in the
//! same order, under the same names, in integer arithmetic, so that the model is asked in exactly the
//! words that it has learned. `tests/captions/attributes.rs` holds the two together. Change one, change both,
//! and make the fixture again (`tests/make_fixtures/make_caption_fixtures.py`).
//!
//! A region is first reduced to a grid of at most 64 × 64 cells by block means. All measures are taken on
//! that grid, never on single pixels, so a region reads about the same whether it is sharp or was enlarged
//! up to 4 times: detail finer than a cell is out of sight for both.

use super::{
    Caption, CaptionContext, CaptionError, CaptionSession, Captioner, Captions, Pixels,
    RegionProgress, RegionSource, SessionContext, join_prompt,
};

/// Longest side of the grid of cells.
const GRID: usize = 64;

// --- words ---------------------------------------------------------------------------------------

/// Upper limits (exclusive) of the mean luma, 0..255, and the word below each.
const BRIGHTNESS: [(i64, &str); 7] = [
    (30, "very dark"),
    (62, "dark"),
    (94, "dim"),
    (128, "softly lit"),
    (170, "well lit"),
    (210, "bright"),
    (256, "very bright"),
];

/// Neutral colours by luma, upper limits exclusive.
const NEUTRALS: [(i64, &str); 6] = [
    (24, "black"),
    (60, "charcoal"),
    (105, "dark grey"),
    (155, "grey"),
    (215, "pale grey"),
    (256, "white"),
];

/// Hue families: upper limits (exclusive) in whole degrees of red, orange, yellow, lime, green, teal, sky,
/// blue, violet, magenta; from 346 on it is red again.
const HUES: [i64; 10] = [14, 38, 63, 90, 155, 188, 213, 250, 290, 346];

/// One row per hue family, one column per tone: dark, muted, deep, pale, light, vivid.
#[rustfmt::skip]
const TONES: [[&str; 6]; 10] = [
    ["dark red", "dusty red", "deep red", "pale pink", "salmon pink", "bright red"],
    ["dark brown", "greyish brown", "warm brown", "beige", "tan", "bright orange"],
    ["dark olive", "khaki", "ochre", "cream", "light yellow", "golden yellow"],
    ["dark olive green", "greyish olive green", "olive green", "pale yellow green", "light yellow green", "lime green"],
    ["dark green", "greyish green", "deep green", "pale green", "light green", "bright green"],
    ["dark teal", "greyish teal", "deep teal", "pale turquoise", "light turquoise", "bright turquoise"],
    ["dark slate blue", "slate blue", "steel blue", "pale blue", "light blue", "sky blue"],
    ["navy blue", "greyish blue", "deep blue", "pale lavender blue", "light lavender blue", "bright blue"],
    ["dark violet", "greyish violet", "deep violet", "pale lavender", "lavender", "bright violet"],
    ["dark magenta", "greyish pink", "deep magenta", "pale rose", "rose pink", "bright pink"],
];

/// A colour's number: first the neutrals, then [`TONES`] row by row.
const COLOURS: usize = NEUTRALS.len() + TONES.len() * 6;

fn colour_name(number: usize) -> &'static str {
    match NEUTRALS.get(number) {
        Some((_, name)) => name,
        None => TONES[(number - NEUTRALS.len()) / 6][(number - NEUTRALS.len()) % 6],
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Texture {
    Flat,
    Smooth,
    Blurred,
    Soft,
    Edged,
    Fine,
    Detailed,
    Rough,
}

const TEXTURES: [&str; 8] = [
    "flat, even",
    "smooth",
    "soft, blurred",
    "softly textured",
    "mostly smooth, sharp edged",
    "finely textured",
    "detailed",
    "rough, busy",
];

const LINES: [&str; 4] = ["vertical", "horizontal", "diagonal rising", "diagonal falling"];

// --- measures ------------------------------------------------------------------------------------

/// The grid of cells: row-major, `h` × `w`, values 0..=255.
struct Cells {
    h: usize,
    w: usize,
    rgb: Vec<[i64; 3]>,
}

/// A plane over the same grid, with the border repeated beyond the border.
struct Plane {
    h: usize,
    w: usize,
    at: Vec<i64>,
}

impl Plane {
    fn get(&self, y: usize, x: usize) -> i64 {
        self.at[y * self.w + x]
    }

    /// The four neighbours of a cell: left, right, above, below.
    fn around(&self, y: usize, x: usize) -> [i64; 4] {
        [
            self.get(y, x.saturating_sub(1)),
            self.get(y, (x + 1).min(self.w - 1)),
            self.get(y.saturating_sub(1), x),
            self.get((y + 1).min(self.h - 1), x),
        ]
    }

    /// Whole-number mean of the cells of rows `y0..y1` and columns `x0..x1`, rounded down.
    fn mean(&self, y0: usize, y1: usize, x0: usize, x1: usize) -> i64 {
        let sum: i64 = (y0..y1).flat_map(|y| &self.at[y * self.w + x0..y * self.w + x1]).sum();
        sum / ((y1 - y0) * (x1 - x0)) as i64
    }
}

/// Block means of the pixels, rounded half up. The longer side becomes min(64, side) cells, the shorter
/// keeps the cells about square.
fn cell_means(pixels: &Pixels) -> Cells {
    let (height, width) = (pixels.height(), pixels.width());
    let longest = height.max(width);
    let cells = GRID.min(longest);
    let side = |length: usize| ((2 * length * cells + longest) / (2 * longest)).max(1).min(length);
    let (h, w) = (side(height), side(width));
    let mut rgb = Vec::with_capacity(h * w);
    let mut sums = vec![[0i64; 3]; w];
    for row in 0..h {
        let (y0, y1) = (row * height / h, (row + 1) * height / h);
        sums.fill([0; 3]);
        for y in y0..y1 {
            let line = &pixels.rgb()[y * width * 3..(y + 1) * width * 3];
            for (column, sum) in sums.iter_mut().enumerate() {
                let (x0, x1) = (column * width / w, (column + 1) * width / w);
                for pixel in line[x0 * 3..x1 * 3].chunks_exact(3) {
                    for (s, &p) in sum.iter_mut().zip(pixel) {
                        *s += i64::from(p);
                    }
                }
            }
        }
        for (column, sum) in sums.iter().enumerate() {
            let (x0, x1) = (column * width / w, (column + 1) * width / w);
            let n = ((y1 - y0) * (x1 - x0)) as i64;
            rgb.push(sum.map(|s| (2 * s + n) / (2 * n)));
        }
    }
    Cells { h, w, rgb }
}

/// Rec. 601 luma of gamma-coded cells, 0..=255 (weights 77, 150, 29 of 256).
fn luma(cells: &Cells) -> Plane {
    let at = cells.rgb.iter().map(|[r, g, b]| (77 * r + 150 * g + 29 * b + 128) >> 8).collect();
    Plane { h: cells.h, w: cells.w, at }
}

/// The number of a cell's colour, by hue, saturation and value; `y` is its luma.
fn colour_number([r, g, b]: [i64; 3], y: i64) -> usize {
    let value = r.max(g).max(b);
    let chroma = value - r.min(g).min(b);

    // Grey: the eye sees no hue in little chroma, and less still in the dark.
    let neutral =
        chroma < 12 || chroma * 100 < value * 11 || (value < 64 && chroma < 16) || value < 24;
    if neutral {
        return NEUTRALS[..NEUTRALS.len() - 1].iter().filter(|(limit, _)| y >= *limit).count();
    }

    let hue = if value == r {
        (60 * (g - b)).div_euclid(chroma)
    } else if value == g {
        120 + (60 * (b - r)).div_euclid(chroma)
    } else {
        240 + (60 * (r - g)).div_euclid(chroma)
    }
    .rem_euclid(360);
    let family = HUES.iter().filter(|limit| hue >= **limit).count() % HUES.len();

    let saturation = 100 * chroma / value;
    let tone = if value < 84 {
        0
    } else if value < 160 {
        if saturation < 33 { 1 } else { 2 }
    } else if saturation < 26 {
        3
    } else if saturation < 52 {
        4
    } else {
        5
    };
    NEUTRALS.len() + family * 6 + tone
}

/// One to three colour numbers, largest area first; the second and third cover a tenth at least.
fn dominant_colours(numbers: &[usize]) -> Vec<usize> {
    let mut counts = [0usize; COLOURS];
    for &number in numbers {
        counts[number] += 1;
    }
    let mut order: Vec<usize> = (0..COLOURS).collect();
    // The sort is stable: of equal areas the lower number comes first.
    order.sort_by_key(|&number| std::cmp::Reverse(counts[number]));
    let mut colours = vec![order[0]];
    colours.extend(order[1..3].iter().filter(|&&number| counts[number] * 10 >= numbers.len()));
    colours
}

/// Sides of the two largest colours, if at least three quarters of each lie in opposite halves.
fn colour_sides(
    numbers: &[usize],
    h: usize,
    w: usize,
    colours: &[usize],
) -> Option<(&'static str, &'static str)> {
    let (&first, &second) = (colours.first()?, colours.get(1)?);
    let count = |number: usize, rows: usize, columns: usize| {
        (0..rows).flat_map(|y| &numbers[y * w..y * w + columns]).filter(|&&n| n == number).count()
    };
    let (n1, n2) = (count(first, h, w), count(second, h, w));
    if h >= 2 {
        let (top1, top2) = (count(first, h / 2, w), count(second, h / 2, w));
        if top1 * 4 >= n1 * 3 && top2 * 4 <= n2 {
            return Some(("above", "below"));
        }
        if top1 * 4 <= n1 && top2 * 4 >= n2 * 3 {
            return Some(("below", "above"));
        }
    }
    if w >= 2 {
        let (left1, left2) = (count(first, h, w / 2), count(second, h, w / 2));
        if left1 * 4 >= n1 * 3 && left2 * 4 <= n2 {
            return Some(("on the left", "on the right"));
        }
        if left1 * 4 <= n1 && left2 * 4 >= n2 * 3 {
            return Some(("on the right", "on the left"));
        }
    }
    None
}

/// The spread of luma between the 5th and the 95th percentile, 0..=255.
fn luma_range(y: &Plane) -> i64 {
    let mut histogram = [0usize; 256];
    for &value in &y.at {
        histogram[value as usize] += 1;
    }
    let (mut cumulative, mut low, mut high) = (0, 0, 0);
    for count in histogram {
        cumulative += count;
        low += i64::from(cumulative * 20 <= y.at.len());
        high += i64::from(cumulative * 20 < y.at.len() * 19);
    }
    high - low
}

/// Central differences over two cells, `(along x, along y)`; one-sided at the border.
fn gradients(y: &Plane) -> Vec<(i64, i64)> {
    let mut out = Vec::with_capacity(y.at.len());
    for row in 0..y.h {
        for column in 0..y.w {
            let [left, right, above, below] = y.around(row, column);
            out.push((right - left, below - above));
        }
    }
    out
}

/// Second differences, absolute, along x plus along y; the cell itself stands in beyond the border.
fn bend(y: &Plane, row: usize, column: usize) -> i64 {
    let [left, right, above, below] = y.around(row, column);
    let here = 2 * y.get(row, column);
    (right + left - here).abs() + (below + above - here).abs()
}

/// The texture, and the share of cells (in 1/1000) that carry a visible gradient.
fn texture(y: &Plane, gradients: &[(i64, i64)], spread: i64) -> (Texture, usize) {
    let n = gradients.len();
    let share = |limit: i64| {
        let above = |(gx, gy): &&(i64, i64)| gx.abs() + gy.abs() >= limit;
        1000 * gradients.iter().filter(above).count() / n
    };
    let (weak, active, strong) = (share(6), share(16), share(48));
    let bent = (0..n).filter(|i| bend(y, i / y.w, i % y.w) >= 12).count() * 1000 / n;
    let kind = if weak < 20 && spread < 12 {
        Texture::Flat
    } else if active < 60 {
        // One hard border right across the region is enough for an edge.
        if strong >= 15 { Texture::Edged } else { Texture::Smooth }
    } else if bent * 3 < active {
        // Slopes that hardly bend from one cell to the next: out of focus, or a wide shade.
        Texture::Blurred
    } else if active < 300 {
        if strong * 4 >= active { Texture::Edged } else { Texture::Soft }
    } else if strong < 150 {
        Texture::Fine
    } else if active < 600 {
        Texture::Detailed
    } else {
        Texture::Rough
    };
    (kind, active)
}

/// The place in [`LINES`] by the structure tensor summed over the region, if it has one direction.
///
/// Coherence ((jxx − jyy)² + (2 jxy)²) / (jxx + jyy)² of at least 0.16 counts. The sectors are 45 degrees
/// wide: twice the angle of the mean gradient lies within 45 degrees of an axis.
fn lines(gradients: &[(i64, i64)]) -> Option<usize> {
    let (mut jxx, mut jyy, mut jxy) = (0i128, 0i128, 0i128);
    for &(gx, gy) in gradients {
        jxx += i128::from(gx * gx);
        jyy += i128::from(gy * gy);
        jxy += i128::from(gx * gy);
    }
    let (a, b, trace) = (jxx - jyy, 2 * jxy, jxx + jyy);
    if trace == 0 || 100 * (a * a + b * b) < 16 * trace * trace {
        return None;
    }
    // y points down: a gradient towards the lower right crosses lines that rise to the right.
    Some(match (b.abs() <= a.abs(), a > 0, b > 0) {
        (true, true, _) => 0,
        (true, false, _) => 1,
        (false, _, true) => 2,
        (false, _, false) => 3,
    })
}

/// Luma of the top half minus the bottom half, left minus right, and middle minus the whole.
fn half_means(y: &Plane) -> (i64, i64, i64) {
    let (h, w) = (y.h, y.w);
    let vertical = if h >= 2 { y.mean(0, h / 2, 0, w) - y.mean(h - h / 2, h, 0, w) } else { 0 };
    let horizontal = if w >= 2 { y.mean(0, h, 0, w / 2) - y.mean(0, h, w - w / 2, w) } else { 0 };
    let middle = if h.min(w) >= 4 {
        y.mean(h / 4, h - h / 4, w / 4, w - w / 4) - y.mean(0, h, 0, w)
    } else {
        0
    };
    (vertical, horizontal, middle)
}

/// Position of the light; `None` if it is spread evenly.
fn light((vertical, horizontal, middle): (i64, i64, i64)) -> Option<String> {
    let (v, h, m) = (vertical.abs(), horizontal.abs(), middle.abs());
    if v.max(h) >= 20 {
        let rows = if vertical > 0 { "top" } else { "bottom" };
        let columns = if horizontal > 0 { "left" } else { "right" };
        return Some(if 2 * h < v {
            format!("brighter at the {rows}")
        } else if 2 * v < h {
            format!("brighter on the {columns}")
        } else {
            format!("brighter at the {rows} {columns}")
        });
    }
    (m >= 14).then(|| {
        let word = if middle > 0 { "brighter" } else { "darker" };
        format!("{word} in the middle")
    })
}

// --- the sentence --------------------------------------------------------------------------------

/// One sentence about a region's pixels: some 17 words, never over 40, from the closed [`vocabulary`].
///
/// The same pixels give the same sentence on every machine (integer arithmetic only).
///
/// ```
/// use cupscale::caption::{Pixels, attributes::describe};
///
/// let white = Pixels::new(2, 1, vec![255; 6]).unwrap();
/// assert_eq!(describe(&white), "a very bright, flat, even area in white");
/// ```
pub fn describe(pixels: &Pixels) -> String {
    let cells = cell_means(pixels);
    let y = luma(&cells);

    let mean = y.mean(0, y.h, 0, y.w);
    let brightness = BRIGHTNESS[BRIGHTNESS.iter().filter(|(limit, _)| mean >= *limit).count()].1;

    let spread = luma_range(&y);
    let contrast = match spread {
        ..48 => "low contrast, ",
        48..150 => "",
        150.. => "high contrast, ",
    };

    let gradients = gradients(&y);
    let (kind, active) = texture(&y, &gradients, spread);
    let place = light(half_means(&y));
    let noun = if kind == Texture::Smooth && place.is_some() { "gradient" } else { "area" };

    let numbers: Vec<usize> =
        cells.rgb.iter().zip(&y.at).map(|(&rgb, &y)| colour_number(rgb, y)).collect();
    let colours = dominant_colours(&numbers);
    let sides = colour_sides(&numbers, cells.h, cells.w, &colours);
    let names: Vec<&str> = colours.iter().map(|&number| colour_name(number)).collect();
    let painted = match (sides, names.as_slice()) {
        (Some((a, b)), [first, second, rest @ ..]) => {
            let mut painted = format!("{first} {a} and {second} {b}");
            if let [third] = rest {
                painted += &format!(" with some {third}");
            }
            painted
        }
        (_, [first, second, third]) => format!("{first}, {second} and {third}"),
        (_, names) => names.join(" and "),
    };

    let contrast = if kind == Texture::Flat { "" } else { contrast };
    let texture = TEXTURES[kind as usize];
    let mut parts = vec![format!("a {brightness}, {contrast}{texture} {noun} in {painted}")];
    let direction = (kind >= Texture::Blurred).then(|| lines(&gradients)).flatten();
    if let Some(direction) = direction {
        // Lines cover the region; a few strong borders between smooth parts are edges.
        let what = if active >= 200 { "lines" } else { "edges" };
        parts.push(format!("{} {what}", LINES[direction]));
    }
    parts.extend(place);
    parts.join(", ")
}

/// Every word that [`describe`] can use, sorted; besides these there is only the comma.
pub fn vocabulary() -> Vec<&'static str> {
    let mut phrases = vec![
        "a in and with some area gradient lines edges low high contrast above below on at the left right",
        "brighter darker top bottom middle",
    ];
    phrases.extend(BRIGHTNESS.iter().map(|(_, word)| word));
    phrases.extend((0..COLOURS).map(colour_name));
    phrases.extend(TEXTURES);
    phrases.extend(LINES);
    let mut words: Vec<&str> = phrases
        .iter()
        .flat_map(|phrase| phrase.split([' ', ',']))
        .filter(|word| !word.is_empty())
        .collect();
    words.sort_unstable();
    words.dedup();
    words
}

/// `--captioner attributes`: [`describe`] for every region, with the user's prompt in front.
#[derive(Clone, Copy, Debug, Default)]
pub struct Attributes;

impl Captioner for Attributes {
    fn name(&self) -> &str {
        "attributes"
    }

    fn identity(&self) -> Result<String, CaptionError> {
        Ok(self.name().to_owned())
    }

    fn open<'a>(
        &'a self,
        _: SessionContext<'a>,
    ) -> Result<Box<dyn CaptionSession + 'a>, CaptionError> {
        Ok(Box::new(*self))
    }
}

impl CaptionSession for Attributes {
    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: RegionProgress<'_>,
    ) -> Result<Captions, CaptionError> {
        let total = regions.len();
        let mut captions = Vec::with_capacity(total);
        for index in 0..total {
            let place = regions.place(index);
            captions.push(match regions.pixels(index) {
                Ok(pixels) => Caption::new(place, join_prompt(context.prompt, &describe(&pixels))),
                Err(reason) => Caption::fallback(place, context, reason),
            });
            progress(index + 1, total);
        }
        Ok(captions.into())
    }
}
