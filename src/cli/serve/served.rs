//! What all routes share.

use std::sync::Arc;

use super::{guard::Guard, jobs::Jobs};

pub struct Served {
    pub jobs: Arc<Jobs>,
    pub guard: Arc<Guard>,
}
