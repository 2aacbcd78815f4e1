//! Photoshop's image resources: what is kept of a block is a block of which all is kept, and IPTC's fields are texts.
#![no_main]

use cupscale::fuzzing::{iptc_in_xmp, photoshop_kept};
use cupscale_fuzz::{MIB, within};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|block: &[u8]| {
    let most = MIB + 32 * block.len();
    // A name may be left out of each resource, never added.
    if let Some(kept) = within(most, || photoshop_kept(block)) {
        assert!(kept.len() <= block.len() + 16);
        assert_eq!(photoshop_kept(&kept).as_deref(), Some(kept.as_slice()));
    }
    let packet = within(most, || iptc_in_xmp(block));
    assert!(std::str::from_utf8(&packet).is_ok());
});
