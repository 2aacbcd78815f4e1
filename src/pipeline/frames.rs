//! Frames: pictures of one shape, as of a film, whose job is planned once and whose rows go to the caller as pixels.

use std::path::{Path, PathBuf};

use tracing::info_span;

use super::{
    engine::Engine,
    error::Error,
    job::JobSpec,
    plan::Plan,
    progress::Progress,
    run::{Report, end_stage, plan_notes, run},
    settings::Settings,
    stages::write::{Rows, Target},
    work::folder::WorkFolder,
};
use crate::image::{Picture, PictureShape};

/// A job for any number of pictures of one shape. Nothing of a frame is kept: the job cannot be resumed, and nothing waits
/// for the disk.
pub struct Frames<'a> {
    engine: &'a Engine,
    spec: JobSpec,
    /// Folder for what is large.
    folder: Option<PathBuf>,
}

impl<'a> Frames<'a> {
    /// Plans the job of frames of this `shape`. Canvases are in memory; large ones are files without names in `folder`, or
    /// in the user's own folder for temporary files.
    ///
    /// # Errors
    /// A size of zero or beyond the address range, settings that do not match the model, or insufficient memory.
    pub fn new(
        engine: &'a Engine,
        shape: impl Into<PictureShape>,
        settings: &Settings,
        folder: Option<&Path>,
    ) -> Result<Self, Error> {
        let spec = JobSpec::new(engine, shape.into(), settings)?;
        Ok(Self { engine, spec, folder: folder.map(Path::to_owned) })
    }

    /// The plan of every frame.
    #[must_use]
    pub fn plan(&self) -> &Plan {
        &self.spec.plan
    }

    /// What the plan has to say to the user: what was made smaller to fit into memory, for instance.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        plan_notes(self.engine, &self.spec)
    }

    /// Enlarges a frame; `rows` gets the pixels band by band as they are decoded. They are those that
    /// [`upscale`](super::upscale) writes.
    ///
    /// # Errors
    /// [`Error::FrameShape`] for a picture of another shape than planned; [`Error::Rows`]; else see [`Error`].
    pub fn upscale(
        &self,
        picture: &Picture,
        rows: &mut dyn Rows,
        progress: &mut dyn Progress,
    ) -> Result<Report, Error> {
        let _span = info_span!("frame").entered();
        let plan = &self.spec.plan;
        let (planned, found) = (plan.geometry.input, picture.shape());
        let of = |shape: PictureShape| (shape.width, shape.height, shape.alpha);
        if of(planned) != of(found) {
            return Err(Error::FrameShape { planned, found });
        }
        progress.outlined(&plan.outline());
        end_stage(self.engine, plan);
        let layout = plan.layout(0);
        let folder = WorkFolder::temporary(self.folder.as_deref(), None, &layout)?;
        run(self.engine, picture, &self.spec, Target::Rows(rows), folder, progress)
    }
}
