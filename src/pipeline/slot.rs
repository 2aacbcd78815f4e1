//! A place for a part of a model: it is loaded when it is first asked for, and goes when it is freed.

use std::sync::{Arc, Mutex, PoisonError};

/// A part of a model while it is loaded. A clone is the same place.
#[derive(Debug)]
pub(super) struct Slot<T>(Arc<Mutex<Option<Arc<T>>>>);

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Slot<T> {
    pub fn empty() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }

    /// The part, loaded if it is not.
    pub fn get<E>(&self, load: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut slot = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = &*slot {
            return Ok(part.clone());
        }
        Ok(slot.insert(Arc::new(load()?)).clone())
    }

    /// The part, if it is loaded.
    pub fn loaded(&self) -> Option<Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets it; one that is in use goes when it is no longer.
    pub fn free(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
