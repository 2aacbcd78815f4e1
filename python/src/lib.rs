//! `cupscale._cupscale`: the library's jobs, options and errors for Python. What people call stands in `cupscale/`, in Python,
//! which also brings pictures into the form that is taken here: bytes.

mod captioner;
mod controls;
mod engine;
mod errors;
mod file;
mod job;
mod keywords;
mod loaded;
mod machine;
mod model;
mod names;
mod picture;
mod plan;
mod process;
mod progress;
mod reading;
// The program's own, so that a value is read and a time is told by one code.
#[allow(dead_code, reason = "the program needs more of it")]
#[path = "../../src/cli/threads.rs"]
mod threads;
#[allow(dead_code, reason = "the program needs more of it")]
#[path = "../../src/cli/progress/timeline.rs"]
mod timeline;
mod turn;
#[allow(dead_code, reason = "the program needs more of it")]
#[path = "../../src/cli/values.rs"]
mod values;

use cupscale::{
    image,
    weights::registry::{self, Store},
};
use pyo3::prelude::*;

use errors::{Class, Failure};

#[pymodule]
fn _cupscale(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add("JOB_OPTIONS", names::job())?;
    module.add("ENGINE_OPTIONS", names::ENGINE)?;
    module.add_class::<engine::Engine>()?;
    module.add_class::<picture::Picture>()?;
    module.add_class::<progress::Progress>()?;
    module.add_function(wrap_pyfunction!(models, module)?)?;
    module.add_function(wrap_pyfunction!(read_settings, module)?)?;
    module.add_function(wrap_pyfunction!(set_threads, module)?)
}

/// The installed and the known models, as JSON.
#[pyfunction]
fn models(py: Python<'_>) -> PyResult<String> {
    let listed = py.detach(|| {
        let models = registry::list(&Store::open()?)?;
        let json = serde_json::to_string(&models);
        json.map_err(|error| Failure::new(Class::Error, error.to_string()))
    });
    Ok(listed?)
}

/// The settings that made a picture, as JSON; `None` where its file has none.
#[pyfunction]
fn read_settings(py: Python<'_>, path: std::path::PathBuf) -> PyResult<Option<String>> {
    Ok(py.detach(|| image::read_settings(&path).map_err(Failure::from))?)
}

/// Sets the number of threads; returns the number that is used.
#[pyfunction]
fn set_threads(asked: &Bound<'_, PyAny>) -> PyResult<usize> {
    process::check()?;
    let asked = keywords::integer(asked, 1..=1024).map_err(|fault| fault.of("threads", asked))?;
    let (threads, note) = threads::chosen(Some(asked as usize));
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global().map_err(|_| {
        let reason =
            "the threads have been started: set their number before anything else is called";
        Failure::new(Class::Error, reason.to_owned())
    })?;
    if let Some(note) = note {
        progress::log(&note);
    }
    Ok(threads)
}
