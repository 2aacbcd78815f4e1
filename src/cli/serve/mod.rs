//! `serve`: keeps the program warm for other programs and for a browser. Jobs come over HTTP, wait for their turn, and run one
//! after the other on the thread that has the models; a start goes on with what an earlier one left. docs/serve.md describes
//! the API.

mod a1111;
mod accept;
mod api;
mod cell;
mod error;
mod guard;
mod host;
mod http;
mod jobs;
mod limits;
mod linger;
mod openapi;
mod page;
mod progress;
mod served;
mod store;
mod view;
mod words;
mod worker;

use std::{
    env,
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use axum::{Json, Router, extract::DefaultBodyLimit, middleware::from_fn_with_state, routing::get};
use cupscale::{caption::cache::CaptionCache, units, weights::registry::Store as Models};
use tokio::{
    runtime::{Builder, Runtime},
    time::{MissedTickBehavior, interval, sleep},
};

use super::{
    args::{ServeArgs, ServerArgs, Token},
    error::{CliError, INTERRUPTED},
    job::Job,
    print::{print, say},
    progress::{Interruption, ProgressMode, Reporter, Show},
};
use guard::Guard;
use host::Host;
use jobs::Jobs;
use limits::Limits;
use served::Served;
use store::Store;
use words::Words;

/// Threads that answer; heavy work is done beside them.
const THREADS: usize = 2;
/// Threads for what waits for a disk.
const DISK_THREADS: usize = 16;
/// Interval at which is looked whether the server is to end.
const POLL: Duration = Duration::from_millis(50);
/// Interval at which jobs that are too old are looked for.
const PRUNE: Duration = Duration::from_secs(60);

pub fn run(args: ServeArgs) -> Result<u8, CliError> {
    let ServeArgs { server, job: mut options } = args;
    let token = server.token().map_err(CliError::Usage)?;
    options.files.name_streams();
    options.work.grant_grace();
    let note = options.machine.set_threads()?;
    let own = own_places(&options);
    let job = Job::resolve(options, note.into_iter().collect())?;
    let (mode, quiet) = (ProgressMode::None, job.show.quiet);
    let mut reporter = Reporter::new(&Show { mode, quiet, lines: None, preview: None });
    job.notes.iter().for_each(|note| reporter.tell(note));
    let refused = |error: std::io::Error| CliError::Server(format!("{}: {error}", server.listen));
    let listener = TcpListener::bind(server.listen).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let store = Store::open(folder(&server, address)?)?;
    let is_made = token.is_none() && !address.ip().is_loopback();
    let token = if is_made { Some(new_token()?) } else { token };

    let (engine, settings) = job.load(|note| reporter.tell(note))?;
    let others = [env::current_dir().ok(), env::home_dir(), Some(env::temp_dir())];
    let words =
        Words::new(own.into_iter().chain([store.root().to_owned()]), others.into_iter().flatten());
    let host = Arc::new(Host::new(job, engine, settings, words));
    let (jobs, notes) = Jobs::open(store, Limits::new(&server), host)?;
    notes.iter().for_each(|note| reporter.tell(note));
    jobs.prune();
    let guard = Arc::new(Guard::new(&server, token.as_ref()));
    let served = Arc::new(Served { jobs: Arc::clone(&jobs), guard });
    let runtime = runtime()?;
    let answering = {
        let _entered = runtime.enter();
        listener.set_nonblocking(true).map_err(refused)?;
        let listener = tokio::net::TcpListener::from_std(listener).map_err(refused)?;
        let over = over(Arc::clone(&jobs), reporter.interruption());
        runtime.spawn(prune(Arc::clone(&jobs)));
        runtime.spawn(http::serve(listener, router(served), over))
    };
    if let (true, Some(token)) = (is_made, &token) {
        // Once, where the one who starts it sees it.
        say(&format!("token: {} (http://{address}/#token={})", token.as_str(), token.as_str()));
    }
    if !address.ip().is_loopback() {
        reporter.tell("connections are not encrypted: in a network that others share, put it behind a proxy with TLS");
    }
    print(&format!("http://{address}/\n"))?;
    worker::run(&jobs);
    let _ = runtime.block_on(answering);
    // What still waits for a disk or a client is not waited for.
    runtime.shutdown_timeout(Duration::from_secs(1));
    Ok(INTERRUPTED)
}

/// All routes, behind the guard.
fn router(served: Arc<Served>) -> Router {
    let router = api::router()
        .merge(a1111::probes(&served.jobs))
        .nest("/sdapi/v1", a1111::router(&served.jobs));
    let (router, api) = router.split_for_parts();
    let description = openapi::describe(&api, served.guard.wants_token());
    let description = get(move || {
        let description = description.clone();
        async move { Json(description) }
    });
    let body = usize::try_from(served.jobs.limits.body).unwrap_or(usize::MAX);
    router
        .route("/", get(page::page))
        .route("/openapi.json", description)
        .fallback(api::nothing_here)
        .method_not_allowed_fallback(api::not_allowed)
        .layer(DefaultBodyLimit::max(body))
        .layer(from_fn_with_state(Arc::clone(&served.guard), guard::pass))
        .with_state(served)
}

/// Waits until the user ends the server, and tells the jobs.
async fn over(jobs: Arc<Jobs>, interruption: Interruption) {
    while !interruption.is_asked() {
        sleep(POLL).await;
    }
    jobs.stop();
}

/// Removes jobs that are too old, now and then.
async fn prune(jobs: Arc<Jobs>) {
    let mut times = interval(PRUNE);
    times.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        times.tick().await;
        let jobs = Arc::clone(&jobs);
        let _ = tokio::task::spawn_blocking(move || jobs.prune()).await;
    }
}

fn runtime() -> Result<Runtime, CliError> {
    let runtime = Builder::new_multi_thread()
        .worker_threads(THREADS)
        .max_blocking_threads(DISK_THREADS)
        .thread_name("http")
        .enable_all()
        .build();
    runtime.map_err(|error| CliError::Server(format!("no threads for the server: {error}")))
}

/// The folder of the jobs; `None` for one that is removed at the end, because nobody would find it again.
fn folder(server: &ServerArgs, address: SocketAddr) -> Result<Option<PathBuf>, CliError> {
    if server.jobs_dir.is_some() {
        return Ok(server.jobs_dir.clone());
    }
    if server.listen.port() == 0 {
        return Ok(None);
    }
    let cache = CaptionCache::default_folder();
    let Some(cache) = cache.as_deref().and_then(|captions| captions.parent()) else {
        let reason = "there is no place for the jobs on this machine: name one with --jobs-dir";
        return Err(CliError::Server(reason.to_owned()));
    };
    // An address of the sixth version has signs that no name of a folder has everywhere.
    let name = format!("{}-{}", address.ip(), address.port()).replace(':', "_");
    Ok(Some(cache.join("serve").join(name)))
}

/// A token that nobody guesses.
fn new_token() -> Result<Token, CliError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| CliError::Server(format!("no token: {error}")))?;
    Ok(units::hex(&bytes).into())
}

/// Folders of the models that messages may name, and that are nobody else's business.
fn own_places(options: &super::args::JobArgs) -> Vec<PathBuf> {
    let model = options.model.model.as_ref().map(PathBuf::from);
    let parent = model.as_ref().and_then(|model| Some(model.parent()?.to_owned()));
    let models = Models::open().ok().map(|models| models.root().to_owned());
    [parent, models].into_iter().flatten().collect()
}
