//! `raw`: frame after frame of raw pixels from one stream to another, as between two ffmpegs, with one loaded model.

mod input;
mod output;

use std::{
    collections::HashSet,
    io::{self, IsTerminal as _},
    time::Instant,
};

use cupscale::{
    canvas::target_size,
    image::{Input, Output, Picture, PictureShape, PixelFormat, PixelRows},
    pipeline::{Error, Frames, Progress, Stage},
    units,
};

use super::{
    args::RawArgs,
    error::{CliError, DONE, INTERRUPTED},
    job::Job,
    print::complain,
    progress::Reporter,
    size_notes,
};
use input::FrameReader;
use output::FrameWriter;

/// Frames of the input that are in memory beside the planes of the one under way: one that is read, one that waits, and
/// the one that the planes are made from.
const INPUTS_HELD: u64 = 3;

/// Notes on frames that are told at most; of each wording one.
const MOST_NOTES: usize = 32;

/// The stream that comes.
struct Stream {
    size: (u32, u32),
    pix: PixelFormat,
}

impl Stream {
    fn frame_bytes(&self) -> u64 {
        self.pix.frame_bytes(self.size.0, self.size.1)
    }
}

pub fn run(args: RawArgs) -> Result<u8, CliError> {
    let stream = Stream { size: args.stream.frame, pix: args.stream.pix };
    let mut args = args.job;
    args.files.name_streams();
    args.work.grant_grace();
    let note = args.machine.set_threads()?;
    let job = Job::resolve(args, note.into_iter().collect())?;
    let (input, output) = (job.only_input("raw")?, job.stream_output()?);
    if output == Output::Stdout && io::stdout().is_terminal() {
        return Err(CliError::Usage(
            "standard output is a terminal: redirect it, or name a file with -o".to_owned(),
        ));
    }
    let mut reporter = Reporter::new(&job.show);
    let mut done = 0;
    let result = every(&job, &stream, (input, &output), &mut reporter, &mut done);
    if result.is_err() {
        reporter.clear();
    }
    match result {
        Err(CliError::Job(Error::Interrupted(_))) => {
            complain(&format!("interrupted after {}", units::count(done, "frame")));
            Ok(INTERRUPTED)
        }
        result => result.map(|()| DONE),
    }
}

/// Enlarges frames until there are no more; `count` becomes the number of those that are done.
fn every(
    job: &Job,
    stream: &Stream,
    (input, output): (&Input, &Output),
    reporter: &mut Reporter,
    count: &mut usize,
) -> Result<(), CliError> {
    let target = target_size(stream.size.0, stream.size.1, job.size()).map_err(Error::from)?;
    let of_size = size_notes::notes(stream.size, target, job.size());
    job.notes.iter().chain(&of_size).for_each(|note| reporter.tell(note));
    let (engine, settings) = job.load(|note| reporter.tell(note))?;
    let settings = job.masked(&settings, input)?;
    let mut shape = PictureShape::from(stream.size);
    shape.alpha = stream.pix.has_alpha();
    shape.decoder_bytes = INPUTS_HELD * stream.frame_bytes();
    let frames = Frames::new(&engine, shape, &settings, job.work.folder.as_deref())?;
    frames.notes().iter().for_each(|note| reporter.tell(note));
    let mut reader = FrameReader::start(input, stream.frame_bytes())?;
    let writer = FrameWriter::start(output.create().map_err(Error::from)?)?;
    let mut told = HashSet::new();
    let interrupted = reporter.interruption();
    loop {
        let bytes = match reader.next(&interrupted) {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break,
            Err(error) if interrupted.is_asked() => return Err(error),
            Err(error) => {
                // The frames before have their place all the same.
                writer.abandon();
                return Err(error);
            }
        };
        let begun = Instant::now();
        let picture = Picture::from_pixels(stream.size, stream.pix, &bytes).map_err(Error::from)?;
        drop(bytes);
        // Each frame has its own light.
        let rows = PixelRows::new(target, stream.pix, picture.light).map_err(Error::from)?;
        let mut progress = FrameProgress { reporter: &mut *reporter, told: &mut told };
        let done = frames.upscale(&picture, &mut writer.rows(rows, &interrupted), &mut progress);
        match done {
            Ok(_) => {}
            Err(_) if interrupted.is_asked() => return Err(Error::Interrupted(None).into()),
            // The writer knows why.
            Err(error @ Error::Rows(_)) => {
                writer.finish()?;
                return Err(error.into());
            }
            Err(error) => {
                writer.abandon();
                return Err(error.into());
            }
        }
        *count += 1;
        reporter.end_frame(*count, begun.elapsed());
    }
    if *count == 0 {
        let reason = "ends before its first frame".to_owned();
        return Err(CliError::Frames { name: input.name(), reason });
    }
    writer.finish()?;
    let (width, height) = target;
    let count = units::count(*count, "frame");
    reporter.finish_job(&format!("{}: {count} of {width} × {height}", output.name()));
    Ok(())
}

/// Passes on each note once, and the wish to stop; the stages of a frame are too short to be shown.
struct FrameProgress<'a> {
    reporter: &'a mut Reporter,
    told: &'a mut HashSet<String>,
}

impl Progress for FrameProgress<'_> {
    fn begin(&mut self, _: Stage, _: usize) {}

    fn advance(&mut self, _: usize) {}

    fn note(&mut self, text: &str) {
        if self.told.len() < MOST_NOTES && self.told.insert(text.to_owned()) {
            self.reporter.tell(text);
        }
    }

    fn interrupted(&self) -> bool {
        self.reporter.is_interrupted()
    }
}
