//! Writing a whole model of any form into one GGUF file of our own.

use std::collections::BTreeMap;
use std::io::BufWriter;
use std::ops::ControlFlow;
use std::path::Path;

use candle_core::quantized::GgmlDType;
use serde_json::json;

use super::keys::{
    ARCHITECTURE, ARCHITECTURE_KEY, INDEX_KEY, SCHEDULER_KEY, TOKENIZER_FILES, config_key,
    tokenizer_key,
};
use super::write::{GgufWriter, Metadata, Planned};
use crate::model::text::t5::json_of_spiece;
use crate::new_file::NewFile;
use crate::weights::form::ModelForm;
use crate::weights::kept::KeptWeights;
use crate::weights::part::Part;
use crate::weights::{QuantType, WeightsError};

/// Version of ggml's block formats that files name (ggml `GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

/// Contents of a written file.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// bytes of the whole file
    pub bytes: u64,
    /// number of tensors and their bytes, by the name of their format
    pub formats: BTreeMap<String, (usize, u64)>,
}

/// Writes the model to `output`, with the weights that `weights` gives in the formats that the file is to have. The
/// file has its name, and takes it from an older one, when it is complete. `progress` is called with the bytes of
/// tensors that are done, and of all, before the first tensor and after each; it can stop the work.
///
/// # Errors
/// A model that is not whole, weights that the type cannot hold, a disk without room for them, those of writing, or
/// [`WeightsError::Interrupted`].
pub(in crate::weights) fn export(
    form: &dyn ModelForm,
    weights: impl Fn(Part) -> Result<KeptWeights, WeightsError>,
    quant: QuantType,
    output: &Path,
    progress: &mut dyn FnMut(u64, u64) -> ControlFlow<()>,
) -> Result<Summary, WeightsError> {
    let fail = |source| WeightsError::Write { file: output.display().to_string(), source };
    let (parts, family) = (form.parts()?, form.family());
    let metadata = describe(form, &parts, quant)?;

    let mut sources = Vec::new();
    let mut planned = Vec::new();
    for part in parts {
        let folder = family.folder(part);
        let source = weights(part)?;
        for (name, shape, dtype) in source.weights() {
            planned.push(Planned {
                name: format!("{folder}.{name}"),
                dtype,
                shape: shape.to_vec(),
            });
        }
        sources.push(source);
    }
    let total: u64 = planned.iter().map(|tensor| tensor.bytes() as u64).sum();

    let mut go_on = |done| match progress(done, total) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(WeightsError::Interrupted),
    };
    go_on(0)?;
    let file = NewFile::create(output).map_err(fail)?;
    check_room(output, total)?;
    let mut writer =
        GgufWriter::new(BufWriter::new(file.file()), &metadata, &planned).map_err(fail)?;
    let mut summary = Summary::default();
    let mut done = 0;
    for source in &sources {
        for (name, _, dtype) in source.weights() {
            let bytes = source.bytes(name)?;
            writer.tensor(&bytes).map_err(fail)?;
            let length = bytes.len() as u64;
            drop(bytes);
            source.release(name);
            let (count, sum) = summary.formats.entry(format_name(dtype)).or_default();
            *count += 1;
            *sum += length;
            done += length;
            go_on(done)?;
        }
    }
    drop(writer.finish().map_err(fail)?);
    file.finish().map_err(fail)?;
    summary.bytes = std::fs::metadata(output).map_err(fail)?.len();
    Ok(summary)
}

/// Checks that so many bytes fit on the disk of `output`, as far as its size is known: better before an hour's work
/// than after it.
fn check_room(output: &Path, need: u64) -> Result<(), WeightsError> {
    let folder = output.parent().filter(|folder| !folder.as_os_str().is_empty());
    match fs4::available_space(folder.unwrap_or(Path::new("."))) {
        Ok(free) if free < need => {
            Err(WeightsError::NoRoom { file: output.display().to_string(), need, free })
        }
        _ => Ok(()),
    }
}

/// Name of a format as people write it.
fn format_name(dtype: GgmlDType) -> String {
    let name = format!("{dtype:?}").to_lowercase();
    match name.strip_suffix('k') {
        Some(bits) => format!("{bits}_k"),
        None => name,
    }
}

/// Metadata of the file: every text that loading the model needs.
fn describe(
    form: &dyn ModelForm,
    parts: &[Part],
    quant: QuantType,
) -> Result<Vec<(String, Metadata)>, WeightsError> {
    let mut index = form.index().clone();
    let mut metadata = Vec::new();
    let mut text = |key: String, text: String| metadata.push((key, Metadata::String(text)));
    text(ARCHITECTURE_KEY.to_owned(), ARCHITECTURE.to_owned());
    let family = form.family();
    for &part in parts {
        let config = form.config(part)?;
        text(config_key(family, part), config.config.to_string());
        if family.class_in(&index, part) != Some(&config.class)
            && let Some(fields) = index.as_object_mut()
        {
            fields.insert(family.folder(part).into_owned(), json!([null, config.class]));
        }
    }
    text(INDEX_KEY.to_owned(), index.to_string());
    text(SCHEDULER_KEY.to_owned(), form.scheduler()?.to_string());
    for &encoder in parts.iter().filter(|part| matches!(part, Part::TextEncoder(_))) {
        let mut files = form.tokenizer(encoder)?;
        if let (None, Some(spiece)) = (&files.tokenizer_json, &files.spiece_model) {
            // Metadata is text.
            let json = json_of_spiece(spiece, files.tokenizer_config_json.as_deref());
            let json = json.map_err(|error| WeightsError::from_text(error, &files.place))?;
            files.tokenizer_json = Some(json.to_string().into_bytes());
        }
        let contents = [
            files.vocab_json,
            files.merges_txt,
            files.tokenizer_json,
            files.tokenizer_config_json,
            files.special_tokens_map_json,
        ];
        for (name, contents) in TOKENIZER_FILES.into_iter().zip(contents) {
            let Some(contents) = contents else { continue };
            let contents = String::from_utf8(contents).map_err(|_| WeightsError::Config {
                file: format!("{}/{name}", files.place),
                reason: "not UTF-8".to_owned(),
            })?;
            text(tokenizer_key(encoder, name), contents);
        }
    }
    metadata.push(("general.quantization_version".to_owned(), Metadata::U32(QUANTIZATION_VERSION)));
    metadata.push(("general.file_type".to_owned(), Metadata::U32(quant.file_type())));
    Ok(metadata)
}
