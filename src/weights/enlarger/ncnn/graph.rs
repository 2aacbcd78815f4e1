//! Network of a graph of ncnn: the graph is read as an expression of the picture and compared with that of each network that
//! is known. Layers of several kinds that mean the same (a sum as `Eltwise` or `BinaryOp`, a leaky ReLU by itself or in a
//! convolution) are one kind of expression.

use std::collections::HashMap;

use super::{
    super::names::{compact_tensors, rrdb_convs, scale_of},
    bin::Array,
    param::{Layer, layers},
};
use crate::model::enlarger::{CompactConfig, EnlargerConfig, RrdbConfig};
use crate::weights::quoted::quoted;

/// What is wrong where a graph is that of no network which is known.
const UNKNOWN: &str = "the graph of another network: those of ESRGAN's and Real-ESRGAN's RRDBNet and of Real-ESRGAN's \
                       SRVGGNetCompact are read";

/// Parts of one by which factors of sums are compared.
const PARTS: f64 = 1e6;
/// The shares of ESRGAN's sums, and the slope of its leaky ReLU.
const FIFTH: i64 = (0.2 * PARTS) as i64;
const ONE: i64 = PARTS as i64;

/// A network that a graph is.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    pub config: EnlargerConfig,
    /// the arrays of its numbers, in the order of the graph
    pub(super) arrays: Vec<Array>,
}

/// A value of a graph, by its number.
type Id = usize;

/// What a value is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Value {
    Picture,
    /// the convolution of this number
    Conv(usize, Id),
    /// the slopes of this number
    Prelu(usize, Id),
    /// with a slope in [`PARTS`]
    Leaky(i64, Id),
    Join(Vec<Id>),
    /// terms with a factor in [`PARTS`], in the order of their values
    Sum(Vec<(i64, Id)>),
    Nearest(usize, Id),
    Shuffle(usize, Id),
}

/// All values; equal ones have one number.
#[derive(Default)]
struct Values {
    numbers: HashMap<Value, Id>,
    all: Vec<Value>,
}

impl Values {
    fn put(&mut self, value: Value) -> Id {
        let next = self.all.len();
        let id = *self.numbers.entry(value.clone()).or_insert(next);
        if id == next {
            self.all.push(value);
        }
        id
    }

    fn picture(&mut self) -> Id {
        self.put(Value::Picture)
    }

    fn leaky(&mut self, x: Id) -> Id {
        self.put(Value::Leaky(FIFTH, x))
    }

    /// A sum of terms with their factors; a term that is itself a value times a factor is that value.
    fn sum(&mut self, terms: impl IntoIterator<Item = (i64, Id)>) -> Id {
        let mut flat: Vec<_> = terms
            .into_iter()
            .map(|(factor, id)| match &self.all[id] {
                Value::Sum(inner) => match inner[..] {
                    [(own, of)] => ((factor as f64 * own as f64 / PARTS).round() as i64, of),
                    _ => (factor, id),
                },
                _ => (factor, id),
            })
            .collect();
        flat.sort_by_key(|&(factor, id)| (id, factor));
        match flat[..] {
            [(ONE, id)] => id,
            _ => self.put(Value::Sum(flat)),
        }
    }

    /// What an `RRDBNet` computes.
    fn rrdb(&mut self, blocks: usize, doublings: usize) -> Id {
        let (mut next, picture) = (0.., self.picture());
        let mut conv =
            |values: &mut Self, x: Id| values.put(Value::Conv(next.next().unwrap_or_default(), x));
        let first = conv(self, picture);
        let mut x = first;
        for _ in 0..blocks {
            let mut inner = x;
            for _ in 0..3 {
                let mut seen = vec![inner];
                for _ in 0..4 {
                    let all = self.join(&seen);
                    let new = conv(self, all);
                    seen.push(self.leaky(new));
                }
                let all = self.join(&seen);
                let last = conv(self, all);
                inner = self.sum([(FIFTH, last), (ONE, inner)]);
            }
            x = self.sum([(FIFTH, inner), (ONE, x)]);
        }
        let body = conv(self, x);
        x = self.sum([(ONE, first), (ONE, body)]);
        for _ in 0..doublings {
            let doubled = self.put(Value::Nearest(2, x));
            let up = conv(self, doubled);
            x = self.leaky(up);
        }
        let hr = conv(self, x);
        x = self.leaky(hr);
        conv(self, x)
    }

    /// What a `SRVGGNetCompact` computes.
    fn compact(&mut self, layers: usize, scale: usize) -> Id {
        let picture = self.picture();
        let mut x = picture;
        for index in 0..=layers {
            let conv = self.put(Value::Conv(index, x));
            x = self.put(Value::Prelu(index, conv));
        }
        let last = self.put(Value::Conv(layers + 1, x));
        let pixels = self.put(Value::Shuffle(scale, last));
        let base = self.put(Value::Nearest(scale, picture));
        self.sum([(ONE, pixels), (ONE, base)])
    }

    fn join(&mut self, parts: &[Id]) -> Id {
        match parts {
            [one] => *one,
            _ => self.put(Value::Join(parts.to_vec())),
        }
    }
}

/// A convolution or slopes, as the file of numbers has them.
enum Numbers {
    Conv { output: usize, input: usize },
    Slopes(usize),
}

/// The network of a graph.
///
/// # Errors
/// A text that is no graph, or the graph of another network, in one line without the file's name.
pub fn recognise(text: &[u8]) -> Result<Network, String> {
    let layers = layers(text)?;
    let mut values = Values::default();
    let mut known: HashMap<&str, Id> = HashMap::new();
    let mut numbers = Vec::new();
    let (mut convs, mut slopes, mut doublings) = (0, 0, 0);
    let mut output = None;
    let mut reduced = false;
    for layer in &layers {
        if reduced {
            return Err(UNKNOWN.to_owned());
        }
        let inputs = layer.inputs.iter().map(|name| known.get(name).copied());
        let Some(inputs) = inputs.collect::<Option<Vec<_>>>() else {
            return Err(format!("layer `{}` takes what there is not", quoted(layer.name, 40)));
        };
        let id = match (layer.kind, &inputs[..]) {
            ("Input", []) => values.picture(),
            ("Split" | "Noop", &[x]) => x,
            ("Convolution", &[x]) => {
                numbers.push(conv(layer)?);
                let y = values.put(Value::Conv(convs, x));
                convs += 1;
                match layer.get(9, 0)? {
                    0 => y,
                    2 => {
                        let slope = layer.list(10)?.first().copied().unwrap_or(0.0);
                        values.put(Value::Leaky(parts(slope)?, y))
                    }
                    other => return Err(format!("an activation of kind {other}: another network")),
                }
            }
            ("PReLU", &[x]) => {
                numbers.push(Numbers::Slopes(layer.get(0, 0)?));
                let y = values.put(Value::Prelu(slopes, x));
                slopes += 1;
                y
            }
            ("ReLU", &[x]) => values.put(Value::Leaky(parts(layer.get(0, 0.0)?)?, x)),
            ("Concat", parts @ [_, _, ..]) if layer.get(0, 0)? == 0 => values.join(parts),
            ("Eltwise", &[a, b]) if layer.get(0, 0)? == 1 => {
                let factors = match layer.list(1)?[..] {
                    [] => [1.0, 1.0],
                    [a, b] => [a, b],
                    _ => return Err(UNKNOWN.to_owned()),
                };
                values.sum([(parts(factors[0])?, a), (parts(factors[1])?, b)])
            }
            ("BinaryOp", &[a, b]) if layer.get(0, 0)? == 0 => values.sum([(ONE, a), (ONE, b)]),
            ("BinaryOp", &[x]) if layer.get(0, 0)? == 2 && layer.get(1, 0)? == 1 => {
                values.sum([(parts(layer.get(2, 0.0)?)?, x)])
            }
            ("Interp", &[x]) => {
                let (height, width): (f64, f64) = (layer.get(1, 1.0)?, layer.get(2, 1.0)?);
                match layer.get(0, 0)? {
                    1 if height == width && [2.0, 3.0, 4.0].contains(&height) => {
                        doublings += usize::from(height == 2.0);
                        values.put(Value::Nearest(height as usize, x))
                    }
                    // The picture reduced behind the network, which whoever asks for a size does.
                    2 | 3 if height == width && height > 0.0 && height < 1.0 => {
                        reduced = true;
                        x
                    }
                    _ => return Err(UNKNOWN.to_owned()),
                }
            }
            ("PixelShuffle", &[x]) if layer.get(1, 0)? == 0 => {
                values.put(Value::Shuffle(layer.get(0, 1)?, x))
            }
            _ => {
                let kind = quoted(layer.kind, 40);
                return Err(format!("layer `{kind}` with {} inputs: {UNKNOWN}", inputs.len()));
            }
        };
        known.extend(layer.outputs.iter().map(|&name| (name, id)));
        output = Some(id);
    }
    let config = match slopes {
        0 => rrdb(&mut values, output, &numbers, doublings)?,
        _ => compact(&mut values, output, &numbers, slopes)?,
    };
    config.check()?;
    Ok(Network { config, arrays: arrays(&config, &numbers) })
}

/// A factor in [`PARTS`].
fn parts(factor: f64) -> Result<i64, String> {
    if factor.abs() <= 1e6 { Ok((factor * PARTS).round() as i64) } else { Err(UNKNOWN.to_owned()) }
}

/// A convolution of 3 × 3 pixels with a bias, which all of these networks have.
fn conv(layer: &Layer<'_>) -> Result<Numbers, String> {
    let side = layer.get(1, 0)?;
    let sides = [layer.get(11, side)?, layer.get(2, 1)?, layer.get(3, 1)?, layer.get(4, 0)?];
    let (output, size): (usize, usize) = (layer.get(0, 0)?, layer.get(6, 0)?);
    let fits = side == 3 && sides == [3, 1, 1, 1] && layer.get(5, 0)? == 1 && layer.get(8, 0)? == 0;
    let inputs = output.checked_mul(9).filter(|&of_one| of_one > 0 && size.is_multiple_of(of_one));
    match inputs {
        Some(of_one) if fits => Ok(Numbers::Conv { output, input: size / of_one }),
        _ => Err(format!(
            "layer `{}`: no such convolution in a network that is read",
            quoted(layer.name, 40)
        )),
    }
}

/// Outputs and inputs of the convolution of this number.
fn dims(numbers: &[Numbers], index: usize) -> (usize, usize) {
    let convs = numbers.iter().filter_map(|one| match one {
        Numbers::Conv { output, input } => Some((*output, *input)),
        Numbers::Slopes(_) => None,
    });
    let all: Vec<_> = convs.collect();
    all.get(index).copied().unwrap_or_default()
}

fn rrdb(
    values: &mut Values,
    output: Option<Id>,
    numbers: &[Numbers],
    doublings: usize,
) -> Result<EnlargerConfig, String> {
    let behind = 4 + doublings;
    let blocks = numbers.len().saturating_sub(behind) / 15;
    let fits =
        numbers.len() == 15 * blocks + behind && output == Some(values.rrdb(blocks, doublings));
    let ((features, input), (growth, _)) = (dims(numbers, 0), dims(numbers, 1));
    if !fits || input != 3 {
        return Err(UNKNOWN.to_owned());
    }
    Ok(EnlargerConfig::Rrdb(RrdbConfig { unit: 1, features, growth, blocks, doublings }))
}

fn compact(
    values: &mut Values,
    output: Option<Id>,
    numbers: &[Numbers],
    slopes: usize,
) -> Result<EnlargerConfig, String> {
    let (layers, (features, _)) = (slopes - 1, dims(numbers, 0));
    let scale = scale_of(dims(numbers, slopes).0)?;
    if numbers.len() != 2 * slopes + 1 || output != Some(values.compact(layers, scale)) {
        return Err(UNKNOWN.to_owned());
    }
    Ok(EnlargerConfig::Compact(CompactConfig { features, layers, scale }))
}

/// The arrays of a network with these convolutions and slopes.
fn arrays(config: &EnlargerConfig, numbers: &[Numbers]) -> Vec<Array> {
    let mut names = match config {
        EnlargerConfig::Rrdb(config) => rrdb_convs(config.blocks, config.doublings)
            .into_iter()
            .flat_map(|conv| ["weight", "bias"].map(|kind| format!("{conv}.{kind}")))
            .collect(),
        EnlargerConfig::Compact(config) => compact_tensors(config.layers),
    }
    .into_iter();
    let mut array =
        |shape: Vec<usize>, tagged: bool| names.next().map(|name| Array { name, shape, tagged });
    let mut all = Vec::new();
    for one in numbers {
        match *one {
            Numbers::Conv { output, input } => {
                all.extend(array(vec![output, input, 3, 3], true));
                all.extend(array(vec![output], false));
            }
            Numbers::Slopes(count) => all.extend(array(vec![count], false)),
        }
    }
    all
}
