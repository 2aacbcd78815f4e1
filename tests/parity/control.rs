//! ControlNets, and UNets with what these add, against diffusers. The fixtures are made by
//! `tests/make_fixtures/make_control_fixtures.py`; weights and inputs are drawn here from the same formula as there.

use std::{collections::HashMap, fs};

use candle_core::{DType, Device, Tensor};
use cupscale::{
    backend::{Activation, Params, Trace},
    model::{
        denoiser::{
            Conditioning, Control, ControlKind, ControlPicture, ControlSignal, Denoiser,
            MicroConditioning, Prior,
        },
        text::TextConditioning,
    },
};
use serde_json::Value;

use crate::common::{
    drawn::{assert_close, field, sizes, weight},
    fixture,
    models::conditioning,
    tensors::relative_errors,
};

struct Case {
    expected: HashMap<String, Tensor>,
    denoiser: Denoiser,
    control: Control,
    sample: Tensor,
    picture: Tensor,
    cond: Conditioning,
    timestep: f64,
    scale: f64,
}

fn params(shapes: &Value, prefix: &str, dtype: DType) -> Params {
    let weights = shapes
        .as_object()
        .unwrap()
        .iter()
        .map(|(name, shape)| (name.clone(), weight(&format!("{prefix}{name}"), &sizes(shape))));
    Params::from_tensors(weights.collect(), dtype, &Device::Cpu)
}

fn channels_last(x: &Tensor) -> Tensor {
    x.permute((0, 2, 3, 1)).unwrap().contiguous().unwrap()
}

fn load_as(name: &str, dtype: DType) -> Case {
    let text = fs::read_to_string(fixture(&format!("control/{name}.json"))).unwrap();
    let description: Value = serde_json::from_str(&text).unwrap();
    let class = |config: &Value| config["_class_name"].as_str().unwrap().to_owned();
    let config = &description["config"];
    let unet = params(&description["shapes"], "", dtype);
    let denoiser = Denoiser::load(&class(config), config, "unet", &unet).unwrap();
    let config = &description["control_config"];
    let weights = params(&description["control_shapes"], "control.", dtype);
    let control = Control::load(&class(config), config, "control", &weights).unwrap();
    let input = |name: &str| {
        let shape = &description["inputs"][name];
        (!shape.is_null()).then(|| field(name, &sizes(shape)))
    };
    let time_ids = description["time_ids"].as_array().map(|rows| {
        let numbers = rows.iter().flat_map(|row| row.as_array().unwrap());
        let numbers: Vec<f32> = numbers.map(|id| id.as_f64().unwrap() as f32).collect();
        Tensor::from_vec(numbers, (rows.len(), 6), &Device::Cpu).unwrap()
    });
    let (context, pooled) = (input("context").unwrap(), input("pooled"));
    let cond = conditioning(&denoiser, &context, pooled.as_ref(), time_ids.as_ref()).unwrap();
    let picture = ((input("picture").unwrap() + 1.0).unwrap() / 2.0).unwrap();
    let path = fixture(&format!("control/{name}.safetensors"));
    Case {
        expected: candle_core::safetensors::load(path, &Device::Cpu).unwrap(),
        denoiser,
        control,
        sample: channels_last(&input("sample").unwrap()),
        picture: channels_last(&picture),
        cond,
        timestep: description["timestep"].as_f64().unwrap(),
        scale: description["scale"].as_f64().unwrap(),
    }
}

fn load(name: &str) -> Case {
    load_as(name, DType::F32)
}

impl Case {
    fn signal_of(
        &self,
        sample: &Activation,
        pixels: &Activation,
        kind: ControlKind,
        scale: f64,
    ) -> candle_core::Result<ControlSignal> {
        let picture = ControlPicture { pixels, kind };
        self.control.forward(sample, self.timestep, &self.cond, &picture, scale)
    }

    fn signal(&self, kind: ControlKind, scale: f64) -> ControlSignal {
        let (sample, picture) = ((&self.sample).into(), (&self.picture).into());
        self.signal_of(&sample, &picture, kind, scale).unwrap()
    }

    fn with(&self, signal: ControlSignal) -> Tensor {
        let sample = (&self.sample).into();
        let output = self.denoiser.forward_controlled(
            &sample,
            self.timestep,
            &self.cond,
            Prior::None,
            signal,
        );
        output.unwrap().into_tensor().unwrap().to_dtype(DType::F32).unwrap()
    }
}

#[test]
fn controls_add_what_those_of_diffusers_add_and_the_unet_predicts_the_same() {
    for name in ["sd15", "sdxl", "union"] {
        let case = load(name);
        case.denoiser.check_control(&case.control.shape()).unwrap();
        let signal = case.signal(ControlKind::Tile, case.scale);
        let (skips, middle) = signal.parts();
        let count = case.expected.keys().filter(|name| name.starts_with("skip.")).count();
        assert!(count > 3 && count == skips.len());
        for (index, skip) in skips.iter().enumerate() {
            let expected = &case.expected[&format!("skip.{index}")];
            let (_, l2) = relative_errors(skip.tensor().unwrap(), expected);
            println!("{name}: skip {index}: {l2:.1e}");
            assert_close(&format!("{name} {index}"), skip.tensor().unwrap(), expected, 1e-4);
        }
        assert_close(name, middle.tensor().unwrap(), &case.expected["middle"], 1e-4);
        let output = case.with(signal);
        let (largest, l2) = relative_errors(&output, &case.expected["output.tile"]);
        println!("{name}: max {largest:.1e}, L2 {l2:.1e}");
        assert_close(name, &output, &case.expected["output.tile"], 1e-4);
    }
}

#[test]
fn the_composed_forms_that_other_devices_run_compute_the_same() {
    for name in ["sd15", "sdxl", "union"] {
        let case = load_as(name, DType::F64);
        let output = case.with(case.signal(ControlKind::Tile, case.scale));
        assert_close(name, &output, &case.expected["output.tile"], 1e-4);
    }
}

#[test]
fn a_union_is_told_what_its_picture_shows() {
    let case = load("union");
    let output = case.with(case.signal(ControlKind::Canny, case.scale));
    assert_close("canny", &output, &case.expected["output.canny"], 1e-4);
    let (apart, _) = relative_errors(&output, &case.expected["output.tile"]);
    assert!(apart > 1e-2, "the fixture could not tell the kinds apart: {apart}");
    let blurred = case.with(case.signal(ControlKind::Blur, case.scale));
    assert_close("blur", &blurred, &case.expected["output.tile"], 1e-4);
}

#[test]
fn a_pair_of_guidance_has_one_picture_and_each_half_what_diffusers_gives_it() {
    let mut case = load("union");
    let first = case.sample.narrow(0, 0, 1).unwrap();
    case.sample = Tensor::cat(&[&first, &first], 0).unwrap();
    case.picture = case.picture.narrow(0, 0, 1).unwrap();
    let output = case.with(case.signal(ControlKind::Tile, case.scale));
    assert_close("pair", &output, &case.expected["output.pair"], 1e-4);
}

#[test]
fn signals_add_up_and_a_scale_of_nothing_leaves_the_unet_as_it_is() {
    let case = load("sdxl");
    let parts = case.signal(ControlKind::Tile, 0.3).plus(case.signal(ControlKind::Tile, 0.4));
    assert_close("sum", &case.with(parts.unwrap()), &case.expected["output.tile"], 1e-4);
    let none = case.with(case.signal(ControlKind::Tile, 0.0));
    assert_close("none", &none, &case.expected["output.without"], 1e-5);
    let (apart, _) =
        relative_errors(&case.expected["output.tile"], &case.expected["output.without"]);
    assert!(apart > 1e-2, "the fixture could not tell a control from none: {apart}");
}

#[test]
fn a_sample_s_signal_depends_on_nothing_beside_it() {
    for name in ["sdxl", "union"] {
        let case = load(name);
        let both = case.signal(ControlKind::Tile, 1.0);
        for row in 0..2 {
            let own = |x: &Tensor| Activation::from(x.narrow(0, row, 1).unwrap());
            let cond = case.cond.select(&[row as u32]).unwrap();
            let pixels = own(&case.picture);
            let picture = ControlPicture { pixels: &pixels, kind: ControlKind::Tile };
            let alone = case
                .control
                .forward(&own(&case.sample), case.timestep, &cond, &picture, 1.0)
                .unwrap();
            let values = |x: &Tensor| x.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            let together = both.parts().1.tensor().unwrap().narrow(0, row, 1).unwrap();
            assert_eq!(values(alone.parts().1.tensor().unwrap()), values(&together), "{name}");
        }
    }
}

#[test]
fn a_half_precision_control_stays_in_its_precision_and_near_the_reference() {
    let case = load_as("union", DType::F16);
    let signal = case.signal(ControlKind::Tile, case.scale);
    assert_eq!(signal.parts().1.dtype(), DType::F16);
    assert_close("f16", &case.with(signal), &case.expected["output.tile"], 3e-2);
}

#[test]
fn what_does_not_fit_is_refused_by_name() {
    let (sd15, sdxl, union) = (load("sd15"), load("sdxl"), load("union"));
    let refused = |case: &Case, other: &Case| {
        case.denoiser.check_control(&other.control.shape()).unwrap_err().to_string()
    };
    assert!(refused(&sdxl, &sd15).contains("text of width 20, the model's UNet of 24"));
    assert!(refused(&sd15, &union).contains("text of width 24"));
    let mut other = union.control.shape();
    other.skips[1] += 1;
    let error = sdxl.denoiser.check_control(&other).unwrap_err().to_string();
    assert!(error.contains("its features have the channels [16, 17, "), "{error}");
    let (sample, picture) =
        (&Activation::from(&sdxl.sample), sdxl.picture.narrow(1, 0, 8).unwrap());
    let error = sdxl.signal_of(sample, &picture.into(), ControlKind::Tile, 1.0).unwrap_err();
    assert!(error.to_string().contains("a picture of"), "{error}");
    let params = Params::from_tensors(HashMap::new(), DType::F32, &Device::Cpu);
    let error = Control::load("FluxControlNetModel", &Value::Null, "c/config.json", &params);
    let error = error.unwrap_err().to_string();
    assert_eq!(
        error,
        "c/config.json: `FluxControlNetModel` is not supported (ControlNetModel, ControlNetUnionModel)"
    );
}

#[test]
fn a_trace_of_a_control_has_the_shapes_of_a_call() {
    let case = load("union");
    let trace = Trace::new(&Device::Cpu);
    let traced = |x: &Tensor| trace.activation(x.shape().clone(), DType::F32);
    let text = TextConditioning {
        context: trace.activation((2, 5, 24), DType::F32),
        pooled: Some(trace.activation((2, 20), DType::F32)),
        lengths: None,
    };
    let micro = MicroConditioning { original: (0, 0), crop: (0, 0), target: (0, 0) };
    let cond = case.denoiser.condition(&text, micro).unwrap();
    let (sample, pixels) = (traced(&case.sample), traced(&case.picture));
    let before = trace.peak();
    let picture = ControlPicture { pixels: &pixels, kind: ControlKind::Tile };
    let signal = case.control.forward(&sample, case.timestep, &cond, &picture, 0.5).unwrap();
    let real = case.signal(ControlKind::Tile, 0.5);
    for (traced, real) in signal.parts().0.iter().zip(real.parts().0) {
        assert_eq!((traced.dims(), traced.dtype()), (real.dims(), real.dtype()));
    }
    assert!(trace.peak() > before && trace.products() > 0.0);
}
