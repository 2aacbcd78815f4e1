//! Priors that hold the repainted regions together: the structure of the whole picture
//! ([`structure`], docs/method.md §3) and the cross-attention of its low-resolution pass ([`attention`],
//! docs/method.md §4). The semantic prior is the captions' work: [`crate::caption`].

pub mod attention;
pub mod structure;
