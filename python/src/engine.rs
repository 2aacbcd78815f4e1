//! The engine: a model on its devices, for any number of jobs of any number of threads, one at a time. The interpreter is
//! free while it computes.

use std::{path::PathBuf, sync::Arc};

use cupscale::{
    backend::{DeviceList, KernelChoice, MatmulPrecision, choose_kernels, kernel_tests},
    candle::Device,
    image::PictureShape,
    pipeline::{self, Frames, Settings},
};
use pyo3::{
    prelude::*,
    types::{PyByteArray, PyDict},
};

use crate::{
    captioner,
    controls::Controls,
    errors::{Class, Failure},
    file::Files,
    job::{Job, keywords},
    keywords::{Fault, Keywords, named, text},
    loaded::Loaded,
    machine, model, names,
    picture::{Form, Picture, Samples, input},
    plan, process,
    progress::{Watch, log},
    turn::{NoTurn, Turns},
    values,
};

/// A model on its devices.
#[pyclass(frozen, module = "cupscale._cupscale")]
pub struct Engine {
    loaded: Loaded,
    turns: Turns,
}

/// The choices of an engine, before anything is opened.
struct Choices {
    model: model::Choice,
    controls: Controls,
    captioner: captioner::Choice,
    devices: DeviceList,
    precision: Option<MatmulPrecision>,
    kernels: KernelChoice,
    defaults: Settings,
}

impl Choices {
    fn read(options: &Bound<'_, PyDict>) -> PyResult<Self> {
        let job = names::job();
        let keywords = Keywords::new(options, names::ENGINE, (&job, "upscale"))?;
        let mut defaults = Settings::default();
        machine::machine(&keywords, &mut defaults)?;
        let kernels = keywords.get("kernels", |value| match text(value)?.as_str() {
            "own" => Ok(KernelChoice::Own),
            "composed" => Ok(KernelChoice::Composed),
            _ => Err(Fault::Value("not one of own, composed".to_owned())),
        })?;
        let precision =
            keywords.get("dtype", |value| values::products(&text(value)?).map_err(Fault::Value))?;
        let controls = Controls::read(&keywords)?;
        Ok(Self {
            model: model::Choice::read(&keywords, &controls)?,
            controls,
            captioner: captioner::Choice::read(&keywords)?,
            devices: keywords.get("device", named)?.unwrap_or_default(),
            precision,
            kernels: kernels.unwrap_or_default(),
            defaults,
        })
    }

    fn load(self) -> Result<Loaded, Failure> {
        choose_kernels(self.kernels);
        let devices = self.devices.open().map_err(pipeline::Error::from)?;
        let on_cpu = devices.iter().all(Device::is_cpu);
        for test in devices.iter().flat_map(kernel_tests).filter(|test| !test.passed()) {
            log(&format!(
                "the kernel of {} for {} failed its test and is not used on a GPU",
                test.operation.name(),
                test.dtype.as_str()
            ));
        }
        if self.precision.is_some() && !on_cpu {
            log("dtype has no effect on a GPU, which computes in the precision that it is fast in");
        }
        let mut chosen = self.model.model.open()?;
        chosen.files = chosen.files.with_precision(self.precision.unwrap_or(MatmulPrecision::F32));
        chosen.files.notes().iter().for_each(|note| log(note));
        let describes_with_a_model = self.captioner.is_model();
        Ok(Loaded {
            engine: pipeline::Engine::load_chosen(&chosen, &devices)?,
            first: self.model.first()?,
            loras: self.model.loras,
            controls: self.controls.into_uses(),
            captioner: self.captioner.open(&devices)?,
            describes_with_a_model,
            defaults: self.defaults,
        })
    }
}

impl Engine {
    /// Runs a job when it is its turn, without the interpreter. What the caller's callable or a signal raised goes before
    /// the job's own end.
    fn run<T: Send>(
        &self,
        py: Python<'_>,
        progress: Option<Py<PyAny>>,
        job: impl FnOnce(&mut Watch) -> PyResult<T> + Send,
    ) -> PyResult<T> {
        process::check()?;
        let mut watch = Watch::new(progress);
        let done = py.detach(|| {
            let _turn = self.turns.take(|| !watch.is_to_end()).map_err(|no_turn| match no_turn {
                NoTurn::OwnJob => Failure::new(
                    Class::Error,
                    "a job's callback asks its own engine for another job: make a second engine for it".to_owned(),
                ),
                NoTurn::GivenUp => {
                    Failure::new(Class::Interrupted, "interrupted before its turn".to_owned())
                }
            })?;
            job(&mut watch)
        });
        match watch.into_raised() {
            Some(raised) => Err(raised),
            None => done,
        }
    }
}

#[pymethods]
impl Engine {
    #[new]
    fn new(py: Python<'_>, options: &Bound<'_, PyDict>) -> PyResult<Self> {
        process::check()?;
        let choices = Choices::read(options)?;
        let loaded = py.detach(|| choices.load())?;
        Ok(Self { loaded, turns: Turns::default() })
    }

    #[getter]
    fn name(&self) -> &str {
        self.loaded.engine.name()
    }

    #[getter]
    fn devices(&self) -> Vec<String> {
        self.loaded.engine.devices()
    }

    #[getter]
    fn computes_on(&self) -> String {
        self.loaded.engine.computes_on()
    }

    #[getter]
    fn weight_bytes(&self) -> usize {
        self.loaded.engine.weight_bytes()
    }

    /// The output of a picture in memory: its samples, width and height.
    fn upscale(
        &self,
        py: Python<'_>,
        picture: &Bound<'_, Picture>,
        form: (usize, u8),
        progress: Option<Py<PyAny>>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<(Py<PyByteArray>, u32, u32)> {
        let job = Job::read(&keywords(options, false)?)?;
        let picture = Arc::clone(&picture.get().picture);
        let form = Form { channels: form.0, bits: form.1 };
        self.run(py, progress, |watch| {
            let settings = job.settings(&self.loaded)?;
            let frames = Frames::new(&self.loaded.engine, picture.shape(), &settings, None)
                .map_err(Failure::from)?;
            frames.notes().iter().for_each(|note| log(note));
            let canvas = frames.plan().geometry.canvas;
            let size = (canvas.width as u32, canvas.height as u32);
            let mut samples = Samples::new(&picture, size, form)?;
            frames.upscale(&picture, &mut samples, watch).map_err(Failure::from)?;
            Ok((samples.into_pixels(), size.0, size.1))
        })
    }

    /// Enlarges a file into a file; the report as JSON.
    fn upscale_file(
        &self,
        py: Python<'_>,
        source: &Bound<'_, PyAny>,
        to: PathBuf,
        progress: Option<Py<PyAny>>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<String> {
        let keywords = keywords(options, true)?;
        let (mut job, files) = (Job::read(&keywords)?, Files::read(&keywords)?);
        let input = input(source)?;
        self.run(py, progress, |watch| {
            let report = files.upscale(&self.loaded, &mut job, (&input, to), watch)?;
            Ok(report.to_string())
        })
    }

    /// The plan of a job, as JSON.
    fn plan(
        &self,
        py: Python<'_>,
        size: (u32, u32),
        alpha: bool,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<String> {
        process::check()?;
        let job = Job::read(&keywords(options, false)?)?;
        let mut shape = PictureShape::from(size);
        shape.alpha = alpha;
        let plan = py.detach(|| {
            let settings = job.settings(&self.loaded)?;
            let plan = pipeline::plan(&self.loaded.engine, shape, &settings)?;
            Ok::<_, Failure>(plan::to_json(&plan).to_string())
        });
        Ok(plan?)
    }

    /// The captions of a job, as the JSON of their document.
    fn caption(
        &self,
        py: Python<'_>,
        picture: &Bound<'_, Picture>,
        progress: Option<Py<PyAny>>,
        options: &Bound<'_, PyDict>,
    ) -> PyResult<String> {
        let job = Job::read(&keywords(options, false)?)?;
        let picture = Arc::clone(&picture.get().picture);
        self.run(py, progress, |watch| {
            let settings = job.settings(&self.loaded)?;
            let captions = pipeline::describe(&self.loaded.engine, &picture, &settings, watch)
                .map_err(Failure::from)?;
            Ok(captions.to_json())
        })
    }
}
