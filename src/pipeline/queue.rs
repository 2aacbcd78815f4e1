//! Pieces of a stage's work that several runners share: each takes the next piece when it is free, and the results are
//! committed in the order of the pieces, whatever finishes first. So canvases and journal are those of a job on one
//! device.
//!
//! The queue's lock covers a few numbers and is never held while a piece is computed.

use std::{
    collections::BTreeMap,
    ops::Range,
    panic::resume_unwind,
    sync::{
        Condvar, Mutex, MutexGuard, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread::{self, Builder},
    time::Duration,
};

use tracing::Span;

use super::{error::Error, progress::Progress};

/// Batches for each runner, taken or waiting for their turn, from the first that is not committed on: the one under way,
/// and one that is finished or prefetched.
pub const TURNS: usize = 2;

/// Interval at which an interruption is polled while no result comes.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Pieces that have not been taken yet.
pub struct Queue {
    state: Mutex<State>,
    /// Signalled when a runner that waits may go on.
    moved: Condvar,
    runners: usize,
    /// Pieces, from the first that is not committed on, that may be taken.
    reach: usize,
}

struct State {
    /// The pieces that are left.
    left: Range<usize>,
    /// The first piece that is not committed.
    committed: usize,
    stopped: bool,
}

impl Queue {
    /// A queue of these pieces for so many runners, which take at most `most` pieces at once.
    fn new(pieces: Range<usize>, runners: usize, most: usize) -> Self {
        let committed = pieces.start;
        Self {
            state: Mutex::new(State { left: pieces, committed, stopped: false }),
            moved: Condvar::new(),
            runners,
            reach: TURNS * runners * most.max(1),
        }
    }

    /// The next pieces, at most `most`, for a runner that has none; `None` when all are taken or the stage stops.
    ///
    /// Waits while too many finished pieces wait for one before them.
    pub fn take(&self, most: usize) -> Option<Range<usize>> {
        let mut state = self.lock();
        loop {
            if state.stopped || state.left.is_empty() {
                return None;
            }
            if state.left.start < state.committed + self.reach {
                return Some(state.take(most));
            }
            state = self.moved.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// The next pieces for a runner that is still at work, to prepare them meanwhile; `None` also where others would have
    /// nothing left, or would have to wait. Never waits.
    pub fn take_ahead(&self, most: usize) -> Option<Range<usize>> {
        let mut state = self.lock();
        let of_others = (self.runners - 1) * most;
        let is_in_reach = state.left.start < state.committed + self.reach;
        (!state.stopped && state.left.len() > of_others && is_in_reach).then(|| state.take(most))
    }

    /// Lets no more pieces be taken.
    fn stop(&self) {
        self.lock().stopped = true;
        self.moved.notify_all();
    }

    /// Everything before this piece is committed.
    fn commit(&self, end: usize) {
        self.lock().committed = end;
        self.moved.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, most: usize) -> Range<usize> {
        let end = (self.left.start + most.max(1)).min(self.left.end);
        let taken = self.left.start..end;
        self.left.start = end;
        taken
    }
}

/// Stops the queue when a runner's thread panics, so that no other waits for what it had taken.
struct StopOnPanic<'a>(&'a Queue);

impl Drop for StopOnPanic<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.stop();
        }
    }
}

/// Takes the result of the pieces that a runner has taken, or of the first of them.
pub type Deliver<'a, T> = &'a mut dyn FnMut(Range<usize>, T) -> Result<(), Error>;

/// Puts a result into its place; gets them in the order of the pieces.
type Commit<'a, T> = &'a mut dyn FnMut(Range<usize>, T, &mut dyn Progress) -> Result<(), Error>;

/// What a runner's thread sends.
enum Message<T> {
    Done(Range<usize>, T),
    Failed(Error),
}

/// Lets every runner `serve` the queue of `pieces` until nothing is left, and gives the results to `commit` in the order
/// of the pieces, on this thread. `most` is what a runner takes at once.
///
/// A single runner works on this thread, and each result is committed before the next piece is computed. Of several each
/// has a thread; when one fails, the others end with the piece under way. What is finished by then is committed, as far
/// as nothing before it is missing.
///
/// # Errors
/// The first error of `serve` or `commit`; an interruption.
pub fn share<R: Send, T: Send>(
    runners: &mut [R],
    (pieces, most): (Range<usize>, usize),
    progress: &mut dyn Progress,
    serve: impl Fn(&mut R, &Queue, Deliver<'_, T>) -> Result<(), Error> + Sync,
    mut commit: impl FnMut(Range<usize>, T, &mut dyn Progress) -> Result<(), Error>,
) -> Result<(), Error> {
    if pieces.is_empty() {
        return Ok(());
    }
    if progress.interrupted() {
        return Err(Error::Interrupted(None));
    }
    let end = pieces.end;
    let queue = &Queue::new(pieces, runners.len(), most);
    if let [runner] = runners {
        return serve(runner, queue, &mut |range, result| {
            let next = range.end;
            commit(range, result, progress)?;
            queue.commit(next);
            let is_interrupted = next < end && progress.interrupted();
            if is_interrupted { Err(Error::Interrupted(None)) } else { Ok(()) }
        });
    }
    let (sender, messages) = mpsc::channel();
    let (serve, span) = (&serve, Span::current());
    thread::scope(|scope| {
        let mut threads = Vec::with_capacity(runners.len());
        let mut failed = None;
        for runner in runners {
            let (sender, span) = (sender.clone(), span.clone());
            let thread = Builder::new().name("runner".to_owned()).spawn_scoped(scope, move || {
                let (_stop, _span) = (StopOnPanic(queue), span.entered());
                let mut deliver = |range, result| {
                    // Nobody listens any more after an error of the commits, which counts instead.
                    let sent = sender.send(Message::Done(range, result));
                    sent.map_err(|_| Error::Interrupted(None))
                };
                if let Err(error) = serve(runner, queue, &mut deliver) {
                    queue.stop();
                    let _ = sender.send(Message::Failed(error));
                }
            });
            match thread {
                Ok(thread) => threads.push(thread),
                Err(source) => {
                    queue.stop();
                    failed = Some(Error::Thread { source });
                    break;
                }
            }
        }
        drop(sender);
        let committed = in_order(queue, messages, failed, progress, &mut commit);
        for thread in threads {
            thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        }
        committed
    })
}

/// Commits the results of `messages` in their order until all runners are at their end; `failed` is what has happened
/// already.
fn in_order<T>(
    queue: &Queue,
    messages: mpsc::Receiver<Message<T>>,
    mut failed: Option<Error>,
    progress: &mut dyn Progress,
    commit: Commit<'_, T>,
) -> Result<(), Error> {
    let mut waiting = BTreeMap::new();
    let mut next = queue.lock().committed;
    loop {
        if failed.is_none() && progress.interrupted() {
            queue.stop();
            failed = Some(Error::Interrupted(None));
        }
        match messages.recv_timeout(POLL_INTERVAL) {
            Ok(Message::Done(range, result)) => {
                waiting.insert(range.start, (range.end, result));
                while let Some((end, result)) = waiting.remove(&next) {
                    if let Err(error) = commit(next..end, result, progress) {
                        queue.stop();
                        return Err(error);
                    }
                    next = end;
                    queue.commit(end);
                }
            }
            Ok(Message::Failed(error)) => {
                failed.get_or_insert(error);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return failed.map_or(Ok(()), Err),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::{
            Barrier,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use super::*;
    use crate::pipeline::Silent;

    /// Stops at a number of committed pieces.
    struct StopAfter(usize);

    impl Progress for StopAfter {
        fn begin(&mut self, _: crate::pipeline::Stage, _: usize) {}
        fn advance(&mut self, count: usize) {
            self.0 = self.0.saturating_sub(count);
        }
        fn note(&mut self, _: &str) {}
        fn interrupted(&self) -> bool {
            self.0 == 0
        }
    }

    /// Shares `0..pieces`, in twos, among so many runners; `compute` gets the runner and a piece. Returns the end and
    /// the pieces that were committed, in their order.
    fn run(
        runners: usize,
        pieces: usize,
        progress: &mut dyn Progress,
        compute: impl Fn(usize, usize) -> Result<usize, Error> + Sync,
    ) -> (Result<(), Error>, Vec<usize>) {
        let mut committed = Vec::new();
        let mut numbers: Vec<usize> = (0..runners).collect();
        let ended = share(
            &mut numbers,
            (0..pieces, 2),
            progress,
            |runner, queue, deliver| {
                while let Some(range) = queue.take(2) {
                    let results = range.clone().map(|piece| compute(*runner, piece));
                    deliver(range, results.collect::<Result<Vec<_>, _>>()?)?;
                }
                Ok(())
            },
            |range, results: Vec<usize>, progress| {
                assert_eq!(range.len(), results.len());
                progress.advance(range.len());
                committed.extend(results);
                Ok(())
            },
        );
        (ended, committed)
    }

    /// A moment of a piece: early ones take longest, so that they finish last.
    fn work(piece: usize) {
        thread::sleep(Duration::from_millis(if piece % 6 < 2 { 12 } else { 1 }));
    }

    #[test]
    fn whatever_finishes_first_results_are_committed_in_order_and_once() {
        for runners in 1..=4 {
            // Each has a piece before any goes on.
            let (computed, all) = ([const { AtomicUsize::new(0) }; 4], Barrier::new(runners));
            let (ended, committed) = run(runners, 31, &mut Silent, |runner, piece| {
                if computed[runner].fetch_add(1, Ordering::Relaxed) == 0 {
                    all.wait();
                }
                work(piece);
                Ok(piece)
            });
            assert!(ended.is_ok());
            assert_eq!(committed, (0..31).collect::<Vec<_>>(), "{runners} runners");
        }
    }

    #[test]
    fn no_runner_gets_farther_ahead_of_what_is_committed_than_results_may_wait() {
        // Two runners, two turns, two pieces each.
        const LAST: usize = 7;
        let (first, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let (ended, committed) = run(2, 40, &mut Silent, |_, piece| {
            most.fetch_max(piece, Ordering::Relaxed);
            if piece == 0 {
                // The other takes what it may, while nothing can be committed, and then has a while to take more.
                while most.load(Ordering::Relaxed) < LAST {
                    thread::yield_now();
                }
                thread::sleep(Duration::from_millis(50));
                first.store(most.load(Ordering::Relaxed), Ordering::Relaxed);
            }
            Ok(piece)
        });
        assert!(ended.is_ok() && committed.len() == 40);
        assert_eq!(first.into_inner(), LAST);
    }

    #[test]
    fn pieces_are_prefetched_only_where_the_others_have_some_left() {
        let queue = Queue::new(0..10, 2, 3);
        assert_eq!(queue.take(3), Some(0..3));
        assert_eq!(queue.take_ahead(3), Some(3..6));
        assert_eq!(queue.take(3), Some(6..9));
        assert_eq!(queue.take_ahead(3), None);
        assert_eq!(queue.take(3), Some(9..10));
        assert_eq!(queue.take(3), None);
        let alone = Queue::new(0..4, 1, 3);
        assert_eq!((alone.take(3), alone.take_ahead(3)), (Some(0..3), Some(3..4)));
    }

    #[test]
    fn a_runner_that_fails_stops_the_others_and_what_came_before_counts() {
        for runners in 1..=3 {
            let (ended, committed) = run(runners, 100, &mut Silent, |_, piece| {
                work(piece);
                if piece == 8 { Err(Error::OutOfMemory) } else { Ok(piece) }
            });
            assert!(matches!(ended, Err(Error::OutOfMemory)));
            assert_eq!(committed, (0..8).collect::<Vec<_>>(), "{runners} runners");
        }
    }

    #[test]
    fn an_interruption_commits_what_is_under_way_and_no_more_is_taken() {
        for runners in 1..=3 {
            let most = AtomicUsize::new(0);
            let (ended, committed) = run(runners, 100, &mut StopAfter(6), |_, piece| {
                most.fetch_max(piece, Ordering::Relaxed);
                work(piece);
                Ok(piece)
            });
            assert!(matches!(ended, Err(Error::Interrupted(None))));
            assert_eq!(committed, (0..=most.into_inner()).collect::<Vec<_>>(), "{runners} runners");
            // What waits when it is noticed, and then what is under way, is within reach each time.
            assert!((6..=4 + 2 * 12).contains(&committed.len()), "{}", committed.len());
        }
        let (ended, committed) = run(2, 9, &mut StopAfter(0), |_, _| unreachable!("it is stopped"));
        assert!(matches!(ended, Err(Error::Interrupted(None))) && committed.is_empty());
    }

    #[test]
    fn a_result_that_cannot_be_kept_ends_all_runners_with_that_error() {
        for runners in 1..=3 {
            let mut numbers: Vec<usize> = (0..runners).collect();
            let ended = share(
                &mut numbers,
                (0..50, 1),
                &mut Silent,
                |_, queue, deliver| {
                    while let Some(range) = queue.take(1) {
                        work(range.start);
                        deliver(range, ())?;
                    }
                    Ok(())
                },
                |range, (), _| if range.start == 3 { Err(Error::OutOfMemory) } else { Ok(()) },
            );
            assert!(matches!(ended, Err(Error::OutOfMemory)), "{runners} runners");
        }
    }

    #[test]
    fn a_panic_of_one_runner_reaches_the_caller_and_no_other_waits_for_it() {
        let panicking = || {
            run(2, 100, &mut Silent, |_, piece| {
                assert!(piece != 4, "of the test");
                work(piece);
                Ok(piece)
            })
        };
        assert!(catch_unwind(AssertUnwindSafe(panicking)).is_err());
    }
}
