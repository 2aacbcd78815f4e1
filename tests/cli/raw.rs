//! Frames of raw pixels through `raw`, and rows of a picture that leave as they are ready.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    process::{Child, Output, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use pictures::{Rgb, Rgba};
use serde_json::Value;

use crate::common::{Shell, quick, stderr, test_picture, tiny};

const WIDTH: u32 = 24;
const HEIGHT: u32 = 16;

fn spawn(shell: &Shell, arguments: &str) -> Child {
    let mut command = shell.command(arguments);
    // What it keeps for itself must be gone afterwards.
    for folder in ["tmp", "cache"] {
        fs::create_dir_all(shell.path(folder)).unwrap();
    }
    command.env("TMPDIR", shell.path("tmp")).env("XDG_CACHE_HOME", shell.path("cache"));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Runs with these bytes on standard input.
fn feed(shell: &Shell, arguments: &str, bytes: Vec<u8>) -> Output {
    let mut child = spawn(shell, arguments);
    let mut stdin = child.stdin.take().unwrap();
    let feeder = thread::spawn(move || drop(stdin.write_all(&bytes)));
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    output
}

/// Picture number `index` of a film.
fn frame(index: u32) -> pictures::RgbImage {
    let picture = test_picture(WIDTH, HEIGHT);
    pictures::RgbImage::from_fn(WIDTH, HEIGHT, |x, y| {
        *picture.get_pixel((x + 5 * index) % WIDTH, y)
    })
}

/// The same with some transparency, at 16 bits.
fn frame16(index: u32) -> pictures::ImageBuffer<Rgba<u16>, Vec<u16>> {
    let picture = frame(index);
    pictures::ImageBuffer::from_fn(WIDTH, HEIGHT, |x, y| {
        let Rgb([r, g, b]) = *picture.get_pixel(x, y);
        let [r, g, b] = [r, g, b].map(|value| u16::from(value) * 257 + 3 * index as u16);
        Rgba([r, g, b, if x < 4 { 0 } else { 65535 - 100 * x as u16 }])
    })
}

#[test]
fn frames_have_the_pixels_that_the_pictures_get_alone() {
    let shell = Shell::new();
    let options = format!("-s 2 --denoise-steps 1 --model {}", tiny().display());
    let of = |pix: &str, bytes: Vec<u8>| {
        let line = format!("raw {WIDTH}x{HEIGHT} --pix {pix} {options} --progress none");
        let output = feed(&shell, &line, bytes);
        assert!(output.status.success(), "{pix}: {}", stderr(&output));
        let said = stderr(&output);
        assert!(
            said.lines().last().unwrap().starts_with("stdout: 3 frames of 48 × 32 in "),
            "{said}"
        );
        // What is to be said of every frame is said once.
        assert!(said.lines().count() <= 2, "{said}");
        output.stdout
    };
    let alone = |index: u32| {
        shell.succeed(&format!("in{index}.png -o out{index}.png {options}"));
        pictures::open(shell.path(&format!("out{index}.png")))
    };
    // 8 bits.
    let mut expected = Vec::new();
    let mut bytes = Vec::new();
    for index in 0..3 {
        bytes.extend(frame(index).into_raw());
        pictures::save(frame(index).into(), &shell.path(&format!("in{index}.png")));
        expected.extend(alone(index).into_rgb8().into_raw());
    }
    assert!(of("rgb24", bytes) == expected);
    // 16 bits and floats with transparency.
    let (mut expected, mut floats) = (Vec::new(), Vec::new());
    for index in 0..3 {
        let samples = frame16(index).into_raw();
        floats.extend(samples.iter().flat_map(|&v| (f32::from(v) / 65535.0).to_le_bytes()));
        pictures::save(frame16(index).into(), &shell.path(&format!("in{index}.png")));
        expected.extend(alone(index).into_rgba16().into_raw());
    }
    let found: Vec<u16> = (of("rgbaf32le", floats).as_chunks().0.iter())
        .map(|&v| (f32::from_le_bytes(v) * 65535.0).round() as u16)
        .collect();
    assert!(found == expected);
    // 16 bits without it.
    let opaque = |index| pictures::DynamicImage::from(frame16(index)).into_rgb16();
    let (mut expected, mut bytes) = (Vec::new(), Vec::new());
    for index in 0..3 {
        bytes.extend(opaque(index).into_raw().iter().flat_map(|v| v.to_le_bytes()));
        pictures::save(opaque(index).into(), &shell.path(&format!("in{index}.png")));
        let picture = alone(index).into_rgb16().into_raw();
        expected.extend(picture.iter().flat_map(|v| v.to_le_bytes()));
    }
    assert!(of("rgb48le", bytes) == expected);
    // Nothing is left of them.
    let left = |name: &str| fs::read_dir(shell.path(name)).unwrap().count();
    let own = fs::read_dir(shell.path("tmp")).unwrap().flatten().map(|entry| entry.path());
    assert!(own.flat_map(fs::read_dir).all(|folder| folder.count() == 0));
    assert_eq!(left("cache"), 0);
}

#[test]
fn light_above_white_comes_back_from_frames_of_floats() {
    let shell = Shell::new();
    let line = format!("raw {WIDTH}x{HEIGHT} --pix rgbaf32le --progress none {}", quick());
    // A dark wall with a bright window, in the second frame a brighter one.
    let frame = |window: f32| {
        (0..WIDTH * HEIGHT).flat_map(move |at| {
            let light = if at % WIDTH < WIDTH / 2 { 0.25 } else { window };
            [light, light, light, 1.0].map(f32::to_le_bytes)
        })
    };
    let bytes: Vec<u8> = frame(6.0).chain(frame(40.0)).flatten().collect();
    let output = feed(&shell, &line, bytes);
    assert!(output.status.success(), "{}", stderr(&output));
    let values: Vec<f32> =
        output.stdout.as_chunks().0.iter().map(|&value| f32::from_le_bytes(value)).collect();
    let (width, pixels) = (2 * WIDTH as usize, (4 * WIDTH * HEIGHT) as usize);
    assert_eq!(values.len(), 2 * 4 * pixels);
    for (frame, window) in values.chunks(4 * pixels).zip([6.0, 40.0]) {
        for (place, wanted) in [(0, 0.25), (width - 1, window)] {
            let got = frame[4 * place];
            assert!((got / wanted - 1.0).abs() < 0.05, "{got}, and not {wanted}");
        }
    }
}

#[test]
fn a_stream_that_ends_within_a_frame_is_an_error_and_the_frames_before_have_left() {
    let shell = Shell::new();
    let line = format!("raw {WIDTH}x{HEIGHT} --pix rgb24 {} --progress none", quick());
    let mut bytes = [frame(0), frame(1)].map(pictures::RgbImage::into_raw).concat();
    bytes.extend([7; 100]);
    let output = feed(&shell, &line, bytes.clone());
    assert_eq!(output.status.code(), Some(1));
    let expected = "cupscale-fast: stdin: frame 3 ends after 100 of 1152 bytes: do width, height \
                    and --pix fit?\n";
    assert_eq!(stderr(&output), expected);
    assert_eq!(output.stdout.len(), 2 * 4 * 1152);
    let output = feed(&shell, &line, Vec::new());
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("stdin: ends before its first frame"), "{}", stderr(&output));
    // A file is complete or not there.
    fs::write(shell.path("in.raw"), &bytes).unwrap();
    shell.fail(&format!("{line} -i in.raw -o out.raw"), 1);
    assert!(!shell.path("out.raw").exists());
    fs::write(shell.path("in.raw"), &bytes[..2304]).unwrap();
    shell.succeed(&format!("{line} -i in.raw -o out.raw"));
    assert_eq!(shell.bytes("out.raw"), feed(&shell, &line, bytes).stdout);
    assert!(shell.fail(&format!("{line} -i none.raw"), 1).contains("none.raw"));
}

#[test]
fn progress_counts_frames() {
    let shell = Shell::new();
    let line = format!("raw {WIDTH}x{HEIGHT} --pix rgba --progress json {}", quick());
    let output = feed(&shell, &line, vec![200; 3 * (WIDTH * HEIGHT * 4) as usize]);
    let said = stderr(&output);
    let lines: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let frames: Vec<_> = (lines.iter())
        .filter(|line| line["event"] == "frame")
        .map(|line| {
            assert!(line["seconds"].as_f64().unwrap() > 0.0);
            line["frame"].as_u64().unwrap()
        })
        .collect();
    assert_eq!(frames, [1, 2, 3]);
    assert_eq!(lines.last().unwrap()["event"], "done");
    assert!(lines.iter().all(|line| line["event"] != "stage"), "{said}");
}

#[test]
fn what_frames_do_not_have_is_refused_by_name() {
    let shell = Shell::new();
    for option in
        ["--resume", "--fresh", "--skip-existing", "--format png", "--quality 80", "--dry-run"]
    {
        let message = shell.fail(&format!("raw 8x8 --pix rgb24 {option}"), 2);
        let name = option.split(' ').next().unwrap();
        assert!(message.contains(&format!("{name} is not for `raw`")), "{message}");
    }
    for (arguments, said) in [
        ("--pix rgb24 --captions c.json", "--captions is not for `raw`"),
        ("--pix rgb24 --page 2", "--page is not for `raw`"),
        ("--pix rgb24 --frames", "--frames is not for `raw`"),
        ("--pix rgb24 --max-metadata 1MiB", "--max-metadata is not for `raw`"),
        ("--pix rgb24 in.png", "name it with -i"),
        ("--pix rgb24 -o out.png", "named like a PNG"),
        ("--pix rgb42", "did you mean rgb24?"),
        ("", "--pix"),
    ] {
        let message = shell.fail(&format!("raw 8x8 {arguments}"), 2);
        assert!(message.contains(said), "{message}");
    }
    assert!(shell.fail("raw 8 --pix rgb24", 2).contains("WIDTHxHEIGHT"));
    let help = String::from_utf8(shell.succeed("raw --help")).unwrap();
    assert!(help.contains("--strength") && !help.contains("--skip-existing"), "{help}");
}

#[test]
fn a_reader_of_frames_that_goes_away_ends_the_program_quietly() {
    let shell = Shell::new();
    let line = format!("raw {WIDTH}x{HEIGHT} --pix rgb24 {} --quiet", quick());
    let mut child = spawn(&shell, &line);
    let mut stdin = child.stdin.take().unwrap();
    drop(child.stdout.take());
    let feeder = thread::spawn(move || {
        // Without an end: it goes on until the program does not.
        while stdin.write_all(&frame(0).into_raw()).is_ok() {}
    });
    let output = child.wait_with_output().unwrap();
    feeder.join().unwrap();
    assert_eq!((output.status.code(), stderr(&output).as_str()), (Some(0), ""));
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_a_stream_of_which_no_frame_comes() {
    let shell = Shell::new();
    let line = format!("raw {WIDTH}x{HEIGHT} --pix rgb24 --progress json {}", quick());
    let mut child = spawn(&shell, &line);
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(&frame(0).into_raw()).unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.contains(r#""event":"frame""#)));
    let kill = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert!(kill.unwrap().success());
    let rest: Vec<_> = lines.collect();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{rest:?}");
    assert_eq!(rest.last().unwrap(), "cupscale-fast: interrupted after 1 frame");
    drop(stdin);
}

/// A reader that takes nothing stops the program: had it decoded everything first, the last tile would be told.
#[test]
fn rows_of_a_stream_leave_before_the_last_tile_is_decoded_and_are_the_files() {
    let shell = Shell::new();
    // Noise at 16 bits, which no encoder makes small: several times what a pipe and a buffer hold.
    let noise = pictures::ImageBuffer::from_fn(240, 240, |x, y| {
        let noise = |seed: u32| ((x * 240 + y + 1) * seed).wrapping_mul(2_654_435_761) as u16;
        Rgb([noise(1), noise(3), noise(7)])
    });
    pictures::save(noise.into(), &shell.path("in.png"));
    let options = format!(
        "in.png -f png -s 1 --denoise-steps 1 --tile 48 --vae-disk 0 --captioner none --rap 0 --model {}",
        tiny().display()
    );
    let mut child = spawn(&shell, &format!("{options} -o - --progress json"));
    let lines = Arc::new(Mutex::new(Vec::new()));
    let said = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let collected = Arc::clone(&lines);
    let collector =
        thread::spawn(move || said.for_each(|line| collected.lock().unwrap().push(line)));
    let mut stdout = child.stdout.take().unwrap();
    let mut picture = vec![0; 1000];
    stdout.read_exact(&mut picture).unwrap();
    thread::sleep(Duration::from_millis(500));
    let decoded = lines.lock().unwrap().iter().rev().find_map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        (line["stage"] == "decode").then(|| (line["done"].as_u64(), line["total"].as_u64()))
    });
    let (done, total) = decoded.unwrap();
    assert!(done < total, "{done:?} of {total:?}");
    stdout.read_to_end(&mut picture).unwrap();
    assert!(child.wait().unwrap().success());
    collector.join().unwrap();
    shell.succeed(&format!("{options} -o out.png"));
    assert!(picture == shell.bytes("out.png"));
    assert!(picture.len() > 250_000, "{}", picture.len());
}
