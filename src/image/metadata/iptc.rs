//! IPTC's fields in an XMP packet, for formats that have no place for IPTC, and for readers that look nowhere else.

use super::photoshop::{Kind, NAMESPACES, Property};
use super::xml::escape;
use super::xmp::{ANY_LANGUAGE, closing, has_property, packet};

/// `existing` (or a new packet) with those of the properties that it lacks.
pub(crate) fn with_properties(existing: Option<Vec<u8>>, properties: &[Property]) -> Vec<u8> {
    let existing = existing.and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
    let lacking = properties.iter().filter(|property| !has_property(&existing, property.name));
    let mut inside = String::new();
    for Property { name, kind, values } in lacking {
        let list = match kind {
            Kind::Text => None,
            Kind::Alt => Some(("Alt", ANY_LANGUAGE)),
            Kind::Bag => Some(("Bag", "")),
            Kind::Seq => Some(("Seq", "")),
        };
        let value = match list {
            None => values.iter().map(|value| escape(value)).collect::<String>(),
            Some((list, language)) => {
                let items = values
                    .iter()
                    .map(|value| format!("<rdf:li{language}>{}</rdf:li>", escape(value)));
                format!("<rdf:{list}>{}</rdf:{list}>", items.collect::<String>())
            }
        };
        inside += &format!("<{name}>{value}</{name}>");
    }
    let declared: String = (NAMESPACES.iter())
        .filter(|(prefix, _)| inside.contains(&format!("<{prefix}:")))
        .map(|(prefix, namespace)| format!(" xmlns:{prefix}=\"{namespace}\""))
        .collect();
    let description =
        format!("<rdf:Description rdf:about=\"\"{declared}>{inside}</rdf:Description>");
    match closing(&existing) {
        _ if inside.is_empty() && !existing.is_empty() => existing.into_bytes(),
        Some(at) => [&existing[..at], &description, &existing[at..]].concat().into_bytes(),
        None => packet(&description),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_gets_what_it_lacks_and_keeps_what_it_says() {
        let property =
            |name, kind, value: &str| Property { name, kind, values: vec![value.to_owned()] };
        let properties = [
            property("dc:title", Kind::Alt, "a <title>"),
            property("photoshop:City", Kind::Text, "Vienna"),
            property("dc:subject", Kind::Bag, "one"),
        ];
        let new = with_properties(None, &properties);
        let text = String::from_utf8(new.clone()).unwrap();
        assert!(
            text.contains("xml:lang=\"x-default\">a &lt;title></rdf:li>")
                || text.contains("a &lt;title&gt;</rdf:li>")
        );
        assert!(text.contains("<photoshop:City>Vienna</photoshop:City>"), "{text}");
        assert!(text.contains("xmlns:dc=") && !text.contains("Iptc4xmpCore"), "{text}");
        // What is said stays what it is.
        assert_eq!(with_properties(Some(new.clone()), &properties), new);
        let other = property("photoshop:City", Kind::Text, "Graz");
        assert_eq!(with_properties(Some(new.clone()), &[other]), new);
        let more = property("photoshop:State", Kind::Text, "Styria");
        let more = String::from_utf8(with_properties(Some(new), &[more])).unwrap();
        assert!(more.contains("Styria") && more.contains("Vienna"), "{more}");
    }
}
