//! A vision model in mistral.rs: loading, inference, and the self-check for several pictures at once.

use std::path::Path;
use std::time::{Duration, Instant};

use image::{DynamicImage, RgbImage};
use mistralrs::{
    IsqType, Model, ModelDType, MultimodalModelBuilder, RequestBuilder, TextMessageRole,
    TokenSource,
};

use super::MistralrsError;
use super::folder::{self, Help};
use super::llava::LlavaView;
use crate::caption::worker::protocol::LoadOptions;

/// Tokens that the pictures of the self-check are described with.
const CHECKED_TOKENS: usize = 16;

const CHECKED_INSTRUCTION: &str = "Describe in detail what is visible in this picture.";

/// Text of a caption, and `true` if the model ended it itself.
pub(super) type Description = (String, bool);

/// A loaded model.
pub(super) struct MistralrsModel {
    inner: Model,
    /// adapter between mistral.rs and a LLaVA-1.5
    view: Option<LlavaView>,
    max_new_tokens: usize,
}

impl MistralrsModel {
    /// Loads the model of `load`, from local files only.
    pub(super) async fn load(load: &LoadOptions) -> Result<Self, MistralrsError> {
        let folder = Path::new(&load.folder);
        let (view, shown) = match folder::check(folder)? {
            Help::None => (None, None),
            Help::Llava => Some(LlavaView::new(folder)?).unzip(),
            Help::OneTile => (None, Some(folder::one_tile(folder)?)),
        };
        let seen = shown.as_ref().map_or(folder, |shown| shown.path());
        let mut builder = MultimodalModelBuilder::new(seen.display())
            .with_token_source(TokenSource::None)
            // Prefixes of one picture are useless for another.
            .with_prefix_cache_n(None);
        if load.cpu {
            builder = builder.with_force_cpu().with_dtype(ModelDType::F32);
        }
        if let Some(name) = &load.quantize {
            builder = builder.with_isq(isq(name)?);
        }
        let inner = builder.build().await.map_err(engine)?;
        Ok(Self { inner, view, max_new_tokens: load.max_new_tokens })
    }

    /// Caption of a picture, decoded greedily, so that the same picture gets the same text.
    pub(super) async fn describe(
        &self,
        picture: DynamicImage,
        instruction: &str,
    ) -> Result<Description, MistralrsError> {
        self.ask(picture, instruction, self.max_new_tokens).await
    }

    async fn ask(
        &self,
        picture: DynamicImage,
        instruction: &str,
        max_new_tokens: usize,
    ) -> Result<Description, MistralrsError> {
        let (picture, instruction) = match &self.view {
            Some(view) => (view.picture(&picture)?, view.text(instruction)?),
            None => (picture, instruction.to_owned()),
        };
        let request = RequestBuilder::new()
            .add_image_message(TextMessageRole::User, instruction, vec![picture])
            .enable_thinking(false)
            .set_deterministic_sampler()
            .set_sampler_max_len(max_new_tokens);
        let response = self.inner.send_chat_request(request).await.map_err(engine)?;
        let Some(choice) = response.choices.into_iter().next() else {
            return Err(MistralrsError::Engine("an answer without a text".to_owned()));
        };
        let text = choice.message.content.unwrap_or_default();
        let text = if self.view.is_some() { LlavaView::without_filler(&text) } else { text };
        Ok((text, choice.finish_reason == "stop"))
    }

    async fn check_ask(&self, picture: DynamicImage) -> Result<String, MistralrsError> {
        Ok(self.ask(picture, CHECKED_INSTRUCTION, CHECKED_TOKENS).await?.0)
    }

    /// Captions of two small test pictures, each requested alone.
    pub(super) async fn alone(&self) -> Result<TestCaptions, MistralrsError> {
        let [first, second] = pictures();
        let begin = Instant::now();
        let first = self.check_ask(first).await?;
        let took = begin.elapsed();
        Ok(TestCaptions { texts: [first, self.check_ask(second).await?], took })
    }

    /// `true` if the model repeats its captions of the test pictures.
    pub(super) async fn is_still(&self, alone: &TestCaptions) -> bool {
        let again = self.alone().await;
        again.is_ok_and(|again| again.texts == alone.texts)
    }

    /// Reason against several requests at once; `None` if they are safe. Two simultaneous requests, and two of
    /// which one starts while the other is running, must give the captions in `alone`.
    pub(super) async fn batching_problem(&self, alone: &TestCaptions) -> Option<String> {
        if alone.texts[0] == alone.texts[1] {
            return Some("it says the same of two test pictures, which tells nothing".to_owned());
        }
        for head_start in [Duration::ZERO, alone.took / 4] {
            let [first, second] = pictures();
            let second = async {
                tokio::time::sleep(head_start).await;
                self.check_ask(second).await
            };
            match tokio::join!(self.check_ask(first), second) {
                (Ok(first), Ok(second)) if alone.texts == [first.as_str(), second.as_str()] => {}
                (Ok(_), Ok(_)) => {
                    return Some("two pictures at once get other captions than alone".to_owned());
                }
                (Err(error), _) | (_, Err(error)) => {
                    return Some(format!("two pictures at once fail ({error})"));
                }
            }
        }
        None
    }
}

/// Captions of the test pictures, each requested alone.
pub(super) struct TestCaptions {
    texts: [String; 2],
    /// for the first
    took: Duration,
}

/// Two pictures that differ in size, colours and pattern.
fn pictures() -> [DynamicImage; 2] {
    let stripes = RgbImage::from_fn(96, 64, |x, y| {
        image::Rgb(if (x / 8) % 2 == 0 { [220, 40, 30] } else { [250, 220, 200 - y as u8] })
    });
    let disc = RgbImage::from_fn(64, 64, |x, y| {
        let (x, y) = (x as i32 - 32, y as i32 - 32);
        image::Rgb(if x * x + y * y < 400 { [20, 90, 230] } else { [10, (90 + y) as u8, 20] })
    });
    [DynamicImage::ImageRgb8(stripes), DynamicImage::ImageRgb8(disc)]
}

fn isq(name: &str) -> Result<IsqType, MistralrsError> {
    match name {
        "q8_0" => Ok(IsqType::Q8_0),
        "q6_k" => Ok(IsqType::Q6K),
        "q5_k" => Ok(IsqType::Q5K),
        "q4_k" => Ok(IsqType::Q4K),
        _ => Err(MistralrsError::Quantize(name.to_owned())),
    }
}

/// The first line: what follows may be a backtrace.
fn engine(error: impl std::fmt::Display) -> MistralrsError {
    MistralrsError::Engine(error.to_string().lines().next().unwrap_or_default().to_owned())
}
