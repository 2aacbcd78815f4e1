//! Tags of an XML text and edits at their places: as much of XML as it takes to change single values of an XMP packet
//! and leave every other byte as it is. One pass each, whatever the text.

use std::ops::Range;

/// Entities of characters that stand in texts of ours or of common writers.
const ENTITIES: [(&str, char); 12] = [
    ("&lt;", '<'),
    ("&gt;", '>'),
    ("&quot;", '"'),
    ("&amp;", '&'),
    ("&apos;", '\''),
    ("&#39;", '\''),
    ("&#10;", '\n'),
    ("&#xA;", '\n'),
    ("&#13;", '\r'),
    ("&#xD;", '\r'),
    ("&#9;", '\t'),
    ("&#x9;", '\t'),
];

/// Tags of a text that are looked at; a packet has thousands.
const MAX_TAGS: usize = 1 << 18;
/// Bytes of a tag, and of all tags whose attributes are looked at.
const MAX_TAG_BYTES: usize = 8 << 20;

/// Kind of a tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum TagKind {
    Open,
    Close,
    /// `<a/>`.
    Empty,
}

/// A tag and its place in the text.
#[derive(Debug, Clone)]
pub(crate) struct Tag<'a> {
    pub name: &'a str,
    pub kind: TagKind,
    pub range: Range<usize>,
    text: &'a str,
    /// Place of what stands between the name and the tag's end.
    rest: Range<usize>,
}

/// An attribute of a tag.
#[derive(Debug)]
pub(crate) struct Attribute<'a> {
    pub name: &'a str,
    /// As written, with its entities.
    pub value: &'a str,
    /// Place of the value, without quotes.
    pub value_range: Range<usize>,
    /// Place of the whole, with the blanks before it.
    pub range: Range<usize>,
}

/// The tags of a text; comments, instructions and CDATA are passed over. Ends where the text is no XML, or where it has
/// more than any packet: a text of tags and nothing else would cost seconds.
pub(crate) fn tags(text: &str) -> impl Iterator<Item = Tag<'_>> {
    let (mut at, mut left) = (0, MAX_TAG_BYTES);
    let tags = std::iter::from_fn(move || {
        loop {
            let start = at + text[at..].find('<')?;
            let rest = &text[start..];
            let passed = [("<!--", "-->"), ("<?", "?>"), ("<![CDATA[", "]]>"), ("<!", ">")]
                .into_iter()
                .find(|(open, _)| rest.starts_with(open));
            if let Some((_, close)) = passed {
                at = start + rest.find(close)? + close.len();
                continue;
            }
            let end = start + tag_end(rest)?;
            at = end + 1;
            let mut tag = tag(text, start..at);
            if tag.rest.len() > left {
                tag.rest.end = tag.rest.start;
            }
            left -= tag.rest.len();
            return Some(tag);
        }
    });
    tags.take(MAX_TAGS)
}

/// Offset of the `>` that ends a tag: none inside quotes does.
fn tag_end(tag: &str) -> Option<usize> {
    let mut quote = None;
    tag.bytes().take(MAX_TAG_BYTES).position(|b| {
        match (quote, b) {
            (None, b'"' | b'\'') => quote = Some(b),
            (Some(open), b) if open == b => quote = None,
            _ => {}
        }
        quote.is_none() && b == b'>'
    })
}

fn tag(text: &str, range: Range<usize>) -> Tag<'_> {
    let (mut from, mut to) = (range.start + 1, range.end - 1);
    let kind = if text[from..to].starts_with('/') {
        from += 1;
        TagKind::Close
    } else if text[from..to].ends_with('/') {
        to -= 1;
        TagKind::Empty
    } else {
        TagKind::Open
    };
    let inside = &text[from..to];
    let length = inside.find(|c: char| c.is_ascii_whitespace()).unwrap_or(inside.len());
    Tag { name: &inside[..length], kind, range, text, rest: from + length..to }
}

impl<'a> Tag<'a> {
    pub(crate) fn attributes(&self) -> impl Iterator<Item = Attribute<'a>> + use<'a> {
        let (text, end) = (self.text, self.rest.end);
        let mut at = self.rest.start;
        std::iter::from_fn(move || {
            let rest = &text[at..end];
            let equals = rest.find('=')?;
            let name = rest[..equals].trim();
            let after = &rest[equals + 1..];
            let quote = after.find(['"', '\''])?;
            let value = at + equals + 1 + quote + 1;
            let length = text[value..end].find(after.as_bytes()[quote] as char)?;
            let range = at..value + length + 1;
            at = range.end;
            let value_range = value..value + length;
            Some(Attribute { name, value: &text[value_range.clone()], value_range, range })
        })
    }

    /// Place of the text up to the next tag, and the text.
    pub(crate) fn content(&self) -> (Range<usize>, &'a str) {
        let start = self.range.end;
        let length = self.text[start..].find('<').unwrap_or(self.text.len() - start);
        (start..start + length, &self.text[start..start + length])
    }
}

/// A text that is being edited from its beginning to its end.
pub(crate) struct Editor<'a> {
    text: &'a str,
    /// The edited text up to `at`, once there was an edit.
    out: Option<String>,
    at: usize,
}

impl<'a> Editor<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, out: None, at: 0 }
    }

    /// Puts `new` in the place of `range`, which lies behind all that was edited.
    pub(crate) fn replace(&mut self, range: Range<usize>, new: &str) {
        let out = self.out.get_or_insert_with(|| String::with_capacity(self.text.len()));
        out.push_str(&self.text[self.at..range.start]);
        out.push_str(new);
        self.at = range.end;
    }

    /// The edited text; `None` if nothing was edited.
    pub(crate) fn finish(self) -> Option<String> {
        let mut out = self.out?;
        out.push_str(&self.text[self.at..]);
        Some(out)
    }
}

/// The text without the attributes, and the elements with all in them, whose names `unwanted` picks; `None` if it has
/// none. An element that is not closed reaches to the end.
pub(crate) fn without(text: &str, unwanted: impl Fn(&str) -> bool) -> Option<String> {
    let mut editor = Editor::new(text);
    // Name, begin and depth of the element that is being left out.
    let mut leaving: Option<(&str, usize, usize)> = None;
    for tag in tags(text) {
        if let Some((name, start, depth)) = &mut leaving {
            match tag.kind {
                TagKind::Open if tag.name == *name => *depth += 1,
                TagKind::Close if tag.name == *name => *depth -= 1,
                _ => {}
            }
            if *depth == 0 {
                editor.replace(*start..tag.range.end, "");
                leaving = None;
            }
            continue;
        }
        match tag.kind {
            TagKind::Open if unwanted(tag.name) => leaving = Some((tag.name, tag.range.start, 1)),
            TagKind::Empty if unwanted(tag.name) => editor.replace(tag.range, ""),
            TagKind::Close => {}
            _ => {
                for attribute in tag.attributes().filter(|attribute| unwanted(attribute.name)) {
                    editor.replace(attribute.range, "");
                }
            }
        }
    }
    if let Some((_, start, _)) = leaving {
        editor.replace(start..text.len(), "");
    }
    editor.finish()
}

/// Text as it stands in an attribute or an element.
pub(crate) fn escape(text: &str) -> String {
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

/// The inverse of [`escape`].
pub(crate) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let known = ENTITIES.iter().find(|(entity, _)| rest.starts_with(entity));
        let (entity, character) = known.copied().unwrap_or(("&", '&'));
        out.push(character);
        rest = &rest[entity.len()..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "<?xpacket <a?><!-- <b> --><x a = 'q>\"' b:c=\"1\"><![CDATA[<d>]]><y/>t</x >";

    #[test]
    fn tags_and_attributes_are_found_where_they_are_and_nowhere_else() {
        let found: Vec<_> = tags(TEXT).collect();
        let names: Vec<_> = found.iter().map(|tag| (tag.name, tag.kind)).collect();
        assert_eq!(names, [("x", TagKind::Open), ("y", TagKind::Empty), ("x", TagKind::Close)]);
        let attributes: Vec<_> = found[0].attributes().map(|a| (a.name, a.value)).collect();
        assert_eq!(attributes, [("a", "q>\""), ("b:c", "1")]);
        assert_eq!(found[1].content().1, "t");
    }

    #[test]
    fn what_is_left_out_leaves_every_other_byte() {
        let text = "<r a='1' n:x='2'><n:y><n:y>3</n:y><z/></n:y><n:w/> k</r>";
        let left = without(text, |name| name.starts_with("n:"));
        assert_eq!(left.as_deref(), Some("<r a='1'> k</r>"));
        assert_eq!(without(text, |name| name == "q"), None);
        assert_eq!(without("<a/><n:y>3", |name| name == "n:y").as_deref(), Some("<a/>"));
    }

    #[test]
    fn a_text_of_tags_and_nothing_else_is_looked_at_in_part() {
        let many = "<a b=''/>".repeat(MAX_TAGS + 10);
        assert_eq!(tags(&many).count(), MAX_TAGS);
        let long = format!("<a {}/><a b=''/>", "b='' ".repeat(MAX_TAG_BYTES / 5));
        assert_eq!(tags(&long).count(), 0);
    }

    #[test]
    fn no_text_whatever_is_out_of_bounds() {
        for end in 0..=TEXT.len() {
            let text = &TEXT[..end];
            for tag in tags(text) {
                tag.content();
                tag.attributes().for_each(drop);
            }
            without(text, |name| name == "x");
        }
        for text in ["</>", "<>", "<a=\"", "<a b=>", "<a b='>", "</", "< ="] {
            tags(text).for_each(|tag| tag.attributes().for_each(drop));
        }
    }
}
