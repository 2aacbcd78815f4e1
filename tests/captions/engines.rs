//! The captioners that need only the program: prompts, extremes, and failures of single regions.

use std::borrow::Cow;

use cupscale::caption::attributes::{Attributes, describe};
use cupscale::caption::none::PromptOnly;
use cupscale::caption::{
    CaptionContext, CaptionError, CaptionSession, Captioner, Captions, GridSpec, Pixels, Rect,
    RegionImage, RegionPlace, RegionSource, SessionContext, join_prompt,
};

const GRID: GridSpec =
    GridSpec { rows: 1, cols: 2, region: 64, overlap: 0, width: 128, height: 64 };

fn context(prompt: &str) -> CaptionContext<'_> {
    CaptionContext { prompt, grid: GRID }
}

fn place(col: u32) -> RegionPlace {
    RegionPlace { row: 0, col, rect: Rect { x: col * 64, y: 0, width: 64, height: 64 } }
}

/// `height` × `width` pixels, each from its (x, y).
fn paint(width: usize, height: usize, colour: impl Fn(usize, usize) -> [u8; 3]) -> Pixels {
    let rgb = (0..width * height).flat_map(|i| colour(i % width, i / width)).collect();
    Pixels::new(width, height, rgb).unwrap()
}

fn two_regions() -> Vec<RegionImage> {
    vec![
        RegionImage { place: place(0), pixels: paint(64, 64, |_, _| [200, 30, 30]) },
        RegionImage {
            place: place(1),
            pixels: paint(64, 64, |_, y| [if (y / 4).is_multiple_of(2) { 20 } else { 90 }; 3]),
        },
    ]
}

fn run(captioner: &mut dyn CaptionSession, regions: &dyn RegionSource, prompt: &str) -> Captions {
    captioner.caption(regions, &context(prompt), &mut |_, _| ()).unwrap()
}

fn texts(captions: &Captions) -> Vec<&str> {
    captions.regions.iter().map(|c| c.text.as_str()).collect()
}

/// The captioners that need nothing but the program.
fn without_a_model() -> [(&'static str, Box<dyn Captioner>); 2] {
    [("attributes", Box::new(Attributes)), ("none", Box::new(PromptOnly))]
}

#[test]
fn attributes_puts_the_prompt_in_front_of_what_it_measures() {
    let captions = run(&mut Attributes, &two_regions(), " An old harbour at dusk. ");
    assert_eq!(
        texts(&captions),
        [
            "An old harbour at dusk, a dim, flat, even area in bright red",
            "An old harbour at dusk, a dark, detailed area in black and dark grey, horizontal lines",
        ]
    );
    assert!(captions.regions.iter().all(|c| c.fallback.is_none()));
    assert!(captions.notes.is_empty());
}

#[test]
fn attributes_without_a_prompt_says_only_what_it_measures() {
    let captions = run(&mut Attributes, &two_regions(), "  ");
    assert_eq!(captions.regions[0].text, "a dim, flat, even area in bright red");
}

#[test]
fn none_gives_every_region_the_prompt_and_looks_at_no_pixel() {
    struct Blind;
    impl RegionSource for Blind {
        fn len(&self) -> usize {
            2
        }
        fn place(&self, index: usize) -> RegionPlace {
            place(index as u32)
        }
        fn pixels(
            &self,
            _: usize,
        ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
            panic!("nobody needs pixels here")
        }
    }
    let captions = run(&mut PromptOnly, &Blind, "a harbour");
    assert_eq!(texts(&captions), ["a harbour", "a harbour"]);
    assert_eq!(captions.regions[1].place, place(1));
    assert_eq!(texts(&run(&mut PromptOnly, &Blind, "")), ["", ""]);
}

#[test]
fn a_region_without_pixels_falls_back_to_the_prompt_and_the_others_do_not() {
    struct Half(Vec<RegionImage>);
    impl RegionSource for Half {
        fn len(&self) -> usize {
            self.0.len()
        }
        fn place(&self, index: usize) -> RegionPlace {
            self.0.place(index)
        }
        fn pixels(
            &self,
            index: usize,
        ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
            if index == 0 {
                return Err("band 3 is gone".into());
            }
            self.0.pixels(index)
        }
    }
    let captions = run(&mut Attributes, &Half(two_regions()), "a harbour");
    assert_eq!(captions.regions[0].text, "a harbour");
    assert_eq!(captions.regions[0].fallback.as_deref(), Some("band 3 is gone"));
    assert!(captions.regions[1].text.starts_with("a harbour, a dark"));
    assert_eq!(captions.regions[1].fallback, None);
}

#[test]
fn progress_counts_up_to_the_number_of_regions() {
    for (name, captioner) in without_a_model() {
        let mut seen = Vec::new();
        assert_eq!(captioner.name(), name);
        let mut session = captioner.open(SessionContext::plain()).unwrap();
        session
            .caption(&two_regions(), &context(""), &mut |done, total| {
                seen.push((done, total));
            })
            .unwrap();
        assert_eq!(seen.last(), Some(&(2, 2)), "{name}");
        assert!(seen.is_sorted(), "{name}");
    }
}

#[test]
fn no_regions_give_no_captions() {
    for (_, captioner) in without_a_model() {
        let mut session = captioner.open(SessionContext::plain()).unwrap();
        assert!(run(session.as_mut(), &Vec::new(), "x").regions.is_empty());
    }
}

#[test]
fn pixels_of_the_wrong_size_are_refused() {
    for (width, height, len) in [(2, 2, 11), (0, 4, 0), (0, 0, 0), (1, 1, 4), (usize::MAX, 2, 6)] {
        let error = Pixels::new(width, height, vec![0; len]).unwrap_err();
        assert!(matches!(error, CaptionError::Pixels { .. }), "{error}");
        assert!(Pixels::from_f32(width, height, &vec![0.0; len]).is_err());
    }
}

#[test]
fn float_pixels_are_rounded_and_clamped() {
    let floats = [0.0, 1.0, 0.5, -3.0, 7.0, f32::NAN, 0.499 / 255.0, 254.5 / 255.0, f32::INFINITY];
    let pixels = Pixels::from_f32(3, 1, &floats).unwrap();
    assert_eq!(pixels.rgb(), [0, 255, 128, 0, 255, 0, 0, 255, 255]);
}

#[test]
fn one_pixel_and_one_colour_have_no_texture_and_no_direction() {
    for (width, height) in [(1, 1), (2, 1), (1, 2), (3, 500), (500, 3), (257, 129)] {
        for (grey, said) in [
            (0, "a very dark, flat, even area in black"),
            (128, "a well lit, flat, even area in grey"),
            (255, "a very bright, flat, even area in white"),
        ] {
            let caption = describe(&paint(width, height, |_, _| [grey; 3]));
            assert_eq!(caption, said, "{width} x {height}");
        }
    }
}

#[test]
fn the_direction_of_lines_is_that_of_the_stripes() {
    let stripe = |phase: usize| [if (phase / 16).is_multiple_of(2) { 40 } else { 200 }; 3];
    let said = |pixels: Pixels| describe(&pixels);
    assert!(said(paint(256, 256, |x, _| stripe(x))).contains("vertical lines"));
    assert!(said(paint(256, 256, |_, y| stripe(y))).contains("horizontal lines"));
    assert!(said(paint(256, 256, |x, y| stripe(x + y))).contains("diagonal rising lines"));
    assert!(said(paint(256, 256, |x, y| stripe(x + 256 - y))).contains("diagonal falling lines"));
    assert!(!said(paint(256, 256, |x, y| stripe((x & !15) + (y & !15)))).contains("lines"));
}

#[test]
fn light_and_colours_are_told_where_they_lie() {
    let sky = paint(200, 200, |_, y| if y < 120 { [150, 200, 250] } else { [60, 70, 20] });
    let caption = describe(&sky);
    assert!(caption.contains("light blue above and dark olive green below"), "{caption}");
    assert!(caption.ends_with("brighter at the top"), "{caption}");

    let right = paint(200, 100, |x, _| [(x + 20) as u8; 3]);
    assert!(describe(&right).ends_with("brighter on the right"));
    let corner = paint(100, 100, |x, y| [(x + y + 20) as u8; 3]);
    assert!(describe(&corner).ends_with("brighter at the bottom right"));
}

#[test]
fn a_region_is_described_alike_at_any_enlargement() {
    let at = |scale: usize| {
        paint(64 * scale, 64 * scale, |x, y| {
            let (x, y) = (x / scale, y / scale);
            let wave = (x * 7 + y * 3) % 29;
            [(60 + wave * 4) as u8, (90 + y) as u8, (30 + x) as u8]
        })
    };
    let small = describe(&at(1));
    for scale in [2, 3, 4, 8] {
        assert_eq!(describe(&at(scale)), small, "{scale} x");
    }
}

#[test]
fn a_prompt_and_a_caption_are_joined_by_one_comma() {
    for (prompt, caption, joined) in [
        ("a harbour", "in blue", "a harbour, in blue"),
        ("a harbour, ", "in blue", "a harbour, in blue"),
        ("A harbour.\n", " in blue ", "A harbour, in blue"),
        ("", "in blue", "in blue"),
        (" ,. ", "in blue", "in blue"),
        ("a harbour", "", "a harbour"),
        ("", "", ""),
    ] {
        assert_eq!(join_prompt(prompt, caption), joined);
    }
}
