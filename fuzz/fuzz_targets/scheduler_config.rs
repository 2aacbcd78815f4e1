//! `scheduler_config.json`: what is accepted has finite noise levels, and plans a run for every sampler or says why not.
#![no_main]

use cupscale::sampler::{
    Denoise, SamplerError, SamplerKind, Schedule, SchedulerConfig, Timesteps, plan, updates,
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
    let schedule = Schedule::new(config)?;
    assert!(schedule.train_timesteps() > 0);
    for count in [1, 3] {
        let steps = plan(&*sampler, &schedule, &Timesteps::Count(count), Denoise::Strength(1.0))?;
        assert!(!steps.is_empty() && steps.len() <= count);
        updates(&*sampler, &schedule, &steps)?;
    }
    Ok(())
}
