//! A lazy part of a model: it is loaded when it is first asked for, and goes when it is freed.

use std::sync::{Arc, Mutex, PoisonError};

/// A part of a model that is loaded on demand. A clone is the same part.
#[derive(Debug)]
pub struct Lazy<T>(Arc<Mutex<Option<Arc<T>>>>);

impl<T> Clone for Lazy<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T> Default for Lazy<T> {
    /// Not loaded.
    fn default() -> Self {
        Self(Arc::new(Mutex::new(None)))
    }
}

impl<T> Lazy<T> {
    /// The part, loaded by `load` if it is not.
    ///
    /// # Errors
    /// Those of `load`.
    pub fn get<E>(&self, load: impl FnOnce() -> Result<T, E>) -> Result<Arc<T>, E> {
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(part) = &*place {
            return Ok(part.clone());
        }
        Ok(place.insert(Arc::new(load()?)).clone())
    }

    /// The part, if it is loaded.
    #[must_use]
    pub fn loaded(&self) -> Option<Arc<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Forgets the part; one that is in use goes when it is no longer.
    pub fn free(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
