//! `--shard`: the share that a process is to do, by its numbers or by what the engine that started it says in the
//! environment.

use std::str::FromStr;

use super::share::Share;

/// The most shares.
const MOST: u32 = 1_000_000;

/// Number of a task of a Slurm array, with the first and last number of the array, their distance, and how many there are.
const SLURM: &str = "SLURM_ARRAY_TASK_ID";
/// Number, from 0, of a pod of an indexed Kubernetes job.
const KUBERNETES: &str = "JOB_COMPLETION_INDEX";
/// Number, from 1, of a job of GNU parallel.
const PARALLEL: &str = "PARALLEL_SEQ";

/// The value of `--shard`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShardChoice {
    Of(Share),
    /// The engine says which of how many.
    Auto,
    /// The engine says which of this many.
    AutoOf(u32),
}

impl FromStr for ShardChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        let Some((number, of)) = text.split_once('/') else {
            return Err("not I/N, as 3/50, nor auto or auto/N".to_owned());
        };
        let of = match of.parse() {
            Ok(of @ 1..=MOST) => of,
            _ => return Err(format!("`{of}` is no number of shares: 1 to {MOST}")),
        };
        match number {
            "auto" => Ok(Self::AutoOf(of)),
            number => share(number, of).map(Self::Of),
        }
    }
}

/// Share `number` of this many.
fn share(number: &str, of: u32) -> Result<Share, String> {
    match number.parse() {
        Ok(number) if (1..=of).contains(&number) => Ok(Share { number, of }),
        Ok(_) => Err(format!("there is no share {number}: they are 1/{of} to {of}/{of}")),
        Err(_) => Err(format!("`{number}` is no number of a share: 1 to {of}, or auto")),
    }
}

impl ShardChoice {
    /// The share, by the variables of the environment where the choice leaves it to an engine.
    ///
    /// # Errors
    /// One line that says what is missing, or cannot be meant, and what to type.
    pub fn share(self, variable: impl Fn(&str) -> Option<String>) -> Result<Share, String> {
        let (said, of) = match self {
            Self::Of(share) => return Ok(share),
            Self::Auto => ("auto".to_owned(), None),
            Self::AutoOf(of) => (format!("auto/{of}"), Some(of)),
        };
        let found: Vec<_> = [SLURM, KUBERNETES, PARALLEL]
            .into_iter()
            .filter_map(|name| Some((name, variable(name)?)))
            .collect();
        let share = match (found.as_slice(), of) {
            ([], _) => Err(format!(
                "no engine says which share this is ({SLURM}, {KUBERNETES} and {PARALLEL} are not set): name it, as 3/50"
            )),
            // One engine within another: neither number counts the processes.
            ([(one, _), (other, _), ..], _) => Err(format!(
                "{one} and {other} are both set, and either may count the shares: name the share, as ${one}/N"
            )),
            ([(name, value)], Some(of)) => numbered(name, value, of),
            ([(SLURM, value)], None) => of_array(value, variable),
            ([(name, _)], None) => {
                Err(format!("{name} says which share this is, but not of how many: auto/N"))
            }
        };
        share.map_err(|reason| format!("--shard {said}: {reason}"))
    }
}

/// The share that this variable numbers, of this many.
fn numbered(name: &str, value: &str, of: u32) -> Result<Share, String> {
    let first = u32::from(name != KUBERNETES);
    let number = number(name, value)?;
    match (number + 1).checked_sub(first) {
        Some(number) if (1..=of).contains(&number) => Ok(Share { number, of }),
        _ => Err(format!(
            "{name} is {number}, and {of} shares are numbered {first} to {}",
            of - 1 + first
        )),
    }
}

/// The share of a task of a whole Slurm array.
fn of_array(id: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Share, String> {
    let id = number(SLURM, id)?;
    let get = |end: &str| -> Result<u32, String> {
        let name = format!("SLURM_ARRAY_TASK_{end}");
        let value = variable(&name).ok_or_else(|| format!("{name} is not set: auto/N"))?;
        number(&name, &value)
    };
    let (first, last, count) = (get("MIN")?, get("MAX")?, get("COUNT")?);
    // A part of an array that runs once more has numbers of its own, and its shares are those of the whole.
    let is_whole = first <= 1 && last.checked_sub(first) == count.checked_sub(1);
    if !is_whole || !(first..=last).contains(&id) {
        let tasks = if count == 1 { "1 task".to_owned() } else { format!("{count} tasks") };
        return Err(format!(
            "the array has {tasks} from {first} to {last}, and is a part of one or none without gaps from 0 or 1: \
             say of how many shares task {id} is one, auto/N"
        ));
    }
    if count > MOST {
        return Err(format!("the array has {count} tasks: there are at most {MOST} shares"));
    }
    Ok(Share { number: id - first + 1, of: count })
}

/// The number that a variable holds.
fn number(name: &str, value: &str) -> Result<u32, String> {
    // The sum with 1 is a number as well.
    value
        .trim()
        .parse()
        .ok()
        .filter(|number| *number < u32::MAX)
        .ok_or_else(|| format!("{name} is `{value}`, and no number"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(text: &str, variables: &str) -> Result<(u32, u32), String> {
        let known: Vec<_> =
            variables.split_whitespace().filter_map(|pair| pair.split_once('=')).collect();
        let get = |name: &str| {
            let found = known.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        };
        let share = text.parse::<ShardChoice>()?.share(get)?;
        Ok((share.number, share.of))
    }

    fn slurm(id: &str, first: u32, last: u32, count: u32) -> String {
        format!(
            "SLURM_ARRAY_TASK_ID={id} SLURM_ARRAY_TASK_MIN={first} SLURM_ARRAY_TASK_MAX={last} SLURM_ARRAY_TASK_COUNT={count}"
        )
    }

    #[test]
    fn a_share_is_named_or_numbered_by_the_engine() {
        for (text, variables, expected) in [
            ("3/50", "", (3, 50)),
            ("1/1", "", (1, 1)),
            // What is named counts, whatever started the program.
            ("3/50", "SLURM_ARRAY_TASK_ID=7 PARALLEL_SEQ=2", (3, 50)),
            ("auto", &slurm("0", 0, 49, 50), (1, 50)),
            ("auto", &slurm("49", 0, 49, 50), (50, 50)),
            ("auto", &slurm("1", 1, 50, 50), (1, 50)),
            ("auto", &slurm("50", 1, 50, 50), (50, 50)),
            ("auto", &slurm("1", 1, 1, 1), (1, 1)),
            // A part of an array that was submitted again.
            ("auto/50", &slurm("7", 3, 7, 2), (7, 50)),
            ("auto/50", "SLURM_ARRAY_TASK_ID=50", (50, 50)),
            ("auto/50", "JOB_COMPLETION_INDEX=0", (1, 50)),
            ("auto/50", "JOB_COMPLETION_INDEX=49", (50, 50)),
            ("auto/50", "PARALLEL_SEQ=1", (1, 50)),
            ("auto/50", "PARALLEL_SEQ=50", (50, 50)),
        ] {
            assert_eq!(choose(text, variables), Ok(expected), "{text} with {variables}");
        }
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_what_to_type() {
        for (text, variables, said) in [
            ("3", "", "not I/N"),
            ("", "", "not I/N"),
            ("0/5", "", "there is no share 0: they are 1/5 to 5/5"),
            ("6/5", "", "there is no share 6"),
            ("x/5", "", "`x` is no number of a share"),
            ("-1/5", "", "`-1` is no number"),
            ("1/0", "", "`0` is no number of shares"),
            ("1/2000000", "", "1 to 1000000"),
            ("auto/", "", "`` is no number of shares"),
            ("auto/x", "", "`x` is no number of shares"),
            ("auto", "", "name it, as 3/50"),
            ("auto/5", "", "--shard auto/5: no engine says"),
            ("auto", "JOB_COMPLETION_INDEX=3", "not of how many: auto/N"),
            ("auto", "PARALLEL_SEQ=3", "not of how many: auto/N"),
            ("auto/5", "JOB_COMPLETION_INDEX=5", "5 shares are numbered 0 to 4"),
            ("auto/5", "PARALLEL_SEQ=0", "5 shares are numbered 1 to 5"),
            ("auto/5", "PARALLEL_SEQ=6", "PARALLEL_SEQ is 6"),
            ("auto/5", "SLURM_ARRAY_TASK_ID=0", "5 shares are numbered 1 to 5"),
            ("auto/5", "PARALLEL_SEQ=x", "`x`, and no number"),
            ("auto/5", "PARALLEL_SEQ=4294967295", "no number"),
            ("auto", "SLURM_ARRAY_TASK_ID=3", "SLURM_ARRAY_TASK_MIN is not set: auto/N"),
            ("auto", &slurm("3", 3, 7, 2), "2 tasks from 3 to 7"),
            ("auto", &slurm("5", 5, 5, 1), "task 5 is one, auto/N"),
            ("auto", &slurm("2", 0, 4, 3), "3 tasks from 0 to 4"),
            ("auto", &slurm("9", 0, 4, 5), "auto/N"),
            ("auto", &slurm("0", 1, 0, 0), "0 tasks"),
            ("auto", &slurm("1", 1, 2_000_000, 2_000_000), "at most 1000000"),
            ("auto/5", "SLURM_ARRAY_TASK_ID=1 PARALLEL_SEQ=1", "are both set"),
            ("auto", "SLURM_ARRAY_TASK_ID=1 JOB_COMPLETION_INDEX=1", "as $SLURM_ARRAY_TASK_ID/N"),
        ] {
            let reason = choose(text, variables).unwrap_err();
            assert!(reason.contains(said), "{text} with {variables}: {reason}");
            assert_eq!(reason.lines().count(), 1);
        }
    }
}
