//! Schedules and steps against diffusers' schedulers of the same methods; fixtures by
//! `tests/make_fixtures/make_sampler_fixtures.py`.

use std::collections::BTreeMap;

use cupscale::sampler::{
    self, Ddim, Denoise, Level, NoiseProcess, PredictionForm, QuantileSearch, Sampler,
    SamplerError, SamplerKind, Schedule, SchedulerConfig, Step, TimestepSpacing, plan,
};
use cupscale::weights::registry::RunDefaults;
use safetensors::SafeTensors;
use serde::Deserialize;

use crate::common::{on_threads, tensors::stored};

const SDXL: &str = r#"{"_class_name": "DDIMScheduler", "num_train_timesteps": 1000, "beta_start": 0.00085,
    "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": false, "set_alpha_to_one": false,
    "steps_offset": 1, "timestep_spacing": "trailing", "prediction_type": "epsilon"}"#;

fn schedule(changes: &str) -> Schedule {
    let mut config: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(SDXL).unwrap();
    config.extend(serde_json::from_str::<serde_json::Map<_, _>>(changes).unwrap());
    let text = serde_json::to_string(&config).unwrap();
    Schedule::new(&SchedulerConfig::from_json(&text).unwrap()).unwrap()
}

/// ᾱ of a timestep, by the schedule's signal.
fn abar(schedule: &Schedule, t: f64) -> f32 {
    schedule.level(t).unwrap().signal.powi(2) as f32
}

fn assert_close(ours: &[f32], theirs: &[f32], tolerance: f32, what: &str) {
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let scale = theirs.iter().fold(1e-30f32, |m, v| m.max(v.abs()));
    let error = ours.iter().zip(theirs).fold(0.0f32, |m, (a, b)| m.max((a - b).abs())) / scale;
    assert!(error <= tolerance, "{what}: relative error {error}");
}

/// The timesteps of steps, in the precision in which diffusers keeps those that are fractions.
fn in_f32(steps: &[Step]) -> Vec<f32> {
    steps.iter().map(|step| step.t as f32).collect()
}

/// The samplers for the noise of betas.
fn of_betas() -> impl Iterator<Item = SamplerKind> {
    let process = NoiseProcess::VariancePreserving;
    SamplerKind::ALL.into_iter().filter(move |kind| kind.process() == process)
}

#[derive(Deserialize)]
struct Case {
    config: serde_json::Value,
    n: Timesteps,
    run: usize,
    eta: Option<f64>,
    timesteps: Vec<f32>,
    tokens: Option<usize>,
}

/// Their number, or all of them.
#[derive(Deserialize)]
#[serde(untagged)]
enum Timesteps {
    Count(usize),
    List(Vec<usize>),
}

impl From<&Timesteps> for sampler::Timesteps {
    fn from(timesteps: &Timesteps) -> Self {
        match timesteps {
            Timesteps::Count(n) => Self::Count(*n),
            Timesteps::List(list) => Self::List(list.clone()),
        }
    }
}

#[test]
fn settings_that_a_file_leaves_out_have_the_defaults_of_its_class() {
    let tables: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(include_str!("../fixtures/sampler/defaults.json")).unwrap();
    assert_eq!(tables.len(), 19);
    for (class, table) in &tables {
        let config =
            SchedulerConfig::from_json(&format!(r#"{{"_class_name": "{class}"}}"#)).unwrap();
        // Written out in full the file says the same; what the class does not know, nothing.
        let mut written = table.clone();
        written["_class_name"] = class.as_str().into();
        let full = SchedulerConfig::from_json(&written.to_string()).unwrap();
        let forms = |config: SchedulerConfig| SchedulerConfig {
            use_karras_sigmas: config.use_karras_sigmas.filter(|&on| on),
            use_exponential_sigmas: config.use_exponential_sigmas.filter(|&on| on),
            use_beta_sigmas: config.use_beta_sigmas.filter(|&on| on),
            use_lu_lambdas: config.use_lu_lambdas.filter(|&on| on),
            use_flow_sigmas: config.use_flow_sigmas.filter(|&on| on),
            algorithm_type: None,
            solver_type: None,
            solver_order: None,
            predict_x0: None,
            lower_order_final: None,
            euler_at_final: None,
            interpolation_type: None,
            timestep_type: None,
            ..config
        };
        assert_eq!(forms(full), forms(config.clone()), "{class}");
        assert_eq!(config.clip_sample, table["clip_sample"].as_bool().unwrap_or(false), "{class}");
        config.sampler().unwrap();
    }
}

#[test]
fn timesteps_are_those_of_diffusers_for_1_to_50_steps() {
    let text = include_str!("../fixtures/sampler/timesteps.json");
    let tables: BTreeMap<String, BTreeMap<usize, Vec<f32>>> = serde_json::from_str(text).unwrap();
    assert_eq!(tables.len(), 17);
    for (name, table) in &tables {
        let (sampler, spacing) = name.split_once('_').unwrap_or((name, "trailing"));
        let schedule = schedule(&format!(r#"{{"timestep_spacing": "{spacing}"}}"#));
        let kind: SamplerKind = sampler.parse().unwrap();
        let sampler = kind.build(&SchedulerConfig::from_json(SDXL).unwrap(), None).unwrap();
        assert_eq!(table.len(), 50);
        for (&n, expected) in table {
            let steps = sampler.steps(&schedule, n).unwrap();
            assert_eq!(&in_f32(&steps), expected, "{name}, {n} steps");
            assert!(
                steps
                    .iter()
                    .enumerate()
                    .all(|(i, step)| step.index == i && step.last == (i + 1 == steps.len()))
            );
        }
    }
}

#[test]
fn trailing_timesteps_stay_inside_the_schedule_for_every_number_of_steps() {
    let schedule = schedule("{}");
    for n in 1..=1000 {
        let timesteps = schedule.timesteps(n).unwrap();
        assert_eq!((timesteps.len(), timesteps[0]), (n, 999));
        assert!(timesteps.windows(2).all(|pair| pair[0] > pair[1]), "{n} steps");
    }
}

#[test]
fn abar_is_that_of_torch_to_one_in_a_million() {
    let file =
        SafeTensors::deserialize(include_bytes!("../fixtures/sampler/abar.safetensors")).unwrap();
    // Relative to abar, but for the stretched schedule: its last values are differences of nearly equal roots.
    for (name, floor, changes) in [
        ("sdxl", 1e-4, "{}"),
        (
            "ddim_defaults",
            1e-4,
            r#"{"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02}"#,
        ),
        ("zero_snr", 1e-2, r#"{"rescale_betas_zero_snr": true}"#),
        ("cosine", 1e-4, r#"{"beta_schedule": "squaredcos_cap_v2"}"#),
        ("short", 1e-4, r#"{"num_train_timesteps": 101, "beta_schedule": "linear"}"#),
    ] {
        let schedule = schedule(changes);
        let expected = stored(&file, name);
        assert_eq!(schedule.train_timesteps(), expected.len());
        for (t, &theirs) in expected.iter().enumerate() {
            let ours = abar(&schedule, t as f64);
            assert!(
                (ours - theirs).abs() <= 1e-6 * theirs.max(floor),
                "{name} at {t}: {ours} for {theirs}"
            );
        }
    }
}

#[test]
fn sdxl_in_eight_trailing_steps_has_the_numbers_of_the_method_page() {
    let schedule =
        schedule(r#"{"timestep_spacing": "leading"}"#).with_spacing(TimestepSpacing::Trailing);
    assert_eq!(schedule.timesteps(8).unwrap(), [999, 874, 749, 624, 499, 374, 249, 124]);
    assert!((schedule.final_level().signal.powi(2) - 0.99915).abs() < 1e-6);
    for (t, abar) in [(499.0, 0.27767), (374.0, 0.46671), (249.0, 0.67543), (124.0, 0.86341)] {
        assert!((self::abar(&schedule, t) - abar).abs() < 1e-5);
    }
    let steps = plan(
        &Ddim::new(0.0).unwrap(),
        &schedule,
        &sampler::Timesteps::Count(8),
        Denoise::Strength(0.45),
    )
    .unwrap();
    let expected = |index, t, t_prev: Option<f64>, last| {
        let level = schedule.level(t).unwrap();
        let to = t_prev.map_or(schedule.final_level(), |t| schedule.level(t).unwrap());
        Step { index, t, t_prev, level, to, form: PredictionForm::Noise, last }
    };
    assert_eq!(
        steps,
        [
            expected(4, 499.0, Some(374.0), false),
            expected(5, 374.0, Some(249.0), false),
            expected(6, 249.0, Some(124.0), false),
            expected(7, 124.0, None, true)
        ]
    );
    assert_eq!(
        plan(&Ddim::new(0.0).unwrap(), &schedule, &sampler::Timesteps::Count(8), Denoise::Steps(2))
            .unwrap(),
        steps[2..]
    );
}

#[test]
fn the_papers_22_of_50_steps_can_be_run_exactly() {
    let config = SchedulerConfig::from_json(SDXL).unwrap();
    for kind in of_betas() {
        let sampler = kind.build(&config, None).unwrap();
        let steps =
            plan(&*sampler, &schedule("{}"), &sampler::Timesteps::Count(50), Denoise::Steps(22))
                .unwrap();
        // Where steps have two predictions each, the last one has one all the same.
        let predictions = 22 * sampler.predictions() - (sampler.predictions() - 1);
        let ends = (steps[0].t, steps[steps.len() - 1].t);
        let expected = if kind == SamplerKind::Dpmpp2s { (440.0, 20.0) } else { (439.0, 19.0) };
        assert_eq!((steps.len(), ends), (predictions, expected), "{kind}");
    }
}

#[test]
fn trajectories_follow_diffusers_for_every_sampler_prediction_type_spacing_and_eta() {
    let text = include_str!("../fixtures/sampler/trajectories.json");
    let file = include_bytes!("../fixtures/sampler/trajectories.safetensors");
    assert!(follow(text, file, 204) > 100);
}

#[test]
fn trajectories_follow_diffusers_along_the_velocity_of_flow_matching() {
    let text = include_str!("../fixtures/sampler/flow_trajectories.json");
    follow(text, include_bytes!("../fixtures/sampler/flow_trajectories.safetensors"), 35);
}

#[test]
fn trajectories_follow_diffusers_with_solvers_of_higher_order_and_with_ancestral_noise() {
    let text = include_str!("../fixtures/sampler/solver_trajectories.json");
    let file = include_bytes!("../fixtures/sampler/solver_trajectories.safetensors");
    assert!(follow(text, file, 202) > 100);
}

#[test]
fn trajectories_follow_diffusers_with_the_scheduler_of_pixart() {
    let text = include_str!("../fixtures/sampler/pixart_trajectories.json");
    let file = include_bytes!("../fixtures/sampler/pixart_trajectories.safetensors");
    assert!(follow(text, file, 11) > 0);
}

#[test]
fn trajectories_follow_k_diffusion_with_the_third_order_on_the_stochastic_equation() {
    let text = include_str!("../fixtures/sampler/k_diffusion_trajectories.json");
    let file = include_bytes!("../fixtures/sampler/k_diffusion_trajectories.safetensors");
    // No config of diffusers leads to it.
    follow_as(text, file, 35, |name, case| {
        let kind = SamplerKind::Dpmpp3mSde;
        assert_eq!(name.split('_').next(), Some(kind.name()), "{name}");
        let config = SchedulerConfig::from_json(&case.config.to_string()).unwrap();
        let schedule = Schedule::new(&config).unwrap().with_tokens(case.tokens.unwrap_or(1));
        Walk { config, schedule, kind, timesteps: (&case.n).into() }
    });
}

/// The scheduler config of a model's base, as its folder has it.
fn base_config(name: &str) -> serde_json::Value {
    let mut config = serde_json::json!({
        "_class_name": "EulerDiscreteScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
        "beta_start": 0.00085, "clip_sample": false, "interpolation_type": "linear", "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "sample_max_value": 1.0, "set_alpha_to_one": false, "skip_prk_steps": true,
        "steps_offset": 1, "timestep_spacing": "leading", "trained_betas": null, "use_karras_sigmas": false,
    });
    if name == "sdxl-turbo" {
        config["_class_name"] = "EulerAncestralDiscreteScheduler".into();
        config["timestep_spacing"] = "trailing".into();
    } else if name.contains("sd15") || name.contains("dreamshaper") {
        config = serde_json::json!({
            "_class_name": "PNDMScheduler", "beta_end": 0.012, "beta_schedule": "scaled_linear",
            "beta_start": 0.00085, "clip_sample": false, "num_train_timesteps": 1000, "set_alpha_to_one": false,
            "skip_prk_steps": true, "steps_offset": 1, "trained_betas": null,
        });
    }
    config
}

/// Every model of the registry that is made for few steps, with the sampler, the spacing or list of timesteps, the
/// number of steps and the prediction that its entry says, over its base's scheduler config.
#[test]
fn the_few_step_models_of_the_registry_walk_as_their_cards_say() {
    let registry: serde_json::Value =
        serde_json::from_str(include_str!("../../models/registry.json")).unwrap();
    let models = registry["models"].as_array().unwrap();
    let text = include_str!("../fixtures/sampler/few_step_trajectories.json");
    let file = include_bytes!("../fixtures/sampler/few_step_trajectories.safetensors");
    let compared = follow_as(text, file, 32, |name, case| {
        let (sampler, model) = name.split_once('_').unwrap();
        let entry = model.strip_suffix("_whole").unwrap_or(model);
        let known = models.iter().find(|known| known["name"] == entry).unwrap();
        let run: RunDefaults = serde_json::from_value(known["run"].clone()).unwrap();
        assert_eq!(run.sampler.as_deref(), Some(sampler), "{name}");
        let mut config = base_config(entry);
        if let Some(prediction) = &run.prediction_type {
            config["prediction_type"] = prediction.as_str().into();
        }
        let config = SchedulerConfig::from_json(&config.to_string()).unwrap();
        let mut schedule = Schedule::new(&config).unwrap();
        if let Some(spacing) = &run.timestep_spacing {
            schedule = schedule.with_spacing(spacing.parse().unwrap());
        }
        let kind: SamplerKind = sampler.parse().unwrap();
        let steps = run.steps.unwrap() as usize;
        let timesteps = match run.timesteps {
            Some(list) => {
                assert_eq!(list.len(), steps, "{name}");
                sampler::Timesteps::List(list.into_iter().map(|t| t as usize).collect())
            }
            None => sampler::Timesteps::Count(steps),
        };
        let run_steps = if entry == model { run.denoise_steps.unwrap() as usize } else { steps };
        assert_eq!((run_steps, run.eta), (case.run, case.eta), "{name}");
        // Distilled models have no guidance of two predictions, but those that are made for it.
        let guided = ["hyper-sdxl-cfg", "lcm-sdxl", "lcm-dreamshaper-v7"].contains(&entry);
        assert_eq!(run.guidance.unwrap() > 1.0, guided, "{name}");
        Walk { config, schedule, kind, timesteps }
    });
    assert!(compared > 50, "{compared}");
}

/// What a trajectory is walked with.
struct Walk {
    config: SchedulerConfig,
    schedule: Schedule,
    kind: SamplerKind,
    timesteps: sampler::Timesteps,
}

/// Follows the trajectories of a fixture, this many, each as its own scheduler config says; the number of clean latents
/// that were compared.
fn follow(cases: &str, file: &[u8], count: usize) -> usize {
    follow_as(cases, file, count, |name, case| {
        let config = SchedulerConfig::from_json(&case.config.to_string()).unwrap();
        let schedule = Schedule::new(&config).unwrap().with_tokens(case.tokens.unwrap_or(1));
        let choice = config.sampler().unwrap();
        assert_eq!(name.split('_').next(), Some(choice.kind.name()), "{name}: {choice:?}");
        assert_eq!(choice.note, None, "{name}");
        Walk { config, schedule, kind: choice.kind, timesteps: (&case.n).into() }
    })
}

/// Follows the trajectories of a fixture, this many, each as `walk` says.
fn follow_as(cases: &str, file: &[u8], count: usize, walk: impl Fn(&str, &Case) -> Walk) -> usize {
    let cases: BTreeMap<String, Case> = serde_json::from_str(cases).unwrap();
    let file = SafeTensors::deserialize(file).unwrap();
    assert_eq!(cases.len(), count);
    let (zl, noise0) = (stored(&file, "zl"), stored(&file, "noise0"));
    let (outputs, noises) = (stored(&file, "outputs"), stored(&file, "noises"));
    let len = zl.len();
    let part = |all: &[f32], i: usize| all[i * len..(i + 1) * len].to_vec();
    let mut x0s_compared = 0;
    for (name, case) in &cases {
        let Walk { config, schedule, kind, timesteps } = walk(name, case);
        let sampler = kind.build(&config, case.eta).unwrap();
        let steps = plan(&*sampler, &schedule, &timesteps, Denoise::Steps(case.run)).unwrap();
        assert_eq!(steps.len(), case.timesteps.len(), "{name}");
        for (ours, &theirs) in in_f32(&steps).into_iter().zip(&case.timesteps) {
            // Logarithms of numpy differ from ours in their last bits.
            let error = (ours - theirs).abs();
            assert!(
                error <= if theirs.fract() == 0.0 { 0.0 } else { 1e-3 },
                "{name}: {ours} for {theirs}"
            );
        }

        let zs = stored(&file, &format!("z.{name}"));
        let x0s = file
            .tensor(&format!("x0.{name}"))
            .is_ok()
            .then(|| stored(&file, &format!("x0.{name}")));
        let updates = sampler::updates(&*sampler, &schedule, &steps).unwrap();
        // What each step kept, the latest last.
        let mut kept: Vec<Vec<f32>> = Vec::new();
        let mut z = noise0.clone();
        sampler::add_noise(steps[0].level, &zl, &mut z).unwrap();
        assert_close(&z, &zs[..len], 1e-6, &format!("{name}, diffused"));
        for (i, step) in steps.iter().enumerate() {
            let mut eps = part(&outputs, i);
            schedule.convert(step, &z, &mut eps).unwrap();
            let update = &updates[i];
            if let (Some(x0s), None) = (&x0s, update.clip) {
                let Level { signal, spread } = step.level;
                let x0_hat = |(z, eps): (&f32, &f32)| (z - spread as f32 * eps) / signal as f32;
                let x0: Vec<f32> = match step.form {
                    PredictionForm::Noise => z.iter().zip(&eps).map(x0_hat).collect(),
                    PredictionForm::Clean => eps.clone(),
                };
                assert_close(&x0, &part(x0s, i), 1e-5, &format!("{name}, x0 of step {i}"));
                x0s_compared += 1;
            }
            let known = update.quantile().map(|(x0, share)| {
                let values = || z.iter().zip(&eps).map(|(z, p)| x0.z * z + x0.prediction * p);
                let mut search = QuantileSearch::new(len as u64, share);
                search.count(values());
                search.begin_second();
                search.count(values());
                update.with_quantile(search.value())
            });
            let update = known.as_ref().unwrap_or(update);
            let stochastic = match kind {
                SamplerKind::Ddim => {
                    case.eta > Some(0.0) && !(step.last && schedule.final_level() == Level::CLEAN)
                }
                SamplerKind::Tcd => case.eta > Some(0.0) && !step.last,
                SamplerKind::Lcm | SamplerKind::EulerAncestral | SamplerKind::DpmppSde => {
                    !step.last
                }
                SamplerKind::Dpmpp2mSde | SamplerKind::Dpmpp3mSde => step.to != Level::CLEAN,
                SamplerKind::FlowEuler => config.flow.stochastic_sampling && !step.last,
                _ => false,
            };
            assert_eq!(update.needs_noise(), stochastic, "{name}, step {i}");
            let noise = part(&noises, i);
            let earlier: Vec<&[f32]> = kept.iter().rev().map(Vec::as_slice).collect();
            let mut keeps = vec![0.0; len];
            let noise = update.needs_noise().then_some(&*noise);
            update.apply_with(&mut z, &eps, noise, &earlier, Some(&mut keeps)).unwrap();
            kept.push(keeps);
            assert_close(&z, &part(&zs, i + 1), 1e-5, &format!("{name}, step {i}"));
        }
    }
    x0s_compared
}

#[derive(Deserialize)]
struct FlowTable {
    config: serde_json::Value,
    tokens: Option<usize>,
    steps: BTreeMap<usize, Vec<f64>>,
    /// Number of steps, strength, first timestep and number of those that run.
    #[serde(default)]
    strengths: Vec<(usize, f64, f64, usize)>,
}

#[test]
fn levels_of_flow_matching_and_their_share_at_a_strength_are_those_of_diffusers() {
    let tables: BTreeMap<String, FlowTable> =
        serde_json::from_str(include_str!("../fixtures/sampler/flow.json")).unwrap();
    assert_eq!(tables.len(), 11);
    let mut strengths = 0;
    for (name, FlowTable { config, tokens, steps, strengths: shares }) in &tables {
        let config = SchedulerConfig::from_json(&config.to_string()).unwrap();
        let mut schedule = Schedule::new(&config).unwrap();
        if let &Some(tokens) = tokens {
            schedule = schedule.with_tokens(tokens);
        }
        let sampler = SamplerKind::FlowEuler.build(&config, None).unwrap();
        let total = schedule.train_timesteps() as f64;
        for (&n, expected) in steps {
            let ours = sampler.steps(&schedule, n).unwrap();
            assert_eq!(ours.len(), expected.len());
            for (step, t) in ours.iter().zip(expected) {
                let error = (step.t - t).abs().max((step.level.spread * total - t).abs());
                assert!(error <= 1e-5 * total, "{name}, {n} steps: {} for {t}", step.t);
                assert!((step.level.signal + step.level.spread - 1.0).abs() < 1e-12);
            }
        }
        for &(n, strength, first, run) in shares {
            let denoise = Denoise::Strength(strength);
            let steps = plan(&*sampler, &schedule, &sampler::Timesteps::Count(n), denoise).unwrap();
            assert_eq!(steps.len(), run, "{strength} of {n}");
            assert!((steps[0].t - first).abs() <= 1e-2, "{strength} of {n}: {}", steps[0].t);
            strengths += 1;
        }
    }
    assert_eq!(strengths, 40);
}

#[test]
fn a_step_taken_in_bands_and_on_other_threads_gives_the_same_bits() {
    let schedule = schedule("{}");
    let sampler = Ddim::new(0.5).unwrap();
    let step = sampler.steps(&schedule, 8).unwrap()[5];
    let update = sampler.update(&schedule, &[], &step).unwrap();
    let wave = |k: f32| (0..100_000).map(|i| (i as f32 * k).sin() * 2.0).collect::<Vec<f32>>();
    let (z, eps, noise) = (wave(0.1), wave(0.37), wave(1.7));
    let run = |threads: usize, band: usize| {
        let mut out = z.clone();
        on_threads(threads, || {
            for start in (0..out.len()).step_by(band) {
                let end = (start + band).min(out.len());
                update
                    .apply(&mut out[start..end], &eps[start..end], Some(&noise[start..end]))
                    .unwrap();
            }
        });
        out.iter().map(|v| v.to_bits()).collect::<Vec<_>>()
    };
    let whole = run(1, z.len());
    assert_eq!(run(3, z.len()), whole);
    assert_eq!(run(2, 777), whole);
}

#[test]
fn pure_noise_is_refused_only_where_the_model_predicts_the_noise_alone() {
    let refused = |changes: &str, kind: SamplerKind| {
        let schedule = schedule(changes);
        let sampler = kind.build(&SchedulerConfig::from_json(SDXL).unwrap(), None).unwrap();
        let all = (sampler::Timesteps::Count(8), Denoise::Strength(1.0));
        let steps = plan(&*sampler, &schedule, &all.0, all.1).unwrap();
        assert!(sampler.update(&schedule, &[], &steps[1]).is_ok());
        match sampler.update(&schedule, &[], &steps[0]) {
            Err(SamplerError::NoSignal { t }) => t == 999.0,
            _ => false,
        }
    };
    for kind in of_betas() {
        // The solvers in σ keep a little signal there.
        let others = [SamplerKind::Ddim, SamplerKind::Tcd, SamplerKind::Lcm];
        let solver = !others.contains(&kind);
        assert_eq!(refused(r#"{"rescale_betas_zero_snr": true}"#, kind), !solver, "{kind}");
        for prediction in ["v_prediction", "sample"] {
            let changes =
                format!(r#"{{"rescale_betas_zero_snr": true, "prediction_type": "{prediction}"}}"#);
            assert!(!refused(&changes, kind), "{kind}, {prediction}");
        }
    }
}
