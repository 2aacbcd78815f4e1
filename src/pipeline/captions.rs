//! Every region of the resized picture, shown to a captioner (METHOD §5).

use std::{borrow::Cow, cell::RefCell, collections::BTreeMap, rc::Rc, sync::Arc};

use crate::{
    canvas::{CanvasSize, Region, RegionGrid},
    caption::{
        CaptionContext, CaptionError, CaptionRequest, CaptionSession, GridSpec, Pixels,
        Rect, RegionPlace, RegionSource, SessionContext, document::Document, none::PromptOnly,
    },
    image::{Picture, Resizer},
};

use super::{Engine, Error, Plan, Progress, Settings, Stage};

/// The regions of the resized picture; pixels are made when they are asked for.
struct ResizedRegions<'a> {
    resizer: Resizer<'a>,
    plan: &'a Plan,
    factor: usize,
}

/// A region in output pixels, without what lies past the picture.
fn rect(region: &Region, canvas: &CanvasSize, factor: usize) -> Rect {
    let axis = |start: usize, length: usize, limit: usize| {
        let start = (start * factor).min(limit - 1);
        (start as u32, (length * factor).min(limit - start) as u32)
    };
    let (x, width) = axis(region.x, region.width, canvas.width);
    let (y, height) = axis(region.y, region.height, canvas.height);
    Rect { x, y, width, height }
}

impl RegionSource for ResizedRegions<'_> {
    fn len(&self) -> usize {
        self.plan.grid.len()
    }

    fn place(&self, index: usize) -> RegionPlace {
        let region = self.plan.grid.region(index).expect("the trait asks for indices below len()");
        let rect = rect(&region, &self.plan.canvas, self.factor);
        RegionPlace { row: region.row as u32, col: region.col as u32, rect }
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

/// The grid of a job, in output pixels.
fn grid_spec(engine: &Engine, plan: &Plan) -> GridSpec {
    let factor = engine.shape().factor;
    GridSpec {
        rows: plan.grid.ys().len() as u32,
        cols: plan.grid.xs().len() as u32,
        region: (plan.grid.region_side() * factor) as u32,
        overlap: (plan.grid.overlap() * factor) as u32,
        width: plan.canvas.width as u32,
        height: plan.canvas.height as u32,
    }
}

/// What a job says about its regions.
pub(super) struct Described {
    /// The prompt of the whole picture: the user's, the captions file's, or a captioner's.
    pub prompt: String,
    /// One text for each region, in the grid's order.
    pub texts: Vec<String>,
    /// The same as a file that can be edited and given back.
    pub document: Document,
}

impl Described {
    /// What an earlier run of the job kept of it; `None` if that is not whole, or another grid's.
    pub fn kept(text: &str, engine: &Engine, plan: &Plan) -> Option<Self> {
        let document = Document::parse(text, "").ok()?;
        if document.grid() != grid_spec(engine, plan) {
            return None;
        }
        let texts = document.regions().iter().map(|entry| entry.caption.clone()).collect();
        Some(Self { prompt: document.prompt().to_owned(), texts, document })
    }
}

/// The prompt of the whole picture as far as it is known before any is described.
pub(super) fn known_prompt(settings: &Settings) -> &str {
    match settings.captioner.own_prompt() {
        Some(own) if settings.prompt.is_empty() => own,
        _ => &settings.prompt,
    }
}

/// Describes the whole picture if there is no prompt and the captioner can, and every region; where captions of
/// `regions` do not count, a costly captioner is not asked for them.
pub(super) fn describe(
    engine: &Engine,
    picture: &Picture,
    plan: &Plan,
    settings: &Settings,
    regions_count: bool,
    progress: &mut dyn Progress,
) -> Result<Described, Error> {
    let (width, height) = (plan.canvas.width as u32, plan.canvas.height as u32);
    let factor = engine.shape().factor;
    let regions = ResizedRegions { resizer: picture.resizer(width, height)?, plan, factor };
    progress.begin(Stage::Caption, regions.len());
    // The captioner asks whether to stop, and its reports go to the same place.
    let progress = RefCell::new(progress);
    let fits = engine.fits()?;
    let captioner = &*settings.captioner;
    let mut session = captioner.open(SessionContext {
        fits: Box::new(fits),
        stop: Rc::new(|| progress.borrow().interrupted()),
        make_room: Arc::new(engine.parts_freer()),
        batch: plan.memory.captions,
    })?;
    let mut prompt = known_prompt(settings).to_owned();
    if prompt.is_empty() && captioner.is_costly() {
        prompt = whole_prompt(&mut *session, picture, &progress)?;
    }
    let mut author = captioner;
    if captioner.is_costly() && !regions_count {
        (author, session) = (&PromptOnly, Box::new(PromptOnly));
    }
    let context = CaptionContext { prompt: &prompt, grid: grid_spec(engine, plan) };
    let mut before = 0;
    let captions = session.caption(&regions, &context, &mut |done, _| {
        progress.borrow_mut().advance(done - before);
        before = done;
    });
    let captions = captions.map_err(interrupted)?;
    let document = Document::new(author, session.instruction(), &context, &captions)?;
    drop(session);
    let progress = progress.into_inner();
    for note in &captions.notes {
        progress.note(note);
    }
    let fallbacks = || captions.regions.iter().filter_map(|caption| caption.fallback.as_ref());
    if let Some(reason) = fallbacks().next() {
        progress.note(&format!(
            "{} regions have no caption, the prompt stands in ({reason})",
            fallbacks().count()
        ));
    }
    let texts = captions.regions.into_iter().map(|caption| caption.text).collect();
    Ok(Described { prompt, texts, document })
}

/// The longest side of a whole picture that is shown: no model looks at more of it.
const WHOLE_SIDE: u32 = 1344;

/// The width and height at which a whole picture is shown.
fn whole_size((width, height): (u32, u32)) -> (u32, u32) {
    let longest = width.max(height);
    let side = |length: u32| match longest {
        ..=WHOLE_SIDE => length,
        _ => (u64::from(length) * u64::from(WHOLE_SIDE) / u64::from(longest)).max(1) as u32,
    };
    (side(width), side(height))
}

/// A caption of the whole picture, or nothing if there is none, which is noted.
fn whole_prompt(
    session: &mut dyn CaptionSession,
    picture: &Picture,
    progress: &RefCell<&mut dyn Progress>,
) -> Result<String, Error> {
    let (width, height) = whole_size((picture.width, picture.height));
    let rgb = picture.resizer(width, height)?.window(0..width, 0..height);
    let pixels = Pixels::from_f32(width as usize, height as usize, &rgb)?;
    let (note, prompt) = match session.describe(&pixels) {
        Ok(None) => return Ok(String::new()),
        Ok(Some(said)) => (format!("no prompt is given, the captioner's is \"{said}\""), said),
        Err(error @ CaptionError::Interrupted) => return Err(interrupted(error)),
        Err(error) => {
            let note = format!("there is no prompt, and no caption of the whole ({error})");
            (note, String::new())
        }
    };
    progress.borrow_mut().note(&note);
    Ok(prompt)
}

/// The work that a job brings to its captioner; `None` if it does not ask one.
pub(super) fn request<'a>(
    settings: &'a Settings,
    grid: &RegionGrid,
    canvas: &CanvasSize,
    factor: usize,
    input: (u32, u32),
) -> Option<CaptionRequest<'a>> {
    if !settings.asks_captioner() {
        return None;
    }
    let mut regions = BTreeMap::new();
    for region in grid.regions() {
        let Rect { width, height, .. } = rect(&region, canvas, factor);
        *regions.entry((width as usize, height as usize)).or_insert(0) += 1;
    }
    let whole = settings.prompt.is_empty().then(|| {
        let (width, height) = whole_size(input);
        (width as usize, height as usize)
    });
    Some(CaptionRequest { prompt: &settings.prompt, regions, whole })
}

/// A captioner that was stopped is a job that was.
fn interrupted(error: CaptionError) -> Error {
    match error {
        CaptionError::Interrupted => Error::Interrupted(None),
        error => error.into(),
    }
}
