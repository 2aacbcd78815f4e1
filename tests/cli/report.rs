//! Reports: one page with what the job did, in which foreign text is text.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;

use crate::common::{Shell, stderr};

/// A job of a second.
const QUICK: &str = "-s 4 --steps 1 --denoise-steps 1";

/// The data of a page, between the elements of its script.
fn data(page: &str) -> Value {
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    serde_json::from_str(data).unwrap()
}

#[test]
fn a_report_shows_both_pictures_regions_times_and_settings() {
    let shell = Shell::new();
    shell.picture("in.png", 90, 60);
    let output = shell.run(&format!("in.png -o out.jpg {QUICK} --seed 7 --report"));
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("out.jpg.html"), "{}", stderr(&output));
    let page = String::from_utf8(shell.bytes("out.jpg.html")).unwrap();
    let data = data(&page);
    assert_eq!((data["width"].as_u64(), data["height"].as_u64()), (Some(360), Some(240)));
    assert_eq!(data["settings"]["seed"], 7);
    let regions = data["regions"].as_array().unwrap();
    assert!(!regions.is_empty() && regions.iter().all(|region| region["caption"].is_string()));
    let names: Vec<_> = data["times"].as_array().unwrap().iter().map(|it| &it["name"]).collect();
    assert_eq!(
        names,
        ["preparing", "captioning", "enlarging", "encoding", "repainting", "decoding"]
    );
    let pictures: Vec<_> = page.split("data:image/jpeg;base64,").skip(1).collect();
    assert_eq!(pictures.len(), 2);
    for picture in pictures {
        let bytes = STANDARD.decode(picture.split('"').next().unwrap()).unwrap();
        assert_eq!(pictures::decode(&bytes).to_rgb8().dimensions(), (360, 240));
    }
    // Nothing is fetched, whatever reads the page.
    for outside in ["http:", "https:", "//cdn", "@import", "url("] {
        assert!(!page.replace("http://www.w3.org/2000/svg", "").contains(outside), "{outside}");
    }
}

#[test]
fn a_large_output_has_details_and_the_page_stays_small() {
    let shell = Shell::new();
    shell.picture("in.png", 700, 300);
    shell.succeed(&format!("in.png -o out.png {QUICK} --report=page.html"));
    let page = String::from_utf8(shell.bytes("page.html")).unwrap();
    assert_eq!(page.matches("<figure>").count(), 3);
    assert!(page.len() < 8 << 20, "{} bytes", page.len());
}

#[test]
fn what_a_prompt_or_a_name_holds_is_never_part_of_the_page() {
    let shell = Shell::new();
    let name = "a<img src=x onerror=alert(1)>&\"'.png";
    shell.picture("in.png", 30, 20);
    std::fs::rename(shell.path("in.png"), shell.path(name)).unwrap();
    let evil = "</script><script>alert(1)</script><!-- {{before}}";
    let output = shell
        .command(&format!("-o out.png {QUICK} --report --captioner none"))
        .args(["-i", name, "--prompt", evil])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
    let page = String::from_utf8(shell.bytes("out.png.html")).unwrap();
    assert_eq!(page.matches("<script").count(), 2, "the page's own");
    assert!(!page.contains("alert(1)</") && !page.contains("<img src=x") && !page.contains("<!--"));
    let data = data(&page);
    assert_eq!(data["settings"]["prompt"], evil);
    assert_eq!(data["regions"][0]["caption"], evil);
    assert!(data["facts"].as_str().unwrap().contains(name));
}

#[test]
fn a_report_that_cannot_be_is_refused_before_the_job() {
    let shell = Shell::new();
    shell.picture("in.png", 30, 20);
    let message = shell.fail("in.png -o - --report", 2);
    assert!(message.contains("--report") && message.contains("-o"), "{message}");
    let message = shell.fail("in.png -o out.png --report=out.png", 2);
    assert!(message.contains("the output itself"), "{message}");
    let message = shell.fail("in.png -o out.png --report=in.png", 2);
    assert!(message.contains("the input itself"), "{message}");
    let message = shell.fail("in.png -o out.png --report=no/such/page.html", 1);
    assert!(message.contains("does not exist"), "{message}");
    std::fs::create_dir(shell.path("shots")).unwrap();
    shell.picture("shots/a.png", 20, 20);
    let message = shell.fail("shots -o big --report=page.html", 2);
    assert!(message.contains("--report") && message.contains("one picture"), "{message}");
    assert_eq!(shell.names(), ["in.png", "shots"]);
}
