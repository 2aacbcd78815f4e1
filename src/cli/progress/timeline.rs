//! Time of a job: what each stage took, and an estimate of what is left, from the job's work, from how fast earlier jobs
//! went, and from what is measured as it runs.

use std::time::{Duration, Instant};

use cupscale::pipeline::{Outline, Stage};

/// Share of a stage's work that counts as measured at the expected speed, so that its first batch does not decide alone.
const TRUST: f64 = 0.05;

/// Work and time that must be measured before an estimate is made from them alone.
const LEAST_SHARE: f64 = 0.01;
const LEAST_SECONDS: f64 = 1.0;

/// Seconds that each stage of a job is expected to take; `None` where no such job has been seen.
pub type Expected = [Option<f64>; 5];

/// A stage of the job that has begun.
#[derive(Clone, Copy, Debug)]
struct StageTime {
    stage: Stage,
    begun: Instant,
    /// The last moment at which it advanced.
    moved: Instant,
    ended: Option<Instant>,
    /// Of `total`: done by an earlier run, and done in all.
    resumed: usize,
    done: usize,
    total: usize,
}

impl StageTime {
    /// Share of the stage that this run has done.
    fn own_share(&self) -> f64 {
        (self.done - self.resumed) as f64 / self.total.max(1) as f64
    }

    fn share(&self) -> f64 {
        if self.ended.is_some() { 1.0 } else { self.done as f64 / self.total.max(1) as f64 }
    }

    /// Seconds until it last advanced.
    fn seconds(&self) -> f64 {
        (self.ended.unwrap_or(self.moved) - self.begun).as_secs_f64()
    }
}

/// The time of a job, from its beginning to now.
#[derive(Clone, Debug)]
pub struct Timeline {
    begun: Instant,
    outlined: Option<(Instant, Outline)>,
    expected: Expected,
    stages: Vec<StageTime>,
}

impl Timeline {
    /// A job that begins now.
    pub fn new() -> Self {
        Self { begun: Instant::now(), outlined: None, expected: [None; 5], stages: Vec::new() }
    }

    /// The job is known, and so is what to expect of it.
    pub fn outline(&mut self, outline: &Outline, expected: Expected) {
        // The job of a picture that is made before it is enlarged has two, and the first is done.
        let at = self.outlined.as_ref().map_or_else(Instant::now, |(at, _)| *at);
        self.stages.clear();
        self.outlined = Some((at, outline.clone()));
        self.expected = expected;
    }

    pub fn outlined(&self) -> Option<&Outline> {
        self.outlined.as_ref().map(|(_, outline)| outline)
    }

    pub fn begin(&mut self, stage: Stage, total: usize) {
        self.end();
        let now = Instant::now();
        let (begun, moved) = (now, now);
        self.stages.push(StageTime {
            stage,
            begun,
            moved,
            ended: None,
            resumed: 0,
            done: 0,
            total,
        });
    }

    pub fn resume(&mut self, count: usize) {
        if let Some(stage) = self.stages.last_mut() {
            stage.resumed += count;
            stage.done += count;
        }
    }

    pub fn advance(&mut self, count: usize) {
        if let Some(stage) = self.stages.last_mut() {
            stage.done += count;
            stage.moved = Instant::now();
        }
    }

    /// The last stage ends.
    pub fn end(&mut self) {
        if let Some(stage) = self.stages.last_mut() {
            stage.ended.get_or_insert_with(Instant::now);
        }
    }

    /// The stage at work, what of it is done, and its total.
    pub fn stage(&self) -> Option<(Stage, usize, usize)> {
        self.stages.last().map(|stage| (stage.stage, stage.done, stage.total))
    }

    pub fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Seconds before the first stage: opening, reading, planning.
    pub fn preparation(&self) -> Option<f64> {
        self.outlined.as_ref().map(|(at, _)| (*at - self.begun).as_secs_f64())
    }

    /// Work and seconds of every stage that has ended, that had any, and that no earlier run had begun.
    pub fn measured(&self) -> impl Iterator<Item = (Stage, f64, f64)> {
        let whole = |stage: &&StageTime| stage.ended.is_some() && stage.resumed == 0;
        self.stages.iter().filter(whole).filter_map(|stage| {
            let work = self.outlined()?.work.iter().find(|(of, _)| *of == stage.stage)?.1;
            (work > 0.0).then(|| (stage.stage, work, stage.seconds()))
        })
    }

    /// Every stage that has begun, with its seconds so far.
    pub fn seconds(&self) -> impl Iterator<Item = (Stage, f64)> {
        self.stages.iter().map(|stage| (stage.stage, stage.seconds()))
    }

    /// What each stage weighs: its expected seconds, or without them its work, of which captions have none that could be
    /// compared.
    fn weights(&self) -> Option<[(Stage, f64); 5]> {
        let mut weights = self.outlined()?.work;
        let is_known = self.expected.iter().skip(1).all(Option::is_some);
        for ((stage, weight), expected) in weights.iter_mut().zip(self.expected) {
            *weight = match expected {
                Some(seconds) if is_known => seconds,
                _ if *stage == Stage::Caption => 0.0,
                _ => *weight,
            };
        }
        Some(weights)
    }

    /// Seconds for each unit of weight, from what has been measured and what is expected.
    fn pace(&self, weights: &[(Stage, f64); 5]) -> Option<f64> {
        let is_expected = self.expected.iter().skip(1).all(Option::is_some);
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let (mut seconds, mut done) = (0.0, 0.0);
        for stage in self.stages.iter().filter(|stage| stage.done > stage.resumed) {
            let weight = weight_of(weights, stage.stage);
            if weight > 0.0 {
                seconds += stage.seconds();
                done += weight * stage.own_share();
            }
        }
        if is_expected {
            let trust = TRUST * total;
            return Some((seconds + trust) / (done + trust));
        }
        (done > LEAST_SHARE * total && seconds > LEAST_SECONDS).then(|| seconds / done)
    }

    /// What is left, if anything can be said of it yet.
    pub fn left(&self) -> Option<Duration> {
        let Some(weights) = self.weights() else {
            // Captions by themselves are all that there is.
            let stage = self.stages.last().filter(|stage| stage.own_share() > 0.0)?;
            let whole = stage.seconds() / stage.own_share();
            let left = whole * (1.0 - stage.share()) - stage.moved.elapsed().as_secs_f64();
            return Some(Duration::from_secs_f64(left.max(0.0)));
        };
        let pace = self.pace(&weights)?;
        // Stages before the one at work are done, also those that an earlier run did whole.
        let to_come = self.place(&weights).map_or(0, |place| place + 1);
        let mut left: f64 = weights[to_come..].iter().map(|(_, weight)| weight * pace).sum();
        if let Some(stage) = self.stages.last().filter(|stage| stage.ended.is_none()) {
            let whole = self.whole(stage, &weights, pace);
            // A stage that takes longer than expected is about to end, as far as anybody knows.
            let of_stage = whole * (1.0 - stage.share()) - stage.moved.elapsed().as_secs_f64();
            left += of_stage.max(0.0);
        }
        Some(Duration::from_secs_f64(left.max(0.0)))
    }

    /// Place of the stage at work among all stages.
    fn place(&self, weights: &[(Stage, f64); 5]) -> Option<usize> {
        let last = self.stages.last()?;
        weights.iter().position(|(stage, _)| *stage == last.stage)
    }

    /// Seconds that this stage takes in all.
    fn whole(&self, stage: &StageTime, weights: &[(Stage, f64); 5], pace: f64) -> f64 {
        let expected = weight_of(weights, stage.stage) * pace;
        let own = stage.own_share();
        if expected == 0.0 && own > 0.0 {
            return stage.seconds() / own;
        }
        (stage.seconds() + TRUST * expected) / (own + TRUST)
    }

    /// Share of the whole job that is done, 0 to 1; it goes on between two advances of a stage whose pace is known.
    pub fn share(&self) -> f64 {
        let Some(weights) = self.weights() else {
            return self.stages.last().map_or(0.0, StageTime::share);
        };
        let total: f64 = weights.iter().map(|(_, weight)| weight).sum();
        let (Some(stage), Some(place)) = (self.stages.last(), self.place(&weights)) else {
            return 0.0;
        };
        let mut share = stage.share();
        if let (Some(pace), None) = (self.pace(&weights), stage.ended) {
            let unit = 1.0 / stage.total.max(1) as f64;
            let seconds = unit * self.whole(stage, &weights, pace);
            let since = stage.moved.elapsed().as_secs_f64();
            if seconds > 0.0 {
                share = (share + unit * (1.0 - (-since / seconds).exp())).min(1.0);
            }
        }
        let before: f64 = weights[..place].iter().map(|(_, weight)| weight).sum();
        ((before + weights[place].1 * share) / total.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0)
    }
}

fn weight_of(weights: &[(Stage, f64); 5], stage: Stage) -> f64 {
    weights.iter().find(|(of, _)| *of == stage).map_or(0.0, |(_, weight)| *weight)
}

/// A time as a clock shows it: `0:09`, `12:30`, `1:02:03`.
pub fn clock(time: Duration) -> String {
    let seconds = time.as_secs_f64().round() as u64;
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

/// A time as one says it: `7 s`, `40 s`, `3 min`, `2 h 10 min`, with no more digits than an estimate has.
pub fn words(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    let rounded = |to: f64| (seconds / to).round() as u64 * to as u64;
    match seconds {
        ..0.5 => "less than a second".to_owned(),
        ..20.0 => format!("{} s", rounded(1.0)),
        ..90.0 => format!("{} s", rounded(5.0)),
        ..5400.0 => format!("{} min", (seconds / 60.0).round() as u64),
        _ => {
            let minutes = (seconds / 600.0).round() as u64 * 10;
            match minutes % 60 {
                0 => format!("{} h", minutes / 60),
                left => format!("{} h {left} min", minutes / 60),
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An outline whose stages have this work, and nothing to enlarge before all else.
    pub fn outline(work: [f64; 4]) -> Outline {
        let stages = [Stage::Caption, Stage::Encode, Stage::Denoise, Stage::Decode];
        let mut outline = cupscale::pipeline::Outline::default();
        outline.steps = 4;
        for (stage, work) in stages.into_iter().zip(work) {
            outline.work.iter_mut().filter(|(of, _)| *of == stage).for_each(|at| at.1 = work);
        }
        outline
    }

    /// A job of which so many seconds have gone into stages, each with what is done and its total.
    pub fn timeline(expected: Expected, stages: &[(Stage, f64, usize, usize)]) -> Timeline {
        let mut timeline = Timeline::new();
        timeline.outline(&outline([4.0, 100.0, 600.0, 300.0]), expected);
        let now = Instant::now();
        for (index, &(stage, seconds, done, total)) in stages.iter().enumerate() {
            let begun = now.checked_sub(Duration::from_secs_f64(seconds)).unwrap();
            let ended = (index + 1 < stages.len()).then_some(now);
            let resumed = 0;
            timeline.stages.push(StageTime {
                stage,
                begun,
                moved: now,
                ended,
                resumed,
                done,
                total,
            });
        }
        timeline
    }

    fn left(timeline: &Timeline) -> Option<f64> {
        timeline.left().map(|left| left.as_secs_f64())
    }

    const UNKNOWN: Expected = [None; 5];
    const KNOWN: Expected = [Some(1.0), Some(0.0), Some(10.0), Some(60.0), Some(30.0)];

    #[test]
    fn nothing_is_said_before_anything_is_known() {
        for stages in [&[][..], &[(Stage::Caption, 2.0, 3, 4)], &[(Stage::Encode, 0.5, 0, 4)]] {
            assert_eq!(left(&timeline(UNKNOWN, stages)), None, "{stages:?}");
        }
    }

    #[test]
    fn what_is_left_follows_from_what_was_measured() {
        // 100 units in 10 s; of 600 half in 30 s; 300 are left to decode.
        let measured = timeline(
            UNKNOWN,
            &[
                (Stage::Caption, 1.0, 4, 4),
                (Stage::Encode, 10.0, 4, 4),
                (Stage::Denoise, 30.0, 50, 100),
            ],
        );
        assert!((left(&measured).unwrap() - 60.0).abs() < 0.5, "{:?}", left(&measured));
        assert!((measured.share() - 0.4).abs() < 0.01, "{}", measured.share());
    }

    #[test]
    fn what_earlier_jobs_say_counts_until_this_one_says_otherwise() {
        assert!((left(&timeline(KNOWN, &[])).unwrap() - 101.0).abs() < 0.5);
        // Twice as slow as expected: what is to come will be, too, and nearly all of it once most is measured.
        let slow = [(Stage::Caption, 2.0, 4, 4), (Stage::Encode, 20.0, 4, 4)];
        let early =
            left(&timeline(KNOWN, &[slow[0], slow[1], (Stage::Denoise, 0.0, 0, 100)])).unwrap();
        let late =
            left(&timeline(KNOWN, &[slow[0], slow[1], (Stage::Denoise, 60.0, 50, 100)])).unwrap();
        assert!((130.0..180.0).contains(&early), "{early}");
        assert!((105.0..120.0).contains(&late), "{late}");
    }

    #[test]
    fn work_of_an_earlier_run_counts_as_done_and_not_as_fast() {
        let mut timeline = timeline(KNOWN, &[(Stage::Encode, 0.0, 0, 10)]);
        timeline.resume(9);
        assert!((left(&timeline).unwrap() - 91.0).abs() < 0.5, "{:?}", left(&timeline));
        timeline.end();
        assert_eq!(timeline.measured().count(), 0);
    }

    #[test]
    fn times_are_read_easily() {
        let text = |seconds: f64| {
            let time = Duration::from_secs_f64(seconds);
            (clock(time), words(time))
        };
        for (seconds, clock, words) in [
            (0.2, "0:00", "less than a second"),
            (7.4, "0:07", "7 s"),
            (43.0, "0:43", "45 s"),
            (150.0, "2:30", "3 min"),
            (3723.0, "1:02:03", "62 min"),
            (7800.0, "2:10:00", "2 h 10 min"),
            (10800.0, "3:00:00", "3 h"),
        ] {
            assert_eq!(text(seconds), (clock.to_owned(), words.to_owned()));
        }
    }
}
