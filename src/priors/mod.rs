//! What holds the repainted regions together: the structure of the whole picture
//! ([`structure`], docs/method.md §3) and what its low-resolution pass attends to ([`attention`], docs/method.md
//! §4). The semantic prior is the captions' work: [`crate::caption`].

pub mod attention;
pub mod structure;
