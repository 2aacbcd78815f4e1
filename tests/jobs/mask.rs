//! Masks through the whole program: what is kept is the plain enlargement to the byte, what is white is what a job without a
//! mask makes, and regions that touch nothing that is repainted do not run.

use std::{fs, path::Path};

use pictures::{DynamicImage, Rgb, RgbImage, Rgba};
use serde_json::Value;

use crate::common::{Shell, stderr, test_picture, tiny};

/// Size of the output, that of the masks.
const SIZE: (u32, u32) = (120, 88);
/// The column from which it is repainted.
const EDGE: u32 = 70;

/// Black up to the edge, white from there.
fn halves() -> RgbImage {
    RgbImage::from_fn(SIZE.0, SIZE.1, |x, _| Rgb([if x < EDGE { 0 } else { 255 }; 3]))
}

fn shell() -> Shell {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    pictures::save(halves().into(), &shell.path("mask.png"));
    shell
}

/// The output of a job at four times the size.
fn made(shell: &Shell, options: &str) -> DynamicImage {
    let format = if options.contains("16") { "tif" } else { "png" };
    let line = format!("in.png -o out.{format} -q --denoise-steps 2 {options}");
    let output = shell.command(&line).arg("--model").arg(tiny()).output().unwrap();
    assert!(output.status.success(), "{options}: {}", stderr(&output));
    pictures::open(shell.path(&format!("out.{format}")))
}

#[test]
fn what_is_kept_is_the_plain_enlargement_to_the_byte_with_every_colour_fix_and_depth() {
    let shell = shell();
    for options in [
        "",
        "--color-fix adain",
        "--color-fix lab --tile 32",
        "--color-fix none --tile 32",
        "--bit-depth 16 --tile 48 --detail-only",
        "--sampler dpmpp-sde --rap 0 --tile 32",
    ] {
        let plain = made(&shell, &format!("{options} --blend 0")).to_rgb16();
        let share = if options.contains("none") { "--blend 0.7" } else { "" };
        let masked = made(&shell, &format!("{options} {share} --mask mask.png")).to_rgb16();
        let mut repainted = 0;
        for (x, y, pixel) in masked.enumerate_pixels() {
            match x < EDGE {
                true => assert_eq!(pixel, plain.get_pixel(x, y), "{options}: ({x}, {y})"),
                false => repainted += usize::from(pixel != plain.get_pixel(x, y)),
            }
        }
        assert!(repainted > 3000, "{options}: {repainted}");
    }
}

#[test]
fn transparency_of_the_picture_is_kept_and_that_of_a_mask_is_the_mask() {
    let shell = shell();
    let opaque = test_picture(30, 22);
    let picture = pictures::ImageBuffer::from_fn(30, 22, |x, y| {
        let Rgb([r, g, b]) = *opaque.get_pixel(x, y);
        Rgba([r, g, b, if y < 5 { 60 } else { 255 }])
    });
    pictures::save(DynamicImage::ImageRgba8(picture), &shell.path("in.png"));
    // Painted in black.
    let strokes = pictures::ImageBuffer::from_fn(SIZE.0, SIZE.1, |x, _| {
        Rgba([0, 0, 0, if x < EDGE { 0 } else { 255 }])
    });
    pictures::save(DynamicImage::ImageRgba8(strokes), &shell.path("strokes.png"));
    let masked = made(&shell, "--mask mask.png");
    assert_eq!(masked, made(&shell, "--mask strokes.png"));
    let plain = made(&shell, "--blend 0").to_rgba8();
    for (x, y, pixel) in masked.to_rgba8().enumerate_pixels() {
        let expected = plain.get_pixel(x, y);
        assert_eq!(pixel.0[3], expected.0[3]);
        assert!(x >= EDGE || pixel == expected, "({x}, {y})");
    }
}

#[test]
fn a_white_mask_changes_nothing_and_a_black_one_runs_no_model() {
    let shell = shell();
    let plane = |name: &str, value: u8| {
        pictures::save(RgbImage::from_pixel(3, 5, Rgb([value; 3])).into(), &shell.path(name));
    };
    plane("white.png", 255);
    plane("black.png", 0);
    let all = made(&shell, "");
    assert_eq!(made(&shell, "--mask white.png"), all);
    assert_eq!(made(&shell, "--mask white.png --mask-feather 30"), all);
    assert_eq!(made(&shell, "--mask black.png --invert-mask"), all);
    let none = made(&shell, "--blend 0");
    assert_eq!(made(&shell, "--mask black.png"), none);
    let output = shell
        .command("in.png -o out.png --mask white.png --invert-mask --model")
        .arg(tiny())
        .output()
        .unwrap();
    assert!(stderr(&output).contains("the mask keeps everything"), "{}", stderr(&output));
    assert_eq!(pictures::open(shell.path("out.png")), none);
    // Half of it is half of the way.
    plane("grey.png", 128);
    let half = made(&shell, "--mask grey.png");
    assert!(half != all && half != none);
}

#[test]
fn neither_batches_nor_threads_change_the_bytes_and_the_plan_says_which_regions_run() {
    let shell = shell();
    let options = "--mask mask.png --mask-feather 5 --invert-mask --guidance 2";
    let one = made(&shell, &format!("{options} --batch 1 --threads 1"));
    assert_eq!(one, made(&shell, &format!("{options} --batch 3 --threads 2")));
    let plan = |options: &str| {
        let line = format!("plan in.png {options} --json --model {}", tiny().display());
        serde_json::from_slice::<Value>(&shell.succeed(&line)).unwrap()
    };
    let (all, masked) = (plan(""), plan("--mask mask.png"));
    assert_eq!(all["regions"], masked["regions"]);
    assert_eq!(all["regions_run"], all["regions"]);
    let count = |plan: &Value, key: &str| plan[key].as_u64().unwrap();
    assert!(count(&masked, "regions_run") < count(&all, "regions_run"), "{masked}");
    let saved = (count(&all, "regions_run") - count(&masked, "regions_run")) * count(&all, "steps");
    assert_eq!(count(&all, "calls") - count(&masked, "calls"), saved);
    let line = format!("plan in.png --mask mask.png --model {}", tiny().display());
    let text = String::from_utf8(shell.succeed(&line)).unwrap();
    let said = text.lines().find(|line| line.starts_with("mask ")).unwrap().to_owned();
    assert!(said.contains("repaints 43 % of the canvas, in"), "{said}");
}

#[test]
fn settings_say_that_there_was_a_mask_and_reuse_asks_which() {
    let shell = shell();
    made(&shell, "--mask mask.png --invert-mask --mask-feather 7");
    let settings = cupscale::image::read_settings(&shell.path("out.png")).unwrap().unwrap();
    let settings: Value = serde_json::from_str(&settings).unwrap();
    assert_eq!(settings["mask"].as_str().map(str::len), Some(64), "{settings}");
    assert_eq!((&settings["invert_mask"], &settings["mask_feather"]), (&true.into(), &7.into()));
    let model = tiny();
    let again = |options: &str| {
        format!("in.png -o again.png -q --reuse out.png --model {} {options}", model.display())
    };
    let message = shell.fail(&again(""), 2);
    assert!(message.contains("name that with --mask"), "{message}");
    shell.succeed(&again("--mask mask.png"));
    let open = |name: &str| pictures::open(shell.path(name));
    assert_eq!(open("again.png"), open("out.png"));
}

#[test]
fn a_folder_has_a_mask_for_each_picture_and_one_file_is_for_all() {
    let shell = shell();
    for name in ["shots/b", "masks/b"] {
        fs::create_dir_all(shell.path(name)).unwrap();
    }
    for name in ["shots/a.png", "shots/b/c.png", "shots/d.png"] {
        fs::copy(shell.path("in.png"), shell.path(name)).unwrap();
    }
    fs::copy(shell.path("mask.png"), shell.path("masks/b/c.png")).unwrap();
    pictures::save(RgbImage::new(2, 2).into(), &shell.path("masks/a.tif"));
    let run = |mask: &str| {
        let line = format!("-i shots -o {mask}.out -q --denoise-steps 2 --mask {mask} --model");
        shell.command(&line).arg(tiny()).output().unwrap()
    };
    let open = |path: &Path| pictures::open(path.to_owned());
    let output = run("masks");
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.contains("shots/d.png: there is no mask for it in masks"), "{said}");
    assert_eq!(open(&shell.path("masks.out/a.png")), made(&shell, "--blend 0"));
    let masked = made(&shell, "--mask mask.png");
    assert_eq!(open(&shell.path("masks.out/b/c.png")), masked);
    assert!(!shell.path("masks.out/d.png").exists());
    assert!(run("mask.png").status.success());
    for name in ["a.png", "b/c.png", "d.png"] {
        assert_eq!(open(&shell.path("mask.png.out").join(name)), masked, "{name}");
    }
    // A mask that is none is told once.
    fs::write(shell.path("bad.png"), "none").unwrap();
    let output = run("bad.png");
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("cupscale-fast: the mask: bad.png"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}
