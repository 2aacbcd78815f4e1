//! Samplers and schedulers by the names that A1111 has for them: clients keep lists of these in their own code, and send
//! one of them with every request.

use cupscale::sampler::SamplerKind;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::error::A1111Error;

/// The name for the model's own sampler and noise levels.
pub const AUTOMATIC: &str = "Automatic";

/// Samplers that are the same here, the model's own first: a client that takes the first of the list does well with it.
const SAMPLERS: [(&str, SamplerKind); 13] = [
    ("Euler a", SamplerKind::EulerAncestral),
    ("Euler", SamplerKind::Euler),
    ("DPM++ 2M", SamplerKind::Dpmpp2m),
    ("DPM++ SDE", SamplerKind::DpmppSde),
    ("DPM++ 2M SDE", SamplerKind::Dpmpp2mSde),
    ("DPM++ 3M SDE", SamplerKind::Dpmpp3mSde),
    ("DPM++ 2S", SamplerKind::Dpmpp2s),
    ("Heun", SamplerKind::Heun),
    ("DDIM", SamplerKind::Ddim),
    ("UniPC", SamplerKind::UniPc),
    ("LCM", SamplerKind::Lcm),
    ("TCD", SamplerKind::Tcd),
    ("Flow Euler", SamplerKind::FlowEuler),
];

/// Samplers that A1111 has and this program has not, and what runs in their place: that of the same order on the same noise
/// levels, with fresh noise where they have it.
const STAND_INS: [(&str, SamplerKind); 10] = [
    ("LMS", SamplerKind::Euler),
    ("DPM2", SamplerKind::Heun),
    ("DPM2 a", SamplerKind::EulerAncestral),
    ("DPM++ 2S a", SamplerKind::DpmppSde),
    ("DPM++ 2M SDE Heun", SamplerKind::Dpmpp2mSde),
    ("DPM fast", SamplerKind::Dpmpp2m),
    ("DPM adaptive", SamplerKind::Dpmpp2m),
    ("Restart", SamplerKind::Euler),
    ("PLMS", SamplerKind::Ddim),
    ("DDIM CFG++", SamplerKind::Ddim),
];

/// How the steps are spread, for one of A1111's schedulers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spread {
    /// As the model's folder says.
    Own,
    /// By the noise levels of this name.
    Sigmas(&'static str),
    /// The noise levels of timesteps that end at the last one.
    Trailing,
    /// Nothing here is like it.
    Unknown,
}

/// Schedulers: their names, their labels, and what they are here.
const SCHEDULERS: [(&str, &str, Spread); 13] = [
    ("automatic", AUTOMATIC, Spread::Own),
    ("uniform", "Uniform", Spread::Sigmas("simple")),
    ("karras", "Karras", Spread::Sigmas("karras")),
    ("exponential", "Exponential", Spread::Sigmas("exponential")),
    // With the ρ of 1 that it has there, it is the exponential one.
    ("polyexponential", "Polyexponential", Spread::Sigmas("exponential")),
    ("sgm_uniform", "SGM Uniform", Spread::Trailing),
    ("simple", "Simple", Spread::Sigmas("simple")),
    ("normal", "Normal", Spread::Sigmas("simple")),
    ("beta", "Beta", Spread::Sigmas("beta")),
    ("ddim", "DDIM", Spread::Unknown),
    ("kl_optimal", "KL Optimal", Spread::Unknown),
    ("align_your_steps", "Align Your Steps", Spread::Unknown),
    ("turbo", "Turbo", Spread::Unknown),
];

/// A sampler in the list that clients ask for.
#[derive(Debug, Serialize, ToSchema)]
pub struct SamplerItem {
    name: &'static str,
    aliases: Vec<String>,
    options: Map<String, Value>,
}

/// A scheduler in the list that clients ask for.
#[derive(Debug, Serialize, ToSchema)]
pub struct SchedulerItem {
    name: &'static str,
    label: &'static str,
    aliases: Option<Vec<String>>,
    default_rho: f64,
    need_inner_model: bool,
}

/// The samplers that a client may name.
pub fn samplers() -> Vec<SamplerItem> {
    let named = SAMPLERS.into_iter().map(|(name, kind)| (name, vec![kind.name().to_owned()]));
    let all = [(AUTOMATIC, Vec::new())].into_iter().chain(named);
    all.map(|(name, aliases)| SamplerItem { name, aliases, options: Map::new() }).collect()
}

/// The schedulers that a client may name.
pub fn schedulers() -> Vec<SchedulerItem> {
    let known = SCHEDULERS.into_iter().filter(|(.., spread)| *spread != Spread::Unknown);
    known
        .map(|(name, label, _)| SchedulerItem {
            name,
            label,
            aliases: None,
            default_rho: -1.0,
            need_inner_model: false,
        })
        .collect()
}

/// A1111's name of one of our samplers.
pub fn name_of(sampler: &str) -> &str {
    SAMPLERS.iter().find(|(_, kind)| kind.name() == sampler).map_or(sampler, |(name, _)| name)
}

/// The settings that a sampler and a scheduler mean; `note` hears of what is another here.
///
/// # Errors
/// A name that neither A1111 nor this program has.
pub fn settings(
    sampler: Option<&str>,
    scheduler: Option<&str>,
    mut note: impl FnMut(String),
) -> Result<Map<String, Value>, A1111Error> {
    let mut settings = Map::new();
    let sampler = sampler.map(str::trim).filter(|name| !is_automatic(name));
    let scheduler = scheduler.map(str::trim).filter(|name| !is_automatic(name));
    // Before schedulers were chosen by themselves, their name stood behind the sampler's.
    let (kind, behind) = match sampler {
        None => (None, None),
        Some(name) => match (kind_of(name), name.rsplit_once(' ')) {
            (Some(kind), _) => (Some((name, kind)), None),
            (None, Some((before, behind))) if spread_of(behind).is_some() => {
                (kind_of(before).map(|kind| (before, kind)), Some(behind))
            }
            _ => (None, None),
        },
    };
    if let (Some(name), None) = (sampler, kind) {
        let known: Vec<&str> = samplers().iter().map(|item| item.name).collect();
        return Err(A1111Error::not_found(format!(
            "Sampler not found: {name:?}; there are {}",
            known.join(", ")
        )));
    }
    if let Some((name, (kind, is_stand_in))) = kind {
        if is_stand_in {
            note(format!("sampler {name}: this program has none of that name; running {kind}"));
        }
        settings.insert("sampler".to_owned(), json!(kind.name()));
    }
    let Some(scheduler) = scheduler.or(behind) else { return Ok(settings) };
    let Some(spread) = spread_of(scheduler) else {
        let known: Vec<&str> = schedulers().iter().map(|item| item.label).collect();
        return Err(A1111Error::not_found(format!(
            "Scheduler not found: {scheduler:?}; there are {}",
            known.join(", ")
        )));
    };
    let has_sigmas = kind.is_none_or(|(_, (kind, _))| kind.has_sigmas());
    let has_spacing = kind.is_none_or(|(_, (kind, _))| kind.has_spacing());
    match spread {
        Spread::Own => {}
        Spread::Sigmas(levels) if has_sigmas || levels == "simple" => {
            settings.insert("sigmas".to_owned(), json!(levels));
        }
        Spread::Trailing if has_spacing => {
            settings.insert("sigmas".to_owned(), json!("simple"));
            settings.insert("spacing".to_owned(), json!("trailing"));
        }
        Spread::Sigmas(_) | Spread::Trailing => note(format!(
            "scheduler {scheduler}: this sampler has steps of its own, so it has no effect"
        )),
        Spread::Unknown => note(format!(
            "scheduler {scheduler}: this program has none of that name; the steps are spread as the model's folder says"
        )),
    }
    Ok(settings)
}

fn is_automatic(name: &str) -> bool {
    name.is_empty() || name.eq_ignore_ascii_case(AUTOMATIC) || name.eq_ignore_ascii_case("none")
}

/// The sampler of this name, ours or A1111's, and whether it stands in for that.
fn kind_of(name: &str) -> Option<(SamplerKind, bool)> {
    let find = |table: &[(&str, SamplerKind)]| {
        table.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, kind)| *kind)
    };
    let own = || name.to_ascii_lowercase().parse().ok();
    let exact = find(&SAMPLERS).or_else(own).map(|kind| (kind, false));
    exact.or_else(|| find(&STAND_INS).map(|kind| (kind, true)))
}

fn spread_of(name: &str) -> Option<Spread> {
    let is = |(known, label, _): &&(&str, &str, Spread)| {
        known.eq_ignore_ascii_case(name) || label.eq_ignore_ascii_case(name)
    };
    SCHEDULERS.iter().find(is).map(|(.., spread)| *spread)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(sampler: &str, scheduler: &str) -> (Value, Vec<String>) {
        let mut notes = Vec::new();
        let settings = settings(Some(sampler), Some(scheduler), |note| notes.push(note)).unwrap();
        (Value::Object(settings), notes)
    }

    #[test]
    fn names_of_clients_are_our_samplers_or_stand_ins_that_are_told() {
        assert_eq!(read("Euler a", ""), (json!({"sampler": "euler-a"}), Vec::new()));
        assert_eq!(read("euler-a", "Automatic").0, json!({"sampler": "euler-a"}));
        let karras = json!({"sampler": "dpmpp-2m", "sigmas": "karras"});
        assert_eq!(read("DPM++ 2M Karras", "").0, karras);
        assert_eq!(read("DPM++ 2M", "karras").0, karras);
        assert_eq!(read("DPM++ 2M Karras", "Beta").0["sigmas"], "beta");
        assert_eq!(read("", ""), (json!({}), Vec::new()));
        assert_eq!(read("Automatic", "SGM Uniform").0["spacing"], "trailing");
        let (settings, notes) = read("DPM2 a Karras", "");
        assert_eq!(settings, json!({"sampler": "euler-a", "sigmas": "karras"}));
        assert!(notes[0].contains("DPM2 a") && notes.len() == 1, "{notes:?}");
        let (settings, notes) = read("DDIM", "Karras");
        assert_eq!(settings, json!({"sampler": "ddim"}));
        assert!(notes[0].contains("Karras"), "{notes:?}");
        let (settings, notes) = read("Euler", "KL Optimal");
        assert_eq!((settings, notes.len()), (json!({"sampler": "euler"}), 1));
        for wrong in ["k_dance", "Karras", "Euler a b"] {
            assert!(settings_error(wrong, "").contains("Sampler not found"), "{wrong}");
        }
        assert!(settings_error("Euler", "odd").contains("Scheduler not found"));
    }

    fn settings_error(sampler: &str, scheduler: &str) -> String {
        settings(Some(sampler), Some(scheduler), drop).unwrap_err().to_string()
    }

    #[test]
    fn every_sampler_of_the_program_is_in_the_list_that_clients_get() {
        for kind in SamplerKind::ALL {
            assert!(SAMPLERS.iter().any(|(_, known)| *known == kind), "{kind}");
            assert_eq!(kind_of(name_of(kind.name())), Some((kind, false)));
        }
        for item in samplers() {
            assert!(settings(Some(item.name), None, drop).is_ok(), "{}", item.name);
        }
        for item in schedulers() {
            assert!(settings(Some("Euler"), Some(item.label), drop).is_ok(), "{}", item.label);
        }
    }
}
