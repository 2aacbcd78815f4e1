//! Pairs of names that one tensor has: diffusers' and the training code's. A list of such pairs is how a
//! network's tensors are found in a checkpoint.

/// Names of a network's tensors: diffusers' (transformers') with those of the checkpoint.
#[derive(Default)]
pub(super) struct Pairs(pub Vec<(String, String)>);

impl Pairs {
    /// Adds weight and bias of a module.
    pub(super) fn module(&mut self, ours: &str, theirs: &str) {
        for kind in ["weight", "bias"] {
            self.0.push((format!("{ours}.{kind}"), format!("{theirs}.{kind}")));
        }
    }
}
