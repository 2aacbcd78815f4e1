//! `pipe`: keeps the program warm for an editor. Requests come as frames on standard input and are done in turn; answers
//! leave on standard output. Nothing that a request does ends the conversation. docs/pipe-protocol.md describes it.

mod enlarge;
mod inbox;
mod outbox;
mod progress;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Instant,
};

use cupscale::{
    image::{Format, PixelFormat},
    pipe::{
        NAME, VERSION,
        answer::{Answer, Hello, Kind, Limits},
        frame::{LARGEST_HEADER, LARGEST_PAYLOAD},
    },
    pipeline::{Engine, Error, Settings},
};

use super::{
    advice,
    args::{JobArgs, setting_names},
    ending::words,
    error::{CliError, DONE, FAILED, INTERRUPTED},
    job::Job,
    print::complain,
    progress::{ProgressMode, Reporter, Show},
    request::{Loaded, format_name, kind_of},
};
use inbox::{Inbox, Next, WAITING, WAITING_BYTES, Work};
use outbox::Outbox;

/// What all requests share.
struct Host {
    /// The options that the program was started with.
    job: Job,
    engine: Engine,
    /// Settings of the machine, and the captioner.
    settings: Settings,
    inbox: Inbox,
    outbox: Arc<Outbox>,
    reporter: Reporter,
}

pub fn run(mut args: JobArgs) -> Result<u8, CliError> {
    args.files.name_streams();
    args.work.grant_grace();
    let note = args.machine.set_threads()?;
    let job = Job::resolve(args, note.into_iter().collect())?;
    // It has no display of its own: progress leaves as messages.
    let mode = ProgressMode::None;
    let quiet = job.show.quiet;
    let mut reporter = Reporter::new(&Show { mode, quiet, lines: None, preview: None });
    job.notes.iter().for_each(|note| reporter.tell(note));
    let (engine, settings) = job.load(|note| reporter.tell(note))?;
    let outbox = Arc::new(Outbox::default());
    let inbox = Inbox::new(Arc::clone(&outbox));
    let host = Host { job, engine, settings, inbox, outbox, reporter };
    host.greet();
    host.inbox.start()?;
    loop {
        match host.inbox.next(&|| host.is_over()) {
            Next::Work(work) => host.serve(work),
            Next::Over if host.reporter.is_interrupted() => return Ok(INTERRUPTED),
            // The reader of the answers has gone.
            Next::Over => return Ok(DONE),
            Next::End(None) => {
                host.outbox.send(&Answer::Bye);
                return Ok(DONE);
            }
            Next::End(Some(reason)) => {
                host.outbox.send(&Answer::Error {
                    id: None,
                    kind: Kind::Request,
                    message: &reason,
                });
                host.outbox.send(&Answer::Bye);
                complain(&format!("stdin: {reason}"));
                return Ok(FAILED);
            }
        }
    }
}

impl Host {
    fn greet(&self) {
        self.outbox.send(&Answer::Hello(Box::new(Hello {
            protocol: NAME,
            version: VERSION,
            program: concat!("cupscale-fast ", env!("CARGO_PKG_VERSION")),
            model: self.engine.name(),
            devices: self.engine.devices(),
            computes_on: self.engine.computes_on(),
            requests: &["upscale", "plan", "cancel", "ping", "shutdown"],
            formats: Format::ALL.into_iter().map(format_name).collect(),
            pix: PixelFormat::ALL.map(PixelFormat::name).to_vec(),
            settings: setting_names(),
            limits: Limits {
                header: LARGEST_HEADER,
                payload: LARGEST_PAYLOAD,
                waiting: WAITING,
                waiting_bytes: WAITING_BYTES,
            },
        })));
    }

    /// What is loaded.
    fn loaded(&self) -> Loaded<'_> {
        Loaded { job: &self.job, engine: &self.engine, settings: &self.settings, verb: "pipe" }
    }

    /// `true` if nothing that could still be answered matters.
    fn is_over(&self) -> bool {
        self.reporter.is_interrupted() || self.outbox.is_closed()
    }

    /// Does what is asked and answers it, whatever happens.
    fn serve(&self, work: Work) {
        let (id, stop) = (work.id().clone(), work.stop());
        let begun = Instant::now();
        let result = catch_unwind(AssertUnwindSafe(|| match work {
            Work::Upscale(work) => self.upscale(work, begun),
            Work::Plan(plan) => self.plan(&plan),
        }));
        let (kind, message) = match result {
            Ok(Ok(())) => return,
            Ok(Err(CliError::Job(Error::Interrupted(_)))) => {
                self.inbox.end_running();
                if stop.is_asked() {
                    self.outbox.send(&Answer::Cancelled { id: &id });
                }
                return;
            }
            Ok(Err(error)) => (kind_of(&error), advice::line(&error)),
            Err(panic) => (Kind::Fault, format!("a fault in the program: {}", words(&*panic))),
        };
        self.inbox.end_running();
        self.outbox.send(&Answer::Error { id: Some(&id), kind, message: &message });
    }
}
