//! Room in memory for the bodies of requests.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Bytes in a unit of room.
const UNIT: u64 = 1 << 20;

/// Room for bodies: those with pictures take several times their size while they are read, and many at once would take all
/// memory.
#[derive(Clone, Debug)]
pub struct Rooms {
    units: Arc<Semaphore>,
    /// Units of the largest body.
    largest: u32,
}

impl Rooms {
    /// Room for `count` bodies of this size, or for more that are smaller.
    pub fn new(largest: u64, count: usize) -> Self {
        let largest = u32::try_from(largest.div_ceil(UNIT)).unwrap_or(u32::MAX >> 8).max(1);
        Self { units: Arc::new(Semaphore::new(largest as usize * count)), largest }
    }

    /// Waits for room for a body of so many bytes, or for the largest where nobody has said how many there are.
    pub async fn take(&self, bytes: Option<u64>) -> Option<OwnedSemaphorePermit> {
        let units = bytes.and_then(|bytes| u32::try_from(bytes.div_ceil(UNIT)).ok());
        let units = units.unwrap_or(self.largest).clamp(1, self.largest);
        Arc::clone(&self.units).acquire_many_owned(units).await.ok()
    }
}
