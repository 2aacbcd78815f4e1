//! Leases among processes of several hosts, which here are lines with other domains and watchers of their own.

use super::*;

/// A host: what it has watched so far, and how late it is there.
struct Host {
    watched: Watched,
    /// Where its locks of files are seen.
    lock: Option<&'static str>,
}

impl Host {
    fn new(lock: Option<&'static str>) -> Self {
        Self { watched: Watched::default(), lock }
    }

    fn line(&self) -> HolderLine {
        HolderLine { host: "elsewhere".to_owned(), ..HolderLine::new(self.lock.map(str::to_owned)) }
    }

    fn take(&self, path: &Path) -> Result<Held, Holder> {
        take(path, self.line(), &self.watched).unwrap()
    }

    /// Watches the lease for so long, with a look every second.
    fn watch(&self, path: &Path, time: Duration) {
        let begun = Instant::now();
        for second in 0..=time.as_secs() {
            let (at, line) = last(path).unwrap().unwrap();
            self.watched.stands_still_at(begun + Duration::from_secs(second), &at, &line);
        }
        // What comes is no earlier than what was.
        let (at, _) = last(path).unwrap().unwrap();
        self.watched.0.lock().unwrap().get_mut(&at).unwrap().looked = Instant::now();
    }
}

/// A holder that was killed: its files stay as they are.
fn kill(held: Held) {
    held.is_lost.store(true, Ordering::SeqCst);
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn one_holds_it_the_other_is_told_who_and_gets_it_after_him() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    let (a, b) = (Host::new(Some("a")), Host::new(Some("b")));
    let first = a.take(&path).unwrap();
    let holder = b.take(&path).unwrap_err();
    assert_eq!(holder.0, format!("process {} on elsewhere", process::id()));
    drop(first);
    assert_eq!(names(folder.path()), [""; 0]);
    let second = b.take(&path).unwrap();
    assert!(second.is_held().unwrap() && a.take(&path).is_err());
}

#[test]
fn where_the_lock_is_free_the_holder_is_gone_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    let (a, b) = (Host::new(Some("a")), Host::new(Some("b")));
    kill(a.take(&path).unwrap());
    // Of another host, or through another mount, a free lock says nothing.
    assert!(b.take(&path).is_err());
    assert!(Host::new(None).take(&path).is_err());
    let next = a.take(&path).unwrap();
    assert!(next.is_held().unwrap());
    assert_eq!(names(folder.path()), ["lease"]);
}

#[test]
fn without_locks_a_holder_is_dead_when_it_has_stood_still_for_long() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    let (a, b) = (Host::new(None), Host::new(None));
    let first = a.take(&path).unwrap();
    b.watch(&path, DEAD - Duration::from_secs(1));
    assert!(b.take(&path).is_err());
    // It lives.
    first.beat().unwrap();
    b.watch(&path, DEAD - Duration::from_secs(1));
    assert!(b.take(&path).is_err());
    b.watch(&path, DEAD);
    let second = b.take(&path).unwrap();
    // The first comes back: its line takes nobody's place, and it finds out.
    first.beat().unwrap();
    assert!(!first.is_held().unwrap() && second.is_held().unwrap());
    drop(first);
    assert!(second.is_held().unwrap());
    second.beat().unwrap();
    assert!(second.is_held().unwrap());
    drop(second);
    assert_eq!(names(folder.path()), [""; 0]);
}

#[test]
fn a_time_in_which_nobody_looked_does_not_count() {
    let (watched, at, begun) = (Watched::default(), Path::new("lease"), Instant::now());
    let look = |seconds: u64, line: &str| {
        let now = begun + Duration::from_secs(seconds);
        watched.stands_still_at(now, at, line.as_bytes()).as_secs()
    };
    assert_eq!(look(0, "1"), 0);
    assert_eq!(look(3, "1"), 3);
    // The file server was away for an hour.
    assert_eq!(look(3603, "1"), 8);
    assert_eq!(look(3605, "2"), 0);
    assert_eq!(look(3606, "2"), 1);
}

#[test]
fn of_many_that_see_it_stand_still_one_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    for _ in 0..20 {
        kill(Host::new(None).take(&path).unwrap());
        let hosts: Vec<_> = (0..8).map(|_| Host::new(None)).collect();
        hosts.iter().for_each(|host| host.watch(&path, DEAD));
        let taken: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                hosts.iter().map(|host| scope.spawn(|| host.take(&path).ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        let holding = taken.iter().filter(|held| held.is_held().unwrap()).count();
        assert_eq!((taken.len(), holding), (1, 1));
        assert_eq!(names(folder.path()), ["lease"]);
        drop(taken);
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

#[test]
fn of_many_that_come_to_a_free_one_one_gets_it() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    for _ in 0..50 {
        let taken: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                (0..8).map(|_| scope.spawn(|| Host::new(None).take(&path).ok())).collect();
            threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(taken.len(), 1);
    }
}

/// Kills between any two of its steps: whoever comes next gets the lease, and what is left over is removed with the folder.
#[test]
fn what_a_kill_leaves_at_any_step_is_taken_over() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    let (a, b) = (Host::new(None), Host::new(None));
    let whole = a.line().bytes();
    for left in [&b""[..], &whole[..10], &whole] {
        // A kill while the line of the lease is written.
        fs::write(&path, left).unwrap();
        assert!(b.take(&path).is_err());
        b.watch(&path, DEAD);
        let held = b.take(&path).unwrap();
        assert!(held.is_held().unwrap());
        drop(held);
        // A kill while the line of a claim is written, or before it is renamed.
        fs::write(&path, &whole).unwrap();
        let mut claim = a.line().bytes();
        if left.len() < whole.len() {
            claim = left.to_vec();
        }
        fs::write(claim_on(&path, &whole), &claim).unwrap();
        b.watch(&path, DEAD);
        let held = b.take(&path).unwrap();
        assert!(held.is_held().unwrap());
        assert_eq!(names(folder.path()), ["lease"]);
        drop(held);
        assert_eq!(names(folder.path()), [""; 0]);
    }
}

#[test]
fn who_saw_an_earlier_holder_stand_still_takes_nothing_from_a_later_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    let (a, b) = (Host::new(None), Host::new(None));
    let first = a.take(&path).unwrap();
    b.watch(&path, DEAD);
    let (_, stale) = last(&path).unwrap().unwrap();
    drop(first);
    let second = a.take(&path).unwrap();
    assert!(b.take(&path).is_err());
    // Even a claim that comes late is one on the first.
    let claim = claim_on(&path, &stale);
    create(&claim, &b.line().bytes()).unwrap().unwrap();
    assert_eq!(last(&path).unwrap().unwrap().0, path);
    assert!(second.is_held().unwrap());
    assert_eq!(claims(&path), [claim]);
}

#[test]
fn a_lease_that_somebody_removed_is_lost() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    let held = Host::new(None).take(&path).unwrap();
    fs::remove_file(&path).unwrap();
    assert!(!held.is_held().unwrap());
}

#[test]
fn the_thread_of_the_process_keeps_a_lease_alive() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lease");
    let lease = Lease::take(&path, None).unwrap().unwrap();
    let watch = lease.watch();
    let before = fs::read(&path).unwrap();
    let begun = Instant::now();
    while fs::read(&path).unwrap() == before {
        assert!(begun.elapsed() < 4 * BEAT, "no line in {:?}", begun.elapsed());
        thread::sleep(Duration::from_millis(100));
    }
    assert!(lease.is_held().unwrap() && watch.is_held().unwrap());
    drop(lease);
    assert!(!watch.is_held().unwrap() && !path.exists());
}
