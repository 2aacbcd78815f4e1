//! Tags of networks in a prompt, `<lora:name:scale>`: they are taken out before it is read, because they change the model
//! and not the text.

use super::PromptError;

/// A LoRA that a prompt names.
#[derive(Clone, Debug, PartialEq)]
pub struct LoraTag {
    /// name of a model or a file, without extension
    pub name: String,
    /// 1 is as it was trained
    pub scale: f64,
    /// as it stands in the prompt
    pub tag: String,
}

/// A tag: its place in the text, its kind and what follows the first colon.
struct Tag<'a> {
    start: usize,
    end: usize,
    kind: &'a str,
    arguments: &'a str,
}

/// The prompt without tags of networks, and the LoRAs that they name, in their order.
///
/// # Errors
/// A tag of another kind, or a scale that is none.
pub fn without_networks(prompt: &str) -> Result<(String, Vec<LoraTag>), PromptError> {
    let (mut text, mut loras, mut rest) = (String::new(), Vec::new(), prompt);
    while let Some(tag) = first(rest) {
        text.push_str(&rest[..tag.start]);
        loras.push(lora(&tag, &rest[tag.start..tag.end])?);
        rest = &rest[tag.end..];
    }
    text.push_str(rest);
    Ok((text, loras))
}

/// The first tag of a text, as it stands there.
pub(super) fn first_tag(text: &str) -> Option<&str> {
    first(text).map(|tag| &text[tag.start..tag.end])
}

/// A1111 looks for `<(\w+):([^>]+)>`.
fn first(text: &str) -> Option<Tag<'_>> {
    for (start, _) in text.match_indices('<') {
        let inside = &text[start + 1..];
        let kind = inside.find(|sign: char| !(sign.is_alphanumeric() || sign == '_'));
        let Some((kind, arguments)) = kind
            .filter(|&end| end > 0)
            .and_then(|end| Some((&inside[..end], inside[end..].strip_prefix(':')?)))
        else {
            continue;
        };
        // Without an end here there is none for a later one.
        let length = arguments.find('>')?;
        if length > 0 {
            let end = start + 1 + kind.len() + 1 + length + 1;
            return Some(Tag { start, end, kind, arguments: &arguments[..length] });
        }
    }
    None
}

fn lora(tag: &Tag<'_>, whole: &str) -> Result<LoraTag, PromptError> {
    if !["lora", "lyco"].contains(&tag.kind) {
        return Err(PromptError::Network(PromptError::shown(whole)));
    }
    let refuse = |reason| Err(PromptError::Lora { tag: PromptError::shown(whole), reason });
    let mut parts = tag.arguments.split(':').map(str::trim);
    let name = parts.next().unwrap_or_default().to_owned();
    if name.is_empty() {
        return refuse("it names no file");
    }
    let mut scales = Vec::new();
    for part in parts {
        match part.parse::<f64>() {
            Ok(scale) if scale.is_finite() => scales.push(scale),
            _ if part.contains('=') => {
                return refuse("only a scale is supported, as in <lora:name:0.8>");
            }
            _ => return refuse("its scale is not a number, as in <lora:name:0.8>"),
        }
    }
    let scale = scales.first().copied().unwrap_or(1.0);
    // A1111's second number is that of the denoiser.
    if scales.iter().any(|&other| other.to_bits() != scale.to_bits()) {
        return refuse("one scale for text encoder and denoiser is supported");
    }
    Ok(LoraTag { name, scale, tag: whole.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_are_taken_out_with_their_scales() {
        let (text, loras) =
            without_networks("a <lora:Ink wash-v2:0.8>cat <3, <b> <lyco:x><lora:y:-1:-1>").unwrap();
        assert_eq!(text, "a cat <3, <b> ");
        let found: Vec<_> = loras.iter().map(|lora| (lora.name.as_str(), lora.scale)).collect();
        assert_eq!(found, [("Ink wash-v2", 0.8), ("x", 1.0), ("y", -1.0)]);
        assert_eq!(loras[0].tag, "<lora:Ink wash-v2:0.8>");
        for text in
            ["", "<", "<lora", "<lora:", "<lora:a", "<lora:>", "<:a>", "<a b:c>", "a<b>c:d>"]
        {
            assert_eq!(without_networks(text), Ok((text.to_owned(), Vec::new())), "{text}");
        }
    }

    #[test]
    fn what_a_tag_cannot_say_is_refused_by_name() {
        for (tag, said) in [
            ("<hypernet:a:1>", "`<hypernet:a:1>` is of a kind"),
            ("<lora:a:b>", "its scale is not a number"),
            ("<lora:a:1:0.5>", "one scale"),
            ("<lora:a:te=1>", "only a scale"),
            ("<lora: :1>", "it names no file"),
            ("<lora:a:inf>", "its scale"),
        ] {
            let error = without_networks(tag).unwrap_err().to_string();
            assert!(error.contains(said), "{error}");
        }
    }
}
