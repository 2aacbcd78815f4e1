//! Where tokens are: each has four coordinates, by which its queries and keys turn (`Flux2PosEmbed`): the picture that it
//! belongs to, its row, its column, and its place along the text (`_prepare_text_ids` and `_prepare_latent_ids` of diffusers'
//! pipeline).

use super::config::{AXES, Flux2Config};
use crate::model::denoiser::rotary::Axes;

/// Place of a token: picture, row, column, place along the text.
pub(super) type Place = [usize; AXES];

/// The axes of these places.
pub(super) fn axes(config: &Flux2Config) -> Axes<'_, AXES> {
    Axes { widths: &config.axes_dims, theta: config.rope_theta, rounds: false }
}

/// Places of so many tokens of a text, and behind them of a picture of so many rows and columns.
pub(super) fn of_tokens(text: usize, (rows, columns): (usize, usize)) -> Vec<Place> {
    let text = (0..text).map(|index| [0, 0, 0, index]);
    let picture = (0..rows).flat_map(|row| (0..columns).map(move |column| [0, row, column, 0]));
    text.chain(picture).collect()
}
