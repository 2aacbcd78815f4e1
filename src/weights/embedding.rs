//! Embeddings (textual inversion): vectors in a small file that stand for a word of a prompt, one or several for each text
//! encoder of a model. Files in A1111's and in diffusers' form are read; nothing of the model's own weights changes.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use super::WeightsError;
use super::part::Part;
use super::source::{Bytes, has_extension, names_in, refuse_foreign};
use super::tensors::TensorMap;
use crate::backend::ParamSource as _;
use crate::model::text::EmbeddingName;
use candle_core::{DType, Device, Shape, Tensor};

/// Key of A1111's files, in which the file's name is the word.
const A1111: &str = "emb_params";

/// Keys of the vectors of SDXL's encoders, in their order: kohya's and A1111's, and those of diffusers' training script.
const OF_ENCODERS: [[&str; 2]; 2] = [["clip_l", "clip_g"], ["text_encoders_0", "text_encoders_1"]];

/// Vectors of an embedding at most: the tokens of a chunk.
const MOST: usize = 75;

/// An embedding that has been matched to a model.
#[derive(Clone, Debug)]
pub(super) struct Embedding {
    /// its names in prompts, the first of which is the user's
    pub name: EmbeddingName,
    /// vectors for each of the model's text encoders, `[count, width]`, in f32 in the host's memory
    pub vectors: Vec<Tensor>,
}

/// Files of embeddings at a path: itself, or those of a folder.
///
/// # Errors
/// Nothing there, a pickle, or a folder without any.
pub(super) fn files_at(path: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    if !path.is_dir() {
        return match path.exists() {
            true => Ok(vec![path.to_owned()]),
            false => Err(WeightsError::NotFound(path.to_owned())),
        };
    }
    // What a folder of embeddings holds besides, previews and pickles, is passed over.
    let files: Vec<_> = names_in(path)
        .into_iter()
        .map(|name| path.join(name))
        .filter(|file| has_extension(file, &["safetensors"]))
        .collect();
    if files.is_empty() {
        let reason = "a folder without .safetensors files (embeddings in other forms are not read)";
        return Err(contents(path, reason.to_owned()));
    }
    Ok(files)
}

fn contents(file: &Path, reason: String) -> WeightsError {
    WeightsError::Contents { file: file.display().to_string(), reason }
}

impl Embedding {
    /// Opens a safetensors file and matches it to the widths of a model's text encoders.
    ///
    /// # Errors
    /// A file that cannot be read or is no embedding, or one for encoders of other widths.
    pub(super) fn open(
        path: &Path,
        name: Option<&str>,
        encoders: &[(Part, usize)],
    ) -> Result<Self, WeightsError> {
        let file = path.display().to_string();
        let fail = |reason: String| Err(contents(path, reason));
        refuse_foreign(path)?;
        let bytes =
            Bytes::map(path).map_err(|source| WeightsError::Read { file: file.clone(), source })?;
        let mut tensors = TensorMap::default();
        tensors.add_safetensors(file, bytes)?;
        let mut keys: Vec<&str> = tensors.names().collect();
        keys.sort_unstable();
        let of_encoders = OF_ENCODERS.iter().find(|of| of.iter().any(|key| keys.contains(key)));
        let chosen: Vec<&str> = match (of_encoders, keys.as_slice()) {
            (Some(of), _) => {
                let both = of.iter().all(|key| keys.contains(key));
                let indices = encoders.iter().map(|(part, _)| match part {
                    Part::TextEncoder(index) => *index,
                    Part::Denoiser | Part::Vae | Part::Control => usize::MAX,
                });
                let chosen: Vec<_> = indices.map(|index| of.get(index).copied()).collect();
                if both && encoders.len() == 1 && chosen[0] == Some(of[0]) {
                    return fail(format!(
                        "made for a model with two text encoders ({}, {})",
                        of[0], of[1]
                    ));
                }
                match chosen.into_iter().collect::<Option<Vec<_>>>() {
                    Some(chosen) if chosen.iter().all(|key| keys.contains(key)) => chosen,
                    _ => {
                        return fail(format!(
                            "no vectors for all text encoders of the model ({})",
                            keys.join(", ")
                        ));
                    }
                }
            }
            (None, [_]) if encoders.len() > 1 => {
                return fail(format!(
                    "made for one text encoder, and the model has {} (clip_l and clip_g are wanted)",
                    encoders.len()
                ));
            }
            (None, [key]) => vec![key],
            (None, []) => return fail("no embedding: no tensors in it".to_owned()),
            (None, [first, ..]) => {
                return fail(format!(
                    "no embedding: {} tensors in it (the first: `{first}`)",
                    keys.len()
                ));
            }
        };
        let mut vectors = Vec::with_capacity(encoders.len());
        for (&key, &(_, width)) in chosen.iter().zip(encoders) {
            let (count, own) = match tensors.shape(key) {
                Some([own]) => (1, *own),
                Some([count, own]) => (*count, *own),
                shape => {
                    return fail(format!(
                        "`{key}` has the shape {:?}, not one of vectors",
                        shape.unwrap_or(&[])
                    ));
                }
            };
            if own != width {
                return fail(format!(
                    "`{key}` is {own} wide, the model's text encoder {width}: made for another model"
                ));
            }
            if !(1..=MOST).contains(&count) {
                return fail(format!("{count} vectors in `{key}`, from 1 to {MOST} are possible"));
            }
            let shape = Shape::from(tensors.shape(key).unwrap_or(&[]));
            let values = tensors.get(key, &shape, DType::F32, &Device::Cpu)?;
            vectors.push(values.reshape((count, width))?);
        }
        let count = vectors.first().map_or(0, |one| one.dims()[0]);
        if vectors.iter().any(|other| other.dims()[0] != count) {
            return fail("different numbers of vectors for the text encoders".to_owned());
        }
        if let Some(found) = tensors.find_non_finite() {
            return fail(format!("{found} has values that are not numbers"));
        }
        let stem = path.file_stem().and_then(OsStr::to_str).unwrap_or_default();
        let name = name.unwrap_or(stem).trim();
        if name.trim_matches(['<', '>']).is_empty() {
            return fail("its name is empty: name it as in --embedding NAME=FILE".to_owned());
        }
        let mut names = vec![name.to_owned()];
        // A name that is given in brackets is no word by itself.
        let is_tag = name.starts_with('<') && name.ends_with('>');
        names.extend((!is_tag).then(|| format!("<{name}>")));
        let own = chosen[0];
        let is_word = own != A1111 && of_encoders.is_none();
        names.extend(is_word.then(|| own.to_owned()).filter(|own| !names.contains(own)));
        Ok(Self { name: EmbeddingName { names, vectors: count }, vectors })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use candle_core::safetensors;

    use super::*;

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/prompt").join(name)
    }

    const ONE: [(Part, usize); 1] = [(Part::TextEncoder(0), 16)];
    const TWO: [(Part, usize); 2] = [(Part::TextEncoder(0), 16), (Part::TextEncoder(1), 24)];

    #[test]
    fn every_form_has_its_names_and_vectors() {
        let open = |file: &str, name: Option<&str>, encoders: &[(Part, usize)]| {
            let Embedding { name, vectors } =
                Embedding::open(&fixture(file), name, encoders).unwrap();
            assert!(vectors.iter().all(|own| own.dims()[0] == name.vectors));
            assert_eq!(vectors.len(), encoders.len());
            (name.names, name.vectors)
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        assert_eq!(open("ink_3.safetensors", None, &ONE), (names(&["ink_3", "<ink_3>"]), 3));
        let toy = names(&["learned_embeds", "<learned_embeds>", "<cat-toy>"]);
        assert_eq!(open("learned_embeds.safetensors", None, &ONE), (toy, 1));
        let toy = names(&["<cat-toy>"]);
        assert_eq!(open("learned_embeds.safetensors", Some("<cat-toy>"), &ONE), (toy, 1));
        let both = names(&["toy", "<toy>", "<cat-toy>"]);
        assert_eq!(open("learned_embeds.safetensors", Some("toy"), &ONE), (both, 1));
        let bird = names(&["sky-bird", "<sky-bird>"]);
        assert_eq!(open("sky-bird.safetensors", None, &TWO), (bird, 2));
    }

    #[test]
    fn what_does_not_fit_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let save = |name: &str, tensors: &[(&str, &[usize])]| {
            let tensors: HashMap<_, _> = (tensors.iter())
                .map(|&(key, shape)| {
                    (key.to_owned(), Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
                })
                .collect();
            let file = folder.path().join(name);
            safetensors::save(&tensors, &file).unwrap();
            file
        };
        let wide = save("wide.safetensors", &[("emb_params", &[2, 24])]);
        let many = save("many.safetensors", &[("emb_params", &[76, 16])]);
        let cube = save("cube.safetensors", &[("emb_params", &[1, 1, 16])]);
        let uneven = save("uneven.safetensors", &[("clip_l", &[1, 16]), ("clip_g", &[2, 24])]);
        let half = save("half.safetensors", &[("clip_g", &[2, 24])]);
        let weights = save("weights.safetensors", &[("a.weight", &[16]), ("b.weight", &[16])]);
        for (file, encoders, said) in [
            (&wide, &ONE[..], "`emb_params` is 24 wide, the model's text encoder 16"),
            (&many, &ONE, "76 vectors"),
            (&cube, &ONE, "has the shape [1, 1, 16]"),
            (&uneven, &TWO, "different numbers of vectors"),
            (&half, &TWO, "no vectors for all text encoders"),
            (&weights, &ONE, "no embedding: 2 tensors in it (the first: `a.weight`)"),
            (&wide, &TWO, "made for one text encoder, and the model has 2"),
            (&fixture("sky-bird.safetensors"), &ONE, "two text encoders (clip_l, clip_g)"),
        ] {
            let error = Embedding::open(file, None, encoders).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
        assert!(files_at(&folder.path().join("none")).is_err());
        assert_eq!(files_at(folder.path()).unwrap().len(), 6);
    }
}
