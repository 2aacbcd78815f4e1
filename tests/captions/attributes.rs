//! The embedded captioner against the Python it was trained with: the same words, to the letter.
//! The fixture comes from `tests/make_fixtures/make_caption_fixtures.py`.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::PathBuf;

use cupscale::caption::Pixels;
use cupscale::caption::attributes::{describe, vocabulary};
use serde::Deserialize;

#[derive(Deserialize)]
struct Fixture {
    vocabulary: Vec<String>,
    lattice: Lattice,
    crops: Vec<Crop>,
}

#[derive(Deserialize)]
struct Lattice {
    step: usize,
    colours: Vec<String>,
    counts: BTreeMap<String, usize>,
    places: usize,
}

#[derive(Deserialize)]
struct Crop {
    name: String,
    x: u32,
    y: u32,
    width: u32,
    height: u32,
    caption: String,
}

fn folder() -> PathBuf {
    crate::common::fixture("caption")
}

fn fixture() -> Fixture {
    let text = std::fs::read_to_string(folder().join("attributes.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn words(caption: &str) -> impl Iterator<Item = &str> {
    caption.split([' ', ',']).filter(|word| !word.is_empty())
}

#[test]
fn every_crop_is_described_in_the_words_of_the_python_captioner() {
    let fixture = fixture();
    assert!(fixture.crops.len() >= 60);
    let atlas = pictures::open(folder().join("atlas.png")).to_rgb8();
    let different: Vec<String> = fixture
        .crops
        .iter()
        .filter_map(|crop| {
            let view = pictures::crop(&atlas, crop.x, crop.y, crop.width, crop.height);
            let rgb = view.into_raw();
            let pixels = Pixels::new(crop.width as usize, crop.height as usize, rgb).unwrap();
            let ours = describe(&pixels);
            (ours != crop.caption)
                .then(|| format!("{}\n  ours:   {ours}\n  python: {}", crop.name, crop.caption))
        })
        .collect();
    assert!(different.is_empty(), "{}", different.join("\n"));
}

#[test]
fn every_colour_of_a_lattice_over_rgb_has_the_same_name_in_python() {
    let Lattice { step, colours, counts, places } = fixture().lattice;
    let number: HashMap<&str, usize> =
        colours.iter().enumerate().map(|(n, name)| (name.as_str(), n)).collect();
    let mut ours = vec![0; colours.len()];
    let (mut sum, mut place) = (0, 0);
    for r in (0..256).step_by(step) {
        for g in (0..256).step_by(step) {
            for b in (0..256).step_by(step) {
                let pixels = Pixels::new(1, 1, vec![r as u8, g as u8, b as u8]).unwrap();
                let caption = describe(&pixels);
                let (_, name) = caption.split_once(" area in ").unwrap();
                place += 1;
                sum += number[name] * place;
                ours[number[name]] += 1;
            }
        }
    }
    let ours: BTreeMap<String, usize> = colours.into_iter().zip(ours).collect();
    assert_eq!(ours, counts);
    assert_eq!(sum, places);
}

#[test]
fn the_vocabulary_is_the_same_as_in_python_and_no_caption_leaves_it() {
    let fixture = fixture();
    assert_eq!(vocabulary(), fixture.vocabulary);
    let known: BTreeSet<&str> = vocabulary().into_iter().collect();
    for crop in &fixture.crops {
        let unknown: Vec<&str> = words(&crop.caption).filter(|w| !known.contains(w)).collect();
        assert!(unknown.is_empty(), "{}: {unknown:?}", crop.name);
        assert!(words(&crop.caption).count() <= 40, "{}", crop.caption);
    }
}
