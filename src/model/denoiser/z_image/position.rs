//! Where tokens are: each has a place along the text, a row and a column, by which its queries and keys turn (diffusers'
//! `RopeEmbedder`, `_pad_with_ids`).

use super::config::ZImageConfig;
use crate::model::denoiser::rotary::Axes;

/// Place of a token: along the text, its row and its column.
pub(super) type Place = [usize; 3];

/// The axes of these places. Angles are rounded to f32, as in the original.
pub(super) fn axes(config: &ZImageConfig) -> Axes<'_, 3> {
    Axes { widths: &config.axes_dims, theta: config.rope_theta, rounds: true }
}

/// Places of so many tokens of a text, its padding included.
pub(super) fn of_text(tokens: usize) -> Vec<Place> {
    (1..=tokens).map(|index| [index, 0, 0]).collect()
}

/// Places of the patches of a picture behind so many tokens of a text, and of `padding` behind them.
pub(super) fn of_picture(
    text: usize,
    (rows, columns): (usize, usize),
    padding: usize,
) -> Vec<Place> {
    let patches = (0..rows).flat_map(|row| (0..columns).map(move |column| [text + 1, row, column]));
    patches.chain(std::iter::repeat_n([0; 3], padding)).collect()
}
