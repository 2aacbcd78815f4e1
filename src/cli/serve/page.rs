//! The page of `serve`: one answer that holds its style and its script, so that it works offline and under a policy that allows
//! nothing else.

use std::sync::LazyLock;

use axum::{
    http::{HeaderValue, header},
    response::{Html, IntoResponse as _, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

const MARKUP: &str = include_str!("page/page.html");
const STYLE: &str = concat!(
    include_str!("page/base.css"),
    include_str!("page/layout.css"),
    include_str!("page/stage.css"),
);
/// One script in which each file uses those before it.
const SCRIPT: &str = concat!(
    include_str!("page/words.js"),
    include_str!("page/api.js"),
    include_str!("page/view.js"),
    include_str!("page/items.js"),
    include_str!("page/regions.js"),
    include_str!("page/form.js"),
    include_str!("page/stage.js"),
    include_str!("page/panel.js"),
    include_str!("page/main.js"),
);

static PAGE: LazyLock<String> =
    LazyLock::new(|| MARKUP.replace("{{style}}", STYLE).replace("{{script}}", SCRIPT));

/// What the page may do: run its own script and style, ask its own server, show pictures that it has fetched.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let policy = format!(
        "default-src 'none'; script-src '{}'; style-src '{}'; img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'",
        hash(SCRIPT),
        hash(STYLE),
    );
    HeaderValue::try_from(policy).expect("a policy is ASCII")
});

/// Answers `GET /`. What browsers are told about every answer is added where all answers pass.
pub async fn page() -> Response {
    let opener = (
        header::HeaderName::from_static("cross-origin-opener-policy"),
        HeaderValue::from_static("same-origin"),
    );
    ([(header::CONTENT_SECURITY_POLICY, POLICY.clone()), opener], Html(PAGE.as_str()))
        .into_response()
}

/// A text's hash as a policy names it.
fn hash(text: &str) -> String {
    format!("sha256-{}", BASE64_STANDARD.encode(Sha256::digest(text)))
}

#[cfg(test)]
mod tests {
    use super::{MARKUP, PAGE, POLICY, SCRIPT, STYLE, hash};

    /// What stands between an element's tags, once.
    fn inner<'a>(page: &'a str, name: &str) -> &'a str {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        assert_eq!(page.matches(&open).count(), 1, "{name}");
        page.split_once(&open).unwrap().1.split_once(&close).unwrap().0
    }

    #[test]
    fn the_policy_names_what_the_page_holds() {
        let policy = POLICY.to_str().unwrap();
        for name in ["style", "script"] {
            assert!(policy.contains(&hash(inner(&PAGE, name))), "{name}: {policy}");
        }
        assert_eq!(hash(""), "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
        assert!(!PAGE.contains("{{"), "a place of the markup was not filled");
    }

    #[test]
    fn the_markup_has_nothing_that_the_policy_would_refuse() {
        for refused in [" style=", " onclick=", " onload=", " src=", "javascript:"] {
            assert!(!MARKUP.contains(refused), "{refused}");
        }
        for refused in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!SCRIPT.contains(refused), "{refused}");
        }
        for text in [MARKUP, STYLE, SCRIPT] {
            // Names of XML's namespaces are no addresses that anything is fetched from.
            let named = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!named.contains("http://") && !named.contains("https://"));
            assert!(!named.contains("@import") && !named.contains("url("));
        }
    }

    #[test]
    fn every_element_that_the_script_asks_for_is_there_once() {
        let mut asked = 0;
        // Not those of an answer's headers.
        let script = SCRIPT.replace("headers.get(\"", "");
        for rest in script.split("get(\"").skip(1) {
            let id = rest.split('"').next().unwrap();
            assert_eq!(MARKUP.matches(&format!(" id=\"{id}\"")).count(), 1, "{id}");
            asked += 1;
        }
        assert!(asked > 100, "{asked}");
    }
}
