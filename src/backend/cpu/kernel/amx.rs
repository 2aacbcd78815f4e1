//! AMX: the tiles of Intel's processors since Sapphire Rapids, which multiply sixteen rows with
//! sixteen columns, thirty-two numbers deep, in one instruction (Intel SDM, volume 1, chapter 18).
//! Four tiles hold sums, two hold rows and two a panel. The instructions are written as assembly,
//! because the compiler's own are not stable.

use std::arch::asm;
use std::mem::MaybeUninit;
use std::sync::LazyLock;

use super::{Kernel, PANEL, Place, ROW, Sums};
use crate::backend::MatmulPrecision;

/// Rows of a tile, and words of its rows.
const TILE: usize = 16;
/// Two tiles of rows at a time.
const ROWS: usize = 2 * TILE;

pub(super) const BF16: Kernel = Kernel {
    name: "AMX-BF16",
    precision: MatmulPrecision::Bf16,
    rows: ROWS,
    step: TILE,
    micro: bf16_rows,
    present: || *PRESENT,
};

/// `true` if the processor has the instructions and the system lets this process use their registers.
static PRESENT: LazyLock<bool> = LazyLock::new(|| has_instructions() && is_permitted());

fn has_instructions() -> bool {
    use std::arch::x86_64::{__cpuid, __cpuid_count};
    // The sums are written with the processor's widest vectors, as those of its other kernels.
    if !is_x86_feature_detected!("avx512f") || __cpuid(0).eax < 7 {
        return false;
    }
    const AMX_BF16: u32 = 1 << 22;
    const AMX_TILE: u32 = 1 << 24;
    __cpuid_count(7, 0).edx & (AMX_BF16 | AMX_TILE) == AMX_BF16 | AMX_TILE
}

/// Linux hands the tiles' registers, 8 KiB in every thread, only to processes that ask for them;
/// threads that are started later have them too (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers, and changes nothing but what the process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Operand of `ldtilecfg`: the rows of each tile and the bytes of a row.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Sums in the tiles 0 to 3 (upper rows with the left and the right half of the panel, then lower
/// ones), rows in 4 and 5, the panel in 6 and 7.
const UPPER: [usize; 3] = [0, 1, 4];
const LOWER: [usize; 3] = [2, 3, 5];
const PANELS: [usize; 2] = [6, 7];

impl Configuration {
    fn new(upper: usize, lower: usize) -> Self {
        let mut rows = [0u8; 16];
        for tile in UPPER {
            rows[tile] = upper as u8;
        }
        for tile in LOWER {
            rows[tile] = lower as u8;
        }
        for tile in PANELS {
            rows[tile] = TILE as u8;
        }
        let row_bytes =
            rows.map(|rows| if rows > 0 { (TILE * size_of::<u32>()) as u16 } else { 0 });
        Self { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows }
    }
}

#[target_feature(enable = "avx512f")]
fn bf16_rows(rows: usize, words: usize, a: *const u32, b: *const u32, place: &Place) {
    if rows > TILE {
        tiles::<true>(rows, words, a, b, place);
    } else {
        tiles::<false>(rows, words, a, b, place);
    }
}

/// Up to [`TILE`] rows, or as many more if there are `BOTH` tiles of rows.
#[target_feature(enable = "avx512f")]
fn tiles<const BOTH: bool>(rows: usize, words: usize, a: *const u32, b: *const u32, place: &Place) {
    const ROW_BYTES: usize = ROW * size_of::<u32>();
    const PANEL_BYTES: usize = PANEL * size_of::<u32>();
    let upper = rows.min(TILE);
    let configuration = Configuration::new(upper, rows - upper);
    let mut sums = MaybeUninit::<Sums<ROWS>>::uninit();
    // SAFETY: the processor has the instructions, as the kernel's caller promises; the tiles read
    // `rows` rows of `words` words and `words` rows of the panel, which is a multiple of a tile's, and
    // write as many rows of sums. Nobody else uses the tiles between the first instruction and the last:
    // nothing here calls anything.
    unsafe {
        asm!(
            "ldtilecfg [{configuration}]",
            "tilezero tmm0",
            "tilezero tmm1",
            configuration = in(reg) &raw const configuration,
            options(nostack, readonly),
        );
        if BOTH {
            asm!("tilezero tmm2", "tilezero tmm3", options(nostack, nomem));
        }
        for word in (0..words).step_by(TILE) {
            let (a, b) = (a.add(word), b.add(word * PANEL));
            asm!(
                "tileloadd tmm4, [{a} + {row}*1]",
                "tileloadd tmm6, [{b} + {panel}*1]",
                "tileloadd tmm7, [{b} + {panel}*1 + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                a = in(reg) a,
                b = in(reg) b,
                row = in(reg) ROW_BYTES,
                panel = in(reg) PANEL_BYTES,
                options(nostack, readonly),
            );
            if BOTH {
                asm!(
                    "tileloadd tmm5, [{a} + {row}*1]",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7",
                    a = in(reg) a.add(TILE * ROW),
                    row = in(reg) ROW_BYTES,
                    options(nostack, readonly),
                );
            }
        }
        let target = sums.as_mut_ptr().cast::<[f32; PANEL]>();
        asm!(
            "tilestored [{target} + {panel}*1], tmm0",
            "tilestored [{target} + {panel}*1 + 64], tmm1",
            target = in(reg) target,
            panel = in(reg) PANEL_BYTES,
            options(nostack),
        );
        if BOTH {
            asm!(
                "tilestored [{target} + {panel}*1], tmm2",
                "tilestored [{target} + {panel}*1 + 64], tmm3",
                target = in(reg) target.add(TILE),
                panel = in(reg) PANEL_BYTES,
                options(nostack),
            );
        }
        asm!("tilerelease", options(nostack, nomem));
        for row in 0..rows {
            place.below(row).finish::<1>(&*target.add(row).cast());
        }
    }
}
