//! `/extra-single-image` and `/extra-batch-images`: pictures are enlarged as the model that is loaded does it. The upscalers of
//! the web UI are not here, so that most of their names mean this program's own.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    error::A1111Error,
    options::shortened,
    picture::Sent,
    values::{Flag, Number, Whole, Words, is_nothing},
};

/// The upscaler that is this program.
pub const OWN: &str = "cupscale-fast";
/// The upscaler that is none: for clients, in the first place of the list.
const NONE: &str = "None";
/// The plain enlargement, without the model.
const LANCZOS: &str = "Lanczos";

/// The most pictures of one request.
pub const MOST: usize = 256;
/// The largest factor.
const LARGEST: f64 = 64.0;

/// What both calls have.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(default)]
pub struct Extras {
    /// 0: by a factor; 1: to a size.
    pub resize_mode: Whole,
    /// The factor, 2 if left out.
    pub upscaling_resize: Number,
    /// Width to reach, 512 if left out.
    pub upscaling_resize_w: Whole,
    /// Height to reach, 512 if left out.
    pub upscaling_resize_h: Whole,
    /// True, as if left out: the result has exactly that size, and what is beyond is cut off.
    pub upscaling_crop: Flag,
    /// `Lanczos` is the enlargement without the model; every other name means this program.
    pub upscaler_1: Words,
    /// `Lanczos` is mixed in.
    pub upscaler_2: Words,
    /// Share of the second upscaler.
    pub extras_upscaler_2_visibility: Number,
    /// Ignored with a note.
    pub gfpgan_visibility: Number,
    /// Ignored with a note.
    pub codeformer_visibility: Number,
    /// Ignored.
    pub codeformer_weight: Number,
    /// Ignored.
    pub upscale_first: Flag,
    /// Ignored: the answer always has the picture.
    pub show_extras_results: Flag,
}

/// One picture.
#[derive(Debug, Deserialize, ToSchema)]
pub struct SingleRequest {
    /// The picture, as base64 of its file, with or without the head of a data URL.
    #[serde(default)]
    pub image: Words,
    #[serde(flatten)]
    pub extras: Extras,
    #[serde(flatten)]
    #[schema(ignore)]
    pub rest: Map<String, Value>,
}

/// Several pictures.
#[derive(Debug, Deserialize, ToSchema)]
pub struct BatchRequest {
    #[serde(rename = "imageList")]
    pub image_list: Vec<FileData>,
    #[serde(flatten)]
    pub extras: Extras,
    #[serde(flatten)]
    #[schema(ignore)]
    pub rest: Map<String, Value>,
}

/// A picture of several.
#[derive(Debug, Deserialize, ToSchema)]
pub struct FileData {
    /// The picture, as base64 of its file.
    pub data: String,
    /// Its name, for messages.
    pub name: String,
}

/// The answer to one picture.
#[derive(Debug, Serialize, ToSchema)]
pub struct SingleAnswer {
    /// What was done, and notes, as paragraphs.
    pub html_info: String,
    /// The result as base64; null if it was interrupted.
    pub image: Option<String>,
}

/// The answer to several pictures.
#[derive(Debug, Serialize, ToSchema)]
pub struct BatchAnswer {
    /// What was done, and notes, as paragraphs.
    pub html_info: String,
    /// The results as base64, in the order of the pictures; fewer if it was interrupted.
    pub images: Vec<String>,
}

/// An upscaler in the list that clients ask for.
#[derive(Debug, Serialize, ToSchema)]
pub struct UpscalerItem {
    name: &'static str,
    model_name: Option<String>,
    model_path: Option<String>,
    model_url: Option<String>,
    scale: f64,
}

/// The upscalers that a request may name.
pub fn upscalers() -> Vec<UpscalerItem> {
    let item = |name| UpscalerItem {
        name,
        model_name: None,
        model_path: None,
        model_url: None,
        scale: 4.0,
    };
    [NONE, OWN, LANCZOS].map(item).into()
}

/// One of the upscalers that there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Upscaler {
    Own,
    Lanczos,
}

/// What a request asks for each of its pictures.
#[derive(Debug)]
pub struct Plan {
    /// Settings that hold for every picture.
    settings: Map<String, Value>,
    goal: Goal,
    pub notes: Vec<String>,
}

/// The size of results.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goal {
    Factor(f64),
    /// Exactly this size.
    Cut(u32, u32),
    /// Large enough to cover this size.
    Cover(u32, u32),
}

impl Extras {
    /// Reads what is to be done; `rest` are the fields of the request that are not here.
    ///
    /// # Errors
    /// A number out of its range.
    pub fn plan(&self, rest: &Map<String, Value>) -> Result<Plan, A1111Error> {
        let mut notes = Vec::new();
        let mut settings = Map::new();
        let goal = self.goal()?;
        let share = |name: &str, number: Number| match number.0.unwrap_or(0.0) {
            share if (0.0..=1.0).contains(&share) => Ok(share),
            share => Err(A1111Error::unfit(format!("{name}: {share} is not from 0 to 1"))),
        };
        let visibility = share("extras_upscaler_2_visibility", self.extras_upscaler_2_visibility)?;
        let faces = [
            ("gfpgan_visibility", share("gfpgan_visibility", self.gfpgan_visibility)?),
            ("codeformer_visibility", share("codeformer_visibility", self.codeformer_visibility)?),
        ];
        share("codeformer_weight", self.codeformer_weight)?;
        let mut idle: Vec<&str> =
            faces.into_iter().filter(|(_, share)| *share > 0.0).map(|(name, _)| name).collect();
        idle.extend(
            rest.iter().filter(|(_, value)| !is_nothing(value)).map(|(name, _)| name.as_str()),
        );
        if !idle.is_empty() {
            notes.push(format!("without effect here: {}", shortened(&idle)));
        }
        let first = upscaler(&self.upscaler_1, &mut notes).unwrap_or(Upscaler::Own);
        let second = upscaler(&self.upscaler_2, &mut notes).filter(|_| visibility > 0.0);
        // Of the repaint against the plain enlargement.
        let of = |upscaler: Upscaler| if upscaler == Upscaler::Own { 1.0 } else { 0.0 };
        let blend = match second {
            None => of(first),
            Some(second) => (1.0 - visibility) * of(first) + visibility * of(second),
        };
        if blend < 1.0 {
            settings.insert("blend".to_owned(), json!(blend));
            settings.insert("first".to_owned(), cupscale::pipeline::LANCZOS.into());
        }
        notes.dedup();
        Ok(Plan { settings, goal, notes })
    }

    fn goal(&self) -> Result<Goal, A1111Error> {
        match self.resize_mode.0.unwrap_or(0) {
            0 => match self.upscaling_resize.0.unwrap_or(2.0) {
                factor if factor > 0.0 && factor <= LARGEST => Ok(Goal::Factor(factor)),
                factor => Err(A1111Error::unfit(format!(
                    "upscaling_resize: {factor} is not above 0 and at most {LARGEST}"
                ))),
            },
            1 => {
                let side = |name: &str, side: Whole| {
                    let side = side.0.unwrap_or(512);
                    u32::try_from(side).ok().filter(|&side| side > 0).ok_or_else(|| {
                        A1111Error::unfit(format!("{name}: {side} is no number of pixels"))
                    })
                };
                let width = side("upscaling_resize_w", self.upscaling_resize_w)?;
                let height = side("upscaling_resize_h", self.upscaling_resize_h)?;
                Ok(match self.upscaling_crop.0.unwrap_or(true) {
                    true => Goal::Cut(width, height),
                    false => Goal::Cover(width, height),
                })
            }
            other => Err(A1111Error::unfit(format!("resize_mode: {other} is not 0 or 1"))),
        }
    }
}

impl Plan {
    /// The picture as it is to be enlarged, and the settings of its job.
    ///
    /// # Errors
    /// A picture that is to be cut and cannot be read to its end.
    pub fn of(&self, what: &str, picture: Sent) -> Result<(Sent, Map<String, Value>), A1111Error> {
        let mut settings = self.settings.clone();
        let (picture, name, value) = match self.goal {
            Goal::Factor(factor) => (picture, "scale", json!(factor)),
            Goal::Cut(width, height) => {
                (picture.cut_to(what, (width, height))?, "size", json!(format!("{width}x{height}")))
            }
            Goal::Cover(width, height) => {
                let (own_width, own_height) = (f64::from(picture.width), f64::from(picture.height));
                let factor = (f64::from(width) / own_width).max(f64::from(height) / own_height);
                let side = |side: f64| (side * factor).round().max(1.0);
                let size = format!("{}x{}", side(own_width), side(own_height));
                (picture, "size", json!(size))
            }
        };
        settings.insert(name.to_owned(), value);
        Ok((picture, settings))
    }

    /// What was asked for, as the web UI words it.
    pub fn words(&self) -> String {
        match self.goal {
            Goal::Factor(factor) => format!("Postprocess upscale by: {factor}"),
            Goal::Cut(width, height) => {
                format!(
                    "Postprocess upscale to: {width}x{height}, Postprocess crop to: {width}x{height}"
                )
            }
            Goal::Cover(width, height) => format!("Postprocess upscale to: {width}x{height}"),
        }
    }
}

/// The upscaler of this name; `None` for none.
fn upscaler(name: &Words, notes: &mut Vec<String>) -> Option<Upscaler> {
    let name = name.text().filter(|name| !name.eq_ignore_ascii_case(NONE))?;
    if name.eq_ignore_ascii_case(LANCZOS) {
        return Some(Upscaler::Lanczos);
    }
    if !name.eq_ignore_ascii_case(OWN) {
        let shown: String = name.chars().take(60).collect();
        notes.push(format!("upscaler {shown}: there is none of that name here; {OWN} enlarges"));
    }
    Some(Upscaler::Own)
}

/// Paragraphs of HTML with these lines.
pub fn html<'a>(lines: impl IntoIterator<Item = &'a str>) -> String {
    let escaped = |line: &str| line.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    lines.into_iter().map(|line| format!("<p>{}</p>", escaped(line))).collect()
}

#[cfg(test)]
mod tests {
    use super::{
        super::{picture::encode, values::fields},
        *,
    };

    fn plan(request: Value) -> Result<Plan, String> {
        let Value::Object(mut request) = request else { panic!("no object") };
        request.insert("image".to_owned(), json!(encode(b"P6 40 30 255\n")));
        let request: SingleRequest = fields(request).map_err(|error| error.to_string())?;
        request.extras.plan(&request.rest).map_err(|error| error.to_string())
    }

    fn settings(request: Value) -> Value {
        let mut file = b"P6 40 30 255\n".to_vec();
        file.resize(file.len() + 3600, 9);
        let sent = Sent::read("image", &encode(&file), 1200).unwrap();
        Value::Object(plan(request).unwrap().of("image", sent).unwrap().1)
    }

    #[test]
    fn sizes_are_those_of_the_web_ui() {
        assert_eq!(settings(json!({})), json!({"scale": 2.0}));
        assert_eq!(settings(json!({"upscaling_resize": 3})), json!({"scale": 3.0}));
        let sides =
            json!({"resize_mode": 1, "upscaling_resize_w": 100.0, "upscaling_resize_h": 100});
        assert_eq!(settings(sides.clone()), json!({"size": "100x100"}));
        let mut covering = sides;
        covering["upscaling_crop"] = json!(false);
        assert_eq!(settings(covering), json!({"size": "133x100"}));
        assert_eq!(settings(json!({"resize_mode": 1})), json!({"size": "512x512"}));
        for (wrong, said) in [
            (json!({"upscaling_resize": 0}), "upscaling_resize: 0"),
            (json!({"upscaling_resize": 65}), "at most 64"),
            (json!({"resize_mode": 2}), "resize_mode: 2"),
            (json!({"resize_mode": 1, "upscaling_resize_w": 0}), "upscaling_resize_w: 0"),
            (json!({"gfpgan_visibility": 2}), "gfpgan_visibility: 2"),
            (json!({"upscaler_1": 7}), "a text is wanted"),
        ] {
            let error = plan(wrong.clone()).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
        }
    }

    #[test]
    fn upscalers_are_this_program_or_the_plain_enlargement() {
        let of = |request: Value| {
            let plan = plan(request).unwrap();
            (plan.settings.get("blend").and_then(Value::as_f64), plan.notes.len())
        };
        assert_eq!(of(json!({"upscaler_1": "None", "upscaler_2": null})), (None, 0));
        assert_eq!(of(json!({"upscaler_1": "R-ESRGAN 4x+"})), (None, 1));
        assert_eq!(of(json!({"upscaler_1": "Lanczos"})), (Some(0.0), 0));
        let mixed = json!({"upscaler_1": OWN, "upscaler_2": "lanczos", "extras_upscaler_2_visibility": 0.25});
        assert_eq!(of(mixed), (Some(0.75), 0));
        let unseen = json!({"upscaler_1": OWN, "upscaler_2": "Lanczos"});
        assert_eq!(of(unseen), (None, 0));
        assert_eq!(of(json!({"codeformer_visibility": 0.5, "unknown": 1})), (None, 1));
        for item in upscalers() {
            assert_eq!(of(json!({"upscaler_1": item.name})).1, 0, "{}", item.name);
        }
        assert_eq!(html(["a < b & c"]), "<p>a &lt; b &amp; c</p>");
    }
}
