//! `/img2img`: a picture is repainted at the size that is asked for. What of the request means something here, and what it
//! means, is decided in this file.

mod request;

use cupscale::pipe::request::OutputForm;
use serde_json::{Map, Value, json};

use super::{
    error::A1111Error,
    options::{Options, SampleFormat, Sampling, shortened},
    picture::Sent,
    sampling,
    scripts::{self, ScriptSize},
    values::{Whole, is_nothing},
};
pub use request::Img2Img;

/// The most pictures that one request may ask for.
const MOST: usize = 64;

/// Blur of a mask where the request says none.
const MASK_BLUR: f64 = 4.0;

/// The widest feather of a mask.
const WIDEST: f64 = 1000.0;

/// Fields that change nothing here, by what they are: what is written on the server's disk, names of the client's own, noise
/// of samplers that are not here.
const IDLE: [&str; 27] = [
    "comments",
    "disable_extra_networks",
    "do_not_save_grid",
    "do_not_save_samples",
    "firstpass_image",
    "force_task_id",
    "image_cfg_scale",
    "infotext",
    "initial_noise_multiplier",
    "inpaint_full_res_padding",
    "is_using_inpainting_conditioning",
    "latent_mask",
    "mask_round",
    "override_settings_restore_afterwards",
    "refiner_switch_at",
    "s_churn",
    "s_min_uncond",
    "s_noise",
    "s_tmax",
    "s_tmin",
    "save_images",
    "seed_resize_from_h",
    "seed_resize_from_w",
    "session_id",
    "subseed",
    "uniqueDocumentId",
    "controlnet_units",
];

/// What holds for every request.
#[derive(Clone, Debug)]
pub struct Given {
    pub options: Options,
    /// Names of the models that it may choose from, the one that the server started with first.
    pub models: Vec<String>,
    pub most_pixels: u64,
}

/// What a request asks for, in the program's own words.
#[derive(Debug)]
pub struct Wanted {
    /// Settings of every job but its seed.
    pub settings: Map<String, Value>,
    /// Settings that give way to those of a model that is made for few steps, unless the request's hold.
    pub sampling: Map<String, Value>,
    pub pictures: Vec<Sent>,
    pub mask: Option<Sent>,
    /// Seed of each picture that is made.
    pub seeds: Vec<u64>,
    pub options: Options,
    pub notes: Vec<String>,
    pub batch: usize,
    pub size: (u32, u32),
}

impl Img2Img {
    /// Reads the request; `random` gives the seed where it wants one.
    ///
    /// # Errors
    /// What is missing, cannot be read, or would make another picture than is asked for.
    pub fn read(
        self,
        given: &Given,
        random: impl FnOnce() -> Result<u64, A1111Error>,
    ) -> Result<Wanted, A1111Error> {
        let mut options = given.options.clone();
        let mut notes = Vec::new();
        let mut note = |text: String| notes.push(text);
        self.check(&mut note)?;
        if let Some(wanted) = &self.override_settings {
            options.set(wanted, &given.models, &mut note)?;
        }
        let sent = self.init_images.as_deref().unwrap_or_default();
        if sent.is_empty() {
            return Err(A1111Error::not_found("Init image not found: init_images is empty"));
        }
        let count = |name: &str, number: Whole| match number.0.unwrap_or(1) {
            count @ 1..=64 => Ok(count as usize),
            count => Err(A1111Error::unfit(format!("{name}: {count} is not from 1 to {MOST}"))),
        };
        let (batch, rounds) =
            (count("batch_size", self.batch_size)?, count("n_iter", self.n_iter)?);
        let batch = if sent.len() == 1 { batch } else { sent.len() };
        if batch * rounds > MOST {
            return Err(A1111Error::unfit(format!(
                "{} pictures in one request: at most {MOST}; ask for fewer at once",
                batch * rounds
            )));
        }
        let numbered = sent.iter().enumerate();
        let read = |what: &str, text: &str| Sent::read(what, text, given.most_pixels);
        let pictures = numbered.map(|(at, text)| read(&format!("init_images[{at}]"), text));
        let mut pictures = pictures.collect::<Result<Vec<_>, _>>()?;
        let mut mask = self.mask.text().map(|text| read("mask", text)).transpose()?;
        let size = self.size(&pictures[0], &mut note)?;
        self.fit(&mut pictures, &mut mask, size)?;
        let first = match self.seed.0 {
            Some(seed @ 0..) => seed as u64,
            _ => random()?,
        };
        // In each round the seeds go on where the last one ended, as in A1111.
        let seeds = (0..(batch * rounds) as u64).map(|at| first.wrapping_add(at)).collect();
        let settings = self.settings(&pictures[0], mask.is_some(), size, &mut note)?;
        let sampling = self.sampling(options.sampling, &mut note)?;
        Ok(Wanted { settings, sampling, pictures, mask, seeds, options, notes, batch, size })
    }

    /// Notes what has no effect, and refuses what would be missed in the result.
    fn check(&self, note: &mut impl FnMut(String)) -> Result<(), A1111Error> {
        if self.tiling.0 == Some(true) {
            return Err(A1111Error::unfit(
                "tiling: this program makes no pictures that repeat; leave it off",
            ));
        }
        if let Some(scripts) = &self.alwayson_scripts {
            scripts::check_always_on(scripts, &mut *note)?;
        }
        if let Some(units @ Value::Array(_)) = self.rest.get("controlnet_units") {
            let mut scripts = Map::new();
            scripts.insert("controlnet".to_owned(), json!({ "args": units }));
            scripts::check_always_on(&scripts, &mut *note)?;
        }
        let mut idle = Vec::new();
        if self.styles.as_ref().is_some_and(|styles| !styles.is_empty()) {
            idle.push("styles");
        }
        if self.restore_faces.0 == Some(true) {
            idle.push("restore_faces");
        }
        if self.subseed_strength.0.is_some_and(|strength| strength != 0.0) {
            idle.push("subseed_strength");
        }
        if self.refiner_checkpoint.text().is_some_and(|name| !name.eq_ignore_ascii_case("none")) {
            idle.push("refiner_checkpoint");
        }
        if self.mask.text().is_some() && self.inpainting_fill.0.is_some_and(|fill| fill != 1) {
            note("inpainting_fill: what is repainted starts from the picture itself".to_owned());
        }
        idle.extend(
            self.rest
                .iter()
                .filter(|(_, value)| !is_nothing(value))
                .filter_map(|(name, _)| (!IDLE.contains(&name.as_str())).then_some(name.as_str())),
        );
        if !idle.is_empty() {
            note(format!("without effect here: {}", shortened(&idle)));
        }
        Ok(())
    }

    /// The size of the result.
    fn size(
        &self,
        picture: &Sent,
        note: &mut impl FnMut(String),
    ) -> Result<(u32, u32), A1111Error> {
        let args = self.script_args.as_deref().unwrap_or_default();
        let script = scripts::size(self.script_name.text(), args, &mut *note)?;
        let own = (i64::from(picture.width), i64::from(picture.height));
        let asked = (self.width.0.unwrap_or(own.0), self.height.0.unwrap_or(own.1));
        let (width, height) = match script {
            Some(ScriptSize::Sides(width, height)) => (width, height),
            Some(ScriptSize::Factor(factor)) => {
                let side = |side: i64| (side as f64 * factor).round().max(1.0) as i64;
                (side(own.0), side(own.1))
            }
            // What is masked is worked on at the size of the request, and put back where it was.
            None if self.mask.text().is_some() && self.inpaint_full_res.0.unwrap_or(true) => {
                if asked != own {
                    note("inpaint_full_res: the result has the size of the picture".to_owned());
                }
                own
            }
            Some(ScriptSize::OfRequest) | None => asked,
        };
        let side = |name: &str, side: i64| match u32::try_from(side) {
            Ok(side @ 1..) => Ok(side),
            _ => Err(A1111Error::unfit(format!("{name}: {side} is no number of pixels"))),
        };
        Ok((side("width", width)?, side("height", height)?))
    }

    /// Cuts pictures and mask to the shape of the result, where that is asked for.
    fn fit(
        &self,
        pictures: &mut [Sent],
        mask: &mut Option<Sent>,
        size: (u32, u32),
    ) -> Result<(), A1111Error> {
        match self.resize_mode.0.unwrap_or(0) {
            0 | 3 => Ok(()),
            1 => {
                for (at, picture) in pictures.iter_mut().enumerate() {
                    *picture = picture.clone().cut_to(&format!("init_images[{at}]"), size)?;
                }
                if let Some(mask) = mask {
                    *mask = mask.clone().cut_to("mask", size)?;
                }
                Ok(())
            }
            2 => match pictures.iter().find(|picture| !picture.has_shape(size)) {
                None => Ok(()),
                Some(Sent { width, height, .. }) => Err(A1111Error::unfit(format!(
                    "resize_mode 2: {width} × {height} has not the shape of {} × {}, and this program fills no borders; take 0 to stretch or 1 to cut",
                    size.0, size.1
                ))),
            },
            other => Err(A1111Error::unfit(format!("resize_mode: {other} is not from 0 to 3"))),
        }
    }

    /// The settings that hold whatever the model is.
    fn settings(
        &self,
        picture: &Sent,
        is_masked: bool,
        (width, height): (u32, u32),
        note: &mut impl FnMut(String),
    ) -> Result<Map<String, Value>, A1111Error> {
        let mut settings = Map::new();
        let mut set = |name: &str, value: Value| settings.insert(name.to_owned(), value);
        set("size", json!(format!("{width}x{height}")));
        let prompts = [("prompt", &self.prompt), ("negative-prompt", &self.negative_prompt)];
        for (name, text) in prompts {
            if let Some(text) = text.text() {
                set(name, json!(text));
                set("prompt-syntax", json!("weighted"));
            }
        }
        match self.denoising_strength.0 {
            None => {}
            // The picture at its new size, which no step of the model has touched.
            Some(0.0) => drop(set("denoise-steps", json!(0))),
            Some(strength) if strength > 0.0 && strength <= 1.0 => {
                set("strength", json!(strength));
            }
            Some(strength) => {
                return Err(A1111Error::unfit(format!(
                    "denoising_strength: {strength} is not from 0 to 1"
                )));
            }
        }
        if is_masked {
            if self.inpainting_mask_invert.0 == Some(true) {
                set("invert-mask", json!(true));
            }
            let scale = f64::from(width) / f64::from(picture.width);
            set("mask-feather", json!(feather(self.blur(note)? * scale)));
        }
        Ok(settings)
    }

    /// Standard deviation of the mask's blur, in pixels of the picture.
    fn blur(&self, note: &mut impl FnMut(String)) -> Result<f64, A1111Error> {
        let sides = match (self.mask_blur.0, self.mask_blur_x.0, self.mask_blur_y.0) {
            (Some(both), ..) => (both, both),
            (None, x, y) => (x.unwrap_or(MASK_BLUR), y.unwrap_or(MASK_BLUR)),
        };
        for side in [sides.0, sides.1] {
            if !(0.0..=WIDEST).contains(&side) {
                return Err(A1111Error::unfit(format!(
                    "mask_blur: {side} is not from 0 to {WIDEST}"
                )));
            }
        }
        if sides.0 != sides.1 {
            note("mask_blur_x and mask_blur_y: the mean of both blurs both ways".to_owned());
        }
        Ok((sides.0 + sides.1) / 2.0)
    }

    /// The settings of the steps.
    fn sampling(
        &self,
        sampling: Sampling,
        note: &mut impl FnMut(String),
    ) -> Result<Map<String, Value>, A1111Error> {
        if sampling == Sampling::Model {
            return Ok(Map::new());
        }
        let sampler = self.sampler_name.text().or(self.sampler_index.text());
        let mut settings = sampling::settings(sampler, self.scheduler.text(), note)?;
        if let Some(steps) = self.steps.0 {
            settings.insert("steps".to_owned(), json!(steps));
        }
        if let Some(guidance) = self.cfg_scale.0 {
            settings.insert("guidance".to_owned(), json!(guidance));
        }
        let takes_eta = settings.get("sampler").is_some_and(|name| name == "ddim" || name == "tcd");
        if let Some(eta) = self.eta.0.filter(|_| takes_eta) {
            settings.insert("eta".to_owned(), json!(eta));
        }
        Ok(settings)
    }
}

/// Pixels over which edges are smoothed on either side, for a Gaussian blur of this standard deviation: a tent of the same.
fn feather(sigma: f64) -> u32 {
    (sigma * 6.0_f64.sqrt() - 1.0).round().clamp(0.0, WIDEST) as u32
}

/// The form of results in answers.
pub fn output_form(options: &Options) -> OutputForm {
    let (format, quality) = match options.format {
        SampleFormat::Png => ("png", None),
        SampleFormat::Jpeg => ("jpeg", Some(options.quality)),
        SampleFormat::WebP => ("webp", None),
    };
    let mut form = OutputForm::default();
    (form.format, form.quality) = (Some(format.to_owned()), quality);
    form
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::serve::a1111::{picture::encode, values::fields};

    fn read(mut request: Value) -> Result<Wanted, String> {
        let file = pixels(40, 30);
        if request.get("init_images").is_none() {
            request["init_images"] = json!([encode(&file)]);
        }
        let Value::Object(object) = request else { panic!("no object") };
        let request: Img2Img = fields(object).map_err(|error| error.to_string())?;
        let models = vec!["mini".to_owned(), "other".to_owned()];
        let given = Given { options: Options::default(), models, most_pixels: 1 << 20 };
        request.read(&given, || Ok(77)).map_err(|error| error.to_string())
    }

    /// A PPM of this size.
    fn pixels(width: u32, height: u32) -> Vec<u8> {
        let mut file = format!("P6 {width} {height} 255\n").into_bytes();
        file.resize(file.len() + (3 * width * height) as usize, 90);
        file
    }

    #[test]
    fn fields_become_settings_by_the_names_of_the_command_line() {
        let wanted = read(json!({
            "prompt": " a (red:1.2) barn ", "negative_prompt": "", "denoising_strength": 0.4, "steps": "20",
            "cfg_scale": 7.5, "sampler_index": "DPM++ 2M Karras", "width": 80.0, "height": 60, "seed": "5",
            "batch_size": 2, "n_iter": 2, "eta": 1.0, "s_churn": 0, "do_not_save_samples": true,
        }))
        .unwrap();
        let settings = json!({"size": "80x60", "prompt": "a (red:1.2) barn", "prompt-syntax": "weighted",
            "strength": 0.4});
        assert_eq!(Value::Object(wanted.settings), settings);
        let sampling =
            json!({"steps": 20, "guidance": 7.5, "sampler": "dpmpp-2m", "sigmas": "karras"});
        assert_eq!(Value::Object(wanted.sampling), sampling);
        assert_eq!((wanted.seeds, wanted.batch), (vec![5, 6, 7, 8], 2));
        assert_eq!(wanted.notes, Vec::<String>::new());
        let bare = read(json!({"seed": -1, "denoising_strength": 0})).unwrap();
        assert_eq!(bare.seeds, [77]);
        assert_eq!(Value::Object(bare.settings), json!({"size": "40x30", "denoise-steps": 0}));
        let own = read(json!({"steps": 20, "override_settings": {"cupscale_sampling": "model"}}));
        assert!(own.unwrap().sampling.is_empty());
    }

    #[test]
    fn a_mask_is_put_in_our_words() {
        let mask = encode(&pixels(40, 30));
        let of = |mut request: Value| {
            request["mask"] = json!(mask);
            let wanted = read(request).unwrap();
            (Value::Object(wanted.settings), wanted.size, wanted.notes)
        };
        let (settings, size, notes) =
            of(json!({"width": 80, "height": 60, "inpainting_mask_invert": 1}));
        assert_eq!(settings["invert-mask"], true);
        assert_eq!((&settings["mask-feather"], size), (&json!(9), (40, 30)));
        assert!(notes[0].contains("inpaint_full_res"), "{notes:?}");
        let whole = json!({"width": 80, "height": 60, "inpaint_full_res": false, "mask_blur": 4});
        let (settings, size, notes) = of(whole);
        assert_eq!((&settings["mask-feather"], size), (&json!(19), (80, 60)));
        assert!(settings.get("invert-mask").is_none() && notes.is_empty(), "{notes:?}");
        assert_eq!(of(json!({"mask_blur": 0, "inpainting_fill": 1})).0["mask-feather"], 0);
        assert!(of(json!({"inpainting_fill": 2})).2[0].contains("inpainting_fill"));
        assert_eq!(feather(1e6), 1000);
    }

    #[test]
    fn what_has_no_meaning_is_told_and_what_would_be_missed_is_refused() {
        let wanted =
            read(json!({"styles": ["Film"], "restore_faces": true, "hr_scale": 2, "width": null,
            "script_name": "SD upscale", "script_args": ["", 64, 1, 3], "enable_hr": false}))
            .unwrap();
        assert_eq!(wanted.size, (120, 90));
        assert_eq!(wanted.notes.len(), 2);
        let idle = "without effect here: styles, restore_faces, hr_scale";
        assert!(wanted.notes.iter().any(|note| note == idle), "{:?}", wanted.notes);
        for (wrong, said) in [
            (json!({"init_images": []}), "Init image not found"),
            (json!({"init_images": null}), "Init image not found"),
            (json!({"init_images": "x"}), "sequence"),
            (json!({"tiling": true}), "tiling"),
            (json!({"denoising_strength": 1.5}), "denoising_strength"),
            (json!({"denoising_strength": -0.5}), "denoising_strength"),
            (json!({"width": 0}), "width: 0"),
            (json!({"height": -8}), "height: -8"),
            (json!({"batch_size": 65}), "batch_size: 65"),
            (json!({"batch_size": 9, "n_iter": 9}), "81 pictures"),
            (json!({"resize_mode": 4}), "resize_mode: 4"),
            (json!({"resize_mode": 2, "width": 40, "height": 40}), "fills no borders"),
            (json!({"sampler_name": "k_odd"}), "Sampler not found"),
            (json!({"script_name": "Loopback"}), "Script 'Loopback' not found"),
            (json!({"mask": "~"}), "mask: no base64"),
            (json!({"override_settings": {"sd_model_checkpoint": "far"}}), "\"far\" not found"),
            (json!({"controlnet_units": [{"module": "canny", "model": "x"}]}), "ControlNet unit 0"),
        ] {
            let error = read(wrong.clone()).unwrap_err();
            assert!(error.contains(said), "{wrong}: {error}");
            assert_eq!(error.lines().count(), 1);
        }
        let chosen = read(json!({"override_settings": {"sd_model_checkpoint": "other"}})).unwrap();
        assert_eq!(chosen.options.model.as_deref(), Some("other"));
    }

    #[test]
    fn a_resize_that_cuts_cuts_picture_and_mask() {
        let mask = encode(&pixels(80, 60));
        let request = json!({"width": 20, "height": 20, "resize_mode": 1, "mask": mask, "inpaint_full_res": false});
        let wanted = read(request).unwrap();
        let of = |sent: &Sent| (sent.width, sent.height);
        assert_eq!((of(&wanted.pictures[0]), wanted.size), ((30, 30), (20, 20)));
        assert_eq!(of(wanted.mask.as_ref().unwrap()), (60, 60));
        assert!(read(json!({"width": 81, "height": 61, "resize_mode": 2})).is_ok());
    }
}
