//! What the server computes with: the model that is loaded, and those that could be in its place. Weights are read when a
//! job needs them; one model at a time has any.

use std::{
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use cupscale::{
    canvas::{CanvasError, target_size},
    image::{ImageError, PictureShape},
    pipe::request::OutputForm,
    pipeline::{self, Engine, Error, Plan, Settings},
    weights::{
        EMBEDDED_MODEL, names_embedded,
        registry::{Kind as ModelKind, State as ModelState, Store as Models, list},
    },
};
use serde_json::{Map, Value};

use super::{
    error::{Kind, Refusal},
    words::Words,
};
use crate::cli::{
    advice,
    error::CliError,
    job::Job,
    request::{self, Loaded, Parts},
};

/// A model that is ready for jobs.
pub struct Model {
    pub name: String,
    pub job: Job,
    pub engine: Engine,
    /// Settings of the machine, and the captioner.
    pub settings: Settings,
}

impl Model {
    /// What requests are resolved with.
    pub fn loaded(&self) -> Loaded<'_> {
        Loaded { job: &self.job, engine: &self.engine, settings: &self.settings, verb: "serve" }
    }

    /// Plans a request.
    ///
    /// # Errors
    /// Settings that are wrong, or a job that does not fit.
    pub fn plan(
        &self,
        settings: &Map<String, Value>,
        shape: PictureShape,
    ) -> Result<Plan, CliError> {
        let (_, settings) = request::resolve(&self.loaded(), settings, Parts::default())?;
        Ok(pipeline::plan(&self.engine, shape, &settings)?)
    }
}

/// A model that a job may name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offered {
    pub name: String,
    pub is_loaded: bool,
    /// The one that the server was started with.
    pub is_default: bool,
}

/// What the server computes with.
pub struct Host {
    /// The options that the program was started with.
    start: Job,
    /// Name of the model that it was started with.
    default: String,
    loaded: Mutex<Option<Arc<Model>>>,
    /// Another model than the loaded one, for plans: its configuration, without weights.
    planned: Mutex<Option<Arc<Model>>>,
    pub devices: Vec<String>,
    pub computes_on: String,
    pub captioner: String,
    pub words: Words,
}

impl Host {
    /// A server with this model loaded.
    pub fn new(start: Job, engine: Engine, settings: Settings, words: Words) -> Self {
        let default = engine.name().to_owned();
        let (devices, computes_on) = (engine.devices(), engine.computes_on());
        let captioner = settings.captioner.name().to_owned();
        let model = Model { name: default.clone(), job: start.clone(), engine, settings };
        Self {
            start,
            default,
            loaded: Mutex::new(Some(Arc::new(model))),
            planned: Mutex::default(),
            devices,
            computes_on,
            captioner,
            words,
        }
    }

    /// Name of the model that jobs have which name none.
    pub fn default_model(&self) -> &str {
        &self.default
    }

    /// The model that is loaded; none while another is being loaded.
    pub fn loaded(&self) -> Option<Arc<Model>> {
        self.loaded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The models that a job may name: the one of the start, and installed ones.
    pub fn models(&self) -> Vec<Offered> {
        let mut names = vec![self.default.clone()];
        if cfg!(feature = "embedded-model") {
            names.push(EMBEDDED_MODEL.to_owned());
        }
        let installed = Models::open().and_then(|models| list(&models)).unwrap_or_default();
        let is_fit = |kind, state| kind == ModelKind::Diffusion && state == ModelState::Installed;
        let installed = installed.into_iter().filter(|model| is_fit(model.kind, model.state));
        // A file of that name, where the program was started, would be taken for it.
        names.extend(installed.map(|model| model.name).filter(|name| !Path::new(name).exists()));
        let loaded = self.loaded().map(|model| model.name.clone());
        let mut offered: Vec<Offered> = Vec::new();
        for name in names {
            if offered.iter().any(|other| other.name == name) {
                continue;
            }
            let is_loaded = loaded.as_ref() == Some(&name);
            offered.push(Offered { is_loaded, is_default: name == self.default, name });
        }
        offered
    }

    /// The name of the model that a request means.
    ///
    /// # Errors
    /// A model that is not there. Nothing but a name of the list is taken, and no path.
    pub fn choose(&self, name: Option<&str>) -> Result<String, Refusal> {
        let Some(name) = name.filter(|name| *name != self.default) else {
            return Ok(self.default.clone());
        };
        let offered = self.models();
        if offered.iter().any(|model| model.name == name) {
            return Ok(name.to_owned());
        }
        let names: Vec<_> = offered.into_iter().map(|model| model.name).collect();
        let shown: String = name.chars().take(60).collect();
        let message =
            format!("model `{shown}`: not installed here; there are {}", names.join(", "));
        Err(Refusal::new(Kind::Settings, message))
    }

    /// The model of this name, loaded in the place of the one that is.
    ///
    /// # Errors
    /// A model that cannot be loaded.
    pub fn load(&self, name: &str, note: impl FnMut(&str)) -> Result<Arc<Model>, CliError> {
        if let Some(model) = self.loaded().filter(|model| model.name == name) {
            return Ok(model);
        }
        // Its memory is free before the next one takes any.
        let former = self.loaded.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(former);
        self.planned.lock().unwrap_or_else(PoisonError::into_inner).take();
        let model = Arc::new(self.open(name, note)?);
        *self.loaded.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&model));
        Ok(model)
    }

    /// A model for a plan, which takes no memory from the one that is loaded.
    ///
    /// # Errors
    /// A model that cannot be opened.
    pub fn for_plan(&self, name: &str) -> Result<Arc<Model>, CliError> {
        let is_it = |model: &Arc<Model>| model.name == name;
        if let Some(model) = self.loaded().filter(is_it) {
            return Ok(model);
        }
        let mut planned = self.planned.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = planned.clone().filter(is_it) {
            return Ok(model);
        }
        let model = Arc::new(self.open(name, |_| {})?);
        *planned = Some(Arc::clone(&model));
        Ok(model)
    }

    fn open(&self, name: &str, note: impl FnMut(&str)) -> Result<Model, CliError> {
        let job = if name == self.default {
            self.start.clone()
        } else {
            self.start.with_model((!names_embedded(name)).then(|| name.into()))
        };
        let (engine, settings) = job.load(note)?;
        Ok(Model { name: name.to_owned(), job, engine, settings })
    }

    /// An error of a request as the API tells it.
    pub fn refusal(&self, error: &CliError) -> Refusal {
        Refusal::new(kind_of(error), self.words.clean(&advice::line(error)))
    }
}

/// The kind of an error, by what helps.
pub fn kind_of(error: &CliError) -> Kind {
    match error {
        CliError::Job(
            Error::Work { .. }
            | Error::NoRoom { .. }
            | Error::NoRoomForOutput { .. }
            | Error::Temporary(_)
            | Error::Canvas(CanvasError::File { .. } | CanvasError::Map { .. })
            | Error::Image(
                ImageError::Unwritable { .. }
                | ImageError::Write { .. }
                | ImageError::Scratch { .. },
            ),
        ) => Kind::Disk,
        error => request::kind_of(error).into(),
    }
}

/// Settings that name files of the server's disk, and what is sent in their place.
const OF_THE_DISK: [(&str, &str); 2] =
    [("mask", "the part `mask`"), ("captions", "the part `captions`")];

/// `true` for a setting that names a file of the server's disk.
pub fn is_of_the_disk(setting: &str) -> bool {
    OF_THE_DISK.iter().any(|(name, _)| *name == setting)
}

/// Refuses settings and forms that are not for this door.
///
/// # Errors
/// A setting that is a path, or pixels without a file.
pub fn check(settings: &Map<String, Value>, output: &OutputForm) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(Kind::Settings, message));
    for (name, part) in OF_THE_DISK {
        if settings.contains_key(name) {
            return refuse(format!("`{name}` is a file of the server's disk: send {part} instead"));
        }
    }
    if output.pix.is_some() {
        return refuse(
            "output: `pix` is for `pipe`; a result of `serve` is a file: `format`".to_owned(),
        );
    }
    Ok(())
}

/// Size of the result that settings ask for, of a picture of this shape.
///
/// # Errors
/// Settings that are wrong, or a size that cannot be.
pub fn size(settings: &Map<String, Value>, shape: PictureShape) -> Result<(u32, u32), CliError> {
    let mut args = request::parse(settings, &Parts::default(), "serve")?;
    args.job.files.name_streams();
    let job = Job::resolve(args.job, Vec::new())?;
    Ok(target_size(shape.width, shape.height, job.size()).map_err(Error::from)?)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::cli::args::path_settings;

    #[test]
    fn every_setting_that_is_a_path_is_refused_by_name() {
        let paths = path_settings();
        assert!(!paths.is_empty());
        for name in paths {
            let Value::Object(settings) = json!({ name.clone(): "/etc/passwd" }) else { panic!() };
            let refused = check(&settings, &OutputForm::default()).unwrap_err();
            assert!(
                refused.kind == Kind::Settings && refused.message.contains(&name),
                "{refused:?}"
            );
        }
    }
}
