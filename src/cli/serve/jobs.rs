//! The jobs of the server: the queue with its bound, what is accepted into it, and what becomes of a job. One job runs at a
//! time, on the thread that has the models; everything else only reads and asks.

use std::{
    collections::{BTreeMap, VecDeque},
    fs, mem,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
};

use axum::body::Bytes;
use cupscale::pipe::request::OutputForm;
use serde_json::{Map, Value};
use tokio::runtime::Handle;

use super::{
    accept::{self, Order},
    cell::{Cell, Live, Stop, Watch},
    error::{Kind, Refusal},
    host::Host,
    limits::Limits,
    store::{Accepted, DraftFolder, GIVEN, INPUT, MASK, Saved, Store, now},
    view::{JobView, Kind as JobKind, State},
};
use crate::cli::{error::CliError, print::complain};

/// Jobs that have ended are kept no longer when there are more of them.
const MOST_ENDED: usize = 1000;

/// A job that is asked for, with all that it takes in memory.
#[derive(Clone, Debug, Default)]
pub struct NewJob {
    pub kind: JobKind,
    /// Name of the picture, for people and for the name of the result.
    pub name: String,
    pub picture: Bytes,
    pub mask: Option<Bytes>,
    /// Captions as the verb `caption` writes them.
    pub captions: Option<String>,
    pub settings: Map<String, Value>,
    pub output: OutputForm,
    pub model: Option<String>,
    /// Longest time in seconds that it may run.
    pub most_seconds: Option<f64>,
    /// `false`: nothing of it survives a restart, and no work is resumed; for callers that wait.
    pub is_kept: bool,
}

/// The result of a job.
#[derive(Clone, Debug)]
pub struct ResultFile {
    pub path: PathBuf,
    pub media_type: String,
    /// Name for whoever keeps it.
    pub name: String,
}

#[derive(Default)]
struct Queue {
    jobs: BTreeMap<String, Arc<Cell>>,
    waiting: VecDeque<Arc<Cell>>,
    running: Option<Arc<Cell>>,
    /// Jobs that are being sent, which have a place in the queue.
    drafts: usize,
    is_stopping: bool,
}

/// The jobs of the server.
pub struct Jobs {
    pub store: Store,
    pub limits: Limits,
    pub host: Arc<Host>,
    queue: Mutex<Queue>,
    /// Signalled when there is something to do.
    wake: Condvar,
}

impl Jobs {
    /// The jobs that are in the store, and what is to be said of others.
    ///
    /// # Errors
    /// A store that cannot be read.
    pub fn open(
        store: Store,
        limits: Limits,
        host: Arc<Host>,
    ) -> Result<(Arc<Self>, Vec<String>), CliError> {
        let (saved, notes) = store.load()?;
        let mut queue = Queue::default();
        for mut saved in saved {
            let has_captions = store.captions(&saved.id).is_file();
            if !saved.state.is_ended() {
                saved.state = State::Waiting;
            }
            let cell = Arc::new(Cell::new(saved, has_captions));
            if !cell.state().is_ended() {
                queue.waiting.push_back(Arc::clone(&cell));
            }
            queue.jobs.insert(cell.id().to_owned(), cell);
        }
        queue.number();
        let queue = Mutex::new(queue);
        Ok((Arc::new(Self { store, limits, host, queue, wake: Condvar::new() }), notes))
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a place in the queue for a job that is about to be sent.
    ///
    /// # Errors
    /// A full queue, a server that is about to end, a disk that cannot be written to.
    pub fn draft(self: &Arc<Self>) -> Result<Draft, Refusal> {
        {
            let mut queue = self.lock();
            if queue.is_stopping {
                return Err(Refusal::stopping());
            }
            if queue.waiting.len() + queue.drafts >= self.limits.waiting {
                let waiting = self.limits.waiting;
                let message = format!("the queue is full: {waiting} jobs wait; ask again later");
                return Err(Refusal::new(Kind::Busy, message));
            }
            queue.drafts += 1;
        }
        // From here on the place is given back when this is dropped.
        let mut draft = Draft { jobs: Arc::clone(self), folder: None };
        draft.folder = Some(self.store.draft().map_err(|error| Refusal::disk(&error))?);
        Ok(draft)
    }

    /// Accepts a job whose files are in the draft: checks settings, limits and the picture's header. To be called where it may
    /// take a moment.
    ///
    /// # Errors
    /// Whatever of it can be refused before it runs.
    pub fn accept(&self, mut draft: Draft, order: Order) -> Result<JobView, Refusal> {
        let folder = draft.folder.take().expect("a draft has a folder until it is accepted");
        let accepted = accept::check(&self.host, &self.limits, &folder, order);
        let adopted = accepted.and_then(|accepted| self.adopt(&folder, accepted));
        if adopted.is_err() {
            folder.remove();
        }
        adopted
    }

    fn adopt(&self, folder: &DraftFolder, accepted: Accepted) -> Result<JobView, Refusal> {
        let saved = Saved::new(folder.id.clone(), accepted);
        // Those who ask do not wait for the disk.
        folder.complete(&saved).map_err(|error| Refusal::disk(&error))?;
        let cell = Arc::new(Cell::new(saved.clone(), false));
        let mut queue = self.lock();
        if queue.is_stopping {
            return Err(Refusal::stopping());
        }
        self.store.adopt(folder).map_err(|error| Refusal::disk(&error))?;
        queue.jobs.insert(saved.id, Arc::clone(&cell));
        queue.waiting.push_back(Arc::clone(&cell));
        queue.number();
        let view = cell.view();
        drop(queue);
        self.wake.notify_all();
        Ok(view)
    }

    /// Takes a job whose files are in memory. To be called where it may take a moment.
    ///
    /// # Errors
    /// Those of [`draft`](Self::draft) and [`accept`](Self::accept).
    pub fn submit(self: &Arc<Self>, new: NewJob) -> Result<JobView, Refusal> {
        let draft = self.draft()?;
        let captions = new.captions.map(Bytes::from);
        for (name, bytes) in [(INPUT, Some(new.picture)), (MASK, new.mask), (GIVEN, captions)] {
            if let Some(bytes) = bytes {
                fs::write(draft.file(name), bytes).map_err(|error| Refusal::disk(&error))?;
            }
        }
        let NewJob { kind, name, settings, output, model, most_seconds, is_kept, .. } = new;
        self.accept(draft, Order { kind, name, settings, output, model, most_seconds, is_kept })
    }

    /// Takes a job of a caller that waits for it: the job ends with the caller.
    ///
    /// # Errors
    /// Those of [`submit`](Self::submit).
    pub fn submit_guest(self: &Arc<Self>, new: NewJob) -> Result<Guest, Refusal> {
        let view = self.submit(NewJob { is_kept: false, ..new })?;
        Ok(Guest { jobs: Arc::clone(self), id: view.id })
    }

    fn cell(&self, id: &str) -> Option<Arc<Cell>> {
        self.lock().jobs.get(id).cloned()
    }

    /// A job.
    pub fn view(&self, id: &str) -> Option<JobView> {
        let cell = self.cell(id)?;
        cell.is_asked_for();
        Some(cell.view())
    }

    /// All jobs, the newest first.
    pub fn list(&self) -> Vec<JobView> {
        let cells: Vec<_> = self.lock().jobs.values().cloned().collect();
        let mut jobs: Vec<_> = cells.iter().map(|cell| cell.view()).collect();
        jobs.sort_by(|one, other| other.created.total_cmp(&one.created));
        jobs
    }

    /// Watches a job.
    pub fn watch(&self, id: &str) -> Option<Watch> {
        self.cell(id).map(|cell| cell.watch())
    }

    /// The job that runs.
    pub fn running(&self) -> Option<JobView> {
        let running = self.lock().running.clone();
        running.map(|cell| cell.view())
    }

    /// Number of the jobs that wait, and the id of the one that runs.
    pub fn load(&self) -> (usize, Option<String>) {
        let queue = self.lock();
        (queue.waiting.len(), queue.running.as_ref().map(|cell| cell.id().to_owned()))
    }

    /// Ends a job that waits or runs: the one at once, the other at its next batch. A job that has ended stays as it is.
    pub fn cancel(&self, id: &str) -> Option<JobView> {
        let (cell, waited) = {
            let mut queue = self.lock();
            let cell = Arc::clone(queue.jobs.get(id)?);
            let place = queue.waiting.iter().position(|other| other.id() == id);
            if let Some(place) = place {
                queue.waiting.remove(place);
                queue.number();
            }
            cell.ask_to_stop(Stop::Cancelled);
            (cell, place.is_some())
        };
        if waited {
            self.end(&cell, |saved| saved.state = State::Cancelled);
        }
        Some(cell.view())
    }

    /// Removes a job that has ended, with its files; `false` if it has not, or is not there.
    pub fn remove(&self, id: &str) -> bool {
        {
            let mut queue = self.lock();
            if !queue.jobs.get(id).is_some_and(|cell| cell.state().is_ended()) {
                return false;
            }
            queue.jobs.remove(id);
        }
        self.store.remove(id);
        true
    }

    /// The result of a job.
    ///
    /// # Errors
    /// A job that is not there, or is not done.
    pub fn result(&self, id: &str) -> Result<ResultFile, Refusal> {
        let saved = self.cell(id).ok_or_else(Refusal::no_job)?.saved();
        if saved.state != State::Done {
            let state = format!("{:?}", saved.state).to_lowercase();
            return Err(Refusal::new(
                Kind::Conflict,
                format!("there is no result: the job is {state}"),
            ));
        }
        Ok(ResultFile {
            path: self.store.file(id, &saved.result_file()),
            media_type: accept::media_type(&saved.job.format).to_owned(),
            name: saved.job.result_name,
        })
    }

    /// The picture of a job as it was sent.
    ///
    /// # Errors
    /// A job that is not there, or whose picture is not kept.
    pub fn input(&self, id: &str) -> Result<ResultFile, Refusal> {
        let saved = self.cell(id).ok_or_else(Refusal::no_job)?.saved();
        let path = self.store.file(id, INPUT);
        if !path.is_file() {
            let message = "the picture of this job is not kept: it was cancelled";
            return Err(Refusal::new(Kind::NotFound, message));
        }
        Ok(ResultFile { path, media_type: saved.job.input_type, name: saved.job.name })
    }

    /// The captions of a job's regions.
    ///
    /// # Errors
    /// A job that is not there, or whose captions are not known yet.
    pub fn captions(&self, id: &str) -> Result<ResultFile, Refusal> {
        let cell = self.cell(id).ok_or_else(Refusal::no_job)?;
        if !cell.view().has_captions {
            return Err(Refusal::new(Kind::NotFound, "the captions of this job are not known"));
        }
        Ok(ResultFile {
            path: self.store.captions(id),
            media_type: "application/json".to_owned(),
            name: "captions.json".to_owned(),
        })
    }

    /// The last preview of a job that runs, a JPEG.
    pub fn preview(&self, id: &str) -> Option<Bytes> {
        Some(self.cell(id)?.preview()?.jpeg)
    }

    /// Waits for the next job to run; `None` when the server is about to end.
    pub fn next(&self) -> Option<Arc<Cell>> {
        let mut queue = self.lock();
        loop {
            if queue.is_stopping {
                return None;
            }
            if let Some(cell) = queue.waiting.pop_front() {
                queue.running = Some(Arc::clone(&cell));
                queue.number();
                drop(queue);
                cell.set(|saved, live| {
                    saved.state = State::Running;
                    saved.started = Some(now());
                    live.ahead = 0;
                });
                self.save(&cell.saved());
                return Some(cell);
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A job has ended so. What is kept says so before anybody sees it.
    pub fn end(&self, cell: &Cell, how: impl FnOnce(&mut Saved)) {
        let mut saved = cell.saved();
        how(&mut saved);
        saved.ended = Some(now());
        saved.seconds = saved.started.zip(saved.ended).map(|(from, to)| (to - from).max(0.0));
        self.store.clear(&saved, saved.state != State::Cancelled);
        self.save(&saved);
        {
            let mut queue = self.lock();
            if queue.running.as_ref().is_some_and(|running| running.id() == cell.id()) {
                queue.running = None;
            }
        }
        let has_captions = self.store.captions(cell.id()).is_file();
        cell.set(|kept, live| {
            *kept = saved;
            *live = Live::at_rest(has_captions);
        });
        if cell.is_forsaken() {
            self.remove(cell.id());
        }
    }

    /// A job that was interrupted because the server is about to end goes on with the next start.
    pub fn put_back(&self, cell: &Cell) {
        self.lock().running = None;
        cell.set(|saved, live| {
            saved.state = State::Waiting;
            *live = Live::at_rest(live.has_captions);
        });
        self.save(&cell.saved());
    }

    fn save(&self, saved: &Saved) {
        if let Err(error) = self.store.save(saved) {
            complain(&format!("job {}: what is known of it cannot be kept ({error})", saved.id));
        }
    }

    /// Nobody waits for this job any longer: it ends, and nothing of it is left.
    fn forsake(&self, id: &str) {
        let Some(cell) = self.cell(id) else { return };
        cell.forsake();
        self.cancel(id);
        self.remove(id);
    }

    /// Removes jobs that ended too long ago.
    pub fn prune(&self) {
        let mut ended: Vec<(f64, String)> = {
            let queue = self.lock();
            let ended = |cell: &Arc<Cell>| Some((cell.saved().ended?, cell.id().to_owned()));
            queue.jobs.values().filter_map(ended).collect()
        };
        ended.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        let oldest = now() - self.limits.keep.as_secs_f64();
        for (place, (at, id)) in ended.iter().enumerate() {
            if *at < oldest || place >= MOST_ENDED {
                self.remove(id);
            }
        }
    }

    /// Takes no more jobs, and ends the one that runs at its next batch.
    pub fn stop(&self) {
        let cells: Vec<_> = {
            let mut queue = self.lock();
            queue.is_stopping = true;
            queue.jobs.values().cloned().collect()
        };
        self.wake.notify_all();
        cells.iter().for_each(|cell| cell.end_watching());
    }

    /// `true` once the server is about to end.
    pub fn is_stopping(&self) -> bool {
        self.lock().is_stopping
    }
}

impl Queue {
    /// Tells every job that waits its place.
    fn number(&self) {
        for (place, cell) in self.waiting.iter().enumerate() {
            if cell.view().ahead != place {
                cell.set(|_, live| live.ahead = place);
            }
        }
    }
}

/// A job that is being sent: a place in the queue, and a folder. Dropped before it is accepted, it leaves nothing.
pub struct Draft {
    jobs: Arc<Jobs>,
    folder: Option<DraftFolder>,
}

impl Draft {
    /// Where a file of the job goes.
    pub fn file(&self, name: &str) -> PathBuf {
        let folder = self.folder.as_ref().expect("a draft has a folder until it is accepted");
        folder.file(name)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.jobs.lock().drafts -= 1;
        let Some(folder) = self.folder.take() else { return };
        apart(move || folder.remove());
    }
}

/// A job that lives as long as the one who waits for it.
pub struct Guest {
    jobs: Arc<Jobs>,
    id: String,
}

impl Guest {
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Waits until it has ended, or until the server is about to end: its state tells.
    pub async fn ended(&self) -> Option<JobView> {
        let mut watch = self.jobs.watch(&self.id)?;
        Some(watch.ended().await)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let (jobs, id) = (Arc::clone(&self.jobs), mem::take(&mut self.id));
        apart(move || jobs.forsake(&id));
    }
}

/// Does what waits for a disk beside the threads that answer, on which a client that goes away drops what was its own.
fn apart(work: impl FnOnce() + Send + 'static) {
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn_blocking(work)),
        Err(_) => work(),
    }
}
