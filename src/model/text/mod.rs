//! Text: tokenizers and text encoders of every kind, and the conditioning that diffusion models make of
//! them. Nothing here knows of regions or captions; it turns prompts into tensors. A kind of encoder is
//! a folder here and one line in each `match` of `encoder` and `tokenizer`.

mod arrangement;
mod byte_pairs;
mod chunks;
pub mod clip;
mod conditioner;
mod conditioning;
mod encoder;
mod encoding;
mod error;
mod prompt;
pub mod qwen3;
pub mod t5;
mod tokenizer;
mod tokenizer_files;
mod tokenizing;
mod weights;

pub use arrangement::{TextArrangement, TextTokenizers};
pub use chunks::Chunk;
pub use clip::HiddenAct;
pub use conditioner::{TextConditioner, TextPart};
pub use conditioning::TextConditioning;
pub use encoder::TextEncoder;
pub use encoding::TextEncoding;
pub use error::TextError;
pub use prompt::{LoraTag, Piece, Prompt, PromptError, PromptSyntax, escaped, without_networks};
pub use tokenizer::TextTokenizer;
pub use tokenizer_files::{Cut, EmbeddingName, TokenIds, TokenizerFiles};
