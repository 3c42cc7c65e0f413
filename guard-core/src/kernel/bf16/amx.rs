//! Products on the tile registers (AMX) of x86-64 processors, under Linux.
//!
//! The compiler's own functions for tiles are not stable yet, so their instructions stand here.
#![allow(unsafe_code, reason = "instructions for tile registers")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::sync::LazyLock;

use super::Parts;
use super::blocks::{Job, Kernel, Square};
use super::pack::{LINES, Row, Tile};
use super::vectors;

/// Whether the processor multiplies brain floats in tiles and the system lets this process do it.
pub(super) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        // Leaf 7: bit 22 of EDX is AMX-BF16, bit 24 AMX-TILE.
        vectors::available()
            && __cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == 1 << 22 | 1 << 24
            && permitted()
    });
    *AVAILABLE
}

/// Asks Linux for the use of tile registers, for all threads of the process.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call reads its two numbers only.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

/// The tile registers of a thread, each of 16 rows of 64 bytes; released when dropped.
pub(super) struct Tiles(());

impl Kernel for Tiles {
    unsafe fn on_this_thread() -> Self {
        #[repr(C, align(64))]
        struct Configuration {
            palette: u8,
            start_row: u8,
            reserved: [u8; 14],
            row_bytes: [u16; 16],
            rows: [u8; 16],
        }
        let (mut row_bytes, mut rows) = ([0; 16], [0; 16]);
        row_bytes[..8].fill(64);
        rows[..8].fill(LINES as u8);
        let configuration =
            Configuration { palette: 1, start_row: 0, reserved: [0; 14], row_bytes, rows };
        // SAFETY: the instruction reads 64 bytes.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &configuration, options(nostack, readonly)) };
        Self(())
    }

    unsafe fn multiply(&self, parts: Parts, job: Job<'_>, square: Square) {
        let tiles = 2 * job.steps;
        assert!(tiles > 0 && job.left.len() >= tiles && job.right.len() >= tiles, "tiles");
        // SAFETY: the registers are configured, there are enough tiles, and the caller promises the
        // output.
        unsafe {
            match parts {
                Parts::One => add_products(job, square),
                Parts::Two => add_split_products(job, square),
            }
        }
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: whoever made this has configured the registers.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }
}

/// Zeroes the registers 0 to 3 or loads them, runs the instructions for each step, and stores them.
/// `$bytes` is how far a step goes in each block.
macro_rules! run {
    ($job:ident, $square:ident, $count:expr, $bytes:literal, [$($instruction:literal),+ $(,)?]) => {{
        let block = $job.steps * size_of::<Tile>();
        let (left, right) = ($job.left.as_ptr(), $job.right.as_ptr());
        asm!(
            "test {keep}, {keep}",
            "jnz 3f",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "jmp 2f",
            "3:",
            "tileloadd tmm0, [{upper} + {stride}]",
            "tileloadd tmm1, [{upper} + {stride} + 64]",
            "tileloadd tmm2, [{lower} + {stride}]",
            "tileloadd tmm3, [{lower} + {stride} + 64]",
            "2:",
            $($instruction,)+
            concat!("add {left}, ", $bytes),
            concat!("add {left2}, ", $bytes),
            concat!("add {right}, ", $bytes),
            concat!("add {right2}, ", $bytes),
            "dec {steps}",
            "jnz 2b",
            "tilestored [{upper} + {stride}], tmm0",
            "tilestored [{upper} + {stride} + 64], tmm1",
            "tilestored [{lower} + {stride}], tmm2",
            "tilestored [{lower} + {stride} + 64], tmm3",
            keep = in(reg) usize::from($square.keep),
            upper = in(reg) $square.output,
            lower = in(reg) $square.output.wrapping_add(LINES * $square.stride),
            stride = in(reg) $square.stride * size_of::<f32>(),
            left = inout(reg) left => _,
            left2 = inout(reg) left.wrapping_byte_add(block) => _,
            right = inout(reg) right => _,
            right2 = inout(reg) right.wrapping_byte_add(block) => _,
            steps = inout(reg) $count => _,
            row = in(reg) size_of::<Row>(),
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack),
        )
    }};
}

/// The products of two blocks by two.
///
/// # Safety
///
/// The registers are configured; both factors have two blocks of `steps` tiles, which is not 0;
/// the output may be written, and read if it is kept.
unsafe fn add_products(job: Job<'_>, square: Square) {
    // SAFETY: the caller's promise; a step reads one tile of each block.
    unsafe {
        run!(
            job,
            square,
            job.steps,
            1024,
            [
                "tileloadd tmm4, [{left} + {row}]",
                "tileloadd tmm6, [{right} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right2} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left2} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
            ]
        );
    }
}

/// As [`add_products`] for entries of two parts, whose tiles take turns: all products but that of
/// the second parts.
///
/// # Safety
///
/// As there.
unsafe fn add_split_products(job: Job<'_>, square: Square) {
    // SAFETY: the caller's promise; a step reads two tiles of each block.
    unsafe {
        run!(
            job,
            square,
            job.steps / 2,
            2048,
            [
                "tileloadd tmm4, [{left} + {row}]",
                "tileloadd tmm6, [{right} + {row}]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right2} + {row}]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left2} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // The second parts of the left factor with the first ones of the right.
                "tileloadd tmm4, [{left} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left2} + {row} + 1024]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                // The other way round.
                "tileloadd tmm4, [{left} + {row}]",
                "tileloadd tmm6, [{right} + {row} + 1024]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tileloadd tmm7, [{right2} + {row} + 1024]",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{left2} + {row}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
            ]
        );
    }
}
