//! Captions files: what a person may do to one, and what they are told when it is wrong.

use std::fs;

use cupscale::caption::document::{Author, Document};
use cupscale::caption::file::FromFile;
use cupscale::caption::{
    Caption, CaptionContext, CaptionError, CaptionSession, Captions, GridSpec, Pixels, Rect,
    RegionImage, RegionPlace,
};
use cupscale::image::Output;

/// Author of a captions file whose regions all have the prompt.
const NOBODY: Author<'static> = Author { name: "none", model: None, instruction: None };

/// An even grid: `n` regions a side over `side` pixels.
fn grid(rows: u32, cols: u32, region: u32, width: u32, height: u32) -> GridSpec {
    GridSpec { rows, cols, region, overlap: region / 2, width, height }
}

/// The places of a grid whose regions are spread evenly.
fn places(grid: GridSpec) -> Vec<RegionPlace> {
    let start = |i: u32, n: u32, side: u32| {
        if n == 1 { 0 } else { i * (side - grid.region) / (n - 1) }
    };
    (0..grid.rows)
        .flat_map(|row| (0..grid.cols).map(move |col| (row, col)))
        .map(|(row, col)| RegionPlace {
            row,
            col,
            rect: Rect {
                x: start(col, grid.cols, grid.width),
                y: start(row, grid.rows, grid.height),
                width: grid.region,
                height: grid.region,
            },
        })
        .collect()
}

fn regions(grid: GridSpec) -> Vec<RegionImage> {
    let black = Pixels::new(1, 1, vec![0; 3]).unwrap();
    places(grid).into_iter().map(|place| RegionImage { place, pixels: black.clone() }).collect()
}

/// A document whose captions are "r0 c0", "r0 c1", ….
fn numbered(grid: GridSpec, prompt: &str) -> Document {
    let captions: Vec<Caption> = places(grid)
        .into_iter()
        .map(|place| Caption::new(place, format!("r{} c{}", place.row, place.col)))
        .collect();
    let context = CaptionContext { prompt, grid };
    Document::new(&NOBODY, &context, &captions.into()).unwrap()
}

fn said(document: Document, job: GridSpec, prompt: &str) -> Captions {
    let context = CaptionContext { prompt, grid: job };
    FromFile::from(document).caption(&regions(job), &context, &mut |_, _| ()).unwrap()
}

fn texts(captions: &Captions) -> Vec<&str> {
    captions.regions.iter().map(|c| c.text.as_str()).collect()
}

const TWO: &str = r#"{
  "version": 1,
  "grid": {
    "rows": 1,
    "cols": 2,
    "region": 64,
    "overlap": 32,
    "width": 96,
    "height": 64
  },
  "captioner": "none",
  "prompt": "a harbour",
  "regions": [
    {
      "row": 0,
      "col": 0,
      "x": 0,
      "y": 0,
      "width": 64,
      "height": 64,
      "caption": "r0 c0"
    },
    {
      "row": 0,
      "col": 1,
      "x": 32,
      "y": 0,
      "width": 64,
      "height": 64,
      "caption": "r0 c1"
    }
  ]
}
"#;

fn error(text: &str) -> String {
    Document::parse(text, "c.json").unwrap_err().to_string()
}

#[test]
fn the_text_of_a_file_is_indented_and_in_a_fixed_order() {
    assert_eq!(numbered(grid(1, 2, 64, 96, 64), " a harbour ").to_json(), TWO);
}

#[test]
fn what_is_written_reads_back_equal_and_leaves_nothing_else_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("captions.json");
    let document = numbered(grid(3, 4, 64, 160, 128), "ein Häfen, \"alt\"\n🌅");
    fs::write(&path, "older").unwrap();
    Output::Path(path.clone()).write(document.to_json().as_bytes()).unwrap();
    assert_eq!(Document::read(&path).unwrap(), document);
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    assert_eq!(fs::read_to_string(&path).unwrap(), document.to_json());
}

#[test]
fn a_model_and_its_instruction_are_kept_in_the_file() {
    let author = Author {
        name: "engine",
        model: Some("engine-7b"),
        instruction: Some("Say what is there."),
    };
    let grid = grid(1, 1, 64, 64, 64);
    let captions = vec![Caption::new(places(grid)[0], "boats".into())];
    let context = CaptionContext { prompt: "", grid };
    let document = Document::new(&author, &context, &captions.into()).unwrap();
    let text = document.to_json();
    assert!(text.contains(
        "\"captioner\": \"engine\",\n  \"model\": \"engine-7b\",\n  \"instruction\": \"Say what is there.\",\n"
    ));
    assert_eq!(Document::parse(&text, "").unwrap(), document);
}

#[test]
fn regions_may_stand_in_any_order_and_a_byte_order_mark_in_front() {
    let mut value: serde_json::Value = serde_json::from_str(TWO).unwrap();
    value["regions"].as_array_mut().unwrap().reverse();
    let document = Document::parse(&format!("\u{feff}{value}"), "c.json").unwrap();
    assert_eq!(document.to_json(), TWO);
}

#[test]
fn errors_in_the_text_name_line_and_field() {
    for (find, replace, message) in [
        (
            "\"caption\": \"r0 c0\"",
            "\"captoin\": \"r0 c0\"",
            "c.json, line 21, column 15: unknown field `captoin`, expected one of `row`, `col`, `x`, `y`, \
             `width`, `height`, `caption`",
        ),
        (
            ",\n      \"caption\": \"r0 c1\"",
            "",
            "c.json, line 30, column 5: missing field `caption`",
        ),
        (
            "\"rows\": 1",
            "\"rows\": -1",
            "c.json, line 4, column 14: invalid value: integer `-1`, expected u32",
        ),
        (
            "\"r0 c0\"",
            "7",
            "c.json, line 21, column 18: invalid type: integer `7`, expected a string",
        ),
        (
            "  \"captioner\": \"none\",\n",
            "",
            "c.json, line 32, column 1: missing field `captioner`",
        ),
    ] {
        assert!(TWO.contains(find));
        assert_eq!(error(&TWO.replacen(find, replace, 1)), message);
    }
    let cut = error(&TWO[..100]);
    assert!(cut.starts_with("c.json, line 8, column "), "{cut}");
    assert!(cut.contains("EOF"), "{cut}");
    assert!(error("").starts_with("c.json, line 1, column 0: "));
    assert!(error("[]").starts_with("c.json, line 1, column "));
}

#[test]
fn a_later_version_is_named_before_its_unknown_fields() {
    let text = TWO.replace("\"version\": 1", "\"version\": 2").replace("rows", "lines");
    assert_eq!(error(&text), "c.json: captions of version 2 are not known here (known: 1)");
    assert_eq!(
        error(&TWO.replace("  \"version\": 1,\n", "")),
        "c.json, line 32, column 1: missing field `version`"
    );
}

#[test]
fn a_grid_that_is_not_filled_exactly_once_is_refused() {
    for (find, replace, message) in [
        (
            "\"cols\": 2",
            "\"cols\": 3",
            "c.json: 2 regions, but a grid of 1 x 3 needs 3: row 0, col 2 is missing",
        ),
        (
            "\"cols\": 2",
            "\"cols\": 4294967295",
            "c.json: 2 regions, but a grid of 1 x 4294967295 needs 4294967295: row 0, col 2 is missing",
        ),
        (
            "\"cols\": 2",
            "\"cols\": 1",
            "c.json: regions[1] (row 0, col 1): outside the grid of 1 x 1 (both count from 0)",
        ),
        ("\"col\": 1", "\"col\": 0", "c.json: regions[1] (row 0, col 0): is there twice"),
        (
            "\"width\": 64",
            "\"width\": 0",
            "c.json: regions[0] (row 0, col 0): 'width' and 'height' must be at least 1",
        ),
        (
            "\"x\": 32",
            "\"x\": 96",
            "c.json: regions[1] (row 0, col 1): lies outside the picture of 96 x 64",
        ),
        ("\"rows\": 1", "\"rows\": 0", "c.json: grid: 'rows' must be at least 1"),
    ] {
        assert!(TWO.contains(find));
        assert_eq!(error(&TWO.replacen(find, replace, 1)), message);
    }
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("captions.json");
    let missing = FromFile::read(&path).unwrap_err();
    assert!(matches!(missing, CaptionError::Read { .. }));
    assert!(
        missing.to_string().starts_with(&format!("{}: cannot read captions: ", path.display()))
    );
    fs::write(&path, [0xff, 0xfe, 0x00]).unwrap();
    assert!(matches!(FromFile::read(&path), Err(CaptionError::Read { .. })));
}

#[test]
fn the_same_grid_takes_captions_by_row_and_column_as_they_stand() {
    let job = grid(2, 3, 64, 128, 96);
    let captions = said(numbered(job, "a harbour"), job, "something else");
    assert_eq!(texts(&captions), ["r0 c0", "r0 c1", "r0 c2", "r1 c0", "r1 c1", "r1 c2"]);
    assert!(captions.notes.is_empty());
}

#[test]
fn an_empty_caption_stands_for_the_prompt_of_the_job_or_else_of_the_file() {
    let text = TWO.replace("r0 c1", "  \\n");
    let document = Document::parse(&text, "c.json").unwrap();
    let job = document.grid();
    assert_eq!(texts(&said(document.clone(), job, " at dusk ")), ["r0 c0", "at dusk"]);
    assert_eq!(texts(&said(document.clone(), job, "")), ["r0 c0", "a harbour"]);
    assert_eq!(FromFile::from(document).prompt(), "a harbour");
}

#[test]
fn another_size_of_the_same_grid_keeps_rows_and_columns_and_says_so() {
    let captions = said(numbered(grid(2, 2, 64, 96, 96), ""), grid(2, 2, 128, 192, 192), "");
    assert_eq!(texts(&captions), ["r0 c0", "r0 c1", "r1 c0", "r1 c1"]);
    assert_eq!(
        captions.notes,
        [
            "captions were made for 2 x 2 regions of 64 pixels over 96 x 96, this job has 2 x 2 regions of \
             128 pixels over 192 x 192: matched by row and column"
        ]
    );
}

#[test]
fn a_finer_grid_takes_the_caption_that_covers_most_of_each_region() {
    // The file: two halves. The job: 3 regions a row at twice the size; the middle one lies half in each, and
    // of two equals the first counts.
    let file = grid(1, 2, 64, 128, 64);
    let captions = said(numbered(file, ""), grid(1, 3, 128, 256, 128), "");
    assert_eq!(texts(&captions), ["r0 c0", "r0 c0", "r0 c1"]);
    assert_eq!(captions.notes.len(), 1);
    assert!(captions.notes[0].contains("covers most"));

    let captions = said(numbered(grid(2, 2, 64, 128, 128), ""), grid(4, 4, 64, 256, 256), "");
    let expected: Vec<String> = (0..16).map(|i| format!("r{} c{}", i / 4 / 2, i % 4 / 2)).collect();
    assert_eq!(texts(&captions), expected);
}

#[test]
fn of_regions_that_cover_a_small_one_wholly_the_nearest_centre_counts() {
    // File regions 0..64, 32..96, 64..128. The job's third region, 32..48, lies wholly in the first two, nearer
    // to the first's centre, 32; its fourth, 48..64, nearer to the second's, 64.
    let file = grid(1, 3, 64, 128, 64);
    let job = grid(1, 8, 16, 128, 16);
    let captions = said(numbered(file, ""), job, "");
    assert_eq!(
        texts(&captions),
        ["r0 c0", "r0 c0", "r0 c0", "r0 c1", "r0 c1", "r0 c2", "r0 c2", "r0 c2"]
    );
}

#[test]
fn a_coarser_grid_and_huge_pictures_are_matched_without_overflow() {
    let file = numbered(grid(3, 3, 64, 128, 128), "");
    let captions = said(file, grid(1, 1, u32::MAX, u32::MAX, u32::MAX), "");
    assert_eq!(texts(&captions), ["r1 c1"]);
}
