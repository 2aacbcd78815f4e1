//! Canny's edges as OpenCV finds them (`Canny` of a picture of several channels, Sobel's kernel of 3, the sum of absolute
//! derivatives), pixel for pixel: what the edges of most ControlNets for them were made with.

use std::cmp::Ordering;

/// Thresholds of weak and strong edges, in levels of 8 bits: those of OpenCV's and diffusers' examples.
const LOW: i32 = 100;
const HIGH: i32 = 200;

/// tan 22.5° in 15 bits, as OpenCV has it.
const TAN_22: i64 = 13_573;
const TAN_BITS: u32 = 15;

const CHANNELS: usize = 3;

/// A pixel on the way.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Edge {
    No,
    /// One if it hangs together with a strong one.
    Weak,
    Yes,
}

/// The edges of `rgb`, `[height, width, 3]` in 0..=1, white (1) on black (0) in all three channels. The picture is brought
/// to 8 bits first.
#[must_use]
pub fn canny(rgb: &[f32], width: usize, height: usize) -> Vec<f32> {
    if width == 0 || height == 0 {
        return Vec::new();
    }
    let levels: Vec<i32> = rgb.iter().map(|value| (value * 255.0).round() as i32).collect();
    let gradients = gradients(&levels, width, height);
    let mut edges = thinned(&gradients, width, height);
    connect(&mut edges, width, height);
    let value = |edge: Edge| if edge == Edge::Yes { 1.0 } else { 0.0 };
    edges.into_iter().flat_map(|edge| [value(edge); CHANNELS]).collect()
}

/// Derivatives along x and y of each pixel's steepest channel, the first of equals; beyond its border a picture goes on as
/// there.
fn gradients(levels: &[i32], width: usize, height: usize) -> Vec<(i32, i32)> {
    let mut gradients = Vec::with_capacity(width * height);
    for y in 0..height {
        let rows = [y.saturating_sub(1), y, (y + 1).min(height - 1)];
        for x in 0..width {
            let columns = [x.saturating_sub(1), x, (x + 1).min(width - 1)];
            let mut steepest = (0, 0);
            for channel in 0..CHANNELS {
                let at = |row: usize, column: usize| {
                    levels[(rows[row] * width + columns[column]) * CHANNELS + channel]
                };
                let along = |of: &dyn Fn(usize, usize) -> i32| {
                    of(2, 0) - of(0, 0) + 2 * (of(2, 1) - of(0, 1)) + of(2, 2) - of(0, 2)
                };
                let own = (along(&|i, j| at(j, i)), along(&|i, j| at(i, j)));
                if channel == 0 || magnitude(own) > magnitude(steepest) {
                    steepest = own;
                }
            }
            gradients.push(steepest);
        }
    }
    gradients
}

fn magnitude((x, y): (i32, i32)) -> i32 {
    x.abs() + y.abs()
}

/// The pixels that are steeper than their neighbours along the gradient; beyond the border nothing is steep.
fn thinned(gradients: &[(i32, i32)], width: usize, height: usize) -> Vec<Edge> {
    let steepness = |x: isize, y: isize| {
        let inside = (0..width as isize).contains(&x) && (0..height as isize).contains(&y);
        if inside { magnitude(gradients[y as usize * width + x as usize]) } else { 0 }
    };
    let mut edges = Vec::with_capacity(width * height);
    for y in 0..height as isize {
        for x in 0..width as isize {
            let (dx, dy) = gradients[y as usize * width + x as usize];
            let own = magnitude((dx, dy));
            if own <= LOW {
                edges.push(Edge::No);
                continue;
            }
            let (across, up) = (i64::from(dx.abs()), i64::from(dy.abs()) << TAN_BITS);
            let flat = across * TAN_22;
            let steep = flat + (across << (TAN_BITS + 1));
            let is_ridge = if up < flat {
                own > steepness(x - 1, y) && own >= steepness(x + 1, y)
            } else if up > steep {
                own > steepness(x, y - 1) && own >= steepness(x, y + 1)
            } else {
                let side = if (dx ^ dy) < 0 { -1 } else { 1 };
                own > steepness(x - side, y - 1) && own > steepness(x + side, y + 1)
            };
            edges.push(match (is_ridge, own.cmp(&HIGH)) {
                (false, _) => Edge::No,
                (true, Ordering::Greater) => Edge::Yes,
                (true, _) => Edge::Weak,
            });
        }
    }
    edges
}

/// Makes edges of weak ones that hang together with strong ones, by any of eight neighbours.
fn connect(edges: &mut [Edge], width: usize, height: usize) {
    let is_strong = |&place: &usize| edges[place] == Edge::Yes;
    let mut open: Vec<usize> = (0..edges.len()).filter(is_strong).collect();
    while let Some(place) = open.pop() {
        let (x, y) = (place % width, place / width);
        for row in y.saturating_sub(1)..(y + 2).min(height) {
            for column in x.saturating_sub(1)..(x + 2).min(width) {
                let neighbour = row * width + column;
                if edges[neighbour] == Edge::Weak {
                    edges[neighbour] = Edge::Yes;
                    open.push(neighbour);
                }
            }
        }
    }
}
