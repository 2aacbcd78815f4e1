//! Output of text encoders.

use crate::backend::Activation;

/// Output of a text encoder for token sequences, in the precision of its weights.
#[derive(Clone, Debug)]
pub struct TextEncoding {
    /// CLIP: the states before the last layer and without the final norm (`hidden_states[-2]`), `[B, N, D]`
    /// (SDXL)
    pub penultimate: Option<Activation>,
    /// the states after the final norm (`last_hidden_state`), `[B, N, D]` (Stable Diffusion 1.x, T5); of Qwen3 those
    /// before its last layer (`hidden_states[-2]`), or those behind several layers side by side, with the last of which it
    /// ends here
    pub last: Activation,
    /// CLIP: a summary, `text_embeds`, `[B, P]`, with a projection; else `pooler_output`, `[B, D]`
    pub pooled: Option<Activation>,
}
