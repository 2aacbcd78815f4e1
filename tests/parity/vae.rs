//! The autoencoders against diffusers (fixtures by tests/make_fixtures/make_vae_fixtures.py), and the
//! promise that tiles make: with enough context, a tile's core is the whole's.

use std::collections::HashMap;
use std::path::PathBuf;

use candle_core::{DType, Device, Result, Tensor, safetensors};
use cupscale::backend::{Activation, Params};
use cupscale::model::vae::{
    FeatureMaps, GlobalState, Globals, LayerwiseSize, MapId, MeasuredPart, Vae, VaeError, Window,
};
use serde_json::Value;

use crate::common::tensors::{flat, largest_difference, norm_error};

fn fixture(name: &str) -> PathBuf {
    crate::common::fixture("vae").join(name)
}

fn config(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(fixture(name).join("config.json")).unwrap()).unwrap()
}

fn tensors(name: &str, file: &str) -> HashMap<String, Tensor> {
    safetensors::load(fixture(name).join(file), &Device::Cpu).unwrap()
}

fn load(name: &str) -> Vae {
    let weights = tensors(name, "weights.safetensors");
    Vae::load(&config(name), &Params::from_tensors(weights, DType::F32, &Device::Cpu)).unwrap()
}

fn difference(a: &Activation, b: &Activation) -> f32 {
    assert_eq!(a.dims(), b.dims());
    largest_difference(&flat(a), &flat(b))
}

fn assert_equals_diffusers(name: &str, factor: usize) {
    let vae = load(name);
    let expected = tensors(name, "expected.safetensors");
    assert_eq!(vae.factor(), factor);
    assert_eq!(vae.latent_channels(), expected["latent"].dim(3).unwrap());
    let encoded =
        norm_error(&vae.encode(&(&expected["image"]).into()).unwrap(), &expected["latent"]);
    let decoded = norm_error(&vae.decode(&(&expected["z"]).into()).unwrap(), &expected["decoded"]);
    assert!(encoded <= 1e-4, "encode: {encoded:e}");
    assert!(decoded <= 1e-4, "decode: {decoded:e}");
}

#[test]
fn autoencoder_kl_equals_diffusers_on_a_non_square_batch() {
    assert_equals_diffusers("kl", 2);
}

#[test]
fn autoencoder_kl_with_old_names_f16_weights_and_a_shift_equals_diffusers() {
    assert_equals_diffusers("kl_old_names_f16", 4);
}

#[test]
fn autoencoder_kl_of_one_level_without_attention_equals_diffusers() {
    assert_equals_diffusers("kl_no_attention", 1);
}

#[test]
fn autoencoder_kl_with_packed_latents_and_a_narrower_decoder_equals_diffusers() {
    assert_equals_diffusers("kl_packed", 4);
}

#[test]
fn autoencoder_tiny_with_different_halves_equals_diffusers_on_a_batch() {
    assert_equals_diffusers("tiny_asymmetric", 4);
}

#[test]
fn autoencoder_tiny_of_taesds_depth_with_f16_weights_equals_diffusers() {
    assert_equals_diffusers("tiny_f16", 8);
}

/// A smooth and a rough part, so that no pixel is like another.
fn picture(height: usize, width: usize, channels: usize) -> Activation {
    let values: Vec<f32> = (0..height * width * channels)
        .map(|index| (index as f32 * 0.37).sin() * 0.7 + (index as f32 * 0.011).cos() * 0.3)
        .collect();
    Tensor::from_vec(values, (1, height, width, channels), &Device::Cpu).unwrap().into()
}

/// The global state of a whole input of `latents` rows and columns, of which `pass` is the encoder or the decoder.
fn state_of(
    (rows, columns): (usize, usize),
    pass: impl Fn(Globals<'_>) -> Activation,
) -> GlobalState {
    let part = MeasuredPart { rows: 0..rows, columns: 0..columns };
    let mut state = GlobalState::default();
    pass(Globals::Measured { parts: &[part], state: &mut state });
    state
}

/// What a tile of this autoencoder computes with.
fn shared<'a>(vae: &Vae, state: &'a GlobalState) -> Globals<'a> {
    if vae.has_global_state() { Globals::Shared(state) } else { Globals::Own }
}

#[test]
fn a_tile_padded_by_the_context_equals_the_whole_in_its_core_given_its_global_state() {
    let kinds =
        ["tiny_asymmetric", "tiny_f16", "kl", "kl_old_names_f16", "kl_no_attention", "kl_packed"];
    for name in kinds {
        let vae = load(name);
        let (f, c) = (vae.factor(), vae.context());
        // A core of 3 latent pixels between two contexts, inside a larger whole.
        let (side, before) = (2 * c + 3, 2);
        let whole = side + 5;
        let image = picture(whole * f, 4 * f, 3);
        let state = state_of((whole, 4), |globals| vae.encode_with(&image, globals).unwrap());
        let tile = image.narrow(1, before * f, side * f).unwrap();
        let expected = vae.encode(&image).unwrap().narrow(1, before + c, 3).unwrap();
        let core = vae.encode_with(&tile, shared(&vae, &state)).unwrap().narrow(1, c, 3).unwrap();
        assert!(difference(&core, &expected) < 1e-5, "{name}: encode");

        let z = picture(whole, 4, vae.latent_channels());
        let state = state_of((whole, 4), |globals| vae.decode_with(&z, globals).unwrap());
        let tile = z.narrow(1, before, side).unwrap();
        let expected = vae.decode(&z).unwrap().narrow(1, (before + c) * f, 3 * f).unwrap();
        let core =
            vae.decode_with(&tile, shared(&vae, &state)).unwrap().narrow(1, c * f, 3 * f).unwrap();
        assert!(difference(&core, &expected) < 1e-5, "{name}: decode");
    }
}

#[test]
fn samples_that_cover_the_whole_have_its_global_state_but_for_what_they_do_not_see() {
    for name in ["kl", "kl_packed"] {
        samples_have_the_global_state_of_the_whole(&load(name));
    }
}

fn samples_have_the_global_state_of_the_whole(vae: &Vae) {
    let (c, side) = (vae.context(), 24);
    let z = picture(side, 6, vae.latent_channels());
    let whole = vae.decode(&z).unwrap();
    // Two samples, each measured up to where the other begins.
    let (length, half) = (side / 2 + c, side / 2);
    let samples = [0, side - length].map(|start| z.narrow(1, start, length).unwrap());
    let parts = [0..half, length - half..length].map(|rows| MeasuredPart { rows, columns: 0..6 });
    let samples = Activation::cat(&samples, 0).unwrap();
    let mut state = GlobalState::default();
    let measured = Globals::Measured { parts: &parts, state: &mut state };
    let decoded = vae.decode_with(&samples, measured).unwrap();
    let upper = decoded.narrow(0, 0, 1).unwrap().narrow(1, 0, half * vae.factor()).unwrap();
    let expected = whole.narrow(1, 0, half * vae.factor()).unwrap();
    assert!(difference(&upper, &expected) < 1e-5);
    let again = vae.decode_with(&z, Globals::Shared(&state)).unwrap();
    assert!(difference(&again, &whole) < 1e-5);
}

/// Maps in memory.
#[derive(Default)]
struct Memory {
    input: Option<Activation>,
    output: Vec<Activation>,
    /// Values, width and channels of each.
    maps: Vec<Option<(Vec<f32>, usize, usize)>>,
    /// The most maps at a time.
    most: usize,
    layers: Vec<(usize, usize)>,
}

impl FeatureMaps for Memory {
    fn input(&mut self, Window { rows, columns }: &Window) -> Result<Activation> {
        let input = self.input.as_ref().unwrap().narrow(1, rows.start, rows.len())?;
        input.narrow(2, columns.start, columns.len())?.contiguous()
    }

    fn output(&mut self, _: &Window, values: &Activation) -> Result<()> {
        self.output.push(values.clone());
        Ok(())
    }

    fn create(&mut self, (height, width, channels): (usize, usize, usize)) -> Result<MapId> {
        // What is read before it is written shows.
        self.maps.push(Some((vec![f32::NAN; height * width * channels], width, channels)));
        self.most = self.most.max(self.maps.iter().flatten().count());
        Ok(self.maps.len() - 1)
    }

    fn read(&mut self, map: MapId, Window { rows, columns }: &Window) -> Result<Activation> {
        let (values, width, channels) = self.maps[map].as_ref().unwrap();
        let line = |y: usize| {
            &values[(y * width + columns.start) * channels..][..columns.len() * channels]
        };
        let values: Vec<f32> = rows.clone().flat_map(line).copied().collect();
        let shape = (1, rows.len(), columns.len(), *channels);
        Tensor::from_vec(values, shape, &Device::Cpu).map(Activation::from)
    }

    fn write(
        &mut self,
        map: MapId,
        Window { rows, columns }: &Window,
        values: &Activation,
    ) -> Result<()> {
        let (map, width, channels) = self.maps[map].as_mut().unwrap();
        let (values, length) = (flat(values), columns.len() * *channels);
        for (y, line) in rows.clone().zip(values.chunks_exact(length)) {
            map[(y * *width + columns.start) * *channels..][..length].copy_from_slice(line);
        }
        Ok(())
    }

    fn remove(&mut self, map: MapId) {
        assert!(self.maps[map].take().is_some());
    }

    fn advance(&mut self, done: usize, of: usize) {
        self.layers.push((done, of));
    }
}

/// The output of a pass over this input, put together from so many blocks a row.
fn layerwise(
    input: &Activation,
    blocks: usize,
    pass: impl Fn(&mut dyn FeatureMaps) -> Result<()>,
) -> Activation {
    let mut memory = Memory { input: Some(input.clone()), ..Memory::default() };
    pass(&mut memory).unwrap();
    assert!(memory.maps.iter().all(Option::is_none), "a map is left");
    assert!(memory.most <= 3);
    let (done, of) = *memory.layers.last().unwrap();
    assert_eq!((done, memory.layers.len()), (of, of));
    let rows: Vec<_> =
        memory.output.chunks(blocks).map(|row| Activation::cat(row, 2).unwrap()).collect();
    Activation::cat(&rows, 1).unwrap()
}

#[test]
fn layer_by_layer_a_canvas_of_blocks_is_what_one_pass_makes_of_it() {
    let (height, width) = (13, 9);
    for name in ["kl", "kl_old_names_f16", "kl_no_attention", "kl_packed"] {
        let vae = load(name);
        let f = vae.factor();
        let image = picture(height * f, width * f, 3);
        let z = picture(height, width, vae.latent_channels());
        for (block, columns) in [(4, 3), (1, 9), (20, 1)] {
            let size = LayerwiseSize { latents: (height, width), block };
            let ours = layerwise(&image, columns, |maps| vae.encode_layerwise(size, maps));
            let far = difference(&ours, &vae.encode(&image).unwrap());
            assert!(far < 2e-5, "{name}, blocks of {block}: encode, {far:e}");
            let ours = layerwise(&z, columns, |maps| vae.decode_layerwise(size, maps));
            let far = difference(&ours, &vae.decode(&z).unwrap());
            assert!(far < 2e-5, "{name}, blocks of {block}: decode, {far:e}");
        }
    }
}

#[test]
fn an_autoencoder_without_norms_computes_no_layers_of_a_canvas() {
    let vae = load("tiny_f16");
    let size = LayerwiseSize { latents: (4, 4), block: 2 };
    assert!(vae.decode_layerwise(size, &mut Memory::default()).is_err());
}

#[test]
fn a_context_one_smaller_than_the_tiny_autoencoders_would_change_the_core() {
    // The context is the larger of the encoder's and the decoder's: one of the two must notice.
    let vae = load("tiny_asymmetric");
    let (f, c) = (vae.factor(), vae.context());
    let image = picture((2 * c + 1) * f, f, 3);
    let side = 2 * c - 1;
    let z = picture(2 * c + 1, 1, vae.latent_channels());
    let encoder = difference(
        &vae.encode(&image.narrow(1, f, side * f).unwrap()).unwrap().narrow(1, c - 1, 1).unwrap(),
        &vae.encode(&image).unwrap().narrow(1, c, 1).unwrap(),
    );
    let decoder = difference(
        &vae.decode(&z.narrow(1, 1, side).unwrap()).unwrap().narrow(1, (c - 1) * f, f).unwrap(),
        &vae.decode(&z).unwrap().narrow(1, c * f, f).unwrap(),
    );
    assert!(encoder.max(decoder) > 0.0, "{encoder:e} {decoder:e}");
}

#[test]
fn only_an_autoencoder_with_norms_and_attention_has_a_global_state() {
    assert!(load("kl").has_global_state() && !load("tiny_f16").has_global_state());
    // That of the encoder is not the decoder's.
    let vae = load("kl");
    let state = state_of((4, 4), |globals| vae.encode_with(&picture(8, 8, 3), globals).unwrap());
    let z = picture(4, 4, vae.latent_channels());
    assert!(vae.decode_with(&z, Globals::Shared(&state)).is_err());
}

#[test]
fn sides_that_the_factor_does_not_divide_are_refused() {
    let error = load("tiny_f16").encode(&picture(12, 16, 3)).unwrap_err().to_string();
    assert!(error.contains("divisible by 8"), "{error}");
    let error = load("tiny_f16").decode(&picture(2, 2, 3)).unwrap_err().to_string();
    assert!(error.contains("4 channels"), "{error}");
}

#[test]
fn an_unknown_class_is_refused_by_name() {
    let mut config = config("kl");
    config["_class_name"] = "VQModel".into();
    let vars = Params::from_tensors(HashMap::new(), DType::F32, &Device::Cpu);
    let error = Vae::load(&config, &vars).unwrap_err();
    assert!(matches!(&error, VaeError::UnknownClass(class) if class == "VQModel"), "{error}");
}
