//! The calls that make pictures: they are read, their jobs are done in turn while the client waits, and the answer is put
//! together. What a request means is said in the files of each.

use std::sync::Arc;

use axum::{
    Json, body::Body as Bytes, extract::State, http::header::CONTENT_TYPE, response::Response,
};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    super::jobs::NewJob,
    body::Large,
    door::Door,
    error::{A1111Error, ErrorBody},
    extras::{self, BatchAnswer, BatchRequest, SingleAnswer, SingleRequest},
    img2img::{self, Img2Img, Wanted},
    info::{self, InfoAnswer, InfoRequest},
    options::{Options, Sampling},
    picture::Sent,
    sampling,
    turn::{Made, Outcome, Turn},
    values::fields,
};

/// A model with at most so many steps in its own schedule was made for few: twenty of them, or guidance, would spoil its
/// pictures.
const FEW_STEPS: usize = 10;

/// The longest text of a request that its answer repeats: a longer one is a picture.
const LARGEST_TEXT: usize = 64 << 10;

/// Why there is no picture.
const INTERRUPTED: &str = "interrupted";

/// The answer to `/img2img`.
#[derive(Debug, Serialize, ToSchema)]
pub struct Img2ImgAnswer {
    /// The pictures as base64; fewer if it was interrupted.
    images: Vec<String>,
    /// The request.
    #[schema(value_type = Object)]
    parameters: Map<String, Value>,
    /// JSON as a text: the seeds, the sizes, a text for each picture, and `notes`.
    info: String,
}

/// Enlarges a picture.
#[utoipa::path(post, path = "/extra-single-image", tag = "A1111", request_body = SingleRequest, responses(
    (status = 200, body = SingleAnswer), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 500, body = ErrorBody),
    (status = 503, body = ErrorBody), (status = 507, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 408, body = ErrorBody)))]
pub async fn extra_single_image(
    State(door): State<Arc<Door>>,
    body: Large,
) -> Result<Response, A1111Error> {
    let (plan, options, picture) = door
        .blocking(move |door| {
            let request: SingleRequest = fields(body.object()?)?;
            let plan = request.extras.plan(&request.rest)?;
            let picture = request.image.0.as_deref().unwrap_or_default();
            let picture = Sent::read("image", picture, door.jobs.limits.pixels)?;
            Ok((plan, door.options().clone(), picture))
        })
        .await?;
    let mut turn = Turn::begin(&door, "extras", 1);
    let job = door
        .blocking({
            let options = options.clone();
            move |_| extras_job("image", "image", picture, &plan, &options).map(|job| (job, plan))
        })
        .await;
    let (job, plan) = job?;
    let mut notes = plan.notes.clone();
    let image = match turn.make(job).await? {
        Outcome::Made(made) => {
            notes.extend(made.notes);
            Some(made.base64)
        }
        Outcome::Skipped | Outcome::Interrupted => {
            notes.push(INTERRUPTED.to_owned());
            None
        }
    };
    let html_info = extras_info(&door, &plan, &options, &mut notes);
    tell("extra-single-image", &notes);
    respond(&door, SingleAnswer { html_info, image }).await
}

/// Enlarges several pictures, one after the other.
#[utoipa::path(post, path = "/extra-batch-images", tag = "A1111", request_body = BatchRequest, responses(
    (status = 200, body = BatchAnswer), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 500, body = ErrorBody),
    (status = 503, body = ErrorBody), (status = 507, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 408, body = ErrorBody)))]
pub async fn extra_batch_images(
    State(door): State<Arc<Door>>,
    body: Large,
) -> Result<Response, A1111Error> {
    let (plan, options, pictures) = door
        .blocking(move |door| {
            let request: BatchRequest = fields(body.object()?)?;
            let plan = request.extras.plan(&request.rest)?;
            let list = &request.image_list;
            if list.len() > extras::MOST {
                return Err(A1111Error::unfit(format!(
                    "imageList: {} pictures, and one request has {} at most",
                    list.len(),
                    extras::MOST
                )));
            }
            let numbered = list.iter().enumerate();
            let pictures = numbered.map(|(at, file)| {
                let what = format!("imageList[{at}]");
                let picture = Sent::read(&what, &file.data, door.jobs.limits.pixels)?;
                Ok::<_, A1111Error>((what, file.name.clone(), picture))
            });
            let pictures = pictures.collect::<Result<Vec<_>, _>>()?;
            Ok((Arc::new(plan), door.options().clone(), pictures))
        })
        .await?;
    let mut turn = Turn::begin(&door, "extras", pictures.len());
    let (mut images, mut notes) = (Vec::new(), plan.notes.clone());
    for (what, name, picture) in pictures {
        let (of, options) = (Arc::clone(&plan), options.clone());
        let named = what.clone();
        let job = door.blocking(move |_| extras_job(&named, &name, picture, &of, &options)).await?;
        match turn.make(job).await.map_err(|error| error.of(&what))? {
            Outcome::Made(made) => {
                notes.extend(made.notes.iter().map(|note| format!("{what}: {note}")));
                images.push(made.base64);
            }
            Outcome::Skipped => notes.push(format!("{what}: skipped")),
            Outcome::Interrupted => break,
        }
    }
    if turn.is_interrupted() {
        notes.push(INTERRUPTED.to_owned());
    }
    let html_info = extras_info(&door, &plan, &options, &mut notes);
    tell("extra-batch-images", &notes);
    respond(&door, BatchAnswer { html_info, images }).await
}

fn extras_job(
    what: &str,
    name: &str,
    picture: Sent,
    plan: &extras::Plan,
    options: &Options,
) -> Result<NewJob, A1111Error> {
    let (picture, settings) = plan.of(what, picture)?;
    Ok(NewJob {
        name: name.to_owned(),
        picture: picture.file(),
        settings,
        output: img2img::output_form(options),
        model: options.model.clone(),
        ..NewJob::default()
    })
}

fn extras_info(
    door: &Door,
    plan: &extras::Plan,
    options: &Options,
    notes: &mut Vec<String>,
) -> String {
    notes.dedup();
    let model = options.model.as_deref().unwrap_or(door.jobs.host.default_model());
    let words = format!("{}, Postprocess upscaler: {} ({model})", plan.words(), extras::OWN);
    extras::html([words.as_str()].into_iter().chain(notes.iter().map(String::as_str)))
}

/// Repaints a picture at a size.
#[utoipa::path(post, path = "/img2img", tag = "A1111", request_body = Img2Img, responses(
    (status = 200, body = Img2ImgAnswer), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody), (status = 429, body = ErrorBody), (status = 500, body = ErrorBody),
    (status = 503, body = ErrorBody), (status = 507, body = ErrorBody), (status = 404, body = ErrorBody),
    (status = 408, body = ErrorBody)))]
pub async fn img2img(State(door): State<Arc<Door>>, body: Large) -> Result<Response, A1111Error> {
    let (mut wanted, echo, sends) = door
        .blocking(move |door| {
            let object = body.object()?;
            let includes = object.get("include_init_images") == Some(&Value::Bool(true));
            let echo = echo_of(&object, includes);
            let request: Img2Img = fields(object)?;
            let sends = request.send_images.0 != Some(false);
            let mut wanted = request.read(&door.given(), random)?;
            door.settle(&mut wanted)?;
            Ok((wanted, echo, sends))
        })
        .await?;
    let count = wanted.seeds.len();
    let mut turn = Turn::begin(&door, "scripts_img2img", count);
    let mut made = Vec::new();
    for (at, &seed) in wanted.seeds.iter().enumerate() {
        let job = wanted.job(at, seed);
        let of = |error: A1111Error| match count {
            1 => error,
            _ => error.of(&format!("picture {} of {count}", at + 1)),
        };
        match turn.make(job).await.map_err(of)? {
            Outcome::Made(picture) => made.push((seed, picture)),
            Outcome::Skipped => {
                wanted.notes.push(format!("picture {} of {count}: skipped", at + 1))
            }
            Outcome::Interrupted => break,
        }
    }
    let is_interrupted = turn.is_interrupted();
    if is_interrupted {
        wanted.notes.push(INTERRUPTED.to_owned());
    }
    for note in made.iter().flat_map(|(_, picture)| &picture.notes) {
        if !wanted.notes.contains(note) {
            wanted.notes.push(note.clone());
        }
    }
    tell("img2img", &wanted.notes);
    let info = info_of(&wanted, &made, is_interrupted, door.jobs.host.default_model());
    let mut parameters = echo;
    parameters.insert("batch_size".to_owned(), json!(wanted.batch));
    parameters.insert("n_iter".to_owned(), json!(count / wanted.batch.max(1)));
    let images = made.into_iter().map(|(_, picture)| picture.base64).filter(|_| sends).collect();
    respond(&door, Img2ImgAnswer { images, parameters, info: Value::Object(info).to_string() })
        .await
}

impl Door {
    /// Decides whose sampling holds. A model that is made for few steps keeps its own: clients send twenty steps and a guidance
    /// of 7 whatever the model is, and its pictures would be spoilt.
    fn settle(&self, wanted: &mut Wanted) -> Result<(), A1111Error> {
        if wanted.options.sampling != Sampling::Auto || wanted.sampling.is_empty() {
            wanted.settings.append(&mut wanted.sampling);
            return Ok(());
        }
        let host = &self.jobs.host;
        let name = host.choose(wanted.options.model.as_deref())?;
        let model = host.for_plan(&name).map_err(|error| host.refusal(&error))?;
        let chosen = |sampling: &Map<String, Value>| {
            sampling.get("sampler").and_then(Value::as_str).and_then(|name| name.parse().ok())
        };
        if let Some(steps) = model.engine.steps().filter(|&steps| steps <= FEW_STEPS) {
            wanted.notes.push(format!(
                "{name} is made for {steps} steps: its own sampler, steps and guidance hold; the option cupscale_sampling changes that"
            ));
            wanted.sampling.clear();
        } else if let Some(sampler) =
            chosen(&wanted.sampling).filter(|&sampler| !model.engine.takes(sampler))
        {
            wanted
                .notes
                .push(format!("sampler {sampler} is not for {name}: its own sampler holds"));
            ["sampler", "sigmas", "spacing", "eta"]
                .iter()
                .for_each(|name| drop(wanted.sampling.remove(*name)));
        }
        wanted.settings.append(&mut wanted.sampling);
        Ok(())
    }
}

impl Wanted {
    /// The job of the picture at this place.
    fn job(&self, at: usize, seed: u64) -> NewJob {
        let picture = &self.pictures[at % self.pictures.len()];
        let mut settings = self.settings.clone();
        settings.insert("seed".to_owned(), json!(seed));
        NewJob {
            name: "img2img".to_owned(),
            picture: picture.file(),
            mask: self.mask.as_ref().map(Sent::file),
            settings,
            output: img2img::output_form(&self.options),
            model: self.options.model.clone(),
            ..NewJob::default()
        }
    }
}

/// The request as its answer repeats it: without the pictures, which are what makes it large, unless these are wanted.
fn echo_of(request: &Map<String, Value>, includes: bool) -> Map<String, Value> {
    let is_large = |value: &Value| value.as_str().is_some_and(|text| text.len() > LARGEST_TEXT);
    let kept = |(name, value): (&String, &Value)| {
        let is_picture = name == "init_images" || name == "mask" || is_large(value);
        let is_left_out =
            is_picture && !includes || name == "alwayson_scripts" || name == "controlnet_units";
        (name.clone(), if is_left_out { Value::Null } else { value.clone() })
    };
    request.iter().map(kept).collect()
}

/// `info` of an answer. What was asked for is told of pictures that were not made, and what was done of others.
fn info_of(
    wanted: &Wanted,
    made: &[(u64, Made)],
    is_interrupted: bool,
    own: &str,
) -> Map<String, Value> {
    let asked = |name: &str| wanted.settings.get(name).cloned().unwrap_or(Value::Null);
    let first = made.first().map(|(_, picture)| picture);
    let done = |name: &str| first.and_then(|picture| picture.settings.get(name)).cloned();
    let text = |name: &str| match asked(name) {
        Value::String(text) => text,
        _ => String::new(),
    };
    let (prompt, negative) = (text("prompt"), text("negative-prompt"));
    let seeds: Vec<u64> = match made {
        [] => wanted.seeds.clone(),
        made => made.iter().map(|(seed, _)| *seed).collect(),
    };
    let model =
        done("model").unwrap_or_else(|| json!(wanted.options.model.as_deref().unwrap_or(own)));
    let sampler = done("sampler");
    let sampler = sampler.as_ref().and_then(Value::as_str).map(sampling::name_of);
    let strength = first.and_then(|picture| info::strength_of(&picture.settings));
    let (width, height) = first.map_or(wanted.size, |picture| (picture.width, picture.height));
    let info = json!({
        "prompt": prompt,
        "all_prompts": vec![&prompt; seeds.len()],
        "negative_prompt": negative,
        "all_negative_prompts": vec![&negative; seeds.len()],
        "seed": seeds.first(),
        "all_seeds": seeds,
        "subseed": seeds.first(),
        "all_subseeds": seeds,
        "subseed_strength": 0,
        "width": width,
        "height": height,
        "sampler_name": sampler,
        "cfg_scale": done("guidance"),
        "steps": done("steps"),
        "batch_size": wanted.batch,
        "restore_faces": false,
        "face_restoration_model": null,
        "sd_model_name": model,
        "sd_model_hash": "",
        "sd_vae_name": null,
        "sd_vae_hash": null,
        "seed_resize_from_w": -1,
        "seed_resize_from_h": -1,
        "denoising_strength": strength,
        "extra_generation_params": {},
        "index_of_first_image": 0,
        "infotexts": made.iter().map(|(_, picture)| info::text_of(&picture.settings)).collect::<Vec<_>>(),
        "styles": [],
        "job_timestamp": super::progress::timestamp(std::time::SystemTime::now()),
        "clip_skip": 1,
        "is_using_inpainting_conditioning": false,
        "version": concat!("cupscale-fast ", env!("CARGO_PKG_VERSION")),
        "interrupted": is_interrupted,
        "notes": wanted.notes,
    });
    match info {
        Value::Object(info) => info,
        _ => Map::new(),
    }
}

/// Not here: this program enlarges pictures, and `generate` on the command line makes them from words.
#[utoipa::path(post, path = "/txt2img", tag = "A1111", responses((status = 501, body = ErrorBody)))]
pub async fn txt2img() -> A1111Error {
    A1111Error::not_here(
        "txt2img: this server enlarges pictures and makes none from words; on the command line `cupscale-fast generate` does",
    )
}

/// Not here: the captions of regions are a job of the kind `captions` of `/v1/jobs`.
#[utoipa::path(post, path = "/interrogate", tag = "A1111", responses((status = 501, body = ErrorBody)))]
pub async fn interrogate() -> A1111Error {
    A1111Error::not_here(
        "interrogate: this server has no caption of a whole picture; a job of the kind captions (POST /v1/jobs) describes its regions",
    )
}

/// Reads the text about how a picture was made out of its file.
#[utoipa::path(post, path = "/png-info", tag = "A1111", request_body = InfoRequest, responses(
    (status = 200, body = InfoAnswer), (status = 413, body = ErrorBody), (status = 415, body = ErrorBody),
    (status = 422, body = ErrorBody)))]
pub async fn png_info(
    State(door): State<Arc<Door>>,
    body: Large,
) -> Result<Json<InfoAnswer>, A1111Error> {
    door.blocking(move |_| info::read(&fields(body.object()?)?)).await.map(Json)
}

/// A seed such as the web UI draws.
fn random() -> Result<u64, A1111Error> {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => Ok(u32::from_le_bytes(bytes).into()),
        Err(error) => Err(A1111Error::failed(format!("no random seed ({error}): send one"))),
    }
}

fn tell(call: &str, notes: &[String]) {
    notes.iter().for_each(|note| tracing::info!(target: "cupscale", "{call}: {note}"));
}

/// The answer with its pictures, put together where nobody waits for it.
async fn respond<T: Serialize + Send + 'static>(
    door: &Arc<Door>,
    answer: T,
) -> Result<Response, A1111Error> {
    let json = door.blocking(move |_| {
        serde_json::to_vec(&answer).map_err(|error| A1111Error::failed(error.to_string()))
    });
    let response =
        Response::builder().header(CONTENT_TYPE, "application/json").body(Bytes::from(json.await?));
    response.map_err(|error| A1111Error::failed(error.to_string()))
}
