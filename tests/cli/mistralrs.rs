//! `--caption-engine mistralrs` from the command line, in builds with it and without.

use crate::common::Shell;

const ENGINE: &str = "--captioner llava --caption-engine mistralrs";

#[cfg(not(feature = "mistralrs"))]
#[test]
fn a_build_without_mistral_rs_says_so_and_how_to_get_it() {
    let shell = Shell::new();
    shell.picture("in.png", 16, 16);
    let message = shell.fail(&format!("in.png {ENGINE} --caption-model model"), 2);
    assert!(
        message.contains("this build has no mistral.rs; build with --features mistralrs"),
        "{message}"
    );
    assert_eq!(shell.names(), ["in.png"]);
}

#[cfg(feature = "mistralrs")]
mod built_in {
    use super::*;
    use crate::common::fixture;

    fn model() -> String {
        fixture("mistralrs/idefics3").display().to_string()
    }

    #[test]
    fn regions_are_captioned_and_the_job_goes_on_with_them() {
        let shell = Shell::new();
        shell.picture("in.png", 48, 40);
        let options = format!("{ENGINE} --caption-model {} --prompt harbour", model());
        let json = shell.succeed(&format!("caption in.png --scale 2 {options}"));
        let document: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(document["captioner"], "mistralrs");
        assert_eq!(document["model"], "idefics3");
        assert!(document["instruction"].as_str().unwrap().contains("\"harbour\""));
        assert_ne!(document["regions"][0]["caption"], "harbour");

        shell.succeed(&format!("in.png -o out.png --scale 2 --denoise-steps 1 {options}"));
        std::fs::write(shell.path("captions.json"), json).unwrap();
        shell.succeed(
            "in.png -o again.png --scale 2 --denoise-steps 1 --captions captions.json --prompt harbour",
        );
        let pixels = |name| pictures::open(shell.path(name)).to_rgb8();
        assert_eq!(pixels("out.png"), pixels("again.png"));
    }

    #[test]
    fn what_cannot_be_asked_is_refused_before_any_work() {
        let shell = Shell::new();
        shell.picture("in.png", 16, 16);
        let fail = |options: &str, code| shell.fail(&format!("in.png {ENGINE} {options}"), code);
        let message = fail("", 2);
        assert!(message.contains("--caption-model"), "{message}");
        let message = fail(&format!("--caption-model {} --caption-batch 4", model()), 2);
        assert!(message.contains("--caption-batch is for --caption-engine builtin"), "{message}");
        let message = fail("--caption-model no-one/no-model", 1);
        assert!(message.contains("no-one/no-model: no folder"), "{message}");
        assert_eq!(shell.names(), ["in.png"]);
    }
}
