//! A share of many pictures: which of them one process does, so that the processes of an array do each picture once. A
//! picture's share depends on its own name alone: pictures that come or go move no other, and neither host nor order matter.

use std::{
    fmt,
    path::{Component, Path},
};

use sha2::{Digest as _, Sha256};

/// One share of several.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Share {
    /// From 1 to `of`.
    pub number: u32,
    pub of: u32,
}

impl Share {
    /// `true` if the picture of this name is in this share.
    pub fn holds(&self, name: &PictureName) -> bool {
        self.number == name.share_of(self.of)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "share {} of {}", self.number, self.of)
    }
}

/// What decides a picture's share: its path below the folder that was named, or its own name if it was named by itself, and
/// its number in a file of several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PictureName(Vec<u8>);

impl PictureName {
    /// The name of a picture at this path below the folder that was named.
    pub fn below(path: &Path) -> Self {
        let parts = path.components().filter_map(|part| match part {
            Component::Normal(name) => Some(name.as_encoded_bytes()),
            _ => None,
        });
        // The same on every platform.
        Self(parts.collect::<Vec<_>>().join(&b'/'))
    }

    /// The name of a picture that was named by itself: wherever it lies.
    pub fn alone(path: &Path) -> Self {
        Self::below(Path::new(path.file_name().unwrap_or_default()))
    }

    /// The name of picture `number` of this file.
    pub fn numbered(&self, number: usize) -> Self {
        // No file name has a zero byte.
        Self([&self.0, format!("\0{number}").as_bytes()].concat())
    }

    /// The picture's share, from 1, of this many.
    fn share_of(&self, shares: u32) -> u32 {
        let digest = Sha256::digest(&self.0);
        let mut first = [0; 8];
        first.copy_from_slice(&digest[..8]);
        (u64::from_be_bytes(first) % u64::from(shares)) as u32 + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_picture_is_in_exactly_one_share_and_shares_are_about_equal() {
        let names: Vec<_> = (0..3000)
            .map(|n| PictureName::below(Path::new(&format!("day {}/IMG_{n:05}.jpg", n % 7))))
            .collect();
        for of in [1, 2, 3, 7, 50, 1000] {
            let mut sizes = vec![0_u32; of as usize];
            for name in &names {
                let holding: Vec<_> =
                    (1..=of).filter(|&number| Share { number, of }.holds(name)).collect();
                assert_eq!(holding.len(), 1);
                sizes[holding[0] as usize - 1] += 1;
            }
            if of <= 50 {
                let mean = names.len() as f64 / f64::from(of);
                // Five deviations of a binomial distribution.
                let bound = 5.0 * mean.sqrt();
                assert!(sizes.iter().all(|&n| (f64::from(n) - mean).abs() <= bound), "{sizes:?}");
            }
        }
    }

    /// Shares of arrays that run while the program is exchanged must not move.
    #[test]
    fn a_share_is_what_the_guide_says_it_is() {
        // python3 -c 'import hashlib; print(int.from_bytes(hashlib.sha256(b"day 1/a.png").digest()[:8]) % 50 + 1)'
        for (name, of, number) in [("day 1/a.png", 50, DAY_1_A), ("a.png", 7, A)] {
            let name = PictureName::below(Path::new(name));
            assert!(Share { number, of }.holds(&name), "{}", name.share_of(of));
        }
    }

    const DAY_1_A: u32 = 40;
    const A: u32 = 2;

    #[test]
    fn only_the_path_below_the_folder_and_the_number_count() {
        let below = |path: &str| PictureName::below(Path::new(path));
        assert_eq!(below("./day/a.png"), below("day//a.png"));
        assert_eq!(PictureName::alone(Path::new("/mnt/x/a.png")), below("a.png"));
        assert_ne!(below("day/a.png"), below("a.png"));
        assert_ne!(below("a.tif").numbered(1), below("a.tif").numbered(2));
    }
}
