//! `scheduler_config.json`: what is accepted has finite noise levels, and plans a run for every sampler or says why not.
#![no_main]

use cupscale::sampler::{
    Denoise, NoiseProcess, SamplerError, SamplerKind, Schedule, SchedulerConfig, Timesteps, plan, updates,
};
use cupscale_fuzz::{MIB, config, told, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|file: &[u8]| {
    let read = |value: &serde_json::Value| SchedulerConfig::from_json(&value.to_string());
    config(file, read, |config| {
        let _ = config.sampler().map_err(told);
        for kind in SamplerKind::ALL {
            // A hundred thousand betas, three times.
            if let Err(error) = within(8 * MIB, || run(kind, config)) {
                told(error);
            }
        }
    });
});

fn run(kind: SamplerKind, config: &SchedulerConfig) -> Result<(), SamplerError> {
    let sampler = kind.build(config, None)?;
    let schedule = Schedule::new(config)?.with_tokens(1024);
    assert!(schedule.train_timesteps() > 0);
    for count in [1, 3] {
        let steps = plan(&*sampler, &schedule, &Timesteps::Count(count), Denoise::Strength(1.0))?;
        assert!(!steps.is_empty() && steps.len() <= sampler.predictions() * count);
        if kind.process() == NoiseProcess::FlowMatching {
            let is_share = |share: f64| (0.0..=1.0).contains(&share);
            assert!(steps.iter().all(|step| is_share(step.level.signal) && is_share(step.level.spread)));
        }
        let updates = updates(&*sampler, &schedule, &steps)?;
        assert!(updates.iter().all(|update| update.z.is_finite() && update.prediction.is_finite()));
    }
    Ok(())
}
