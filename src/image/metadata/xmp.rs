//! XMP packets, as far as we need them: adding our settings to a packet, reading them back, and
//! keeping its orientation true. A packet is edited as text, so that all we do not know stays as it is.

const NAMESPACE: &str = "http://ns.cupscale/1.0/";
const OPENING: &str = "<rdf:Description rdf:about=\"\" xmlns:cupscale=\"";

/// `existing` (or a new packet) with the program's name and settings in it; older settings are replaced.
/// A packet that is not UTF-8 RDF cannot be added to and gives way to a new one.
pub(crate) fn with_settings(existing: Option<&[u8]>, software: &str, settings: &str) -> Vec<u8> {
    let description = format!(
        "{OPENING}{NAMESPACE}\" cupscale:software=\"{}\" cupscale:settings=\"{}\"/>",
        escape(software),
        escape(settings)
    );
    let merged = existing
        .and_then(|bytes| std::str::from_utf8(bytes).ok())
        .map(without_settings)
        .and_then(|text| {
            let at = text.rfind("</rdf:RDF>")?;
            Some(format!("{}{description}{}", &text[..at], &text[at..]))
        });
    merged
        .unwrap_or_else(|| {
            format!(
                "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
                 <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\
                 <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
                 <rdf:Description rdf:about=\"\" xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" \
                 xmp:CreatorTool=\"{}\"/>{description}\
                 </rdf:RDF></x:xmpmeta><?xpacket end=\"w\"?>",
                escape(software)
            )
        })
        .into_bytes()
}

/// The settings that [`with_settings`] put into a packet.
pub(crate) fn settings(packet: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(packet).ok()?;
    let start = text.find("cupscale:settings=\"")? + "cupscale:settings=\"".len();
    let length = text[start..].find('"')?;
    Some(unescape(&text[start..start + length]))
}

/// The packet with `tiff:Orientation` saying upright, for pixels that were turned.
pub(crate) fn upright(packet: Vec<u8>) -> Vec<u8> {
    let Ok(mut text) = String::from_utf8(packet.clone()) else {
        return packet;
    };
    for opening in ["tiff:Orientation=\"", "tiff:Orientation='", "<tiff:Orientation>"] {
        if let Some(at) = text.find(opening) {
            let digit = at + opening.len();
            if text.as_bytes().get(digit).is_some_and(u8::is_ascii_digit) {
                text.replace_range(digit..=digit, "1");
            }
        }
    }
    text.into_bytes()
}

fn without_settings(text: &str) -> String {
    // Values are escaped, so the first "/>" ends the element.
    let own = format!("{OPENING}{NAMESPACE}");
    match text.find(&own).and_then(|at| Some((at, at + text[at..].find("/>")? + 2))) {
        Some((start, end)) => format!("{}{}", &text[..start], &text[end..]),
        None => text.to_owned(),
    }
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // XML readers turn bare line ends in attributes into blanks.
            '\n' => out.push_str("&#10;"),
            '\r' => out.push_str("&#13;"),
            '\t' => out.push_str("&#9;"),
            // No XML 1.0 document may hold these, escaped or not.
            c if c.is_control() => out.push(' '),
            c => out.push(c),
        }
    }
    out
}

fn unescape(text: &str) -> String {
    text.replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&#10;", "\n")
        .replace("&#13;", "\r")
        .replace("&#9;", "\t")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRICKY: &str = "{\"prompt\":\"a <b> & \\\"c\\\" /> &lt; naïve\nline\"}";

    #[test]
    fn settings_of_any_text_come_back_from_a_new_packet() {
        let packet = with_settings(None, "cupscale-fast 1", TRICKY);
        assert_eq!(settings(&packet).as_deref(), Some(TRICKY));
    }

    #[test]
    fn an_existing_packet_keeps_its_properties_and_only_the_newest_settings() {
        let original = b"<x:xmpmeta xmlns:x=\"adobe:ns:meta/\"><rdf:RDF><rdf:Description dc:title=\"T\"/></rdf:RDF></x:xmpmeta>";
        let once = with_settings(Some(original), "v1", TRICKY);
        let twice = with_settings(Some(&once), "v2", "{\"scale\":2}");
        assert_eq!(settings(&twice).as_deref(), Some("{\"scale\":2}"));
        let text = String::from_utf8(twice).unwrap();
        assert!(text.contains("dc:title=\"T\""));
        assert_eq!(text.matches("cupscale:settings").count(), 1);
    }

    #[test]
    fn orientation_in_a_packet_becomes_upright_in_each_of_its_spellings() {
        for spelling in ["tiff:Orientation=\"6\"", "<tiff:Orientation>6</tiff:Orientation>"] {
            let fixed = upright(spelling.as_bytes().to_vec());
            assert_eq!(String::from_utf8(fixed).unwrap(), spelling.replace('6', "1"));
        }
    }
}
