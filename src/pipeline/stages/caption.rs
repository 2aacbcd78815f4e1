//! Captioning of every region of the resized picture (docs/method.md §5).

use std::{borrow::Cow, cell::RefCell, rc::Rc, sync::Arc};

use tracing::info_span;

use super::context::Context;
use crate::{
    caption::{
        Caption, CaptionContext, CaptionError, CaptionSession, Captioner, GridSpec, Pixels, Rect,
        RegionPlace, RegionSource, SessionContext,
        document::{Author, Document},
        none::PromptOnly,
    },
    image::{Picture, Resizer},
    pipeline::{
        error::Error,
        plan::{geometry::Geometry, regions::captioned},
        progress::{Progress, Stage},
        work::folder::WorkFolder,
    },
    units,
};

/// Regions of the resized picture; pixels are computed on demand.
struct ResizedRegions<'a> {
    resizer: Resizer<'a>,
    geometry: &'a Geometry,
    /// Those that are described.
    described: Vec<usize>,
}

impl RegionSource for ResizedRegions<'_> {
    fn len(&self) -> usize {
        self.described.len()
    }

    fn place(&self, index: usize) -> RegionPlace {
        place(self.geometry, self.described[index])
    }

    fn pixels(
        &self,
        index: usize,
    ) -> Result<Cow<'_, Pixels>, Box<dyn std::error::Error + Send + Sync>> {
        let Rect { x, y, width, height } = self.place(index).rect;
        let window = self.resizer.window(x..x + width, y..y + height);
        Ok(Cow::Owned(Pixels::from_f32(width as usize, height as usize, &window)?))
    }
}

/// Place of region `index` of the grid.
fn place(geometry: &Geometry, index: usize) -> RegionPlace {
    let region = geometry.grid.region(index).expect("an index of the grid");
    let rect = geometry.pixels_of(&region);
    RegionPlace { row: region.row as u32, col: region.col as u32, rect }
}

/// Region grid of a job in output pixels.
fn grid_spec(Geometry { grid, canvas, shape, .. }: &Geometry) -> GridSpec {
    GridSpec {
        rows: grid.ys().len() as u32,
        cols: grid.xs().len() as u32,
        region: (grid.region_size().0 * shape.factor) as u32,
        overlap: (grid.overlap() * shape.factor) as u32,
        width: canvas.width as u32,
        height: canvas.height as u32,
    }
}

/// Texts of a job's regions.
pub struct Described {
    /// Prompt of the whole picture, from the user, the captions file or the captioner.
    pub prompt: String,
    /// One text for each region, in the grid's order.
    pub texts: Vec<String>,
    /// The texts as an editable captions document.
    pub document: Document,
}

impl Described {
    /// Texts stored by an earlier run of the job; `None` if incomplete or of another grid.
    fn kept(text: &str, geometry: &Geometry) -> Option<Self> {
        let document = Document::parse(text, "").ok()?;
        if document.grid() != grid_spec(geometry) {
            return None;
        }
        let texts = document.regions().iter().map(|entry| entry.caption.clone()).collect();
        Some(Self { prompt: document.prompt().to_owned(), texts, document })
    }
}

/// Reads the captions from the work folder, or runs the captioner and stores the captions of a costly one there.
///
/// # Errors
/// See [`describe`]; errors of the work folder.
pub fn describe_or_kept(
    context: &Context<'_>,
    work: &WorkFolder,
    progress: &mut dyn Progress,
) -> Result<Described, Error> {
    let Context { spec, .. } = *context;
    let captioner = &spec.settings.captioner;
    let kept = work.captions().filter(|_| captioner.is_costly());
    if let Some(kept) = kept.and_then(|text| Described::kept(&text, &spec.plan.geometry)) {
        return Ok(kept);
    }
    let described = describe(context, spec.settings.rsp > 0.0, progress)?;
    // The plan has no memory for the captioner's model beside the denoiser.
    if spec.plan.memory.captions.is_some_and(|batch| !batch.stays) {
        captioner.free();
    }
    if captioner.is_costly() {
        work.keep_captions(&described.document.to_json())?;
    }
    Ok(described)
}

/// Describes every region, and the whole picture if there is no prompt and the captioner supports it. With
/// `regions_count` false, a costly captioner is not run on the regions.
///
/// # Errors
/// Errors of the picture and the captioner; an interruption.
pub fn describe(
    context: &Context<'_>,
    regions_count: bool,
    progress: &mut dyn Progress,
) -> Result<Described, Error> {
    let _span = info_span!("caption").entered();
    let Context { runner, picture, spec, .. } = *context;
    let geometry = &spec.plan.geometry;
    let (width, height) = (geometry.canvas.width as u32, geometry.canvas.height as u32);
    let described = captioned(&spec.plan.regions);
    let resizer = picture.resizer(width, height)?;
    let regions = ResizedRegions { resizer, geometry, described };
    progress.begin(Stage::Caption, regions.len());
    // Shared by the captioner's stop check and its progress reports.
    let progress = RefCell::new(progress);
    let captioner = &*spec.settings.captioner;
    let make_room: Vec<_> = context.on_each().map(|one| one.runner.make_room()).collect();
    let mut session = captioner.open(SessionContext {
        fits: runner.fits(),
        length: runner.caption_length(),
        stop: Rc::new(|| progress.borrow().interrupted()),
        make_room: Arc::new(move || make_room.iter().for_each(|free| free())),
        batch: spec.plan.memory.captions,
    })?;
    let mut prompt = spec.known_prompt();
    if prompt.is_empty() && captioner.is_costly() {
        prompt = whole_prompt(&mut *session, picture, geometry.shown_whole(), &progress)?;
    }
    let mut author: &dyn Captioner = captioner;
    if captioner.is_costly() && !regions_count {
        (author, session) = (&PromptOnly, Box::new(PromptOnly));
    }
    let job = CaptionContext { prompt: &prompt, grid: grid_spec(geometry) };
    let mut before = 0;
    let captions = session.caption(&regions, &job, &mut |done, _| {
        progress.borrow_mut().advance(done - before);
        before = done;
    });
    let mut captions = captions.map_err(interrupted)?;
    let author =
        Author { name: author.name(), model: author.model(), instruction: session.instruction() };
    // Those that no step asks for have the prompt, which costs nothing.
    for index in 0..geometry.grid.len() {
        if regions.described.binary_search(&index).is_err() {
            let caption = Caption::new(place(geometry, index), prompt.clone());
            captions.regions.insert(index, caption);
        }
    }
    let document = Document::new(&author, &job, &captions)?;
    drop(session);
    let progress = progress.into_inner();
    for note in &captions.notes {
        progress.note(note);
    }
    let fallbacks = || captions.regions.iter().filter_map(|caption| caption.fallback.as_ref());
    if let Some(reason) = fallbacks().next() {
        let regions = units::count(fallbacks().count(), "region");
        progress.note(&format!("{regions} without a caption, the prompt instead ({reason})"));
    }
    let texts = captions.regions.into_iter().map(|caption| caption.text).collect();
    Ok(Described { prompt, texts, document })
}

/// Caption of the whole picture at this width and height, as the prompt of a job without one.
fn whole_prompt(
    session: &mut dyn CaptionSession,
    picture: &Picture,
    (width, height): (u32, u32),
    progress: &RefCell<&mut dyn Progress>,
) -> Result<String, Error> {
    let rgb = picture.resizer(width, height)?.window(0..width, 0..height);
    let pixels = Pixels::from_f32(width as usize, height as usize, &rgb)?;
    let (note, prompt) = match session.describe(&pixels) {
        Ok(None) => return Ok(String::new()),
        Ok(Some(said)) => (format!("no prompt is given, the captioner's is \"{said}\""), said),
        Err(error @ CaptionError::Interrupted) => return Err(interrupted(error)),
        Err(error) => {
            let note = format!(
                "there is no prompt, and the whole picture could not be captioned ({error})"
            );
            (note, String::new())
        }
    };
    progress.borrow_mut().note(&note);
    Ok(prompt)
}

/// Maps a captioner's interruption to the job's.
fn interrupted(error: CaptionError) -> Error {
    match error {
        CaptionError::Interrupted => Error::Interrupted(None),
        error => error.into(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use super::{
        super::testing::{Bench, Fake, Watcher, context, job, picture},
        *,
    };
    use crate::{
        caption::{Caption, Captioner, Captions, RegionProgress},
        pipeline::settings::Settings,
    };

    /// Costly captioner whose captions are region sizes; counts its sessions.
    #[derive(Debug, Default)]
    struct Costly(AtomicUsize);

    impl Captioner for Costly {
        fn name(&self) -> &str {
            "costly"
        }

        fn identity(&self) -> Result<String, CaptionError> {
            Ok(self.name().to_owned())
        }

        fn is_costly(&self) -> bool {
            true
        }

        fn open<'a>(
            &'a self,
            _: SessionContext<'a>,
        ) -> Result<Box<dyn CaptionSession + 'a>, CaptionError> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(Box::new(SizeSession))
        }
    }

    struct SizeSession;

    impl CaptionSession for SizeSession {
        fn describe(&mut self, whole: &Pixels) -> Result<Option<String>, CaptionError> {
            Ok(Some(format!("{} × {}", whole.width(), whole.height())))
        }

        fn caption(
            &mut self,
            regions: &dyn RegionSource,
            _: &CaptionContext<'_>,
            progress: RegionProgress<'_>,
        ) -> Result<Captions, CaptionError> {
            let captions = (0..regions.len()).map(|index| {
                let pixels = regions.pixels(index).unwrap();
                let text = format!("{} × {}", pixels.width(), pixels.height());
                Caption::new(regions.place(index), text)
            });
            let captions: Vec<_> = captions.collect();
            progress(regions.len(), regions.len());
            Ok(captions.into())
        }
    }

    #[test]
    fn a_costly_captioner_is_asked_once_for_the_prompt_and_every_region_of_a_job() {
        let (runner, picture, bench) = (Fake::idle(), picture(), Bench::new());
        let captioner = Arc::new(Costly::default());
        let spec = job(Settings { captioner: captioner.clone(), ..Settings::default() });
        let (context, work) = (context(&runner, &picture, &spec), bench.open(&spec));
        let mut watcher = Watcher::default();
        let described = describe_or_kept(&context, &work, &mut watcher).unwrap();
        assert_eq!(described.prompt, "30 × 20");
        assert_eq!(described.texts.len(), spec.plan.geometry.grid.len());
        assert_eq!((watcher.done, watcher.total), (described.texts.len(), described.texts.len()));
        assert!(described.texts.iter().all(|text| text == "16 × 16" || text.contains('×')));
        let kept = describe_or_kept(&context, &work, &mut watcher).unwrap();
        assert_eq!((kept.prompt, kept.texts), (described.prompt, described.texts));
        assert_eq!(captioner.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn where_captions_do_not_count_every_region_gets_the_prompt() {
        let (runner, picture) = (Fake::idle(), picture());
        let captioner = Arc::new(Costly::default());
        let settings =
            Settings { captioner, prompt: "a house".to_owned(), rsp: 0.0, ..Settings::default() };
        let spec = job(settings);
        let context = context(&runner, &picture, &spec);
        let described = describe(&context, false, &mut Watcher::default()).unwrap();
        assert!(described.texts.iter().all(|text| text == "a house"));
    }
}
