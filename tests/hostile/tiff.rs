//! TIFF: directories that overlap, go round or are outside, and values that claim what the file does not hold.

use crate::{Case, End, all_right};

/// Where a value lies: in the entry itself, or so many bytes after the directory.
#[derive(Clone, Copy)]
enum At {
    Here(u32),
    Data(u32),
}
use At::{Data, Here};

type Entry = (u16, u16, u32, At);

/// A file of one directory with these entries (tag, kind, count, value), and data after it.
fn file(mut entries: Vec<Entry>, data: &[u8]) -> Vec<u8> {
    entries.sort_by_key(|entry| entry.0);
    let after = 8 + 2 + 12 * entries.len() as u32 + 4;
    let mut bytes = [&b"II*\0\x08\0\0\0"[..], &(entries.len() as u16).to_le_bytes()].concat();
    for (tag, kind, count, at) in entries {
        let value = match at {
            Here(value) => value,
            Data(offset) => after + offset,
        };
        bytes.extend([tag.to_le_bytes(), kind.to_le_bytes()].concat());
        bytes.extend([count.to_le_bytes(), value.to_le_bytes()].concat());
    }
    bytes.extend([0; 4]);
    bytes.extend(data);
    bytes
}

/// 16 × 12 grey pixels in one strip.
fn standard() -> Vec<Entry> {
    vec![
        (256, 4, 1, Here(16)),
        (257, 4, 1, Here(12)),
        (258, 3, 1, Here(8)),
        (259, 3, 1, Here(1)),
        (262, 3, 1, Here(1)),
        (273, 4, 1, Data(0)),
        (277, 3, 1, Here(1)),
        (278, 4, 1, Here(12)),
        (279, 4, 1, Here(192)),
    ]
}

/// The standard directory with entries replaced or added.
fn changed(changes: &[Entry]) -> Vec<u8> {
    let mut entries = standard();
    entries.retain(|entry| changes.iter().all(|change| change.0 != entry.0));
    entries.extend(changes);
    file(entries, &[100; 192])
}

/// Pages of one entry each, below which the same directory of 16,384 entries hangs 16 times.
fn hanging(pages: u32) -> Vec<u8> {
    let length = 2 + 12 + 4;
    let list = 8 + pages * length;
    let long = list + 16 * 4;
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    for page in 1..=pages {
        let next = if page < pages { 8 + page * length } else { 0 };
        bytes.extend([1u16, 330, 4].map(u16::to_le_bytes).concat());
        bytes.extend([16, list, next].map(u32::to_le_bytes).concat());
    }
    bytes.extend(long.to_le_bytes().repeat(16));
    bytes.extend(16_384u16.to_le_bytes());
    let entry = [&[40_000u16, 3].map(u16::to_le_bytes).concat()[..], &[1, 0, 0, 0, 7, 0, 0, 0]];
    bytes.extend(entry.concat().repeat(16_384));
    bytes
}

#[test]
fn pictures() {
    let refused =
        |name: &str, bytes| Case::picture(format!("tiff {name}"), "tif", bytes, End::Refused);
    let good = file(standard(), &[100; 192]);
    let mut cases = vec![Case::picture("tiff that is good", "tif", good.clone(), End::Done)];
    for cut in [4, 8, 10, 60, good.len() - 192, good.len() - 1] {
        cases.push(refused(&format!("cut at {cut}"), good[..cut].to_vec()));
    }
    let most = u32::MAX;
    for (name, changes) in [
        ("of width 0", vec![(256, 4, 1, Here(0))]),
        ("of height 0", vec![(257, 4, 1, Here(0))]),
        ("of 2^32 pixels a row", vec![(256, 4, 1, Here(most))]),
        ("of 2^64 pixels", vec![(256, 4, 1, Here(most)), (257, 4, 1, Here(most))]),
        ("of 65536 x 65536", vec![(256, 4, 1, Here(65_536)), (257, 4, 1, Here(65_536))]),
        (
            "of 16384 x 16384 with 192 bytes",
            vec![(256, 4, 1, Here(16_384)), (257, 4, 1, Here(16_384)), (278, 4, 1, Here(16_384))],
        ),
        ("of 0 bits", vec![(258, 3, 1, Here(0))]),
        ("of 65535 bits", vec![(258, 3, 1, Here(65_535))]),
        ("compressed by nobody", vec![(259, 3, 1, Here(12_345))]),
        ("of colours of kind 99", vec![(262, 3, 1, Here(99))]),
        ("of 0 samples", vec![(277, 3, 1, Here(0))]),
        ("of 65535 samples", vec![(277, 3, 1, Here(65_535))]),
        ("whose strip is outside", vec![(273, 4, 1, Here(most - 100))]),
        ("whose strip ends outside", vec![(279, 4, 1, Here(most))]),
        (
            "of 2^28 strips",
            vec![(273, 4, 1 << 28, Data(0)), (279, 4, 1 << 28, Data(0)), (278, 4, 1, Here(1))],
        ),
        ("of strips of 0 rows", vec![(278, 4, 1, Here(0))]),
        (
            "of tiles of 0",
            vec![
                (322, 4, 1, Here(0)),
                (323, 4, 1, Here(0)),
                (324, 4, 1, Data(0)),
                (325, 4, 1, Here(192)),
            ],
        ),
        (
            "of tiles of 2^32",
            vec![
                (322, 4, 1, Here(most)),
                (323, 4, 1, Here(most)),
                (324, 4, 1, Data(0)),
                (325, 4, 1, Here(192)),
            ],
        ),
        ("of a palette that is not there", vec![(262, 3, 1, Here(3))]),
        ("of samples of kind 77", vec![(339, 3, 1, Here(77))]),
        ("as LZW that is none", vec![(259, 3, 1, Here(5))]),
        ("as Deflate that is none", vec![(259, 3, 1, Here(8))]),
        ("as JPEG that is none", vec![(259, 3, 1, Here(7))]),
        (
            "as fax that is none",
            vec![(259, 3, 1, Here(4)), (258, 3, 1, Here(1)), (257, 4, 1, Here(4000))],
        ),
    ] {
        cases.push(refused(name, changed(&changes)));
    }
    cases.push(refused("whose directory is outside", b"II*\0\xff\xff\xff\xff".to_vec()));
    cases.push(refused("whose directory is itself", b"II*\0\0\0\0\0".to_vec()));
    cases.push(refused("of 65535 entries in 10 bytes", b"II*\0\x08\0\0\0\xff\xff".to_vec()));
    cases.push(refused(
        "big, of 2^64 entries",
        [&b"II+\0\x08\0\0\0\x10\0\0\0\0\0\0\0"[..], &[0xFF; 8]].concat(),
    ));
    cases.push(refused(
        "big, whose directory is outside",
        [&b"II+\0\x08\0\0\0"[..], &[0xFF; 8]].concat(),
    ));

    let bounded =
        |name: &str, bytes| Case::picture(format!("tiff {name}"), "tif", bytes, End::Bounded);
    let shared = |entries: u16, size: u32| {
        let mut all = standard();
        all.extend((0..entries).map(|index| (40_000 + index % 20_000, 7, size, Here(8))));
        let mut bytes = file(all, &[100; 192]);
        bytes.resize(bytes.len().max(size as usize + 8), 0);
        bytes
    };
    cases.push(bounded("of 4000 entries of 400 kB that share bytes", shared(4_000, 400_000)));
    cases.push(bounded("of 50000 entries of 1.2 MB that share bytes", shared(50_000, 1_200_000)));
    cases.push(bounded("of 250 pages below which 4000 long directories hang", hanging(250)));
    // A picture of 256 MiB within a strip of 16 x 12 pixels.
    let picture = crate::jpeg::grey((16_384, 16_384), &[0; 1 << 20]);
    let mut strip = standard();
    strip.retain(|entry| ![259, 279].contains(&entry.0));
    strip.extend([(259, 3, 1, Here(7)), (279, 4, 1, Here(picture.len() as u32))]);
    cases.push(refused("whose strip is a JPEG of 16384 x 16384", file(strip, &picture)));
    for (name, tag, kind) in [("XMP", 700, 1), ("a profile", 34_675, 7), ("IPTC", 33_723, 4)] {
        cases.push(bounded(
            &format!("that claims 256 MB of {name}"),
            changed(&[(tag, kind, 0x0fff_ffff, Here(8))]),
        ));
        let mut all = standard();
        all.push((tag, 1, 48 << 20, Data(192)));
        let bytes = file(all, &[vec![100; 192], vec![b' '; 48 << 20]].concat());
        cases.push(bounded(&format!("with 48 MiB of {name}"), bytes));
    }
    for (name, tag) in [("EXIF", 34_665), ("GPS", 34_853), ("pages", 330)] {
        cases.push(bounded(&format!("whose {name} go round"), changed(&[(tag, 4, 1, Here(8))])));
    }
    let mut round = good;
    let next = round.len() - 192 - 4;
    round[next..next + 4].copy_from_slice(&8u32.to_le_bytes());
    cases.push(bounded("whose next picture is itself", round));
    // One channel has no arrangement, and 7 bits are as good as 8.
    cases.push(bounded("of planes of kind 9", changed(&[(284, 3, 1, Here(9))])));
    cases.push(bounded("of 7 bits", changed(&[(258, 3, 1, Here(7))])));
    cases.push(bounded("of orientation 99", changed(&[(274, 3, 1, Here(99))])));
    cases.push(bounded("of density 1/0", changed(&[(282, 5, 1, Data(0)), (283, 5, 1, Data(0))])));
    all_right(cases, 45);
}

/// Raw files are TIFFs whose first picture is a thumbnail: refused by name, and never enlarged as if it were all.
#[test]
fn raw_files() {
    let thumbnail = (254, 4, 1, Here(1));
    // The picture itself: colours of a sensor's filters, in a directory behind the thumbnail's.
    let raw = {
        let entry = [262u16.to_le_bytes(), 3u16.to_le_bytes()].concat();
        let value = [1u32.to_le_bytes(), 32_803u32.to_le_bytes()].concat();
        [&1u16.to_le_bytes()[..], &entry, &value, &[0; 4]].concat()
    };
    let dng = (50_706, 1, 4, Here(0x0401));
    let cases = [
        ("NEF", "nef", vec![thumbnail, (271, 2, 6, Data(192)), (330, 4, 1, Data(198))]),
        ("NEF called TIFF", "tif", vec![thumbnail, (330, 4, 1, Data(198))]),
        ("DNG", "dng", vec![thumbnail, dng]),
        ("DNG called TIFF", "tif", vec![thumbnail, dng]),
    ]
    .map(|(name, extension, changes)| {
        let mut entries = standard();
        entries.extend(changes);
        let bytes = file(entries, &[&[100; 192], &b"Nikon\0"[..], &raw].concat());
        Case::picture(format!("raw {name}"), extension, bytes, End::Refused).says("raw")
    });
    all_right(cases.into(), 4);
}
