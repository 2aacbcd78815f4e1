//! Interface of all captioners: name, identity of the result, memory, and a session for one picture. The pipeline
//! uses captioners only through it.

use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;

use serde_json::Value;

use super::wording::{CaptionLength, Fits, Stop};
use super::{CaptionContext, CaptionError, Captions, Pixels, RegionSource};
use crate::weights::Footprint;

/// A resolved captioner: its files have been found and checked, nothing is loaded yet. A job holds one
/// and opens it for its picture.
///
/// Only [`name`](Self::name), [`identity`](Self::identity) and [`open`](Self::open) have no default: a captioner
/// without a model needs no more.
pub trait Captioner: fmt::Debug + Send + Sync {
    /// The name that users give it and that metadata records: `attributes`, `none`, `file`, ….
    fn name(&self) -> &str;

    /// Everything that determines the captions besides the picture, the grid and the prompt. Unfinished work is
    /// resumed only if it is unchanged.
    ///
    /// # Errors
    /// A model that is gone.
    fn identity(&self) -> Result<String, CaptionError>;

    /// Opens the captioner for one picture.
    ///
    /// # Errors
    /// Only what keeps it from working at all.
    fn open<'a>(
        &'a self,
        job: SessionContext<'a>,
    ) -> Result<Box<dyn CaptionSession + 'a>, CaptionError>;

    /// The model behind it, for the record in captions files.
    fn model(&self) -> Option<&str> {
        None
    }

    /// Settings of its own for an output's metadata, by key.
    fn record(&self) -> Vec<(&'static str, Value)> {
        Vec::new()
    }

    /// The prompt that it brings along, for a job that has none. May be empty.
    fn own_prompt(&self) -> Option<&str> {
        None
    }

    /// Regions may get texts that are not the prompt.
    fn tells_regions_apart(&self) -> bool {
        true
    }

    /// `true` if captions are so expensive that a job stores them, and makes them only where they are used. Such a
    /// captioner can also make the prompt of a job that has none ([`CaptionSession::describe`]).
    fn is_costly(&self) -> bool {
        false
    }

    /// The memory of a model that is loaded into this process; `None` without one.
    fn memory<'a>(&'a self, request: &CaptionRequest<'_>) -> Option<Box<dyn CaptionMemory + 'a>> {
        let _ = request;
        None
    }

    /// Bytes of weights on the device now.
    fn loaded_bytes(&self) -> usize {
        0
    }

    /// Frees the weights; they are loaded again when they are needed.
    fn free(&self) {}
}

/// A captioner at work on one picture.
pub trait CaptionSession {
    /// The question that its model was asked last, for the record in captions files.
    fn instruction(&self) -> Option<&str> {
        None
    }

    /// A caption of a whole picture, for jobs without a prompt; `None` from a captioner that cannot give one.
    ///
    /// # Errors
    /// [`CaptionError::Interrupted`], or whatever keeps its model from working.
    fn describe(&mut self, whole: &Pixels) -> Result<Option<String>, CaptionError> {
        let _ = whole;
        Ok(None)
    }

    /// One caption for each region, in the order of `regions`.
    ///
    /// A region for which there is no caption gets the prompt, with the reason in
    /// [`Caption::fallback`](super::Caption::fallback). `progress` is called with (regions done, regions in all),
    /// in whatever steps suit the captioner.
    ///
    /// # Errors
    /// Only what keeps the captioner from working at all.
    fn caption(
        &mut self,
        regions: &dyn RegionSource,
        context: &CaptionContext<'_>,
        progress: RegionProgress<'_>,
    ) -> Result<Captions, CaptionError>;
}

/// Called with (regions done, regions in all).
pub type RegionProgress<'a> = &'a mut dyn FnMut(usize, usize);

/// The surroundings in which a captioner works on a picture.
pub struct SessionContext<'a> {
    /// Check that a caption fits the text encoders.
    pub fits: Fits<'a>,
    /// Length of the captions that a vision model is asked for.
    pub length: CaptionLength,
    /// Cancellation check, polled many times a second.
    pub stop: Stop<'a>,
    /// Frees the device of the model that repaints. A captioner calls it before it loads a model that does not
    /// fit beside that one.
    pub make_room: Arc<dyn Fn() + Send + Sync>,
    /// The way of working that the memory plan chose; `None` where [`Captioner::memory`] gave it no choice.
    pub batch: Option<CaptionBatch>,
}

impl<'a> SessionContext<'a> {
    /// Surroundings for a captioner without a model, as outside of a job: everything fits, nothing stops.
    #[must_use]
    pub fn plain() -> Self {
        Self {
            fits: Box::new(|_| true),
            length: CaptionLength::default(),
            stop: Rc::new(|| false),
            make_room: Arc::new(|| ()),
            batch: None,
        }
    }
}

/// A way of making captions: how much of the work is done at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CaptionBatch {
    /// Captions written at once.
    pub rows: usize,
    /// Pictures looked at at once.
    pub prefill_rows: usize,
    /// The model stays loaded beside the one that repaints.
    pub stays: bool,
}

/// The work that a picture brings, by which a captioner's memory is estimated.
#[derive(Clone, Debug)]
pub struct CaptionRequest<'a> {
    /// The user's prompt; may be empty.
    pub prompt: &'a str,
    /// Number of regions of each width and height, in output pixels.
    pub regions: BTreeMap<(usize, usize), usize>,
    /// Width and height of the whole picture as it is shown, for a job without a prompt.
    pub whole: Option<(usize, usize)>,
    /// Length of the captions.
    pub length: CaptionLength,
}

/// The memory that a captioner's model takes for a picture, in bytes.
pub trait CaptionMemory {
    /// The model's weights.
    fn footprint(&self) -> Footprint;

    /// Entries of its tokenizer's vocabulary, held in host memory even while the weights are not.
    fn vocabulary(&self) -> usize;

    /// The ways of working, the most at once first: the user's alone, or all that a budget may leave.
    fn batches(&self) -> Vec<CaptionBatch>;

    /// The activations of one way of working.
    ///
    /// # Errors
    /// A model that does not take such pictures or questions.
    fn needs(&self, batch: CaptionBatch) -> Result<CaptionNeeds, CaptionError>;
}

/// Bytes of activations while captions are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CaptionNeeds {
    /// Most tensors at any moment, and the pictures they are made from.
    pub device_working: usize,
    /// Pictures while none is computed yet.
    pub host_working: usize,
    /// The buffer that every thread of the CPU keeps once it has needed it.
    pub scratch: usize,
}
