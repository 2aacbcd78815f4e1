//! Usage errors as one line: clap's message without its colours and tips, and what a misspelt name or value may have
//! meant.

use clap::{
    Error,
    error::{ContextKind, ContextValue, ErrorKind},
};
use strsim::damerau_levenshtein;

/// The message of a clap error on one line.
pub fn line(error: &Error) -> String {
    let text = error.to_string();
    let message = text.split("\n\n").next().unwrap_or(&text);
    let message = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let message = message.strip_prefix("error: ").unwrap_or(&message);
    match meant(error) {
        Some(name) => format!("{message}; did you mean {name}?"),
        None => message.to_owned(),
    }
}

/// The known name that is most like the unknown one of an error, if any is like it.
fn meant(error: &Error) -> Option<String> {
    let context = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.clone()),
        Some(ContextValue::Strings(texts)) => texts.first().cloned(),
        _ => None,
    };
    match error.kind() {
        ErrorKind::UnknownArgument => context(ContextKind::SuggestedArg),
        ErrorKind::InvalidSubcommand => context(ContextKind::SuggestedSubcommand),
        ErrorKind::InvalidValue | ErrorKind::ValueValidation => {
            let value = context(ContextKind::InvalidValue)?;
            // The values of an option stand in its help: `--dtype <f32|bf16|auto>`.
            let option = context(ContextKind::InvalidArg)?;
            let names = option.split_once('<').map_or("", |(_, names)| names.trim_end_matches('>'));
            let listed = names.split('|').filter(|_| names.contains('|'));
            let suggested = context(ContextKind::SuggestedValue);
            most_like(&value, listed).map(str::to_owned).or(suggested)
        }
        _ => None,
    }
}

/// The name that is most like `typed`: a third of the letters may differ, but not the first. (`gpu` is not `cpu`.)
fn most_like<'a>(typed: &str, names: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let typed = typed.to_lowercase();
    let like = names.filter(|name| name.chars().next() == typed.chars().next());
    let ranked = like.map(|name| (damerau_levenshtein(&typed, name), name));
    let allowed = (typed.chars().count() / 3).max(1);
    ranked.filter(|(distance, _)| *distance <= allowed).min().map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::{super::args::Cli, *};

    #[test]
    fn a_misspelt_name_gets_the_one_that_is_like_it() {
        for (words, meant) in [
            ("--sampler eular", "euler"),
            ("--sampler DPMPP2M", "dpmpp-2m"),
            ("--format pgn", "png"),
            ("--quantize q8-0", "q8_0"),
            ("--spacing trialing", "trailing"),
            ("--dtype bf61", "bf16"),
            ("--device cdua:0", "cuda:N"),
            ("--captioner atributes", "attributes"),
            ("--fusion fether", "feather"),
            ("--progress jsn", "json"),
            ("--promt harbour", "--prompt"),
        ] {
            let words = format!("x a.png {words}");
            let line = line(&Cli::from_command_line(words.split(' ')).unwrap_err());
            assert!(line.ends_with(&format!("; did you mean {meant}?")), "{line}");
            assert_eq!(line.lines().count(), 1);
        }
        for words in ["--device gpu", "--sampler plms", "--format gif", "--zzz", "--scale 0"] {
            let words = format!("x a.png {words}");
            let line = line(&Cli::from_command_line(words.split(' ')).unwrap_err());
            assert!(!line.contains("did you mean"), "{line}");
        }
    }
}
