//! Progress of a job, told to a callable of Python; the wish to stop, from it or from a signal; and notes, which go to
//! Python's `logging`.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use cupscale::pipeline::{Outline, Progress as JobProgress, Stage};
use pyo3::{prelude::*, types::PyBool};

use crate::timeline::Timeline;

/// How far a job is.
///
/// ``stage`` is ``"caption"``, ``"enlarge"``, ``"encode"``, ``"denoise"`` or ``"decode"``; ``done`` of ``total`` of the stage
/// are done, counted in ``unit``. ``share`` is that of the whole job, 0 to 1, and ``eta`` the seconds that are left of it, or
/// None while nothing can be said.
#[pyclass(frozen, get_all, module = "cupscale")]
pub struct Progress {
    stage: &'static str,
    done: usize,
    total: usize,
    unit: &'static str,
    share: f64,
    eta: Option<f64>,
}

#[pymethods]
impl Progress {
    fn __repr__(&self) -> String {
        let Self { stage, done, total, unit, share, eta } = self;
        let eta = eta.map_or_else(|| "None".to_owned(), |eta| format!("{eta:.1}"));
        format!("Progress({stage}: {done} of {total} {unit}, share={share:.2}, eta={eta})")
    }
}

/// Watches a job for a caller in Python.
pub struct Watch {
    callback: Option<Py<PyAny>>,
    timeline: Timeline,
    /// What the callable or a signal's handler raised.
    raised: Mutex<Option<PyErr>>,
    /// The callable returned False.
    refused: AtomicBool,
}

impl Watch {
    pub fn new(callback: Option<Py<PyAny>>) -> Self {
        Self {
            callback,
            timeline: Timeline::new(),
            raised: Mutex::default(),
            refused: AtomicBool::new(false),
        }
    }

    /// What was raised while the job ran.
    pub fn into_raised(self) -> Option<PyErr> {
        self.raised.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// `true` if the job is to end: by the callable, or by a signal.
    pub fn is_to_end(&self) -> bool {
        if self.refused.load(Ordering::Relaxed) || self.lock().is_some() {
            return true;
        }
        // Runs the handlers of signals that have come, on the main thread alone.
        match Python::attach(|py| py.check_signals()) {
            Ok(()) => false,
            Err(error) => {
                self.keep(error);
                true
            }
        }
    }

    fn keep(&self, error: PyErr) {
        self.lock().get_or_insert(error);
    }

    fn lock(&self) -> MutexGuard<'_, Option<PyErr>> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self) {
        let Some(callback) = &self.callback else { return };
        let Some((stage, done, total)) = self.timeline.stage() else { return };
        if self.refused.load(Ordering::Relaxed) || self.lock().is_some() {
            return;
        }
        let progress = Progress {
            stage: name(stage),
            done,
            total,
            unit: stage.unit(),
            share: self.timeline.share(),
            eta: self.timeline.left().map(|left| left.as_secs_f64()),
        };
        let answered = Python::attach(|py| {
            let answer = callback.bind(py).call1((progress,))?;
            Ok(answer.cast::<PyBool>().is_ok_and(|answer| !answer.is_true()))
        });
        match answered {
            Ok(false) => {}
            Ok(true) => self.refused.store(true, Ordering::Relaxed),
            Err(error) => self.keep(error),
        }
    }
}

impl JobProgress for Watch {
    fn outlined(&mut self, outline: &Outline) {
        self.timeline.outline(outline, [None; 5]);
    }

    fn begin(&mut self, stage: Stage, total: usize) {
        self.timeline.begin(stage, total);
        self.tell();
    }

    fn advance(&mut self, count: usize) {
        self.timeline.advance(count);
        self.tell();
    }

    fn resumed(&mut self, count: usize) {
        if count > 0 {
            self.timeline.resume(count);
            self.tell();
        }
    }

    fn note(&mut self, text: &str) {
        log(text);
    }

    fn interrupted(&self) -> bool {
        self.is_to_end()
    }
}

/// The stage's name, as in the program's JSON.
fn name(stage: Stage) -> &'static str {
    match stage {
        Stage::Caption => "caption",
        Stage::Enlarge => "enlarge",
        Stage::Encode => "encode",
        Stage::Denoise => "denoise",
        Stage::Decode => "decode",
    }
}

/// Gives a note to the logger `cupscale`.
pub fn log(text: &str) {
    Python::attach(|py| {
        let told = py
            .import("logging")
            .and_then(|logging| logging.call_method1("getLogger", ("cupscale",)))
            .and_then(|logger| logger.call_method1("info", ("%s", text)));
        // A handler that fails must not end a job.
        if let Err(error) = told {
            error.write_unraisable(py, None);
        }
    });
}
