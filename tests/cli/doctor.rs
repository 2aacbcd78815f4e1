//! `doctor`, and the choice of kernels.

use crate::common::{Shell, quick, stderr};

fn report(shell: &Shell, arguments: &str) -> String {
    String::from_utf8(shell.succeed(arguments)).unwrap()
}

#[test]
fn doctor_lists_the_devices_and_tests_every_kernel_of_the_chosen_one() {
    let shell = Shell::new();
    let text = report(&shell, "doctor --device cpu");
    for start in ["  cpu ", "  cuda:0 ", "  metal ", "chosen: cpu f32"] {
        assert!(text.lines().any(|line| line.starts_with(start)), "{start} not in: {text}");
    }
    for operation in ["conv2d", "attention", "group_norm", "geglu", "upsample"] {
        let line = text.lines().find(|line| line.starts_with(operation)).unwrap();
        assert!(line.contains("own ("), "{line}");
    }
    let rms_norm = text.lines().find(|line| line.starts_with("rms_norm")).unwrap();
    assert!(rms_norm.ends_with("candle"), "{rms_norm}");
    assert!(text.contains("all passed"), "{text}");
    assert!(shell.names().is_empty(), "it writes nothing");
}

#[test]
fn doctor_fails_on_a_device_that_is_not_there() {
    let output = Shell::new().run("doctor -g cuda:99");
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("cuda:99"), "{}", stderr(&output));
    // What there is comes before.
    assert!(String::from_utf8(output.stdout).unwrap().contains("  cpu "));
}

#[test]
fn doctor_takes_no_picture_and_none_of_a_jobs_options() {
    let shell = Shell::new();
    for line in ["doctor in.png", "doctor --batch 2", "doctor -g gpu"] {
        shell.fail(line, 2);
    }
    assert!(shell.fail("in.png doctor", 2).contains("a verb comes first"));
}

#[test]
fn kernels_are_those_of_a_gpu_and_the_cpu_says_that_it_has_its_own() {
    let shell = Shell::new();
    shell.picture("in.png", 24, 16);
    shell.succeed(&format!("in.png -o own.png --device cpu {}", quick()));
    let line = format!("in.png -o composed.png --device cpu --kernels composed {}", quick());
    let output = shell.run(&line);
    assert!(output.status.success());
    assert!(stderr(&output).contains("--kernels has no effect on the CPU"), "{}", stderr(&output));
    assert_eq!(shell.bytes("own.png"), shell.bytes("composed.png"));
    shell.fail("in.png --kernels fast", 2);
}
