//! XMP packets, as far as we need them: adding our settings and a picture's texts to a packet, reading them back, and
//! keeping true what a packet says of the picture's size, orientation and companions. A packet is edited as text, so that
//! all we do not know stays as it is.
//! Source: XMP specification, parts 1 (RDF) and 3 (JPEG); Adobe's gain map specification 1.0; Google's container.

use super::text::{MAX_PLACED, Text};
use super::xml::{Editor, TagKind, escape, tags, unescape, without};

const OWN: &str = "http://ns.cupscale/1.0/";
const TIFF: &str = "http://ns.adobe.com/tiff/1.0/";
const EXIF: &str = "http://ns.adobe.com/exif/1.0/";
const XAP: &str = "http://ns.adobe.com/xap/1.0/";
const NOTE: &str = "http://ns.adobe.com/xmp/note/";
/// Namespaces whose properties speak of pictures or films that stand behind the JPEG in its file.
const COMPANIONS: [&str; 4] = [
    "http://ns.adobe.com/hdr-gain-map/1.0/",
    "http://ns.google.com/photos/1.0/container/",
    "http://ns.google.com/photos/1.0/camera/",
    "http://ns.apple.com/HDRGainMap/1.0/",
];
/// Longest keyword of a text, escaped.
const MAX_KEYWORD: usize = 1024;
/// Prefixes of one namespace that are looked at; nobody declares more than one.
const MAX_PREFIXES: usize = 8;

/// What the program adds to a packet.
#[derive(Debug, Default)]
pub(crate) struct Additions<'a> {
    /// The program's name and its settings.
    pub settings: Option<(&'a str, &'a str)>,
    pub texts: Vec<&'a Text>,
}

impl Additions<'_> {
    /// The properties of Dublin Core that hold some of the texts, unless the packet has them; the other texts with
    /// their keywords.
    fn description(&self, packet: &str) -> String {
        let mut out = format!("<rdf:Description rdf:about=\"\" xmlns:cupscale=\"{OWN}\"");
        if let Some((software, settings)) = self.settings {
            out += &format!(" cupscale:software=\"{}\"", escape(software));
            out += &format!(" cupscale:settings=\"{}\"", escape(settings));
        }
        let mut known = String::new();
        let mut others = String::new();
        // The packet is asked once for each property: there may be thousands of texts.
        let has_texts = !self.texts.is_empty();
        let lacks = |property: &&Property| has_texts && !has_property(packet, property.name);
        let mut free: Vec<&Property> = PROPERTIES.iter().filter(lacks).collect();
        for text in &self.texts {
            match free.iter().position(|property| property.keyword == text.keyword) {
                Some(at) => {
                    let Property { name, list, language, .. } = free.swap_remove(at);
                    known += &format!(
                        "<{name}><rdf:{list}><rdf:li{language}>{}</rdf:li></rdf:{list}></{name}>",
                        escape(&text.text)
                    );
                }
                None => {
                    others += &format!(
                        "<rdf:li rdf:parseType=\"Resource\"><cupscale:keyword>{}</cupscale:keyword>\
                         <cupscale:text>{}</cupscale:text></rdf:li>",
                        escape(&text.keyword),
                        escape(&text.text)
                    );
                }
            }
        }
        if !known.is_empty() {
            out += " xmlns:dc=\"http://purl.org/dc/elements/1.1/\"";
        }
        if known.is_empty() && others.is_empty() {
            return out + "/>";
        }
        out += ">";
        out += &known;
        if !others.is_empty() {
            out += &format!("<cupscale:texts><rdf:Seq>{others}</rdf:Seq></cupscale:texts>");
        }
        out + "</rdf:Description>"
    }
}

/// A property of Dublin Core that holds a text.
struct Property {
    /// Keyword of the text in PNG.
    keyword: &'static str,
    name: &'static str,
    /// Kind of its list, and the attribute of the list's entries.
    list: &'static str,
    language: &'static str,
}

pub(super) const ANY_LANGUAGE: &str = " xml:lang=\"x-default\"";
static PROPERTIES: [Property; 4] = [
    Property { keyword: "Title", name: "dc:title", list: "Alt", language: ANY_LANGUAGE },
    Property { keyword: "Author", name: "dc:creator", list: "Seq", language: "" },
    Property {
        keyword: "Description",
        name: "dc:description",
        list: "Alt",
        language: ANY_LANGUAGE,
    },
    Property { keyword: "Copyright", name: "dc:rights", list: "Alt", language: ANY_LANGUAGE },
];

pub(super) fn has_property(packet: &str, name: &str) -> bool {
    packet.match_indices(name).any(|(at, _)| {
        // An element or an attribute, not the beginning of a longer name.
        matches!(packet.as_bytes().get(at + name.len()), Some(b'>' | b'=' | b' ' | b'/'))
    })
}

/// `existing` (or a new packet) with the additions in it; older settings are replaced.
/// A packet that cannot be added to, because it is no UTF-8, no RDF or not well formed, gives way to a new one.
pub(crate) fn with(existing: Option<Vec<u8>>, additions: &Additions<'_>) -> Vec<u8> {
    if let Some(added) = existing.and_then(|packet| added(packet, additions)) {
        return added;
    }
    let tool = additions.settings.map_or(String::new(), |(software, _)| {
        format!(
            "<rdf:Description rdf:about=\"\" xmlns:xmp=\"http://ns.adobe.com/xap/1.0/\" \
             xmp:CreatorTool=\"{}\"/>",
            escape(software)
        )
    });
    packet(&format!("{tool}{}", additions.description("")))
}

/// The packet with the additions in it, if they can be read from it again.
fn added(packet: Vec<u8>, additions: &Additions<'_>) -> Option<Vec<u8>> {
    let mut text = without_own(String::from_utf8(packet).ok()?);
    let at = closing(&text)?;
    let description = additions.description(&text);
    text.reserve_exact(description.len());
    text.insert_str(at, &description);
    // In what is not well formed something else may pass for our settings, or swallow them.
    let added = additions.settings.map(|(_, settings)| unescape(&escape(settings)));
    let packet = text.into_bytes();
    (settings(&packet) == added).then_some(packet)
}

/// `true` for a packet that can be added to.
pub(crate) fn is_rdf(packet: &[u8]) -> bool {
    std::str::from_utf8(packet).is_ok_and(|text| closing(text).is_some())
}

/// Place of the tag that closes the RDF. In a comment, or in a value, there may be more that look like it.
pub(super) fn closing(text: &str) -> Option<usize> {
    let tags = tags(text).filter(|tag| tag.kind == TagKind::Close && tag.name == "rdf:RDF");
    tags.last().map(|tag| tag.range.start)
}

/// A packet whose content is these descriptions.
pub(super) fn packet(descriptions: &str) -> Vec<u8> {
    format!(
        "<?xpacket begin=\"\u{feff}\" id=\"W5M0MpCehiHzreSzNTczkc9d\"?>\
         <x:xmpmeta xmlns:x=\"adobe:ns:meta/\">\
         <rdf:RDF xmlns:rdf=\"http://www.w3.org/1999/02/22-rdf-syntax-ns#\">\
         {descriptions}</rdf:RDF></x:xmpmeta><?xpacket end=\"w\"?>"
    )
    .into_bytes()
}

/// A packet for a JPEG whose own one, `guid`, is too large for a segment and follows in parts.
/// The additions stand here, where every reader finds them.
pub(crate) fn announcing(guid: &str, additions: &Additions<'_>) -> Vec<u8> {
    packet(&format!(
        "<rdf:Description rdf:about=\"\" xmlns:xmpNote=\"{NOTE}\" \
         xmpNote:HasExtendedXMP=\"{guid}\"/>{}",
        additions.description("")
    ))
}

/// The settings that [`with`] put into a packet, behind all else in it.
pub(crate) fn settings(packet: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(packet).ok()?;
    values(text, &names(text, OWN, &["settings"])).last().map(unescape)
}

/// The identifier of the parts that continue this packet in its JPEG.
pub(crate) fn extension(packet: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(packet).ok()?;
    values(text, &names(text, NOTE, &["HasExtendedXMP"])).next().map(str::to_owned)
}

/// The packet, joined with what continued it if that was found whole; it announces no continuation any more.
/// `Err` is the packet alone: the continuation cannot be joined.
pub(crate) fn joined(packet: Vec<u8>, more: Option<Vec<u8>>) -> Result<Vec<u8>, Vec<u8>> {
    let packet = edit(packet, |text| {
        let names = names(text, NOTE, &["HasExtendedXMP"]);
        without(text, |found| is_among(found, &names))
    });
    let Some(more) = more.and_then(|more| String::from_utf8(more).ok()) else {
        return Err(packet);
    };
    let Some(descriptions) = descriptions(&more) else {
        return Err(packet);
    };
    let mut text = match String::from_utf8(packet) {
        Ok(text) => text,
        Err(error) => return Err(error.into_bytes()),
    };
    let Some(at) = closing(&text) else {
        return Err(text.into_bytes());
    };
    text.reserve_exact(descriptions.len());
    text.insert_str(at, descriptions);
    Ok(text.into_bytes())
}

/// What stands inside a packet's RDF, if it means the same in another packet's: prefixes that are declared around it
/// would be lost.
fn descriptions(packet: &str) -> Option<&str> {
    for tag in tags(packet) {
        let foreign = tag.attributes().any(|attribute| {
            attribute.name.starts_with("xmlns:")
                && !["xmlns:x", "xmlns:rdf"].contains(&attribute.name)
        });
        if foreign {
            return None;
        }
        if tag.name == "rdf:RDF" {
            return packet.get(tag.range.end..closing(packet)?);
        }
    }
    None
}

/// The packet with `tiff:Orientation` saying upright, for pixels that were turned.
pub(crate) fn upright(packet: Vec<u8>) -> Vec<u8> {
    with_values(packet, &[(TIFF, "Orientation", 1)])
}

/// The packet with the picture's size wherever it states it.
pub(crate) fn with_size(packet: Vec<u8>, width: u32, height: u32) -> Vec<u8> {
    let values = [
        (TIFF, "ImageWidth", width),
        (TIFF, "ImageLength", height),
        // Not in the standard, and yet in files.
        (TIFF, "ImageHeight", height),
        (EXIF, "PixelXDimension", width),
        (EXIF, "PixelYDimension", height),
        (EXIF, "ExifImageWidth", width),
        (EXIF, "ExifImageHeight", height),
    ];
    with_values(packet, &values)
}

/// The packet with these numbers as the values of the properties, where it has them.
fn with_values(packet: Vec<u8>, values: &[(&str, &str, u32)]) -> Vec<u8> {
    edit(packet, |text| {
        let named = values.iter().flat_map(|(namespace, name, value)| {
            let names = names(text, namespace, &[*name]);
            names.into_iter().map(move |name| (name, value.to_string()))
        });
        let named: Vec<(String, String)> = named.collect();
        let value = |name: &str| named.iter().find(|(own, _)| own == name).map(|(_, v)| v.as_str());
        if named.is_empty() {
            return None;
        }
        let mut editor = Editor::new(text);
        for tag in tags(text).filter(|tag| tag.kind != TagKind::Close) {
            if let (Some(value), TagKind::Open) = (value(tag.name), tag.kind) {
                editor.replace(tag.content().0, value);
            }
            for attribute in tag.attributes() {
                if let Some(value) = value(attribute.name) {
                    editor.replace(attribute.value_range, value);
                }
            }
        }
        editor.finish()
    })
}

/// `true` if a packet speaks of a gain map that stands behind the JPEG.
pub(crate) fn announces_gain_map(packet: &[u8]) -> bool {
    holds_one(packet, &[COMPANIONS[0], COMPANIONS[3], "\"GainMap\""])
}

/// `true` if a packet speaks of a film that stands behind the JPEG.
pub(crate) fn announces_film(packet: &[u8]) -> bool {
    holds_one(packet, &["MotionPhoto", "MicroVideo"])
}

fn holds_one(packet: &[u8], words: &[&str]) -> bool {
    std::str::from_utf8(packet).is_ok_and(|text| words.iter().any(|word| text.contains(word)))
}

/// The packet without the properties that announce what stands behind the JPEG, which no output has.
pub(crate) fn alone(packet: Vec<u8>) -> Vec<u8> {
    edit(packet, |text| {
        let prefixes = COMPANIONS.into_iter().flat_map(|namespace| prefixes(text, namespace));
        let prefixes: Vec<&str> = prefixes.collect();
        if prefixes.is_empty() {
            return None;
        }
        without(text, |name| {
            name.split_once(':').is_some_and(|(prefix, _)| prefixes.contains(&prefix))
        })
    })
}

/// The packet without the thumbnails in it; `true` if it had any.
pub(crate) fn without_thumbnails(packet: Vec<u8>) -> (Vec<u8>, bool) {
    let length = packet.len();
    let packet = edit(packet, |text| {
        let names = names(text, XAP, &["Thumbnails"]);
        without(text, |found| is_among(found, &names))
    });
    let had_any = packet.len() < length;
    (packet, had_any)
}

/// The texts that [`with`] put into a packet under their keywords, at most `most`, and the packet without them.
pub(crate) fn take_texts(packet: Vec<u8>, most: usize) -> (Vec<u8>, Vec<Text>) {
    let mut texts = Vec::new();
    let packet = edit(packet, |text| {
        let name = |local: &str| names(text, OWN, &[local]);
        let (lists, keyword_names, text_names) = (name("texts"), name("keyword"), name("text"));
        if lists.is_empty() {
            return None;
        }
        let mut keyword = None;
        // An entity has at most six bytes, and so many texts were written.
        let mut room = 6 * MAX_PLACED;
        for tag in tags(text).filter(|tag| tag.kind == TagKind::Open) {
            if is_among(tag.name, &keyword_names) {
                let name = tag.content().1;
                keyword = (name.len() < MAX_KEYWORD).then(|| unescape(name));
            } else if is_among(tag.name, &text_names)
                && let Some(keyword) = keyword.take()
                && texts.len() < most
                && tag.content().1.len() <= room
            {
                room -= tag.content().1.len();
                texts.push(Text::new(keyword, unescape(tag.content().1)));
            }
        }
        without(text, |found| is_among(found, &lists))
    });
    (packet, texts)
}

/// The packet without the settings of an earlier run. `None` for one that has some all the same: it is not well formed.
pub(crate) fn without_settings(packet: Vec<u8>) -> Option<Vec<u8>> {
    let packet = edit(packet, |text| {
        let names = names(text, OWN, &["settings"]);
        without(text, |found| is_among(found, &names))
    });
    settings(&packet).is_none().then_some(packet)
}

/// The packet without what an earlier run of this program put into it.
fn without_own(text: String) -> String {
    let names = names(&text, OWN, &["software", "settings", "texts"]);
    let less = without(&text, |found| is_among(found, &names));
    let text = less.unwrap_or(text);
    // The element that is left empty.
    let empty = [
        format!("<rdf:Description rdf:about=\"\" xmlns:cupscale=\"{OWN}\"/>"),
        format!("<rdf:Description rdf:about=\"\" xmlns:cupscale=\"{OWN}\"></rdf:Description>"),
    ];
    match empty.iter().find_map(|e| text.find(e).map(|at| at..at + e.len())) {
        Some(range) => [&text[..range.start], &text[range.end..]].concat(),
        None => text,
    }
}

/// The prefixes that a text declares for a namespace, each once.
fn prefixes<'a>(text: &'a str, namespace: &str) -> Vec<&'a str> {
    let declared = |(at, _): (usize, &str)| {
        let before = text[..at].strip_suffix(['"', '\''])?.trim_end();
        let before = before.strip_suffix('=')?.trim_end();
        let closed = text[at + namespace.len()..].starts_with(['"', '\'']);
        let start = before.rfind(|c: char| c == ':' || c.is_ascii_whitespace())?;
        (closed && before[..start].ends_with("xmlns")).then(|| &before[start + 1..])
    };
    let mut prefixes = Vec::new();
    for prefix in text.match_indices(namespace).filter_map(declared) {
        if prefixes.len() == MAX_PREFIXES {
            break;
        }
        if !prefixes.contains(&prefix) {
            prefixes.push(prefix);
        }
    }
    prefixes
}

/// Names of properties of a namespace under every prefix that a text declares for it; none without one.
fn names(text: &str, namespace: &str, locals: &[&str]) -> Vec<String> {
    let mut names = Vec::new();
    for prefix in prefixes(text, namespace) {
        names.extend(locals.iter().map(|local| format!("{prefix}:{local}")));
    }
    names
}

fn is_among(name: &str, names: &[String]) -> bool {
    names.iter().any(|known| known == name)
}

/// The values of the attributes and elements of these names, as written.
fn values<'a>(text: &'a str, names: &[String]) -> impl Iterator<Item = &'a str> {
    tags(text).filter(|tag| tag.kind != TagKind::Close).flat_map(move |tag| {
        let is_own = tag.kind == TagKind::Open && is_among(tag.name, names);
        let content = is_own.then(|| tag.content().1);
        let attributes = tag.attributes().filter(move |attribute| is_among(attribute.name, names));
        content.into_iter().chain(attributes.map(|attribute| attribute.value))
    })
}

/// The packet after an edit, or as it was.
fn edit(packet: Vec<u8>, edit: impl FnOnce(&str) -> Option<String>) -> Vec<u8> {
    match std::str::from_utf8(&packet).ok().and_then(edit) {
        Some(edited) => edited.into_bytes(),
        None => packet,
    }
}

#[cfg(test)]
mod tests;
