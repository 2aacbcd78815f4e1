//! Lists that clients ask for when they start, to fill their menus with, and the options. What the web UI has and this program
//! has not is an empty list.

use std::sync::Arc;

use axum::{Json, extract::State};
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use super::{
    body::Small,
    door::Door,
    error::{A1111Error, ErrorBody},
    extras::{self, UpscalerItem},
    sampling::{self, SamplerItem, SchedulerItem},
    scripts::{self, ScriptInfo, ScriptsList},
};

/// A model in the list that clients ask for.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelItem {
    /// The name by which the option `sd_model_checkpoint` has it.
    title: String,
    model_name: String,
    hash: Option<String>,
    sha256: Option<String>,
    /// The name again: places on the server's disk are not told.
    filename: String,
    config: Option<String>,
}

/// Embeddings: none.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct Embeddings {
    #[schema(value_type = Object)]
    loaded: Map<String, Value>,
    #[schema(value_type = Object)]
    skipped: Map<String, Value>,
}

/// Memory of the machine: not told.
#[derive(Debug, Serialize, ToSchema)]
pub struct Memory {
    #[schema(value_type = Object)]
    ram: Value,
    #[schema(value_type = Object)]
    cuda: Value,
}

/// The options that mean something here, by name.
#[utoipa::path(get, path = "/options", tag = "A1111", responses((status = 200, body = Object)))]
pub async fn options(State(door): State<Arc<Door>>) -> Json<Map<String, Value>> {
    let options = door.options().as_json(door.jobs.host.default_model());
    Json(options)
}

/// Sets options for later calls of this API: the model (`sd_model_checkpoint`), the format of pictures in answers
/// (`samples_format`, `jpeg_quality`), and whose steps, sampler and guidance hold (`cupscale_sampling`: `auto`, `request` or
/// `model`). Others are ignored.
#[utoipa::path(post, path = "/options", tag = "A1111", request_body(content = Object),
    responses((status = 200, body = Value), (status = 404, body = ErrorBody), (status = 413, body = ErrorBody),
        (status = 415, body = ErrorBody), (status = 422, body = ErrorBody)))]
pub async fn set_options(
    State(door): State<Arc<Door>>,
    Small(wanted): Small,
) -> Result<Json<Value>, A1111Error> {
    door.blocking(move |door| {
        let models = door.models();
        let note = |note: String| tracing::info!(target: "cupscale", "options: {note}");
        door.options().set(&wanted, &models, note)
    })
    .await?;
    Ok(Json(Value::Null))
}

/// The models that can be chosen.
#[utoipa::path(get, path = "/sd-models", tag = "A1111", responses((status = 200, body = Vec<ModelItem>)))]
pub async fn sd_models(State(door): State<Arc<Door>>) -> Result<Json<Vec<ModelItem>>, A1111Error> {
    let item = |name: String| ModelItem {
        title: name.clone(),
        model_name: name.clone(),
        hash: None,
        sha256: None,
        filename: name,
        config: None,
    };
    let models = door.blocking(|door| Ok(door.models())).await?;
    Ok(Json(models.into_iter().map(item).collect()))
}

/// Does nothing: the list of models is read anew whenever it is asked for.
#[utoipa::path(post, path = "/refresh-checkpoints", tag = "A1111", responses((status = 200, body = Value)))]
pub async fn refresh_checkpoints() -> Json<Value> {
    Json(Value::Null)
}

/// The samplers that can be chosen.
#[utoipa::path(get, path = "/samplers", tag = "A1111", responses((status = 200, body = Vec<SamplerItem>)))]
pub async fn samplers() -> Json<Vec<SamplerItem>> {
    Json(sampling::samplers())
}

/// The noise levels that can be chosen.
#[utoipa::path(get, path = "/schedulers", tag = "A1111", responses((status = 200, body = Vec<SchedulerItem>)))]
pub async fn schedulers() -> Json<Vec<SchedulerItem>> {
    Json(sampling::schedulers())
}

/// The upscalers that can be chosen.
#[utoipa::path(get, path = "/upscalers", tag = "A1111", responses((status = 200, body = Vec<UpscalerItem>)))]
pub async fn upscalers() -> Json<Vec<UpscalerItem>> {
    Json(extras::upscalers())
}

/// Titles of the scripts that can be chosen.
#[utoipa::path(get, path = "/scripts", tag = "A1111", responses((status = 200, body = ScriptsList)))]
pub async fn scripts() -> Json<ScriptsList> {
    Json(scripts::list())
}

/// The arguments of these scripts.
#[utoipa::path(get, path = "/script-info", tag = "A1111", responses((status = 200, body = Vec<ScriptInfo>)))]
pub async fn script_info() -> Json<Vec<ScriptInfo>> {
    Json(scripts::about())
}

/// Embeddings: none, since they are chosen when the server starts.
#[utoipa::path(get, path = "/embeddings", tag = "A1111", responses((status = 200, body = Embeddings)))]
pub async fn embeddings() -> Json<Embeddings> {
    Json(Embeddings::default())
}

/// How the server was started, as far as clients ask.
#[utoipa::path(get, path = "/cmd-flags", tag = "A1111", responses((status = 200, body = Object)))]
pub async fn cmd_flags() -> Json<Value> {
    Json(
        json!({ "api": true, "nowebui": false, "api_log": false, "lowvram": false, "medvram": false }),
    )
}

/// Memory of the machine: not told.
#[utoipa::path(get, path = "/memory", tag = "A1111", responses((status = 200, body = Memory)))]
pub async fn memory() -> Json<Memory> {
    Json(Memory { ram: json!({"error": "not told"}), cuda: json!({"error": "not told"}) })
}

/// Handlers of lists that are empty here.
macro_rules! empty_lists {
    ($($(#[$doc:meta])* $name:ident: $path:literal,)*) => {
        $($(#[$doc])*
        #[utoipa::path(get, path = $path, tag = "A1111", responses((status = 200, body = Vec<Value>)))]
        pub async fn $name() -> Json<Vec<Value>> {
            Json(Vec::new())
        })*
    };
}

empty_lists! {
    /// Modes to enlarge within the model: none.
    latent_upscale_modes: "/latent-upscale-modes",
    /// VAEs: none to choose from, each model has its own.
    sd_vae: "/sd-vae",
    /// LoRAs: none, since they are chosen when the server starts.
    loras: "/loras",
    /// Hypernetworks: none.
    hypernetworks: "/hypernetworks",
    /// Models that restore faces: none.
    face_restorers: "/face-restorers",
    /// Real-ESRGAN's models: none to choose from.
    realesrgan_models: "/realesrgan-models",
    /// Styles of prompts: none.
    prompt_styles: "/prompt-styles",
    /// Extensions: none.
    extensions: "/extensions",
}
