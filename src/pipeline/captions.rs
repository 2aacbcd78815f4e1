//! Every region of the resized picture, shown to a captioner (METHOD §5).

use std::borrow::Cow;

use crate::{
    canvas::Region,
    caption::{
        self, CaptionContext, Captioner, Captions, GridSpec, Pixels, Rect, RegionPlace,
        RegionSource, document::Document, file::FromFile,
    },
    image::{Picture, Resizer},
};

use super::{CaptionerChoice, Engine, Error, Plan, Progress, Settings, Stage};

/// The regions of the resized picture; pixels are made when they are asked for.
struct ResizedRegions<'a> {
    resizer: Resizer<'a>,
    plan: &'a Plan,
    factor: usize,
}

impl ResizedRegions<'_> {
    /// A region in output pixels, without what lies past the picture.
    fn rect(&self, region: &Region) -> Rect {
        let axis = |start: usize, length: usize, limit: usize| {
            let start = (start * self.factor).min(limit - 1);
            (start as u32, (length * self.factor).min(limit - start) as u32)
        };
        let (x, width) = axis(region.x, region.width, self.plan.canvas.width);
        let (y, height) = axis(region.y, region.height, self.plan.canvas.height);
        Rect { x, y, width, height }
    }
}

impl RegionSource for ResizedRegions<'_> {
    fn len(&self) -> usize {
        self.plan.grid.len()
    }

    fn place(&self, index: usize) -> RegionPlace {
        let region = self.plan.grid.region(index).expect("the trait asks for indices below len()");
        RegionPlace { row: region.row as u32, col: region.col as u32, rect: self.rect(&region) }
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

/// What a job says about its regions.
pub(super) struct Described {
    /// The prompt of the whole picture: the user's, or the captions file's.
    pub prompt: String,
    /// One text for each region, in the grid's order.
    pub texts: Vec<String>,
    /// The same as a file that can be edited and given back.
    pub document: Document,
}

/// Asks the chosen captioner about every region.
pub(super) fn describe(
    engine: &Engine,
    picture: &Picture,
    plan: &Plan,
    settings: &Settings,
    progress: &mut dyn Progress,
) -> Result<Described, Error> {
    let mut prompt = settings.prompt.clone();
    let mut captioner: Box<dyn Captioner> = match &settings.captioner {
        CaptionerChoice::Attributes => Box::new(caption::attributes::Attributes),
        CaptionerChoice::None => Box::new(caption::none::PromptOnly),
        CaptionerChoice::File(path) => {
            let file = FromFile::read(path)?;
            if prompt.is_empty() {
                file.prompt().clone_into(&mut prompt);
            }
            Box::new(file)
        }
    };
    let (width, height) = (plan.canvas.width as u32, plan.canvas.height as u32);
    let factor = engine.shape().factor;
    let regions = ResizedRegions { resizer: picture.resizer(width, height)?, plan, factor };
    let grid = GridSpec {
        rows: plan.grid.ys().len() as u32,
        cols: plan.grid.xs().len() as u32,
        region: (plan.grid.region_side() * factor) as u32,
        overlap: (plan.grid.overlap() * factor) as u32,
        width,
        height,
    };
    let context = CaptionContext { prompt: &prompt, grid };

    progress.begin(Stage::Caption, regions.len());
    let mut before = 0;
    let captions: Captions = captioner.caption(&regions, &context, &mut |done, _| {
        progress.advance(done - before);
        before = done;
    })?;
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
    let document = Document::new(&*captioner, &context, &captions)?;
    let texts = captions.regions.into_iter().map(|caption| caption.text).collect();
    Ok(Described { prompt, texts, document })
}
