//! The captioner `none`: every region gets the prompt of the whole picture (docs/method.md §5, RSP off).

use super::{
    Caption, CaptionContext, CaptionError, CaptionSession, Captioner, Captions, RegionProgress,
    RegionSource, SessionContext,
};

/// `--captioner none`: the user's prompt, as it is, for every region. No pixel is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptOnly;

impl Captioner for PromptOnly {
    fn name(&self) -> &str {
        "none"
    }

    fn identity(&self) -> Result<String, CaptionError> {
        Ok(self.name().to_owned())
    }

    fn tells_regions_apart(&self) -> bool {
        false
    }

    fn open<'a>(
        &'a self,
        _: SessionContext<'a>,
    ) -> Result<Box<dyn CaptionSession + 'a>, CaptionError> {
        Ok(Box::new(*self))
    }
}

impl CaptionSession for PromptOnly {
    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: RegionProgress<'_>,
    ) -> Result<Captions, CaptionError> {
        let total = regions.len();
        let captions: Vec<Caption> = (0..total)
            .map(|index| Caption::new(regions.place(index), context.prompt.trim().to_owned()))
            .collect();
        progress(total, total);
        Ok(captions.into())
    }
}
