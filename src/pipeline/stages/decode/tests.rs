use super::{
    super::testing::{Bench, CHANNELS, FACTOR, Fake, Watcher, context, context_of, job, picture},
    *,
};
use crate::{
    image::{EncodeOptions, Encoder, Format, Output, Picture},
    pipeline::{
        error::Error,
        runner::Compute,
        settings::{ColourFix, Settings},
        stages::write::{Rows, Target},
    },
};

fn encoder(picture: &Picture) -> Encoder {
    Encoder::new("out.png", Format::Png, 60, 40, EncodeOptions::like(picture)).unwrap()
}

/// Decodes into this output, or gathers the rows of a file.
fn decode(
    context: &Context<'_>,
    output: &Output,
    work: &mut WorkFolder,
    watcher: &mut Watcher,
) -> Result<(), Error> {
    let target = Target::Picture(Box::new(encoder(context.picture)), output);
    let mut writer = RowWriter::open(target, work, watcher)?;
    canvas(context, &mut writer, work, watcher)?;
    writer.finish(work, watcher)
}

/// Puts numbers on the canvas that is decoded.
fn fill(work: &mut WorkFolder, context: &Context<'_>) -> Vec<f32> {
    let z = &mut work.files.z[context.spec.plan.sampling.steps.len() % 2];
    for (at, value) in z.as_mut_slice().iter_mut().enumerate() {
        *value = (at % 17) as f32 / 8.0 - 1.0;
    }
    z.as_slice().to_vec()
}

fn decoded_rows(work: &mut WorkFolder) -> Vec<u8> {
    work.files.rows.as_mut().unwrap().read(0..40).unwrap()
}

#[test]
fn devices_that_share_the_tiles_decode_what_one_does() {
    let picture = picture();
    for tiling in
        [VaeTiling::Independent, VaeTiling::Layerwise { map_bytes: 0 }, VaeTiling::Sampled]
    {
        let decoded = |devices: usize| {
            let (runners, bench) = ([0, 1, 2].map(|_| Fake::with_vae()), Bench::new());
            let mut spec = job(Settings::default());
            spec.plan.vae_tiling = tiling;
            let others: [&dyn Compute; 2] = [&runners[1], &runners[2]];
            let context = context_of(&runners[0], &others[..devices - 1], &picture, &spec);
            let mut work = bench.open(&spec);
            fill(&mut work, &context);
            let mut watcher = Watcher::default();
            let output = Output::Path(bench.output());
            decode(&context, &output, &mut work, &mut watcher).unwrap();
            assert_eq!((watcher.done, watcher.total), (6, 6));
            decoded_rows(&mut work)
        };
        let expected = decoded(1);
        for devices in [2, 3] {
            assert_eq!(decoded(devices), expected, "{tiling:?}, {devices} devices");
        }
    }
}

#[test]
fn bands_of_tiles_are_the_whole_picture_and_are_decoded_once() {
    let (runner, picture, bench) = (Fake::idle(), picture(), Bench::new());
    let spec = job(Settings { colour_fix: ColourFix::None, ..Settings::default() });
    let context = context(&runner, &picture, &spec);
    let mut work = bench.open(&spec);
    let (z, width) = (fill(&mut work, &context), work.files.zl.width());
    let mut watcher = Watcher::default();
    let output = Output::Path(bench.output());
    decode(&context, &output, &mut work, &mut watcher).unwrap();
    assert_eq!((watcher.done, watcher.total), (6, 6));
    let samples = decoded_rows(&mut work);
    for (y, row) in samples.chunks_exact(60 * 3).enumerate() {
        for (x, pixel) in row.chunks_exact(3).enumerate() {
            let at = (y / FACTOR * width + x / FACTOR) * CHANNELS;
            let expected = [0, 1, 2].map(|channel| z[at + channel] * 0.5 + 0.5);
            for (ours, expected) in pixel.iter().zip(expected) {
                let expected = (expected.clamp(0.0, 1.0) * 255.0).round();
                assert!((f32::from(*ours) - expected).abs() <= 1.0, "({x}, {y})");
            }
        }
    }
    let passes = *runner.passes.lock().unwrap();
    decode(&context, &output, &mut work, &mut Watcher::default()).unwrap();
    assert_eq!(*runner.passes.lock().unwrap(), passes);
    let written = pictures::open(bench.output()).to_rgb8();
    assert_eq!(written.into_raw(), samples);
}

#[test]
fn a_stream_gets_the_bytes_of_the_file_also_when_its_job_goes_on() {
    let (runner, picture, bench) = (Fake::idle(), picture(), Bench::new());
    let spec = job(Settings::default());
    let context = context(&runner, &picture, &spec);
    let mut work = bench.open(&spec);
    fill(&mut work, &context);
    let file = Output::Path(bench.output());
    decode(&context, &file, &mut work, &mut Watcher::default()).unwrap();
    let expected = std::fs::read(bench.output()).unwrap();
    work.remove();
    let buffer = crate::image::Buffer::default();
    let stream = Output::Buffer(buffer.clone());
    let mut work = bench.open(&spec);
    fill(&mut work, &context);
    let mut watcher = Watcher { stop_at: Some(4), ..Watcher::default() };
    let stopped = decode(&context, &stream, &mut work, &mut watcher);
    assert!(matches!(stopped, Err(Error::Interrupted(None))));
    let done = work.journal.done().rows;
    assert!(0 < done && done < 40, "{done}");
    drop(buffer.take());
    decode(&context, &stream, &mut work, &mut Watcher::default()).unwrap();
    assert!(buffer.take() == expected);
}

/// Notes how many tiles were decoded when rows came.
struct Received<'a> {
    runner: &'a Fake,
    rows: Vec<f32>,
    passes: Vec<usize>,
}

impl Rows for Received<'_> {
    fn put(&mut self, rgb: &[f32], alpha: Option<&[f32]>) -> std::io::Result<()> {
        assert_eq!(alpha, None);
        self.rows.extend_from_slice(rgb);
        self.passes.push(*self.runner.passes.lock().unwrap());
        Ok(())
    }
}

#[test]
fn rows_leave_before_the_tiles_below_them_are_decoded_and_nothing_is_kept() {
    let (runner, picture) = (Fake::idle(), picture());
    let folder = tempfile::tempdir().unwrap();
    let spec = job(Settings::default());
    let context = context(&runner, &picture, &spec);
    let layout = spec.plan.layout(60 * 3);
    let mut work = WorkFolder::temporary(Some(folder.path()), None, &layout).unwrap();
    fill(&mut work, &context);
    let mut received = Received { runner: &runner, rows: Vec::new(), passes: Vec::new() };
    let mut watcher = Watcher::default();
    let mut writer = RowWriter::open(Target::Rows(&mut received), &mut work, &mut watcher).unwrap();
    canvas(&context, &mut writer, &mut work, &mut watcher).unwrap();
    writer.finish(&mut work, &mut watcher).unwrap();
    assert_eq!(received.passes, [3, 6]);
    assert_eq!(received.rows.len(), 60 * 40 * 3);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);

    let bench = Bench::new();
    let mut work = bench.open(&spec);
    fill(&mut work, &context);
    decode(&context, &Output::Path(bench.output()), &mut work, &mut watcher).unwrap();
    let samples = encoder(&picture).samples(&received.rows, None).unwrap();
    assert!(decoded_rows(&mut work) == samples);
}
