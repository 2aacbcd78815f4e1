//! XMP packets: settings that are put in come back, and edits keep text text.
#![no_main]

use cupscale::fuzzing::{xmp_joined, xmp_of_output, xmp_settings, xmp_with};
use cupscale::image::Text;
use cupscale_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;

const SETTINGS: &str = "{\"seed\": 7, \"prompt\": \"a 'door' < > & \\\" ü\"}";

fuzz_target!(|bytes: &[u8]| {
    let (packet, more) = match bytes.iter().position(|&byte| byte == 0) {
        Some(at) => (&bytes[..at], &bytes[at + 1..]),
        None => (bytes, &bytes[..0]),
    };
    let most = MIB + 32 * bytes.len();
    let text = Text::new("Title".to_owned(), "a <wall> & more".to_owned());
    let added = within(most, || xmp_with(Some(packet.to_vec()), SETTINGS, Some(&text)));
    assert!(std::str::from_utf8(&added).is_ok());
    assert_eq!(xmp_settings(&added).as_deref(), Some(SETTINGS));
    // A later run replaces them.
    let replaced = xmp_with(Some(added.clone()), "{}", None);
    assert_eq!(xmp_settings(&replaced).as_deref(), Some("{}"));
    assert!(replaced.len() <= added.len() + 1024);

    let is_text = std::str::from_utf8(packet).is_ok();
    let (output, texts) = within(most, || xmp_of_output(packet.to_vec(), 640, 480));
    assert!(texts.len() <= 16);
    assert_eq!(std::str::from_utf8(&output).is_ok(), is_text);
    assert!(!is_text || xmp_settings(&output).is_none(), "settings of an earlier run");

    let joined = within(most, || xmp_joined(packet.to_vec(), more.to_vec()));
    assert!(!is_text || std::str::from_utf8(&joined).is_ok());
    assert!(joined.len() <= bytes.len());
});
