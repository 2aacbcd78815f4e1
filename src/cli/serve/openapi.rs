//! The description of the API (OpenAPI 3.1), made of the routes themselves, with what is the same for all of them.

use serde_json::{Value, json};
use utoipa::openapi::OpenApi;

const ABOUT: &str = "Enlarges pictures: a few-step diffusion model repaints the enlarged picture region by region. Send a picture to \
    `/v1/jobs`, follow the job's events, and fetch its result. docs/serve.md has examples.";

/// The description as JSON; `wants_token` if the server has a token.
pub fn describe(api: &OpenApi, wants_token: bool) -> Value {
    let mut api = serde_json::to_value(api).expect("a description is plain data");
    api["info"] = json!({
        "title": "cupscale-fast",
        "version": env!("CARGO_PKG_VERSION"),
        "description": ABOUT,
        "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
    });
    if wants_token {
        api["components"]["securitySchemes"] = json!({
            "bearer": { "type": "http", "scheme": "bearer" },
            "basic": { "type": "http", "scheme": "basic", "description": "Any name; the token is the password." },
        });
    }
    let paths = api["paths"].as_object_mut().into_iter().flatten();
    for (path, item) in paths {
        for operation in item.as_object_mut().into_iter().flat_map(|item| item.values_mut()) {
            if !operation.is_object() {
                continue;
            }
            let is_open = super::guard::is_open(path);
            if wants_token && !is_open {
                operation["security"] = json!([{ "bearer": [] }, { "basic": [] }]);
            }
            if let Some(responses) = operation["responses"].as_object_mut() {
                let own = json!({ "$ref": "#/components/schemas/Error" });
                // What the guard refuses has one form, whatever the API.
                let schema = match path.starts_with("/sdapi/") {
                    true => {
                        json!({ "anyOf": [{ "$ref": "#/components/schemas/A1111Error" }, own] })
                    }
                    false => own,
                };
                let error = json!({
                    "description": "An error",
                    "content": { "application/json": { "schema": schema } },
                });
                responses.entry("default").or_insert(error);
            }
        }
    }
    api
}
