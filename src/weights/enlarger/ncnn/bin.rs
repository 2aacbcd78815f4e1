//! Numbers of a graph of ncnn: arrays one behind the other in the order of its layers, each weight with a tag that says how
//! it is stored.

use candle_core::quantized::GgmlDType;

use crate::weights::tensors::TensorInfo;

/// Tags of weights (ncnn `modelbin.cpp`): plain f32, f16, and 8 bits.
const PLAIN: u32 = 0;
const HALF: u32 = 0x0130_6B47;
const BYTES: u32 = 0x000D_4B38;

/// An array that a graph asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Array {
    /// name of the tensor that it is
    pub name: String,
    pub shape: Vec<usize>,
    /// a weight, before which a tag says how it is stored; all others are plain f32
    pub tagged: bool,
}

/// The places of the arrays in a file.
///
/// # Errors
/// A way to store weights that is not read; a file that is shorter or longer than the arrays are.
pub(super) fn places(arrays: &[Array], file: &[u8]) -> Result<Vec<TensorInfo>, String> {
    let mut at = 0usize;
    let mut tensors = Vec::with_capacity(arrays.len());
    for Array { name, shape, tagged } in arrays {
        let ends = || format!("it ends before `{name}`: cut short, or of another graph");
        let mut dtype = GgmlDType::F32;
        if *tagged {
            let tag = file.get(at..).and_then(|rest| rest.first_chunk()).ok_or_else(ends)?;
            at += tag.len();
            dtype = match u32::from_le_bytes(*tag) {
                PLAIN => GgmlDType::F32,
                HALF => GgmlDType::F16,
                BYTES => return Err(format!("`{name}` is stored in 8 bits, which are not read")),
                tag => {
                    return Err(format!(
                        "`{name}` is stored in a way that is not read (tag {tag:#010x})"
                    ));
                }
            };
        }
        let count = shape.iter().try_fold(1usize, |count, &size| count.checked_mul(size));
        let size = if dtype == GgmlDType::F16 { 2 } else { 4 };
        let bytes = count.and_then(|count| count.checked_mul(size)).ok_or_else(ends)?;
        let end = at.checked_add(bytes).filter(|&end| end <= file.len()).ok_or_else(ends)?;
        tensors.push(TensorInfo {
            name: name.clone(),
            dtype,
            shape: shape.clone(),
            range: at..end,
        });
        // Every array takes whole words.
        at = end.next_multiple_of(4);
    }
    if at != file.len() {
        let more = file.len().abs_diff(at);
        return Err(format!("its length is {more} bytes off: of another graph"));
    }
    Ok(tensors)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_lie_one_behind_the_other_in_whole_words() {
        let array = |name: &str, count: usize, tagged| Array {
            name: name.to_owned(),
            shape: vec![count],
            tagged,
        };
        let arrays = [array("a", 3, true), array("b", 2, false), array("c", 1, true)];
        let mut file = HALF.to_le_bytes().to_vec();
        file.extend([1; 6]);
        file.extend([0; 2]);
        file.extend([2; 8]);
        file.extend(PLAIN.to_le_bytes());
        file.extend([3; 4]);
        let tensors = places(&arrays, &file).unwrap();
        let ranges: Vec<_> = tensors.iter().map(|tensor| tensor.range.clone()).collect();
        assert_eq!(ranges, [4..10, 12..20, 24..28]);
        assert_eq!(tensors[0].dtype, GgmlDType::F16);
        assert!(places(&arrays, &file[..file.len() - 1]).unwrap_err().contains("ends before `c`"));
        assert!(
            places(&arrays, &[&file[..], &[0]].concat()).unwrap_err().contains("another graph")
        );
        file[..4].copy_from_slice(&BYTES.to_le_bytes());
        assert!(places(&arrays, &file).unwrap_err().contains("8 bits"));
        file[0] = 7;
        assert!(places(&arrays, &file).unwrap_err().contains("0x000d4b07"));
        let absurd = [array("a", usize::MAX, false)];
        assert!(places(&absurd, &file).is_err());
    }
}
