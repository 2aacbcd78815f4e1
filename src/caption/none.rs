//! No captions: every region is told the prompt of the whole picture (METHOD.md §5, RSP off).

use super::{Caption, CaptionContext, CaptionError, Captioner, Captions, Progress, RegionSource};

/// `--captioner none`: the user's prompt, as it is, for every region. No pixel is looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct PromptOnly;

impl Captioner for PromptOnly {
    fn name(&self) -> &str {
        "none"
    }

    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: Progress<'_>,
    ) -> Result<Captions, CaptionError> {
        let total = regions.len();
        let captions: Vec<Caption> = (0..total)
            .map(|index| Caption::new(regions.place(index), context.prompt.trim().to_owned()))
            .collect();
        progress(total, total);
        Ok(captions.into())
    }
}
