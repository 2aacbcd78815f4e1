//! EXIF blocks: written anew they say the same, and an output's is upright.
#![no_main]

use cupscale::fuzzing::{exif_anew, exif_of_output, exif_with_comment, orientation};
use cupscale_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|block: &[u8]| {
    let turned = orientation(block);
    assert!((1..=8).contains(&turned));
    let anew = within(MIB + 8 * block.len(), || exif_anew(block));

    let mut output = block.to_vec();
    exif_of_output(&mut output, 70_000, 3);
    assert!(output.len() <= block.len(), "patched in place, and the thumbnail cut off");
    assert_eq!(orientation(&output), 1);
    let mut twice = output.clone();
    exif_of_output(&mut twice, 70_000, 3);
    assert_eq!(output, twice);

    let commented = within(MIB + 8 * block.len(), || exif_with_comment(Some(block), "a wörd"));
    if let Some(commented) = commented {
        assert!(exif_anew(&commented).is_some());
        assert_eq!(exif_with_comment(Some(&commented), "another"), None, "one comment");
    }

    let Some(anew) = anew else { return };
    // Entries do not share bytes any more, and those that could not be read are gone.
    assert!(anew.len() <= 4 * block.len() + 64, "{} bytes of {}", anew.len(), block.len());
    assert_eq!(exif_anew(&anew).as_ref(), Some(&anew));
    assert_eq!(orientation(&anew), turned);
});
