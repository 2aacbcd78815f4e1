//! Files of enlarging networks that are refused: other networks, damaged graphs, numbers of another graph, sizes that no
//! network has; each in one line that says what it is.

use std::{collections::HashMap, fs, path::PathBuf};

use candle_core::{DType, Device, Tensor, safetensors};
use cupscale::weights::{EnlargerFiles, WeightsError};
use tempfile::TempDir;

use crate::common::fixture;

fn ncnn(name: &str) -> (String, Vec<u8>) {
    let read = |extension: &str| fs::read(fixture(&format!("enlarger/ncnn/{name}.{extension}")));
    (String::from_utf8(read("param").unwrap()).unwrap(), read("bin").unwrap())
}

/// A folder for files, and the message that they are refused with.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn open(&self, name: &str) -> Result<EnlargerFiles, WeightsError> {
        EnlargerFiles::open(&self.path(name))
    }

    #[track_caller]
    fn refused(&self, name: &str, said: &str) {
        let error = self.open(name).unwrap_err().to_string();
        assert!(error.contains(said), "{error}, not: {said}");
        assert_eq!(error.lines().count(), 1, "{error}");
        assert!(error.len() < 600, "{error}");
    }

    fn pair(&self, param: &str, bin: &[u8]) {
        fs::write(self.path("a.param"), param).unwrap();
        fs::write(self.path("a.bin"), bin).unwrap();
    }

    fn tensors(&self, shapes: &[(&str, &[usize])]) {
        let zeros = |shape: &[usize]| Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap();
        let tensors: HashMap<_, _> =
            shapes.iter().map(|(name, shape)| ((*name).to_owned(), zeros(shape))).collect();
        safetensors::save(&tensors, self.path("a.safetensors")).unwrap();
    }
}

#[test]
fn a_pickle_a_lone_half_and_what_is_no_file_are_named() {
    let bench = Bench::new();
    bench.refused("none.safetensors", "no such model");
    fs::create_dir(bench.path("folder")).unwrap();
    bench.refused("folder", "name the file");
    for name in ["RealESRGAN_x4plus.pth", "a.safetensors", "a.bin"] {
        fs::write(bench.path(name), b"PK\x03\x04 a zip archive").unwrap();
        bench.refused(name, "pickled weights");
        bench.refused(name, "convert the model to safetensors");
    }
    let (param, bin) = ncnn("rrdb_f16");
    fs::write(bench.path("half.bin"), bin).unwrap();
    fs::write(bench.path("graph.param"), param).unwrap();
    bench.refused("half.bin", "pickled weights");
    bench.refused("graph.param", "graph.bin is missing beside it");
}

#[test]
fn another_network_in_safetensors_is_named() {
    let bench = Bench::new();
    let conv: &[usize] = &[8, 8, 3, 3];
    bench.tensors(&[("layers.0.attn.qkv.weight", &[24, 8])]);
    bench.refused("a.safetensors", "no enlarging network that is known");
    // A compact network without slopes.
    let first: &[usize] = &[8, 3, 3, 3];
    bench.tensors(&[("body.0.weight", first), ("body.2.weight", conv), ("body.4.weight", conv)]);
    bench.refused("a.safetensors", "without PReLU");
    let slopes: &[usize] = &[8];
    bench.tensors(&[
        ("body.0.weight", first),
        ("body.1.weight", slopes),
        ("body.2.weight", conv),
        ("body.3.weight", slopes),
        ("body.4.weight", &[11, 8, 3, 3]),
    ]);
    bench.refused("a.safetensors", "has 11 channels");
    // ESRGAN with a convolution more in each block.
    let rrdb: &[(&str, &[usize])] = &[
        ("conv_first.weight", first),
        ("body.0.rdb1.conv1.weight", &[4, 8, 3, 3]),
        ("conv_up1.weight", conv),
        ("conv_up2.weight", conv),
    ];
    bench.tensors(&[rrdb, &[("body.0.rdb1.conv1x1.weight", &[4, 8, 1, 1])]].concat());
    bench.refused("a.safetensors", "`body.0.rdb1.conv1x1.weight` has no place in RRDBNet");
    bench.tensors(&[&[("conv_first.weight", &[8, 1, 3, 3][..])], &rrdb[1..]].concat());
    bench.refused("a.safetensors", "sees 1 channels");
    // Whatever is missing is missed when its shape is asked for.
    bench.tensors(rrdb);
    let error = bench.open("a.safetensors").unwrap().without_values(&Device::Cpu).unwrap_err();
    assert!(error.to_string().contains("tensor `conv_first.bias` is missing"), "{error}");
    bench.tensors(&[
        ("conv_first.weight", &[100_000, 3, 1, 1]),
        ("body.0.rdb1.conv1.weight", &[4, 8, 3, 3]),
        ("conv_up1.weight", conv),
        ("conv_up2.weight", conv),
    ]);
    bench.refused("a.safetensors", "channels of 100000");
}

#[test]
fn a_damaged_or_foreign_graph_is_named() {
    let (bench, (param, bin)) = (Bench::new(), ncnn("rrdb_f16"));
    for (text, said) in [
        ("", "not a graph of ncnn"),
        ("7767517\n", "no numbers of layers"),
        (&param[..param.len() / 2], "not a layer"),
        (&param.replace("0=1 -23301", "0=2 -23301"), "another network"),
        (
            &param.replace("2.000000e-01,1.000000e+00", "3.000000e-01,1.000000e+00"),
            "another network",
        ),
        (&param.replace("Interp ", "Reorg  "), "layer `Reorg`"),
        (&param.replace("9=2 ", "9=1 "), "an activation of kind 1"),
        (&param.replace(" 1=3 ", " 1=5 "), "no such convolution"),
        (&param.replace(" 6=", " 6=99999999999999999999"), "cannot be"),
        (&param.replace(" 0 1 data", " 0 1 other"), "takes what there is not"),
        (&param.replace("0=1 1=2.000000e+00 2=2.000000e+00", "0=1 1=2.5 2=2.5"), "another network"),
    ] {
        bench.pair(text, &bin);
        bench.refused("a.param", said);
    }
    let (compact, bin) = ncnn("compact_f32");
    for (text, said) in [
        (compact.replacen("PixelShuffle", "Permute", 1), "layer `Permute`"),
        (compact.replace("0=1 1=4", "0=2 1=4"), "another network"),
        (
            compact.replace(" 0=48 1=3 4=1 5=1 6=2160", " 0=47 1=3 4=1 5=1 6=2115"),
            "has 47 channels",
        ),
    ] {
        bench.pair(&text, &bin);
        bench.refused("a.param", said);
    }
}

#[test]
fn numbers_of_another_graph_are_named() {
    let (bench, (param, bin)) = (Bench::new(), ncnn("rrdb_f32"));
    bench.pair(&param, &bin[..bin.len() - 4]);
    bench.refused("a.param", "it ends before `conv_last.bias`");
    bench.pair(&param, &[&bin[..], &[0; 8]].concat());
    bench.refused("a.bin", "8 bytes off");
    let mut tagged = bin.clone();
    tagged[..4].copy_from_slice(&0x000D_4B38u32.to_le_bytes());
    bench.pair(&param, &tagged);
    bench.refused("a.param", "stored in 8 bits");
    bench.pair(&ncnn("compact_f32").0, &bin);
    bench.refused("a.param", "stored in a way that is not read");
    bench.pair(&param, b"<!DOCTYPE html>");
    bench.refused("a.param", "a.bin");
}
