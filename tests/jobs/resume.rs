//! A job that is killed goes on where it was and ends with the same bytes; one that is another job,
//! or another process's, is refused. On the tiny random model of `tests/make_fixtures/make_img2img_fixture.py`,
//! so that fifty killed jobs take seconds.

use std::{
    fs,
    path::Path,
    process::{Command, Stdio},
};

use pictures::{Rgb, RgbImage};

use crate::{
    common::{Shell, copy_folder, fixture, pause, stderr},
    kills::{self, Moment, WORK, kill},
};

const JOB: &str = "in.png -o out.png -q --tile 48";

fn job(shell: &Shell, more: &str) -> Command {
    let model = fixture("img2img/model");
    let mut command = shell.command(&format!("{JOB} {more}"));
    command.arg("--model").arg(model);
    command
}

fn complete(shell: &Shell, more: &str) -> Vec<u8> {
    kills::complete(shell, job(shell, more))
}

/// Exit code and the one line of a job that does not run.
fn refused(shell: &Shell, more: &str) -> (Option<i32>, String) {
    let output = job(shell, more).output().unwrap();
    let line = stderr(&output);
    assert_eq!(line.trim_end().lines().count(), 1, "{more}: {line}");
    (output.status.code(), line)
}

#[test]
fn a_job_killed_at_fifty_moments_ends_with_the_same_bytes_each_time() {
    same_bytes_after_kills("--sharpen 0.6 --grain 2 --fidelity 0.8 --coherence 1 --texture 1", 50);
}

/// Its rows are finished when all are decoded, in bands that begin where the earlier process ended.
#[test]
fn a_job_whose_colours_depend_on_the_whole_killed_at_twenty_moments_ends_with_the_same_bytes_each_time()
 {
    same_bytes_after_kills(
        "--color-fix adain --sharpen 0.6 --grain 2 --fidelity 0.8 --coherence 1 --texture 1",
        20,
    );
}

/// Its steps read what the steps before kept, which must outlive the process as the canvas does.
#[test]
fn a_job_of_a_multistep_sampler_killed_at_thirty_moments_ends_with_the_same_bytes_each_time() {
    same_bytes_after_kills("--sampler dpmpp-2m --denoise-steps 6", 30);
}

/// Its steps read what the two steps before kept: no sampler reads more.
#[test]
fn a_job_that_corrects_its_steps_killed_at_thirty_moments_ends_with_the_same_bytes_each_time() {
    same_bytes_after_kills("--sampler unipc --denoise-steps 6", 30);
}

/// The same with fresh noise, and levels that lie between timesteps.
#[test]
fn a_job_of_third_order_killed_at_twenty_moments_ends_with_the_same_bytes_each_time() {
    same_bytes_after_kills("--sampler dpmpp-3m-sde --sigmas exponential --denoise-steps 6", 20);
}

/// Its second predictions go back to where the first began, with noise of both.
#[test]
fn a_job_of_two_predictions_for_a_step_killed_at_thirty_moments_ends_with_the_same_bytes_each_time()
{
    same_bytes_after_kills("--sampler dpmpp-sde --denoise-steps 3", 30);
}

/// Its regions are not all there, and what is kept is set back after every step.
#[test]
fn a_job_with_a_mask_killed_at_thirty_moments_ends_with_the_same_bytes_each_time() {
    let shell = Shell::new();
    let mask = RgbImage::from_fn(30, 22, |x, y| Rgb([(9 * x.min(y)) as u8; 3]));
    pictures::save(mask.into(), &shell.path("mask.png"));
    let mask = shell.path("mask.png");
    let more = format!("--mask {} --mask-feather 3 --sampler unipc", mask.display());
    same_bytes_after_kills(&more, 30);
}

/// Its steps have grids of their own, and of each the mask leaves another number of regions.
#[test]
fn a_job_with_moved_grids_killed_at_thirty_moments_ends_with_the_same_bytes_each_time() {
    let shell = Shell::new();
    let mask = RgbImage::from_fn(30, 22, |x, _| Rgb([if x < 20 { 0 } else { 255 }; 3]));
    pictures::save(mask.into(), &shell.path("mask.png"));
    let more = format!("--tile-jitter --mask {}", shell.path("mask.png").display());
    same_bytes_after_kills(&more, 30);
}

/// Kills so many jobs with these options.
pub fn same_bytes_after_kills(more: &str, enough: usize) {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    kills::same_bytes_after_kills(&shell, &|| job(&shell, more), enough);
}

/// A job that has done something and was then killed.
fn unfinished(shell: &Shell) {
    shell.picture("in.png", 30, 22);
    assert!(kill(shell, job(shell, ""), &Moment::JournalHas(300)));
    assert!(shell.path(WORK).join("job.json").exists());
}

#[test]
fn another_job_is_refused_with_the_reason_until_it_is_told_to_begin_anew() {
    let shell = Shell::new();
    unfinished(&shell);
    for (change, reason) in [
        ("--seed 8", "seed: 0 there, 8 now"),
        ("--strength 0.9", "denoise steps: 4 there, 8 now"),
        ("--prompt fog", "prompt: \"\" there, \"fog\" now"),
        ("-s 3", "size: ["),
    ] {
        let (code, line) = refused(&shell, change);
        assert_eq!(code, Some(2), "{line}");
        assert!(line.contains(reason) && line.contains("--fresh"), "{change}: {line}");
    }
    pictures::save(RgbImage::from_pixel(2, 2, Rgb([9; 3])).into(), &shell.path("mask.png"));
    let (code, line) = refused(&shell, "--mask mask.png");
    assert!(code == Some(2) && line.contains("mask"), "{line}");
    shell.picture("in.png", 22, 30);
    let (code, line) = refused(&shell, "");
    assert!(code == Some(2) && line.contains("size: [120,88] there, [88,120] now"), "{line}");
    let fresh = complete(&shell, "--fresh");
    assert_eq!(complete(&shell, ""), fresh);
}

#[test]
fn other_weights_of_the_same_length_and_time_are_noticed() {
    let shell = Shell::new();
    copy_folder(&fixture("img2img/model"), &shell.path("model"));
    shell.picture("in.png", 30, 22);
    let line = format!("{JOB} --model model");
    let mut child = shell.command(&line).spawn().unwrap();
    while fs::metadata(shell.path(WORK).join("journal")).map_or(0, |file| file.len()) < 300 {
        assert!(child.try_wait().unwrap().is_none(), "the job is over");
        pause();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let weights = shell.path("model/unet/diffusion_pytorch_model.safetensors");
    let time = fs::metadata(&weights).unwrap().modified().unwrap();
    let mut bytes = fs::read(&weights).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&weights, bytes).unwrap();
    fs::File::options().write(true).open(&weights).unwrap().set_modified(time).unwrap();
    let line = shell.fail(&line, 2);
    assert!(line.contains("weights differs"), "{line}");
}

#[test]
fn what_a_job_with_a_bad_model_leaves_does_not_refuse_one_with_a_good_model() {
    let shell = Shell::new();
    let model = shell.path("model");
    copy_folder(&fixture("img2img/model"), &model);
    shell.picture("in.png", 30, 22);
    // Not a number, in f16, wherever the values of the decoder are.
    let weights = model.join("vae/diffusion_pytorch_model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    bytes[header..].chunks_exact_mut(2).for_each(|value| value.copy_from_slice(&[0xff, 0x7f]));
    fs::write(&weights, bytes).unwrap();
    let line = shell.fail(&format!("{JOB} --model model"), 1);
    assert!(line.contains("not numbers"), "{line}");
    assert_eq!(shell.names(), ["in.png", "model"]);
    complete(&shell, "");
}

#[cfg(target_os = "linux")]
#[test]
fn a_canvas_that_somebody_shortens_is_told_in_one_line_and_begun_anew() {
    let shell = Shell::new();
    shell.picture("in.png", 64, 64);
    let mut child = job(&shell, "").stderr(Stdio::piped()).spawn().unwrap();
    let work = shell.path(WORK);
    while fs::metadata(work.join("journal")).map_or(0, |file| file.len()) < 300 {
        assert!(child.try_wait().unwrap().is_none(), "the job is over");
        pause();
    }
    for name in ["zl", "z0", "z1", "predictions"] {
        fs::File::options().write(true).open(work.join(name)).unwrap().set_len(0).unwrap();
    }
    let output = child.wait_with_output().unwrap();
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(1), "{line}");
    assert_eq!(line.lines().count(), 1, "{line}");
    assert!(line.contains(WORK) && line.contains("shortened"), "{line}");
    complete(&shell, "");
}

#[test]
fn what_does_not_change_the_bytes_may_change() {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    let undisturbed = complete(&shell, "");
    for change in ["--batch 5", "--threads 1", "--resume"] {
        assert!(kill(&shell, job(&shell, ""), &Moment::JournalHas(300)));
        assert_eq!(complete(&shell, change), undisturbed, "{change}");
    }
}

#[test]
fn nothing_to_resume_is_an_error_that_leaves_nothing() {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    let (code, line) = refused(&shell, "--resume");
    assert!(code == Some(2) && line.contains("nothing to resume"), "{line}");
    assert_eq!(shell.names(), ["in.png"]);
}

#[test]
fn a_second_process_waits_for_the_first_or_skips_its_picture() {
    let shell = Shell::new();
    shell.picture("in.png", 64, 64);
    let mut first = job(&shell, "").spawn().unwrap();
    while !shell.path(WORK).join("journal").exists() {
        assert!(first.try_wait().unwrap().is_none(), "the first job is over");
        pause();
    }
    let by = format!("process {} on ", first.id());
    // What it does with the picture is no error, so that it is said without --quiet only.
    let told = |option: &str| {
        let mut command =
            shell.command(&format!("in.png -o out.png --tile 48 --progress none {option}"));
        let output = command.arg("--model").arg(fixture("img2img/model")).output().unwrap();
        let lines = stderr(&output);
        assert_eq!(output.status.code(), Some(3), "{lines}");
        lines
    };
    let lines = told("--skip-locked");
    assert!(lines.contains("out.png: another process works on it, skipped"), "{lines}");
    let lines = told("--skip-existing");
    assert!(lines.contains(&by) && lines.contains("is at work on this job: waiting"), "{lines}");
    assert!(lines.contains("out.png: exists, skipped"), "{lines}");
    assert!(first.wait().unwrap().success());
}

#[test]
fn what_a_kill_left_of_a_finished_job_goes_when_its_output_is_skipped() {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    assert!(kill(&shell, job(&shell, ""), &Moment::JournalHas(300)));
    copy_folder(&shell.path(WORK), &shell.path("left"));
    // It names the lock's file, and the copy is another.
    fs::remove_file(shell.path("left").join("lease")).unwrap();
    complete(&shell, "");
    fs::rename(shell.path("left"), shell.path(WORK)).unwrap();
    let skip = || job(&shell, "--skip-existing").output().unwrap().status.code();
    assert_eq!(skip(), Some(3));
    assert!(!shell.path(WORK).exists());
    // Unfinished work on an output that was there before.
    assert!(kill(&shell, job(&shell, "--seed 1"), &Moment::JournalHas(300)));
    assert_eq!(skip(), Some(3));
    assert!(shell.path(WORK).join("journal").exists());
}

#[test]
fn work_can_lie_elsewhere_and_go_on_there() {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    let undisturbed = complete(&shell, "--work-dir scratch");
    let mut child = job(&shell, "--work-dir scratch").spawn().unwrap();
    let journal = |folder: &Path| {
        let mut folders = fs::read_dir(folder).into_iter().flatten().flatten();
        folders.find_map(|entry| fs::metadata(entry.path().join("journal")).ok())
    };
    while journal(&shell.path("scratch")).is_none_or(|file| file.len() < 300) {
        assert!(child.try_wait().unwrap().is_none(), "the job is over");
        pause();
    }
    child.kill().unwrap();
    child.wait().unwrap();
    let output = job(&shell, "--work-dir scratch --resume").output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(shell.bytes("out.png"), undisturbed);
    assert_eq!(fs::read_dir(shell.path("scratch")).unwrap().count(), 0);
}

#[cfg(unix)]
#[test]
fn ctrl_c_stops_after_the_batch_says_how_to_go_on_and_loses_nothing() {
    let shell = Shell::new();
    shell.picture("in.png", 30, 22);
    let undisturbed = complete(&shell, "");
    let child = job(&shell, "").stderr(Stdio::piped()).spawn().unwrap();
    while fs::metadata(shell.path(WORK).join("journal")).map_or(0, |file| file.len()) < 300 {
        pause();
    }
    let interrupt = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(interrupt.success());
    let output = child.wait_with_output().unwrap();
    let line = stderr(&output);
    assert_eq!(output.status.code(), Some(130), "{line}");
    assert!(line.contains("goes on from here") && line.contains(WORK), "{line}");
    assert_eq!(complete(&shell, "--resume"), undisturbed);
}
