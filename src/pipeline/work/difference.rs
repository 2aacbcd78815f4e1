//! Difference of two job descriptions, for the message that unfinished work belongs to another job.

use serde_json::Value;

/// First difference between two job descriptions; `None` if they are equal.
pub fn difference(old: &Value, new: &Value) -> Option<String> {
    if old == new {
        return None;
    }
    let (Some(old), Some(new)) = (old.as_object(), new.as_object()) else {
        return Some("its description cannot be read".to_owned());
    };
    let changed: Vec<_> = (new.keys().chain(old.keys()))
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
    match changed.iter().find(readable) {
        Some((what, old, new)) => Some(format!("{what}: {old} there, {new} now")),
        None => Some(format!("{} differs", changed.first()?.0)),
    }
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
    }
}
