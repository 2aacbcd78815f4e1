//! Requests that enlarge a picture, or plan it: the command line's own job, without files.

use std::{
    io::{self, Seek as _, Write},
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use cupscale::{
    canvas::target_size,
    image::{self, Input, Output, Picture, PictureShape, PixelRows, Stream},
    pipe::{
        answer::{Answer, Form, PlanAnswer},
        request::{MaskPart, OutputForm, RawInput},
    },
    pipeline::{self, Error, Frames, Progress as _, Resume, Rows, Settings, WorkOptions},
    temporary::private_folder,
};
use tempfile::{SpooledTempFile, spooled_tempfile_in};

use super::{
    Host,
    inbox::{Plan, Upscale},
    progress::Messages,
};
use crate::cli::{
    error::CliError,
    job::Job,
    request::{self, MaskFile, Parts, Target, format_name, pixel_format, quality, target},
    size_notes,
};

/// Bytes of a result that are held in memory; a larger one is a file without a name until it is sent.
const RESULT_IN_MEMORY: usize = 16 << 20;

impl Host {
    /// Enlarges a picture and sends it.
    pub fn upscale(&self, work: Upscale, begun: Instant) -> Result<(), CliError> {
        let Upscale { id, settings, input, mask, output, preview, mut payload, stop } = work;
        let mask = mask.map(|part| mask_of(&part, &mut payload)).transpose()?;
        let parts = Parts { mask: mask.map(MaskFile::Bytes), ..Parts::default() };
        let (job, mut settings) = request::resolve(&self.loaded(), &settings, parts)?;
        settings.jpeg_quality = quality(&output)?.unwrap_or(settings.jpeg_quality);
        // The payload is there beside what the job takes.
        settings.max_memory = settings.max_memory.map(|most| most.saturating_sub(payload.len()));
        let mut messages = Messages::new(self, (&id, &stop), &settings, preview);
        let (picture, target) = self.read(&job, &settings, input.as_ref(), &output, payload)?;
        let (width, height) =
            target_size(picture.width, picture.height, job.size()).map_err(Error::from)?;
        for note in size_notes::notes((picture.width, picture.height), (width, height), job.size())
        {
            messages.note(&note);
        }
        let spool = Spool::new()?;
        let folder = self.job.work.folder.clone();
        let form = match target {
            Target::File(format) => {
                let output = Output::Writer(Stream::new(spool.clone()));
                let work = WorkOptions { folder, resume: Resume::Disabled };
                pipeline::upscale(
                    &self.engine,
                    &picture,
                    &output,
                    format,
                    &settings,
                    &work,
                    &mut messages,
                )?;
                Form::Format(format_name(format))
            }
            Target::Pixels(pix) => {
                let frames =
                    Frames::new(&self.engine, picture.shape(), &settings, folder.as_deref())?;
                frames.notes().iter().for_each(|note| messages.note(note));
                let rows =
                    PixelRows::new((width, height), pix, picture.light).map_err(Error::from)?;
                let mut rows = Pixels { rows, spool: spool.clone() };
                frames.upscale(&picture, &mut rows, &mut messages)?;
                Form::Pix(pix.name())
            }
        };
        messages.ended();
        let seconds = begun.elapsed().as_secs_f64();
        spool.send(self, &Answer::Result { id: &id, width, height, form, seconds })
    }

    /// Plans a request and sends the plan.
    pub fn plan(&self, asked: &Plan) -> Result<(), CliError> {
        let (_, settings) = request::resolve(&self.loaded(), &asked.settings, Parts::default())?;
        let mut shape = PictureShape::from((asked.input.width, asked.input.height));
        shape.alpha = asked.input.alpha;
        let plan = pipeline::plan(&self.engine, shape, &settings)?;
        self.inbox.end_running();
        self.outbox.send(&Answer::Plan(Box::new(PlanAnswer {
            id: &asked.id,
            width: plan.geometry.canvas.width as u32,
            height: plan.geometry.canvas.height as u32,
            regions: plan.geometry.grid.len(),
            steps: plan.sampling.steps_run,
            tiles: plan.tiles(),
            calls: plan.denoiser_calls(),
            text: &plan.to_string(),
        })));
        Ok(())
    }

    /// Reads the picture of a request, if its job fits into memory; with the form of the result.
    fn read(
        &self,
        job: &Job,
        settings: &Settings,
        input: Option<&RawInput>,
        output: &OutputForm,
        payload: Vec<u8>,
    ) -> Result<(Picture, Target), CliError> {
        if let Some(RawInput { pix, width, height }) = input {
            let pix = pixel_format(pix)?;
            let target = target(output, Target::Pixels(pix), pix.has_alpha())?;
            let mut shape = PictureShape::from((*width, *height));
            shape.alpha = pix.has_alpha();
            pipeline::plan(&self.engine, shape, settings)?;
            let picture = Picture::from_pixels((*width, *height), pix, &payload);
            return Ok((picture.map_err(Error::from)?, target));
        }
        let mut opened =
            image::open(&Input::Bytes(payload.into()), &job.read).map_err(Error::from)?;
        let shape = opened.shape();
        let target = target(output, Target::File(opened.format()), shape.alpha)?;
        let (width, height) =
            target_size(shape.width, shape.height, job.size()).map_err(Error::from)?;
        if let Target::File(format) = target {
            format.check_size("the result", width, height).map_err(Error::from)?;
        }
        pipeline::plan(&self.engine, shape, settings)?;
        if let Some(folder) = self.job.work.folder.as_deref().filter(|folder| folder.is_dir()) {
            opened.keep_planes_in(folder);
        }
        Ok((opened.decode().map_err(Error::from)?, target))
    }
}

/// The file of the mask, cut off the end of a payload.
fn mask_of(part: &MaskPart, payload: &mut Vec<u8>) -> Result<Vec<u8>, CliError> {
    let picture = (payload.len() as u64).checked_sub(part.bytes).filter(|_| part.bytes > 0);
    let Some(picture) = picture else {
        return Err(CliError::Usage(format!(
            "mask: {} bytes of a payload of {}",
            part.bytes,
            payload.len()
        )));
    };
    Ok(payload.split_off(picture as usize))
}

/// A result while it is made, in memory or, if it is large, in a file without a name. Clones are the same.
#[derive(Clone)]
struct Spool(Arc<Mutex<SpooledTempFile>>);

impl Spool {
    fn new() -> Result<Self, CliError> {
        let folder = private_folder().map_err(Error::from)?;
        Ok(Self(Arc::new(Mutex::new(spooled_tempfile_in(RESULT_IN_MEMORY, folder)))))
    }

    /// Sends what was written behind this answer.
    fn send(&self, host: &Host, answer: &Answer<'_>) -> Result<(), CliError> {
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let length = file.stream_position().and_then(|length| file.rewind().map(|()| length));
        let length = length.map_err(Error::Rows)?;
        host.inbox.end_running();
        host.outbox.send_with(answer, (&mut *file, length));
        Ok(())
    }
}

impl Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Rows that become pixels of the result.
struct Pixels {
    rows: PixelRows,
    spool: Spool,
}

impl Rows for Pixels {
    fn put(&mut self, rgb: &[f32], alpha: Option<&[f32]>) -> io::Result<()> {
        let pixels = self.rows.convert(rgb, alpha).map_err(io::Error::other)?;
        self.spool.write_all(&pixels)
    }
}
