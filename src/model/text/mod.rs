//! Text: CLIP's tokenizer and text encoders, and the conditioning that SDXL and Stable Diffusion
//! make of them. Nothing here knows of regions or captions; it turns prompts into tensors.

mod clip;
mod conditioner;
mod config;
mod memory;
mod tokenizer;

pub use clip::{ClipTextModel, TextEncoding};
pub use conditioner::{TextConditioner, TextConditioning, TextEncoder};
pub use config::{ClipTextConfig, HiddenAct, PoolAt, TextError};
pub use tokenizer::{ClipTokenizer, Cut, TokenizerFiles};
