//! The page for people: one file inside the program, which asks the API like any other client.

use std::{fmt::Write as _, sync::OnceLock};

use axum::{
    http::header,
    response::{Html, IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use sha2::{Digest as _, Sha256};

const PAGE: &str = include_str!("page.html");

/// The page. It may run what stands in it, and nothing that somebody might put into it.
pub async fn page() -> Response {
    static POLICY: OnceLock<String> = OnceLock::new();
    let policy = POLICY.get_or_init(|| policy(PAGE)).as_str();
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE)).into_response()
}

/// The policy of a page whose own scripts and styles stand in it, without attributes in their tags.
fn policy(page: &str) -> String {
    let mut policy =
        "default-src 'none'; connect-src 'self'; img-src 'self' blob: data:; base-uri 'none'; \
        form-action 'none'; frame-ancestors 'none'"
            .to_owned();
    for (directive, tag) in [("script-src", "script"), ("style-src", "style")] {
        let _ = write!(policy, "; {directive}");
        let mut rest = page;
        let mut count = 0;
        while let Some((_, behind)) = rest.split_once(&format!("<{tag}>")) {
            let Some((text, after)) = behind.split_once(&format!("</{tag}>")) else { break };
            let _ = write!(policy, " 'sha256-{}'", STANDARD.encode(Sha256::digest(text)));
            (rest, count) = (after, count + 1);
        }
        if count == 0 {
            policy.push_str(" 'none'");
        }
    }
    policy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_names_the_scripts_and_styles_of_the_page_and_no_others() {
        let policy = policy("<style>a{}</style><script>1</script><p><script>2</script>");
        // echo -n 1 | sha256sum | xxd -r -p | base64
        assert!(
            policy.contains(
                "script-src 'sha256-a4ayc/80/OGda4BO/1o/V0etpOqiLx1JwB5S3beHW0s=' 'sha256-"
            ),
            "{policy}"
        );
        assert!(policy.contains("style-src 'sha256-") && !policy.contains("unsafe"), "{policy}");
        assert!(super::policy("").contains("script-src 'none'"));
    }
}
