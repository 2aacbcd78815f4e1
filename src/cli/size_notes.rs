//! Notes on sizes that are allowed but seldom meant: an output smaller than the picture, or of another aspect ratio.

use cupscale::canvas::SizeSpec;

/// Notes on enlarging a picture of `from` to `to` pixels (width and height), as `spec` asks.
pub fn notes(from: (u32, u32), to: (u32, u32), spec: SizeSpec) -> Vec<String> {
    let mut notes = Vec::new();
    let shown = |(width, height): (u32, u32)| format!("{width} × {height}");
    if to.0 < from.0 || to.1 < from.1 {
        notes.push(format!(
            "the output, {}, is smaller than the picture, {}",
            shown(to),
            shown(from)
        ));
    }
    if let (SizeSpec::Exact(..), true) = (spec, is_stretched(from, to)) {
        notes.push(format!(
            "--size {}x{} has another aspect ratio than the picture, {}, and stretches it (--long-edge {} does not)",
            to.0,
            to.1,
            shown(from),
            to.0.max(to.1)
        ));
    }
    notes
}

/// `true` if no rounding of the sides explains another aspect ratio.
fn is_stretched(from: (u32, u32), to: (u32, u32)) -> bool {
    let [fw, fh, tw, th] = [from.0, from.1, to.0, to.1].map(f64::from);
    // Each side within one pixel of what the other makes of it.
    (tw * fh / fw - th).abs() > 1.0 && (th * fw / fh - tw).abs() > 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_seldom_meant_is_noted() {
        let of = |to, spec| notes((48, 40), to, spec).join("; ");
        assert_eq!(of((192, 160), SizeSpec::Scale(4.0)), "");
        assert_eq!(of((101, 84), SizeSpec::Exact(101, 84)), "");
        assert!(
            of((24, 20), SizeSpec::Scale(0.5)).contains("24 × 20, is smaller than the picture")
        );
        assert!(of((40, 33), SizeSpec::LongEdge(40)).contains("smaller"));
        let stretched = of((100, 100), SizeSpec::Exact(100, 100));
        assert!(stretched.contains("another aspect ratio") && !stretched.contains("smaller"));
    }
}
