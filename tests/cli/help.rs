//! Help: what it shows, and that the short one is a screen.

use crate::common::Shell;

fn help(arguments: &str) -> String {
    String::from_utf8(Shell::new().succeed(arguments)).unwrap()
}

#[test]
fn the_short_help_is_one_screen_and_opens_with_four_examples() {
    let short = help("-h");
    assert!(short.lines().count() <= 40, "{} lines:\n{short}", short.lines().count());
    assert!(short.lines().all(|line| line.chars().count() <= 100), "{short}");
    let examples = short.lines().skip_while(|line| *line != "Examples:").skip(1);
    let examples: Vec<_> =
        examples.take_while(|line| line.starts_with("  cupscale-fast ")).collect();
    assert_eq!(examples.len(), 4, "{short}");
    for option in ["--output", "--scale", "--prompt", "--model", "--preview", "--help", "--version"]
    {
        assert!(short.contains(option), "{option} is not in:\n{short}");
    }
}

#[test]
fn the_whole_help_has_every_option_below_a_heading() {
    let long = help("--help");
    let headings = [
        "Examples:",
        "Verbs:",
        "Files:",
        "Reading:",
        "Size:",
        "Content:",
        "Repainting:",
        "Model:",
        "ControlNet:",
        "Machine:",
        "Unfinished work:",
        "Progress:",
        "Exit codes:",
    ];
    let places: Vec<_> = headings
        .iter()
        .map(|heading| {
            long.find(&format!("\n{heading}")).unwrap_or_else(|| panic!("{heading} in:\n{long}"))
        })
        .collect();
    assert_eq!(places.first(), places.iter().min());
    for option in ["--rap", "--vae-disk", "--caption-quantize", "--progress-fd", "--max-metadata"] {
        assert!(long.contains(option), "{option}");
    }
}

#[test]
fn every_verb_is_listed_in_one_line_and_its_help_has_an_example() {
    let short = help("-h");
    let verbs =
        short.split("\nVerbs:\n").nth(1).unwrap().lines().take_while(|line| !line.is_empty());
    let mut seen = 0;
    for line in verbs {
        // A line that only goes on with the one above begins further in.
        assert!(!line.starts_with("     "), "{line}");
        let verb = line.split_whitespace().next().unwrap();
        if verb == "help" {
            continue;
        }
        seen += 1;
        for flag in ["-h", "--help"] {
            let text = help(&format!("{verb} {flag}"));
            assert!(text.contains("Example"), "{verb} {flag}:\n{text}");
            assert!(text.contains(&format!("cupscale-fast {verb}")), "{text}");
        }
        let lines = help(&format!("{verb} -h")).lines().count();
        assert!(lines <= 40, "{verb} -h has {lines} lines");
    }
    assert!(seen >= 4, "{short}");
}
