//! Every region of the resized picture, shown to a captioner (METHOD §5).

use std::{borrow::Cow, cell::RefCell};

use crate::{
    canvas::{CanvasSize, Region},
    caption::{
        CaptionContext, CaptionError, Captioner, Captions, GridSpec, Pixels, Rect, RegionPlace,
        RegionSource, attributes::Attributes, document::Document, file::FromFile, none::PromptOnly,
    },
    image::{Picture, Resizer},
};

#[cfg(feature = "llava")]
use super::LlavaSettings;
#[cfg(feature = "mistralrs")]
use super::MistralrsSettings;
use super::{CaptionerChoice, Engine, Error, Plan, Progress, Settings, Stage};

/// The regions of the resized picture; pixels are made when they are asked for.
struct ResizedRegions<'a> {
    resizer: Resizer<'a>,
    plan: &'a Plan,
    factor: usize,
}

/// A region in output pixels, without what lies past the picture.
pub(super) fn rect(region: &Region, canvas: &CanvasSize, factor: usize) -> Rect {
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

/// Who describes the regions of a job.
pub(super) enum Source {
    Attributes,
    Prompt,
    File(FromFile),
    /// Its model may be asked for the prompt, and of `regions` only where their captions count.
    #[cfg(feature = "llava")]
    Llava {
        settings: LlavaSettings,
        regions: bool,
    },
    /// The same, in a process of its own.
    #[cfg(feature = "mistralrs")]
    Mistralrs {
        settings: MistralrsSettings,
        regions: bool,
    },
}

impl Source {
    /// The settings' choice; `regions` says whether captions of regions count for anything.
    ///
    /// # Errors
    /// A captions file that cannot be read.
    pub fn open(settings: &Settings, regions: bool) -> Result<Self, Error> {
        let _ = regions;
        Ok(match &settings.captioner {
            CaptionerChoice::Attributes => Self::Attributes,
            CaptionerChoice::None => Self::Prompt,
            CaptionerChoice::File(path) => Self::File(FromFile::read(path)?),
            #[cfg(feature = "llava")]
            CaptionerChoice::Llava(llava) => Self::Llava { settings: *llava, regions },
            #[cfg(feature = "mistralrs")]
            CaptionerChoice::Mistralrs(settings) => {
                Self::Mistralrs { settings: settings.clone(), regions }
            }
        })
    }

    /// The prompt of the whole picture as far as it is known before any is described.
    pub fn prompt<'a>(&'a self, settings: &'a Settings) -> &'a str {
        match self {
            Self::File(file) if settings.prompt.is_empty() => file.prompt(),
            _ => &settings.prompt,
        }
    }

    /// What captions follow from beside the picture, the grid and the prompt.
    ///
    /// # Errors
    /// A captioner whose model is not there.
    pub fn identity(&self, engine: &Engine) -> Result<String, Error> {
        let _ = engine;
        Ok(match self {
            Self::Attributes => "attributes".to_owned(),
            Self::Prompt => "none".to_owned(),
            Self::File(file) => file.document().to_json(),
            #[cfg(feature = "llava")]
            Self::Llava { settings, .. } => super::caption_model::identity(engine, settings)?,
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs { settings, .. } => super::caption_worker::identity(settings),
        })
    }

    /// Whether captions cost so much that a job keeps them.
    pub fn is_costly(&self) -> bool {
        match self {
            Self::Attributes | Self::Prompt | Self::File(_) => false,
            #[cfg(feature = "llava")]
            Self::Llava { .. } => true,
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs { .. } => true,
        }
    }

    /// Describes the whole picture if there is no prompt and the captioner can, and every region.
    pub fn describe(
        &self,
        engine: &Engine,
        picture: &Picture,
        plan: &Plan,
        settings: &Settings,
        progress: &mut dyn Progress,
    ) -> Result<Described, Error> {
        let (width, height) = (plan.canvas.width as u32, plan.canvas.height as u32);
        let factor = engine.shape().factor;
        let regions = ResizedRegions { resizer: picture.resizer(width, height)?, plan, factor };
        progress.begin(Stage::Caption, regions.len());
        // The captioner asks whether to stop, and what it reports on goes to the same place.
        let progress = RefCell::new(progress);
        let known = || self.prompt(settings).to_owned();
        let (mut captioner, prompt): (Box<dyn Captioner + '_>, _) = match self {
            Self::Attributes => (Box::new(Attributes), known()),
            Self::Prompt => (Box::new(PromptOnly), known()),
            Self::File(file) => (Box::new(file.clone()), known()),
            #[cfg(feature = "llava")]
            Self::Llava { settings: llava, regions } => {
                let stop = Box::new(|| progress.borrow().interrupted());
                let mut captioner = super::caption_model::captioner(engine, plan, llava, stop)?;
                let prompt =
                    whole_prompt(known(), picture, &progress, |pixels| captioner.describe(pixels))?;
                if *regions {
                    (Box::new(captioner), prompt)
                } else {
                    (Box::new(PromptOnly), prompt)
                }
            }
            #[cfg(feature = "mistralrs")]
            Self::Mistralrs { settings, regions } => {
                let stop = Box::new(|| progress.borrow().interrupted());
                let mut captioner = super::caption_worker::captioner(engine, settings, stop)?;
                let prompt =
                    whole_prompt(known(), picture, &progress, |pixels| captioner.describe(pixels))?;
                if *regions {
                    (Box::new(captioner), prompt)
                } else {
                    (Box::new(PromptOnly), prompt)
                }
            }
        };
        let context = CaptionContext { prompt: &prompt, grid: grid_spec(engine, plan) };
        let mut before = 0;
        let captions = captioner.caption(&regions, &context, &mut |done, _| {
            progress.borrow_mut().advance(done - before);
            before = done;
        });
        let captions: Captions = captions.map_err(interrupted)?;
        let document = Document::new(&*captioner, &context, &captions)?;
        drop(captioner);
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
}

/// The prompt that is `known`, or else what `describe` says of the whole picture.
#[cfg(feature = "llava")]
fn whole_prompt(
    known: String,
    picture: &Picture,
    progress: &RefCell<&mut dyn Progress>,
    describe: impl FnOnce(&Pixels) -> Result<String, CaptionError>,
) -> Result<String, Error> {
    if !known.is_empty() {
        return Ok(known);
    }
    let described = super::caption_model::describe_whole(describe, picture)?;
    progress.borrow_mut().note(&match &described {
        Ok(said) => format!("no prompt is given, the captioner's is \"{said}\""),
        Err(why) => format!("there is no prompt, and no caption of the whole ({why})"),
    });
    Ok(described.unwrap_or_default())
}

/// An engine that was stopped is a job that was.
pub(super) fn interrupted(error: CaptionError) -> Error {
    match error {
        CaptionError::Interrupted => Error::Interrupted(None),
        error => error.into(),
    }
}
