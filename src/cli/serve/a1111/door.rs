//! What the calls of this API share: the jobs, the options that are set, the calls that wait, and room for bodies.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task;

use super::{
    super::jobs::Jobs, error::A1111Error, img2img::Given, options::Options, rooms::Rooms,
    turns::Turns,
};

/// Bodies that may be in memory at once, in the largest that one may be.
const BODIES: usize = 2;

/// What the calls of this API share.
pub struct Door {
    pub jobs: Arc<Jobs>,
    pub turns: Turns,
    pub rooms: Rooms,
    options: Mutex<Options>,
}

impl Door {
    /// The door to these jobs.
    pub fn new(jobs: Arc<Jobs>) -> Self {
        let largest = jobs.limits.body;
        Self {
            jobs,
            options: Mutex::default(),
            turns: Turns::default(),
            rooms: Rooms::new(largest, BODIES),
        }
    }

    /// The options that are set.
    pub fn options(&self) -> MutexGuard<'_, Options> {
        self.options.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Names of the models that can be chosen, the one that the server started with first.
    pub fn models(&self) -> Vec<String> {
        let mut models = self.jobs.host.models();
        models.sort_by_key(|model| !model.is_default);
        models.into_iter().map(|model| model.name).collect()
    }

    /// What holds for a request.
    pub fn given(&self) -> Given {
        let options = self.options().clone();
        Given { options, models: self.models(), most_pixels: self.jobs.limits.pixels }
    }

    /// Does what takes a moment where nobody waits for it.
    ///
    /// # Errors
    /// Those of the work; a fault of it.
    pub async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Arc<Self>) -> Result<T, A1111Error> + Send + 'static,
    ) -> Result<T, A1111Error> {
        let door = Arc::clone(self);
        let done = task::spawn_blocking(move || work(&door)).await;
        done.unwrap_or_else(|_| Err(A1111Error::failed("a fault in the program")))
    }
}
