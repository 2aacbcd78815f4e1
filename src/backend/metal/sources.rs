//! The kernels' sources, which the system compiles at run time.

/// What every file begins with.
const COMMON: &str = include_str!("../../../kernels/common.metal");

const FILES: [&str; 4] = [
    include_str!("../../../kernels/attention.metal"),
    include_str!("../../../kernels/conv2d.metal"),
    include_str!("../../../kernels/norm.metal"),
    include_str!("../../../kernels/pointwise.metal"),
];

/// Number of the file that has this kernel.
pub(super) fn file_of(kernel: &str) -> Option<usize> {
    let name = format!("host_name(\"{kernel}\")");
    FILES.iter().position(|text| text.contains(&name))
}

/// A file as it is compiled.
pub(super) fn text(file: usize) -> String {
    [COMMON, FILES[file]].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kernel_is_in_a_file_in_both_types() {
        let kernels = [
            "attention_160",
            "attention_plain",
            "conv2d_32",
            "conv2d_plain",
            "group_norm_merge",
            "rms_norm",
            "geglu",
            "upsample_nearest_2x",
        ];
        for kernel in kernels {
            let [half, single] = ["f16", "f32"].map(|dtype| file_of(&format!("{kernel}_{dtype}")));
            assert!(half.is_some() && half == single, "{kernel}");
        }
        assert_eq!(file_of("conv2d"), None);
    }

    #[test]
    fn a_file_is_compiled_with_what_all_share_and_includes_nothing_of_its_own() {
        for file in 0..FILES.len() {
            let text = text(file);
            assert!(text.starts_with(COMMON));
            assert!(!FILES[file].contains("#include"));
        }
    }
}
