//! The kernels' sources, which the system compiles at run time.

/// What every file begins with.
const COMMON: &str = include_str!("../../../kernels/common.metal");

const FILES: [&str; 5] = [
    include_str!("../../../kernels/attention.metal"),
    include_str!("../../../kernels/conv2d.metal"),
    include_str!("../../../kernels/crop_resize.metal"),
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
    use std::collections::BTreeSet;

    use super::*;
    use crate::backend::{Placement, self_test::traced_launches};

    /// What stands between two parts of a text.
    fn between<'a>(text: &'a str, before: &str, behind: &str) -> Option<&'a str> {
        text.split_once(before)?.1.split_once(behind).map(|(between, _)| between)
    }

    /// Bytes of a number, or of all numbers of a structure.
    fn bytes(name: &str, text: &str) -> usize {
        match name {
            "half" => 2,
            // Vectors and places are rows of numbers to the host.
            "uint" | "float" | "float2" | "float4" | "AxisSample" => 4,
            "ulong" => 8,
            structure => between(text, &format!("struct {structure} {{"), "};")
                .unwrap_or_else(|| panic!("{structure}"))
                .lines()
                .filter_map(|line| line.trim().strip_suffix(';')?.split_once(' '))
                .map(|(of, _)| bytes(of, text))
                .sum(),
        }
    }

    /// Bytes of a value of each buffer that a kernel declares, and of its sizes.
    fn declared(kernel: &str) -> Vec<usize> {
        let text = FILES[file_of(kernel).unwrap_or_else(|| panic!("{kernel}"))];
        let template =
            between(text, &format!("(\"{kernel}\")]] [[kernel]] decltype("), ">").unwrap();
        let (function, arguments) = template.split_once('<').unwrap();
        let element = arguments.split(',').next().unwrap();
        let parameters = between(text, &format!("[[kernel]] void {function}("), ") {").unwrap();
        let buffers = parameters.split(',').filter(|parameter| parameter.contains("[[buffer("));
        let buffer = |(index, parameter): (usize, &str)| {
            assert!(parameter.contains(&format!("[[buffer({index})]]")), "{kernel}: {parameter}");
            let declared = parameter.split(['*', '&']).next().unwrap();
            let name = declared.split_whitespace().next_back().unwrap();
            bytes(if name == "T" { element } else { name }, text)
        };
        buffers.enumerate().map(buffer).collect()
    }

    #[test]
    fn declarations_are_read_as_they_stand() {
        assert_eq!(declared("conv2d_64_f16"), [2, 2, 2, 2, 2, 14 * 4]);
        assert_eq!(declared("layer_norm_f16"), [2, 4, 4, 2, 16]);
        assert_eq!(declared("silu_f32"), [4, 4, 16]);
        assert_eq!(file_of("conv2d"), None);
    }

    /// Of the cases of the self-test, traced: what is wrong here would be read as something else, or beyond an end.
    #[test]
    fn every_launch_has_the_arguments_that_its_kernel_declares() {
        let launches = traced_launches(Placement::Metal);
        assert!(launches.len() > 60);
        for (kernel, sizes) in launches {
            let mut declared = declared(kernel);
            if kernel.starts_with("blend_prior") && sizes != declared {
                // Places of a map that is blended in place are not read: any buffer may stand there.
                declared.splice(2..4, [declared[0]; 2]);
            }
            assert_eq!(sizes, declared, "{kernel}");
        }
    }

    #[test]
    fn the_cases_reach_every_kernel_but_the_plain_ones() {
        let names = |text: &str| -> Vec<String> {
            let parts = text.split("host_name(\"").skip(1);
            parts.map(|part| part.split('"').next().unwrap().to_owned()).collect()
        };
        let all: BTreeSet<String> = FILES.into_iter().flat_map(names).collect();
        let launched: BTreeSet<String> = traced_launches(Placement::Metal)
            .into_iter()
            .map(|(kernel, _)| kernel.to_owned())
            .collect();
        let missing: Vec<_> = all.difference(&launched).map(String::as_str).collect();
        let plain =
            ["attention_plain_f16", "attention_plain_f32", "conv2d_plain_f16", "conv2d_plain_f32"];
        assert_eq!(missing, plain);
    }

    #[test]
    fn a_file_is_compiled_with_what_all_share_and_includes_nothing_of_its_own() {
        for (file, own) in FILES.iter().enumerate() {
            assert!(text(file).starts_with(COMMON) && text(file).ends_with(own));
            assert!(!own.contains("#include"));
        }
    }
}
