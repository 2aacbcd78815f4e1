//! Parts and channels of an OpenEXR: which of them are the picture, and what else of the header an output keeps.
//! Source: Technical Introduction to OpenEXR, "Channel Names" and "Layers"; the list of standard attributes.

use exr::meta::attribute::{AttributeValue, SampleType, Text as ExrText};
use exr::meta::header::Header;

use super::super::header::ChannelLayout;
use crate::image::colour;
use crate::image::metadata::text::{COMMENT, COPYRIGHT};
use crate::image::metadata::{Metadata, Text, exr as names, plausible_dpi};
use crate::image::primaries::{self, Chromaticities};

/// The picture among the parts of a file.
#[derive(Clone, Debug)]
pub(super) struct Chosen {
    /// Number of the part.
    pub part: usize,
    pub layout: ChannelLayout,
    /// Number, in the part's list, of each of the layout's channels.
    pub channels: Vec<usize>,
    /// Other parts or layers hold colours too.
    pub others: bool,
    /// Channels of the part that are neither colour nor transparency of the picture.
    pub left_out: usize,
}

/// Why no part can be read.
pub(super) enum NoPicture {
    /// Kind of the file, and what helps.
    Kind(String, &'static str),
}

const OIIO: &str = "convert it: oiiotool FILE --ch R,G,B -o NEW.exr";
const RGB: &str = "convert it: oiiotool FILE -d half -o NEW.exr";

/// The first layer with colours of the first part that has one.
pub(super) fn choose(parts: &[Header]) -> Result<Chosen, NoPicture> {
    let mut chosen: Option<Chosen> = None;
    let mut layers = 0;
    for (part, header) in parts.iter().enumerate().filter(|(_, header)| !header.deep) {
        let names: Vec<String> =
            header.channels.list.iter().map(|channel| channel.name.to_string()).collect();
        let mut prefixes: Vec<&str> = names.iter().map(|name| split(name).0).collect();
        // Channels without a layer's name come first; a sort that is stable keeps the others' order.
        prefixes.sort_by_key(|prefix| !prefix.is_empty());
        prefixes.dedup();
        for prefix in prefixes {
            let find = |base: &str| {
                names.iter().position(|name| {
                    let (own, rest) = split(name);
                    own == prefix && rest.eq_ignore_ascii_case(base)
                })
            };
            let colours = match (find("R"), find("G"), find("B"), find("Y")) {
                (Some(r), Some(g), Some(b), _) => vec![r, g, b],
                (_, _, _, Some(y)) if find("RY").is_none() && find("BY").is_none() => vec![y],
                _ => continue,
            };
            layers += 1;
            if chosen.is_some() {
                continue;
            }
            let grey = colours.len() == 1;
            let mut channels = colours;
            channels.extend(find("A"));
            let layout = match (grey, channels.len()) {
                (true, 1) => ChannelLayout::Grey,
                (true, _) => ChannelLayout::GreyAlpha,
                (false, 3) => ChannelLayout::Rgb,
                (false, _) => ChannelLayout::Rgba,
            };
            let left_out = names.len() - channels.len();
            chosen = Some(Chosen { part, layout, channels, others: false, left_out });
        }
    }
    let Some(chosen) = chosen else { return Err(no_picture(parts)) };
    let list = &parts[chosen.part].channels.list;
    for &at in &chosen.channels {
        if list[at].sample_type == SampleType::U32 {
            return Err(NoPicture::Kind("OpenEXR of whole numbers".to_owned(), RGB));
        }
    }
    if list.iter().any(|channel| (channel.sampling.0, channel.sampling.1) != (1, 1)) {
        return Err(NoPicture::Kind("OpenEXR with subsampled channels".to_owned(), OIIO));
    }
    Ok(Chosen { others: layers > 1, ..chosen })
}

/// Layer and channel of a name.
fn split(name: &str) -> (&str, &str) {
    name.rsplit_once('.').unwrap_or(("", name))
}

/// What a file holds that has no colours.
fn no_picture(parts: &[Header]) -> NoPicture {
    if parts.iter().all(|header| header.deep) {
        return NoPicture::Kind(
            "deep OpenEXR".to_owned(),
            "flatten it: oiiotool FILE --flatten -o NEW.exr",
        );
    }
    let names = parts.iter().flat_map(|header| &header.channels.list);
    let mut names: Vec<String> = names.take(8).map(|channel| channel.name.to_string()).collect();
    if names.iter().any(|name| split(name).1 == "RY") {
        return NoPicture::Kind("OpenEXR in luminance and chroma".to_owned(), OIIO);
    }
    names.iter_mut().for_each(|name| name.retain(|c| !c.is_control()));
    let names = names.join(", ").chars().take(80).collect::<String>();
    NoPicture::Kind(format!("OpenEXR without colours (its channels: {names})"), OIIO)
}

/// What of a header an output keeps.
pub(super) fn metadata(header: &Header, grey: bool) -> Metadata {
    let attributes = &header.own_attributes;
    let mut metadata = Metadata::default();
    if let Some(c) = header.shared_attributes.chromaticities.filter(|_| !grey) {
        let xy = [c.red, c.green, c.blue, c.white].map(|v| [f64::from(v.0), f64::from(v.1)]);
        let [red, green, blue, white] = xy;
        let profile = primaries::profile(Chromaticities { red, green, blue, white });
        metadata.icc = profile.and_then(|profile| colour::encoded(&profile));
    }
    if let Some(x) = attributes.horizontal_density {
        let aspect = f64::from(header.shared_attributes.pixel_aspect);
        metadata.dpi = plausible_dpi(x.into(), f64::from(x) * aspect);
    }
    let mut text = |keyword: &str, text: &Option<ExrText>| {
        if let Some(text) = text {
            metadata.texts.push(Text::new(keyword.to_owned(), text.to_string()));
        }
    };
    text(COMMENT, &attributes.comments);
    text(COPYRIGHT, &attributes.owner);
    if let Some(AttributeValue::Text(packet)) = names::find(header, names::XMP) {
        metadata.xmp = Some(packet.to_string().into_bytes());
    }
    metadata
}
