//! Difference of two job descriptions, for the message that unfinished work belongs to another job.

use serde_json::Value;

/// Settings named in a message at most.
const NAMED: usize = 3;

/// Differences between two job descriptions, those that can be read if there are such; `None` if they are equal.
pub fn difference(old: &Value, new: &Value) -> Option<String> {
    if old == new {
        return None;
    }
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return Some("its description cannot be read".to_owned());
    };
    let gone = old.keys().filter(|key| !new.contains_key(*key));
    let changed: Vec<_> = (new.keys().chain(gone))
        .filter(|key| old.get(*key) != new.get(*key))
        .map(|key| {
            let shown = |job: &serde_json::Map<String, Value>| {
                job.get(key).map_or_else(|| "none".to_owned(), Value::to_string)
            };
            (key.replace('_', " "), shown(old), shown(new))
        })
        .collect();
    // Digests are not readable: prefer a difference with short values.
    let readable = |(_, old, new): &&(String, String, String)| old.len().max(new.len()) <= 40;
    let named: Vec<_> = changed.iter().filter(readable).collect();
    if named.is_empty() {
        return Some(format!("{} differs", changed.first()?.0));
    }
    let more = if named.len() > NAMED { ", and more" } else { "" };
    let named = named.iter().take(NAMED);
    let named: Vec<_> =
        named.map(|(what, old, new)| format!("{what}: {old} there, {new} now")).collect();
    Some(named.join("; ") + more)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_can_be_read_is_named_before_what_cannot() {
        let [old, new] =
            ["0", "1"].map(|digit| json!({ "input": digit.repeat(64), "seed": digit }));
        assert_eq!(difference(&old, &old), None);
        assert_eq!(difference(&old, &new).unwrap(), "seed: \"0\" there, \"1\" now");
        let other = json!({ "input": "1".repeat(64), "seed": "0" });
        assert_eq!(difference(&old, &other).unwrap(), "input differs");
        assert!(difference(&Value::Null, &new).is_some());
        let old = json!({ "a": 1, "b": 1, "c": 1, "d": 1, "e": 1 });
        let new = json!({ "a": 2, "b": 1, "c": 3, "d": 4 });
        let expected = "a: 1 there, 2 now; c: 1 there, 3 now; d: 1 there, 4 now, and more";
        assert_eq!(difference(&old, &new).unwrap(), expected);
    }
}
