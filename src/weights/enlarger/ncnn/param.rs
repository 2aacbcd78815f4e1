//! Text of a graph of ncnn: a layer a line, with the names of what it takes and gives, and its numbered parameters.

use std::str::FromStr;

use crate::weights::quoted::quoted;

/// The first line.
const MAGIC: &str = "7767517";
/// The most layers that are believed; the largest network known has a thousand.
const MOST_LAYERS: usize = 1 << 14;
/// The most values that a layer takes or gives.
const MOST_VALUES: usize = 64;
/// Numbers of parameters that are lists count down from here.
const LISTS: i32 = -23300;
/// Characters of a line in a message.
const SHOWN: usize = 40;

/// A layer of a graph.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Layer<'a> {
    pub kind: &'a str,
    pub name: &'a str,
    pub inputs: Vec<&'a str>,
    pub outputs: Vec<&'a str>,
    params: Vec<(i32, &'a str)>,
}

impl Layer<'_> {
    /// A parameter by its number, or what stands for one that is missing.
    ///
    /// # Errors
    /// A text that is no such number.
    pub(super) fn get<T: FromStr>(&self, number: i32, default: T) -> Result<T, String> {
        let Some((_, text)) = self.params.iter().find(|(known, _)| *known == number) else {
            return Ok(default);
        };
        text.parse().map_err(|_| self.wrong(number, text))
    }

    /// A list by its number; empty where it is missing.
    ///
    /// # Errors
    /// A text that is no list of numbers behind their count.
    pub(super) fn list(&self, number: i32) -> Result<Vec<f64>, String> {
        let number = LISTS - number;
        let Some((_, text)) = self.params.iter().find(|(known, _)| *known == number) else {
            return Ok(Vec::new());
        };
        let mut numbers = text.split(',').map(f64::from_str);
        let count = numbers.next().and_then(Result::ok);
        match numbers.collect::<Result<Vec<_>, _>>() {
            Ok(list) if count == Some(list.len() as f64) => Ok(list),
            _ => Err(self.wrong(number, text)),
        }
    }

    fn wrong(&self, number: i32, text: &str) -> String {
        format!("layer `{}`: {number}={} cannot be", quoted(self.name, SHOWN), quoted(text, SHOWN))
    }
}

/// The layers of a graph, in their order.
///
/// # Errors
/// A text that is no graph, in one line with the number of the line at fault.
pub(super) fn layers(text: &[u8]) -> Result<Vec<Layer<'_>>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "not a graph of ncnn (no text)".to_owned())?;
    let mut lines = text.lines().map(str::trim).enumerate().filter(|(_, line)| !line.is_empty());
    if lines.next().is_none_or(|(_, line)| line != MAGIC) {
        return Err(format!("not a graph of ncnn (it does not begin with {MAGIC})"));
    }
    let counts = lines.next().map(|(_, line)| line.split_whitespace().map(usize::from_str));
    let counts: Option<Vec<usize>> =
        counts.and_then(|counts| counts.collect::<Result<_, _>>().ok());
    let Some([count, _]) = counts.as_deref() else {
        return Err("its second line has no numbers of layers and values".to_owned());
    };
    if *count > MOST_LAYERS {
        return Err(format!("{count} layers, where {MOST_LAYERS} at most are believed"));
    }
    let parsed = lines.by_ref().take(*count).map(|(number, line)| {
        layer(line)
            .ok_or_else(|| format!("line {}: not a layer: {}", number + 1, quoted(line, SHOWN)))
    });
    let layers: Vec<_> = parsed.collect::<Result<_, _>>()?;
    if layers.len() < *count || lines.next().is_some() {
        return Err(format!("it has not the {count} layers that it says: cut short?"));
    }
    Ok(layers)
}

fn layer(line: &str) -> Option<Layer<'_>> {
    let mut words = line.split_whitespace();
    let (kind, name) = (words.next()?, words.next()?);
    let mut count = || words.next()?.parse().ok().filter(|&count: &usize| count <= MOST_VALUES);
    let (inputs, outputs) = (count()?, count()?);
    let mut values = |count: usize| (0..count).map(|_| words.next()).collect::<Option<Vec<_>>>();
    let (inputs, outputs) = (values(inputs)?, values(outputs)?);
    let params = words.map(|word| {
        let (number, text) = word.split_once('=')?;
        Some((number.parse().ok()?, text))
    });
    Some(Layer { kind, name, inputs, outputs, params: params.collect::<Option<_>>()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_layer_with_its_values_and_parameters() {
        let text = b"7767517\n2 3\nInput in 0 1 data\nConvolution Conv_1 1 1 data 5 0=32 9=2 -23310=1,2.0e-01\n";
        let layers = layers(text).unwrap();
        let conv = &layers[1];
        assert_eq!(
            (conv.kind, &conv.inputs[..], &conv.outputs[..]),
            ("Convolution", &["data"][..], &["5"][..])
        );
        assert_eq!(conv.get(0, 0usize), Ok(32));
        assert_eq!(conv.get(3, 1usize), Ok(1));
        assert_eq!(conv.list(10), Ok(vec![0.2]));
        assert_eq!(conv.list(1), Ok(Vec::new()));
    }

    #[test]
    fn what_is_no_graph_or_is_cut_short_is_said_in_a_line() {
        for (text, said) in [
            (&b"\xff\xfe"[..], "no text"),
            (b"7767518\n1 1\n", "does not begin with"),
            (b"7767517\nmany\n", "second line"),
            (b"7767517\n99999999 1\n", "are believed"),
            (b"7767517\n2 2\nInput in 0 1 data\n", "cut short"),
            (b"7767517\n1 1\nInput in 0 1 data\nReLU r 1 1 data 5\n", "cut short"),
            (b"7767517\n1 1\nInput in 0 9\n", "line 3: not a layer: Input in 0 9"),
            (b"7767517\n1 1\nInput in 0 99999999999 data\n", "not a layer"),
            (b"7767517\n1 1\nInput in 0 1 data x\n", "not a layer"),
        ] {
            let error = layers(text).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
        let layers = layers(b"7767517\n1 1\nInput in 0 1 data 0=x -23310=3,1.0\n").unwrap();
        assert!(layers[0].get(0, 1usize).unwrap_err().contains("0=x cannot be"));
        assert!(layers[0].list(10).is_err());
    }
}
