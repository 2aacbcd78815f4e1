//! Scripts of A1111 that requests name: those that enlarge say a size, which holds, and how they cut the picture into tiles,
//! which this program does in its own way. What another script would do is not done, and a request for it is refused where
//! its result would be another picture.

use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::error::A1111Error;

/// The script of the web UI that enlarges in tiles.
const SD_UPSCALE: &str = "sd upscale";
/// The extension that does so.
const ULTIMATE: &str = "ultimate sd upscale";

/// The largest factor of a script.
const LARGEST_FACTOR: f64 = 64.0;

/// The size that a script asks for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ScriptSize {
    /// That of the request.
    OfRequest,
    /// Sides in pixels.
    Sides(i64, i64),
    /// A factor on the picture's sides.
    Factor(f64),
}

/// Titles of the scripts.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScriptsList {
    txt2img: Vec<&'static str>,
    img2img: Vec<&'static str>,
}

/// A script, and its arguments in their order.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScriptInfo {
    name: &'static str,
    is_alwayson: bool,
    is_img2img: bool,
    args: Vec<ScriptArg>,
}

/// An argument of a script.
#[derive(Debug, Serialize, ToSchema)]
pub struct ScriptArg {
    label: &'static str,
    value: Value,
    minimum: Option<f64>,
    maximum: Option<f64>,
    step: Option<f64>,
    choices: Option<Vec<&'static str>>,
}

/// The scripts that requests may name.
pub fn list() -> ScriptsList {
    ScriptsList { txt2img: Vec::new(), img2img: vec![SD_UPSCALE, ULTIMATE] }
}

/// What a client needs to make arguments of the scripts.
pub fn about() -> Vec<ScriptInfo> {
    let arg = |(label, value): (&'static str, Value)| ScriptArg {
        label,
        value,
        minimum: None,
        maximum: None,
        step: None,
        choices: None,
    };
    let info = |name, args: Vec<(&'static str, Value)>| ScriptInfo {
        name,
        is_alwayson: false,
        is_img2img: true,
        args: args.into_iter().map(arg).collect(),
    };
    let number = |label, value: i64| (label, Value::from(value));
    let mut ultimate = info(
        ULTIMATE,
        vec![
            ("", "".into()),
            number("Tile width", 512),
            number("Tile height", 0),
            number("Mask blur", 8),
            number("Padding", 32),
            number("Width", 64),
            ("Denoise", 0.35.into()),
            number("Padding", 16),
            number("Upscaler", 0),
            ("Upscaled", true.into()),
            number("Type", 0),
            ("Seams fix", false.into()),
            number("Mask blur", 4),
            number("Type", 0),
            number("Target size type", 0),
            number("Custom width", 2048),
            number("Custom height", 2048),
            ("Scale", 2.0.into()),
        ],
    );
    ultimate.args[TARGET].choices =
        Some(vec!["From img2img2 settings", "Custom size", "Scale from image size"]);
    let plain = info(
        SD_UPSCALE,
        vec![
            ("", "".into()),
            number("Tile overlap", 64),
            number("Upscaler", 0),
            ("Scale Factor", 2.0.into()),
        ],
    );
    vec![plain, ultimate]
}

/// Places of the arguments that say a size.
const FACTOR: usize = 3;
const TARGET: usize = 14;
const CUSTOM: [usize; 3] = [15, 16, 17];

/// The size that a script asks for; `None` without a script. `note` hears of the rest.
///
/// # Errors
/// A script that is not here, or an argument that is no number.
pub fn size(
    name: Option<&str>,
    args: &[Value],
    mut note: impl FnMut(String),
) -> Result<Option<ScriptSize>, A1111Error> {
    let Some(name) = name.filter(|name| !name.eq_ignore_ascii_case("none")) else {
        return Ok(None);
    };
    let number = |at: usize, default: f64, (low, high): (f64, f64)| match args.get(at) {
        None | Some(Value::Null) => Ok(default),
        Some(value) => {
            let text = |value: &Value| value.as_str().and_then(|text| text.trim().parse().ok());
            let number: Option<f64> = value.as_f64().or_else(|| text(value));
            number.filter(|number| (low..=high).contains(number)).ok_or_else(|| {
                A1111Error::unfit(format!(
                    "script_args[{at}] of {name}: not a number from {low} to {high}"
                ))
            })
        }
    };
    let factor = (f64::MIN_POSITIVE, LARGEST_FACTOR);
    let size = match name.trim().to_ascii_lowercase().as_str() {
        SD_UPSCALE => ScriptSize::Factor(number(FACTOR, 2.0, factor)?),
        ULTIMATE => match number(TARGET, 0.0, (0.0, 2.0))? as u8 {
            0 => ScriptSize::OfRequest,
            1 => {
                let side = |at| number(at, 2048.0, (1.0, f64::from(u32::MAX)));
                ScriptSize::Sides(side(CUSTOM[0])? as i64, side(CUSTOM[1])? as i64)
            }
            _ => ScriptSize::Factor(number(CUSTOM[2], 2.0, factor)?),
        },
        _ => {
            return Err(A1111Error::unfit(format!(
                "Script '{name}' not found: there are {SD_UPSCALE} and {ULTIMATE}"
            )));
        }
    };
    note(format!(
        "script {name}: its size holds; tiles, padding, seams and upscaler are left to this program's own regions"
    ));
    Ok(Some(size))
}

/// Looks through the scripts that run beside every job; `note` hears of those that do nothing here.
///
/// # Errors
/// One that would make another picture: a ControlNet that is on.
pub fn check_always_on(
    scripts: &Map<String, Value>,
    mut note: impl FnMut(String),
) -> Result<(), A1111Error> {
    for (name, script) in scripts {
        let args = match script.get("args") {
            Some(Value::Array(args)) => args.as_slice(),
            Some(one @ Value::Object(_)) => std::slice::from_ref(one),
            _ => &[],
        };
        if !name.trim().eq_ignore_ascii_case("controlnet") {
            // The first argument of most is whether they are on.
            if args.first() != Some(&Value::Bool(false)) && args.iter().any(is_on) {
                note(format!(
                    "script {name}: this program has none of that name, so it does nothing"
                ));
            }
            continue;
        }
        for (number, unit) in args.iter().enumerate().filter(|(_, unit)| is_control(unit)) {
            let told = |field| unit.get(field).and_then(Value::as_str).unwrap_or_default();
            let (module, model) = (told("module"), told("model"));
            if !module.to_ascii_lowercase().contains("tile")
                && !model.to_ascii_lowercase().contains("tile")
            {
                return Err(A1111Error::unfit(format!(
                    "alwayson_scripts: ControlNet unit {number} is on ({}): a ControlNet is chosen when the server starts, with --control; turn the unit off",
                    [module, model]
                        .into_iter()
                        .filter(|name| !name.is_empty())
                        .collect::<Vec<_>>()
                        .join(", ")
                )));
            }
            note(format!(
                "ControlNet unit {number}: tiles are held to the picture by this program's own priors, so it does nothing"
            ));
        }
    }
    Ok(())
}

/// `true` for an argument of a script that is on.
fn is_on(argument: &Value) -> bool {
    match argument {
        Value::Null | Value::Bool(false) => false,
        Value::Object(fields) => {
            let flags = ["enabled", "is_enabled", "ad_tab_enable"].map(|name| fields.get(name));
            !flags.into_iter().flatten().any(|flag| *flag == Value::Bool(false))
        }
        _ => true,
    }
}

/// `true` for a ControlNet unit that would do something.
fn is_control(unit: &Value) -> bool {
    let Value::Object(fields) = unit else { return false };
    let is_named = |field: &str| {
        let name = fields.get(field).and_then(Value::as_str).unwrap_or_default();
        !name.is_empty() && !name.eq_ignore_ascii_case("none")
    };
    fields.get("enabled") != Some(&Value::Bool(false)) && (is_named("module") || is_named("model"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(name: &str, args: Value) -> Result<Option<ScriptSize>, String> {
        let args = args.as_array().unwrap();
        size(Some(name), args, drop).map_err(|error| error.to_string())
    }

    #[test]
    fn the_size_of_a_script_that_enlarges_holds() {
        assert_eq!(of("SD upscale", json!([null, 64, 1, 3])), Ok(Some(ScriptSize::Factor(3.0))));
        assert_eq!(of("SD upscale", json!([])), Ok(Some(ScriptSize::Factor(2.0))));
        let mut args = vec![json!(0); 18];
        assert_eq!(of(ULTIMATE, json!(args)), Ok(Some(ScriptSize::OfRequest)));
        (args[14], args[15], args[16]) = (json!(1), json!(96), json!("64"));
        assert_eq!(of("Ultimate SD upscale", json!(args)), Ok(Some(ScriptSize::Sides(96, 64))));
        (args[14], args[17]) = (json!(2), json!(1.5));
        assert_eq!(of(ULTIMATE, json!(args)), Ok(Some(ScriptSize::Factor(1.5))));
        args[17] = json!(0);
        assert!(of(ULTIMATE, json!(args)).unwrap_err().contains("script_args[17]"));
        assert_eq!(of("None", json!([])), Ok(None));
        assert!(of("X/Y/Z plot", json!([])).unwrap_err().contains("Script 'X/Y/Z plot' not found"));
        let mut notes = Vec::new();
        size(Some("sd upscale"), &[], |note| notes.push(note)).unwrap();
        assert!(notes.len() == 1 && notes[0].contains("tiles"), "{notes:?}");
        assert_eq!(about()[1].args[CUSTOM[2]].label, "Scale");
        assert_eq!(about()[0].args[FACTOR].label, "Scale Factor");
    }

    #[test]
    fn a_controlnet_that_is_on_is_refused_and_the_rest_is_told() {
        let check = |scripts: Value| {
            let mut notes = Vec::new();
            let result = check_always_on(scripts.as_object().unwrap(), |note| notes.push(note));
            result.map(|()| notes).map_err(|error| error.to_string())
        };
        let off = json!({"enabled": false, "module": "canny", "model": "x"});
        let none = json!({"module": "none", "model": "None", "input_image": ""});
        let quiet = json!({"controlnet": {"args": [off, none, null]}, "ADetailer": {"args": [false, {"ad_model": "face"}]},
            "dynamic thresholding": {}, "roop": {"args": [{"is_enabled": false}]}});
        assert_eq!(check(quiet), Ok(Vec::new()));
        let on = json!({"ControlNet": {"args": [{"module": "canny", "model": "control_canny"}]}});
        let error = check(on).unwrap_err();
        assert!(error.contains("canny, control_canny") && error.contains("--control"), "{error}");
        let tile = json!({"ControlNet": {"args": [{"module": "tile_resample", "model": "x"}]},
            "ADetailer": {"args": [true, {"ad_model": "face"}]}});
        assert_eq!(check(tile).unwrap().len(), 2);
    }
}
