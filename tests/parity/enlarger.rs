//! Enlarging networks against PyTorch, in every naming and scale, from safetensors and from files of ncnn. The fixtures are
//! made by `tests/make_fixtures/make_enlarger_fixtures.py`; weights and pictures are drawn here from the same formula as there.

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::{
    backend::{
        Activation, Placement, Trace,
        ops::{leaky_relu, prelu},
    },
    model::enlarger::{Enlarger, Shortcut},
    weights::EnlargerFiles,
};
use tempfile::TempDir;

use crate::common::{
    drawn::{assert_close, field},
    enlarger::{cases, drawn, write},
    fixture,
    tensors::{bits, relative_errors},
};

const SIZE: [usize; 4] = [1, 3, 8, 4];

fn expected() -> HashMap<String, Tensor> {
    safetensors::load(fixture("enlarger/expected.safetensors"), &Device::Cpu).unwrap()
}

/// The picture of the fixtures, `[1, H, W, 3]` in 0…1.
fn picture() -> Tensor {
    let picture = field("picture", &SIZE).permute((0, 2, 3, 1)).unwrap();
    picture.affine(1.0, 1.0).unwrap().affine(0.5, 0.0).unwrap().contiguous().unwrap()
}

/// The network of a case, opened from a safetensors file with the names of its source.
fn files(folder: &TempDir, name: &str) -> EnlargerFiles {
    let path = folder.path().join(format!("{name}.safetensors"));
    write(name, &path);
    EnlargerFiles::open(&path).unwrap()
}

fn forward(network: &Enlarger, picture: &Tensor) -> Tensor {
    network.forward(&picture.into()).unwrap().into_tensor().unwrap()
}

#[test]
fn every_naming_and_every_scale_computes_what_pytorch_computes() {
    let (folder, expected, picture) = (TempDir::new().unwrap(), expected(), picture());
    let cases = cases();
    assert_eq!(cases.len(), 10);
    for (name, case) in &cases {
        let files = files(&folder, name);
        assert_eq!(files.config().scale() as u64, case["scale"].as_u64().unwrap(), "{name}");
        let output = forward(&files.load(&Device::Cpu).unwrap(), &picture);
        assert_close(name, &output, &expected[name], 1e-4);
        println!("{name}: {:.1e}", relative_errors(&output, &expected[name]).0);
    }
}

#[test]
fn files_of_ncnn_in_either_precision_and_spelling_compute_what_pytorch_computes() {
    let (expected, picture) = (expected(), picture());
    for name in ["rrdb_f32", "rrdb_f16", "rrdb_loose", "compact_f32", "compact_f16"] {
        for extension in ["param", "bin"] {
            let path = fixture(&format!("enlarger/ncnn/{name}.{extension}"));
            let files = EnlargerFiles::open(&path).unwrap();
            assert_eq!((files.name(), files.config().scale()), (name, 4));
            let output = forward(&files.load(&Device::Cpu).unwrap(), &picture);
            let reference = &expected[&format!("ncnn.{name}")];
            assert_close(name, &output, reference, 1e-4);
            println!("{name}: {:.1e}", relative_errors(&output, reference).0);
        }
    }
}

#[test]
fn leaky_relu_and_prelu_compute_what_pytorch_computes_in_every_form() {
    let expected = expected();
    let x = field("leaky", &[3, 5, 7]);
    let slopes = drawn("slopes.weight", &[7]);
    for dtype in [DType::F32, DType::F64] {
        let in_type = |x: &Tensor| x.to_dtype(dtype).unwrap();
        let (x, slopes): (Activation, _) = (in_type(&x).into(), in_type(&slopes));
        let leaky = leaky_relu(&x, 0.2).unwrap();
        let of_channels = prelu(&x, &slopes).unwrap();
        for (name, y) in [("leaky_relu", leaky), ("prelu", of_channels)] {
            let y = y.tensor().unwrap().to_dtype(DType::F32).unwrap();
            assert_close(name, &y, &expected[name], 1e-6);
        }
        assert!(prelu(&x, &slopes.narrow(0, 0, 5).unwrap()).is_err());
    }
}

/// A part of a map.
fn part(x: &Tensor, [top, bottom, left, right]: [usize; 4]) -> Activation {
    let part = x.narrow(1, top, bottom - top).unwrap().narrow(2, left, right - left).unwrap();
    part.contiguous().unwrap().into()
}

/// Each step over halves of the picture that see as much around them as the network says.
#[test]
fn steps_over_parts_with_their_context_equal_the_whole_to_the_bit() {
    let folder = TempDir::new().unwrap();
    let (height, width) = (40, 20);
    let picture = field("large", &[1, height, width, 3]).affine(0.5, 0.5).unwrap();
    for name in cases().keys() {
        let network = files(&folder, name).load(&Device::Cpu).unwrap();
        let (unit, outputs) = (network.config().unit(), network.config().outputs());
        let rows = height / unit;
        let halves = [(0, rows / 2), (rows / 2, rows)];
        let mut maps: Vec<Tensor> = vec![picture.clone()];
        for step in 0..network.steps() {
            let context = network.context(step);
            let from = if step == 0 { unit } else { 1 };
            let parts = halves.map(|(top, bottom)| {
                let (wide_top, wide_bottom) =
                    (top.saturating_sub(context), (bottom + context).min(rows));
                let window = part(
                    maps.last().unwrap(),
                    [wide_top * from, wide_bottom * from, 0, width * from / unit],
                );
                let y = network.step(step, &window).unwrap().into_tensor().unwrap();
                y.narrow(1, top - wide_top, bottom - top).unwrap()
            });
            maps.push(Tensor::cat(&parts, 1).unwrap());
        }
        let context = network.context(network.steps());
        let parts = halves.map(|(top, bottom)| {
            let (wide_top, wide_bottom) =
                (top.saturating_sub(context), (bottom + context).min(rows));
            let window = |map: &Tensor| {
                let from = map.dims()[1] / rows;
                part(map, [wide_top * from, wide_bottom * from, 0, map.dims()[2]])
            };
            let shortcut = match network.shortcut() {
                Shortcut::FirstStep => window(&maps[1]),
                Shortcut::Picture => window(&maps[0]),
            };
            let y = network.last(&window(maps.last().unwrap()), &shortcut).unwrap();
            let y = y.into_tensor().unwrap();
            y.narrow(1, (top - wide_top) * outputs, (bottom - top) * outputs).unwrap()
        });
        let whole = forward(&network, &picture);
        assert_eq!(bits(&Tensor::cat(&parts, 1).unwrap()), bits(&whole), "{name}");
    }
}

#[test]
fn a_trace_of_a_network_without_values_has_the_shape_and_the_weights_of_the_loaded_one() {
    let folder = TempDir::new().unwrap();
    for name in cases().keys() {
        let files = files(&folder, name);
        let (blueprint, footprint) = files.without_values(&Device::Cpu).unwrap();
        assert_eq!(footprint.kept, files.load(&Device::Cpu).unwrap().weight_bytes(), "{name}");
        let trace = Trace::new(Placement::Cpu);
        let traced = blueprint.forward(&trace.activation((1, 8, 4, 3), DType::F32)).unwrap();
        let scale = files.config().scale();
        assert_eq!(traced.dims(), [1, 8 * scale, 4 * scale, 3], "{name}");
        drop(traced);
        assert!(trace.live() == 0 && trace.products() > 0.0 && trace.peak() > 0, "{name}");
    }
}
