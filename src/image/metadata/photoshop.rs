//! Photoshop's image resources, the block in which JPEG and TIFF carry IPTC: what of it stays true for a picture of another
//! size is kept, and IPTC's fields are said in XMP where a format has no place for the block.
//! Source: Adobe Photoshop File Formats Specification, "Image Resources Section"; IPTC-NAA IIM 4.2; IPTC's mapping of IIM to
//! XMP (IPTC Core schema 1.3).

use super::text::from_unknown;

/// Prefix of a JPEG APP13 segment with resources.
pub(crate) const JPEG_PHOTOSHOP: &[u8] = b"Photoshop 3.0\0";
/// Beginning of a resource.
const SIGNATURE: &[u8] = b"8BIM";
/// IPTC's records.
const IPTC: u16 = 0x0404;
/// Bytes of a resource before its data: signature, number, empty name, length.
const HEAD: usize = 12;
/// Marker of a data set in IPTC's records.
const DATA_SET: u8 = 0x1C;
/// Fields of one block that are read.
const MAX_FIELDS: usize = 4096;

/// `true` for resources that say the same of the picture at another size. Others are previews, sizes, or what stands in
/// blocks of its own (profile, EXIF, XMP).
fn stays(number: u16) -> bool {
    // IPTC and its digest; copyright flag and address; paths, whose places are shares of the sides.
    matches!(number, IPTC | 0x0425 | 0x040A | 0x040B | 0x07D0..=0x0BB7)
}

/// The resources of a block, each with its number and its data; the block ends where it is damaged.
fn resources(block: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = block;
    std::iter::from_fn(move || {
        let body = rest.strip_prefix(SIGNATURE)?;
        let (number, body) = body.split_first_chunk()?;
        // A name with its length before it, both together of an even length.
        let name = usize::from(*body.first()?) + 1;
        let body = body.get(name.next_multiple_of(2)..)?;
        let (length, body) = body.split_first_chunk()?;
        let length = u32::from_be_bytes(*length) as usize;
        let data = body.get(..length)?;
        rest = body.get(length.next_multiple_of(2)..).unwrap_or_default();
        Some((u16::from_be_bytes(*number), data))
    })
}

/// Appends a resource to a block.
fn push(block: &mut Vec<u8>, number: u16, data: &[u8]) {
    block.extend(SIGNATURE);
    block.extend(number.to_be_bytes());
    block.extend([0, 0]);
    block.extend((data.len() as u32).to_be_bytes());
    block.extend(data);
    block.extend(&[0][..data.len() % 2]);
}

/// What of a block stays, as a block; `None` if nothing does.
pub(crate) fn kept(block: &[u8]) -> Option<Vec<u8>> {
    let mut kept = Vec::new();
    for (number, data) in resources(block).filter(|(number, _)| stays(*number)) {
        push(&mut kept, number, data);
    }
    (!kept.is_empty()).then_some(kept)
}

/// A block of IPTC's records alone.
pub(crate) fn of_iptc(records: &[u8]) -> Option<Vec<u8>> {
    let mut block = Vec::with_capacity(records.len() + HEAD + 1);
    (records.first() == Some(&DATA_SET)).then(|| {
        push(&mut block, IPTC, records);
        block
    })
}

/// A block that a program stored whole, with JPEG's prefix, or of which it stored IPTC's records alone.
pub(crate) fn of_any(block: &[u8]) -> Option<Vec<u8>> {
    let block = block.strip_prefix(JPEG_PHOTOSHOP).unwrap_or(block);
    kept(block).or_else(|| of_iptc(block))
}

/// IPTC's records in a block.
pub(crate) fn iptc(block: &[u8]) -> Option<&[u8]> {
    resources(block).find(|(number, _)| *number == IPTC).map(|(_, data)| data)
}

/// A property of XMP, and its values.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Property {
    /// With its usual prefix.
    pub name: &'static str,
    pub kind: Kind,
    pub values: Vec<String>,
}

/// Form of a property's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Text,
    /// In languages, of which the default one is known.
    Alt,
    Bag,
    Seq,
}

/// Namespaces of the properties, by their prefixes.
pub(crate) const NAMESPACES: [(&str, &str); 3] = [
    ("dc", "http://purl.org/dc/elements/1.1/"),
    ("photoshop", "http://ns.adobe.com/photoshop/1.0/"),
    ("Iptc4xmpCore", "http://iptc.org/std/Iptc4xmpCore/1.0/xmlns/"),
];

/// Data sets of record 2 and the properties that hold them.
const FIELDS: [(u8, &str, Kind); 19] = [
    (5, "dc:title", Kind::Alt),
    (10, "photoshop:Urgency", Kind::Text),
    (15, "photoshop:Category", Kind::Text),
    (25, "dc:subject", Kind::Bag),
    (40, "photoshop:Instructions", Kind::Text),
    (80, "dc:creator", Kind::Seq),
    (85, "photoshop:AuthorsPosition", Kind::Text),
    (90, "photoshop:City", Kind::Text),
    (92, "Iptc4xmpCore:Location", Kind::Text),
    (95, "photoshop:State", Kind::Text),
    (100, "Iptc4xmpCore:CountryCode", Kind::Text),
    (101, "photoshop:Country", Kind::Text),
    (103, "photoshop:TransmissionReference", Kind::Text),
    (105, "photoshop:Headline", Kind::Text),
    (110, "photoshop:Credit", Kind::Text),
    (115, "photoshop:Source", Kind::Text),
    (116, "dc:rights", Kind::Alt),
    (120, "dc:description", Kind::Alt),
    (122, "photoshop:CaptionWriter", Kind::Text),
];
/// Date of creation, `CCYYMMDD`, and its time, `HHMMSS±HHMM`.
const DATE: u8 = 55;
const TIME: u8 = 60;
const DATE_CREATED: &str = "photoshop:DateCreated";

/// The properties of XMP that say what IPTC's records say.
pub(crate) fn properties(records: &[u8]) -> Vec<Property> {
    let fields: Vec<(u8, &[u8])> = application_fields(records).take(MAX_FIELDS).collect();
    let texts = |number: u8| {
        let fields = fields.iter().filter(move |(own, _)| *own == number);
        fields.map(|(_, data)| from_unknown(data.to_vec())).filter(|text| !text.trim().is_empty())
    };
    let mut properties = Vec::new();
    for (number, name, kind) in FIELDS {
        let most = if matches!(kind, Kind::Bag | Kind::Seq) { MAX_FIELDS } else { 1 };
        let values: Vec<String> = texts(number).take(most).collect();
        if !values.is_empty() {
            properties.push(Property { name, kind, values });
        }
    }
    let time = texts(TIME).next().and_then(|text| time(&text)).unwrap_or_default();
    if let Some(date) = texts(DATE).next().and_then(|text| date(&text)) {
        let values = vec![date + &time];
        properties.push(Property { name: DATE_CREATED, kind: Kind::Text, values });
    }
    properties
}

/// Number and data of the data sets of record 2.
fn application_fields(records: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    let mut rest = records;
    let all = std::iter::from_fn(move || {
        let [DATA_SET, record, number, high, low, body @ ..] = rest else { return None };
        let stated = u16::from_be_bytes([*high, *low]);
        let (length, body) = if stated & 0x8000 == 0 {
            (usize::from(stated), body)
        } else {
            // A length of more bytes, of which there are so many.
            let bytes = usize::from(stated & 0x7FFF);
            let number = body.get(..bytes).filter(|_| bytes <= 4)?;
            let length = number.iter().fold(0, |length, &byte| length << 8 | usize::from(byte));
            (length, &body[bytes..])
        };
        let data = body.get(..length)?;
        rest = &body[length..];
        Some((*record, *number, data))
    });
    all.filter(|(record, ..)| *record == 2).map(|(_, number, data)| (number, data))
}

/// `2024-05-17` of `20240517`.
fn date(text: &str) -> Option<String> {
    let digits = text.len() == 8 && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| format!("{}-{}-{}", &text[..4], &text[4..6], &text[6..]))
}

/// `T10:20:30+02:00` of `102030+0200`; the zone may be missing.
fn time(text: &str) -> Option<String> {
    let digits = |range: std::ops::Range<usize>| {
        text.get(range).filter(|part| part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let clock = format!("T{}:{}:{}", digits(0..2)?, digits(2..4)?, digits(4..6)?);
    let zone = match text.get(6..7) {
        Some(sign @ ("+" | "-")) => format!("{sign}{}:{}", digits(7..9)?, digits(9..11)?),
        _ => String::new(),
    };
    Some(clock + &zone)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(number: u8, data: &[u8]) -> Vec<u8> {
        [&[DATA_SET, 2, number][..], &(data.len() as u16).to_be_bytes(), data].concat()
    }

    #[test]
    fn what_stays_true_is_kept_and_previews_go() {
        let mut block = Vec::new();
        push(&mut block, 0x040C, b"a thumbnail");
        // With a name, as Photoshop writes them for paths.
        block.extend(b"8BIM\x07\xd0\x04path\0\0\0\0\x03abc\0");
        push(&mut block, IPTC, &field(120, b"odd"));
        let kept = kept(&block).unwrap();
        let numbers: Vec<u16> = resources(&kept).map(|(number, _)| number).collect();
        assert_eq!(numbers, [0x07D0, IPTC]);
        assert_eq!(iptc(&kept), Some(&field(120, b"odd")[..]));
        assert_eq!(super::kept(b"8BIM\x04\x0c\0\0\0\0\0\x01x\0"), None);
        assert_eq!(of_any(&[JPEG_PHOTOSHOP, &block].concat()).unwrap(), kept);
        assert_eq!(iptc(&of_any(&field(5, b"t")).unwrap()), Some(&field(5, b"t")[..]));
        assert_eq!(of_any(b"something else"), None);
    }

    #[test]
    fn fields_become_properties_in_any_encoding() {
        let records = [
            field(5, b"A title"),
            field(25, "Grün".as_bytes()),
            field(25, b"Gr\xfcn"),
            field(55, b"20240517"),
            field(60, b"102030+0200"),
            vec![DATA_SET, 2, 120, 0x80, 4, 0, 0, 0, 2, b'h', b'i'],
            vec![DATA_SET, 1, 90, 0, 3, 0x1B, b'%', b'G'],
        ]
        .concat();
        let found = properties(&records);
        let value = |name: &str| {
            let property = found.iter().find(|property| property.name == name);
            property.map(|property| property.values.join("|")).unwrap_or_default()
        };
        assert_eq!(value("dc:title"), "A title");
        assert_eq!(value("dc:subject"), "Grün|Grün");
        assert_eq!(value("dc:description"), "hi");
        assert_eq!(value("photoshop:DateCreated"), "2024-05-17T10:20:30+02:00");
        assert_eq!(found.len(), 4);
    }

    #[test]
    fn blocks_that_end_anywhere_give_what_there_is() {
        let mut block = Vec::new();
        push(&mut block, IPTC, &[field(5, b"title"), field(80, b"name")].concat());
        // The last byte makes the length even.
        for end in 0..block.len() - 1 {
            assert_eq!(kept(&block[..end]), None);
            let records = iptc(&block).unwrap();
            assert!(properties(&records[..end.min(records.len())]).len() <= 2);
        }
    }
}
