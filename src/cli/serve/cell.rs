//! One job while the server knows it: what is kept of it, how far it is, the wish that it ends, and who watches it. Changes
//! are counted and not queued, so that one who watches slowly misses no state and holds nothing.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use axum::body::Bytes;
use tokio::sync::watch;

use super::{
    store::Saved,
    view::{JobView, ProgressView, StageName, State},
};

/// Notes of a job that are kept.
const NOTES: usize = 100;

/// Time for which somebody who has asked for a job counts as one who watches it.
const WATCHES_FOR: Duration = Duration::from_secs(15);

/// Why a job is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Stop {
    Cancelled = 1,
    TimedOut = 2,
}

/// How often each kind of thing has happened to a job.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Its state, its stage, or its place in the queue.
    pub job: u64,
    pub progress: u64,
    pub preview: u64,
    pub captions: u64,
    pub notes: usize,
    /// The server is about to end.
    pub is_over: bool,
}

/// The last preview of a running job.
#[derive(Clone, Debug)]
pub struct Preview {
    /// The unfinished result as a JPEG.
    pub jpeg: Bytes,
    pub stage: StageName,
    /// Steps that have been taken, of how many.
    pub step: usize,
    pub of: usize,
}

/// What is known of a job and not kept.
#[derive(Debug, Default)]
pub struct Live {
    pub ahead: usize,
    pub progress: ProgressView,
    pub preview: Option<Preview>,
    pub has_captions: bool,
    asked: Option<Instant>,
}

impl Live {
    /// What is known of a job that does not run.
    pub fn at_rest(has_captions: bool) -> Self {
        Self { has_captions, ..Self::default() }
    }
}

/// A job.
#[derive(Debug)]
pub struct Cell {
    id: String,
    inner: Mutex<(Saved, Live)>,
    changes: watch::Sender<Changes>,
    stop: AtomicU8,
    forsaken: AtomicBool,
}

impl Cell {
    pub fn new(saved: Saved, has_captions: bool) -> Self {
        let live = Live::at_rest(has_captions);
        Self {
            id: saved.id.clone(),
            inner: Mutex::new((saved, live)),
            changes: watch::Sender::new(Changes::default()),
            stop: AtomicU8::new(0),
            forsaken: AtomicBool::new(false),
        }
    }

    pub fn id(&self) -> &str {
        &self.id
    }

    fn lock(&self) -> MutexGuard<'_, (Saved, Live)> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is kept of it.
    pub fn saved(&self) -> Saved {
        self.lock().0.clone()
    }

    pub fn state(&self) -> State {
        self.lock().0.state
    }

    pub fn view(&self) -> JobView {
        let (saved, live) = &*self.lock();
        let mut progress = live.progress.clone();
        if saved.state == State::Done {
            (progress.share, progress.eta_s) = (1.0, Some(0.0));
        }
        let saved = saved.clone();
        JobView {
            id: saved.id,
            kind: saved.job.kind,
            name: saved.job.name,
            state: saved.state,
            ahead: live.ahead,
            progress,
            width: saved.job.size.0,
            height: saved.job.size.1,
            source_width: saved.job.source.0,
            source_height: saved.job.source.1,
            format: saved.job.format,
            bytes: saved.bytes,
            seconds: saved.seconds,
            model: saved.job.model,
            settings: saved.job.settings,
            notes: saved.job.notes,
            error: saved.error,
            has_preview: live.preview.is_some(),
            has_captions: live.has_captions,
            created: saved.created,
            started: saved.started,
            ended: saved.ended,
        }
    }

    /// The last preview; whoever asks for it watches the job.
    pub fn preview(&self) -> Option<Preview> {
        let mut inner = self.lock();
        inner.1.asked = Some(Instant::now());
        inner.1.preview.clone()
    }

    /// Somebody looks at the job now and then.
    pub fn is_asked_for(&self) {
        self.lock().1.asked = Some(Instant::now());
    }

    /// `true` if somebody would see a preview.
    pub fn is_watched(&self) -> bool {
        self.changes.receiver_count() > 0
            || self.lock().1.asked.is_some_and(|asked| asked.elapsed() < WATCHES_FOR)
    }

    /// Changes what is known of it; `how` counts the change.
    pub fn change(
        &self,
        change: impl FnOnce(&mut Saved, &mut Live),
        how: impl FnOnce(&mut Changes),
    ) {
        {
            let (saved, live) = &mut *self.lock();
            change(saved, live);
        }
        self.changes.send_modify(how);
    }

    /// Changes its state, its stage or its place in the queue.
    pub fn set(&self, change: impl FnOnce(&mut Saved, &mut Live)) {
        self.change(change, |changes| changes.job += 1);
    }

    /// A note for the user, once.
    pub fn note(&self, text: String) {
        let mut inner = self.lock();
        let notes = &mut inner.0.job.notes;
        if notes.len() >= NOTES || notes.contains(&text) {
            return;
        }
        notes.push(text);
        let count = notes.len();
        drop(inner);
        self.changes.send_modify(|changes| changes.notes = count);
    }

    /// The server is about to end: nobody waits any longer.
    pub fn end_watching(&self) {
        self.changes.send_modify(|changes| changes.is_over = true);
    }

    /// Asks it to end; the first reason stays.
    pub fn ask_to_stop(&self, stop: Stop) {
        let _ = self.stop.compare_exchange(0, stop as u8, Ordering::SeqCst, Ordering::SeqCst);
    }

    /// Why it is to end, if it is.
    pub fn stop(&self) -> Option<Stop> {
        match self.stop.load(Ordering::SeqCst) {
            1 => Some(Stop::Cancelled),
            2 => Some(Stop::TimedOut),
            _ => None,
        }
    }

    /// Nobody wants it any longer: it is removed when it ends.
    pub fn forsake(&self) {
        self.forsaken.store(true, Ordering::SeqCst);
    }

    pub fn is_forsaken(&self) -> bool {
        self.forsaken.load(Ordering::SeqCst)
    }

    /// Watches it from now on.
    pub fn watch(self: &Arc<Self>) -> Watch {
        Watch { changes: self.changes.subscribe(), cell: Arc::clone(self) }
    }
}

/// Somebody who watches a job. It can be looked at also when it is removed meanwhile.
#[derive(Debug)]
pub struct Watch {
    cell: Arc<Cell>,
    changes: watch::Receiver<Changes>,
}

impl Watch {
    pub fn view(&self) -> JobView {
        self.cell.view()
    }

    /// The last preview, if there is one.
    pub fn preview(&self) -> Option<Preview> {
        self.cell.preview()
    }

    /// What has happened so far.
    pub fn seen(&mut self) -> Changes {
        *self.changes.borrow_and_update()
    }

    /// Waits until something happens that was not [seen](Self::seen).
    pub async fn changed(&mut self) {
        // The sender lives in the cell.
        let _ = self.changes.changed().await;
    }

    /// Waits until the job has ended, or until the server is about to end: its state tells.
    pub async fn ended(&mut self) -> JobView {
        loop {
            let is_over = self.seen().is_over;
            let view = self.view();
            if is_over || view.state.is_ended() {
                return view;
            }
            self.changed().await;
        }
    }
}
