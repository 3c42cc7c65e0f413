//! Products on the tile registers (AMX) of x86-64 processors, under Linux.
//!
//! The compiler's own functions for tiles are not stable yet, so their instructions stand here.
#![allow(unsafe_code, reason = "instructions for tile registers")]

use std::arch::asm;
use std::arch::x86_64::__cpuid_count;
use std::ops::Range;
use std::sync::LazyLock;

use rayon::prelude::*;

use super::Parts;
use super::pack::{LINES, Packed, Row, Side, Tile};
use crate::kernel::Before;
use crate::kernel::product::{Matrix, Output};

/// Entries of the inner dimension, rows and columns that are packed at a time: both factors stay
/// in the cache of a core while they are multiplied.
const DEEP: usize = 1024;
const TALL: usize = 2048;
const WIDE: usize = 2048;

/// Rows and columns of a task, in pairs of blocks of lines.
const TASK_ROWS: usize = 8;
const TASK_COLUMNS: usize = 4;

/// Lines of two blocks.
const PAIR: usize = 2 * LINES;

/// Whether the processor multiplies brain floats in tiles and the system lets this process do it.
pub(super) fn available() -> bool {
    static AVAILABLE: LazyLock<bool> = LazyLock::new(|| {
        let vectors = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512bf16");
        // Leaf 7: bit 22 of EDX is AMX-BF16, bit 24 AMX-TILE.
        vectors && __cpuid_count(7, 0).edx & (1 << 22 | 1 << 24) == 1 << 22 | 1 << 24 && permitted()
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

/// `output = a b` or `output += a b`, row by row, on all threads.
///
/// # Panics
///
/// When tiles are not [`available`], or the sizes do not fit.
pub(super) fn multiply(parts: Parts, a: Matrix<'_>, b: Matrix<'_>, output: Output, before: Before) {
    assert!(available(), "no tile registers");
    assert_eq!(a.columns(), b.rows(), "inner dimensions");
    let (rows, inner, columns) = (a.rows(), a.columns(), b.columns());
    assert_eq!(output.count(), rows * columns, "size of the output");
    if inner == 0 && before == Before::Overwritten {
        // SAFETY: the output has as many values.
        return unsafe { std::ptr::write_bytes(output.at(0), 0, output.count()) };
    }
    let b = b.transposed();
    let (mut left, mut right) = (Packed::default(), Packed::default());
    for wide in chunks(columns, WIDE) {
        for deep in chunks(inner, DEEP) {
            // SAFETY: `available` has seen the features.
            unsafe { right.fill(b.part(wide.clone(), deep.clone()), Side::Right, parts) };
            for tall in chunks(rows, TALL) {
                // SAFETY: as above.
                unsafe { left.fill(a.part(tall.clone(), deep.clone()), Side::Left, parts) };
                let keep = before == Before::Kept || deep.start > 0;
                let chunk = Chunk {
                    parts,
                    factors: [&left, &right],
                    first: [tall.start, wide.start],
                    sizes: [tall.len(), wide.len()],
                    output,
                    stride: columns,
                    keep,
                };
                chunk.multiply();
            }
        }
    }
}

fn chunks(count: usize, size: usize) -> impl Iterator<Item = Range<usize>> {
    (0..count).step_by(size).map(move |start| start..count.min(start + size))
}

/// Packed factors, and where their product goes.
#[derive(Clone, Copy)]
struct Chunk<'a> {
    parts: Parts,
    factors: [&'a Packed; 2],
    /// The row and the column of the output where the product begins, and how many it has.
    first: [usize; 2],
    sizes: [usize; 2],
    output: Output,
    /// Values from one row of the output to the next.
    stride: usize,
    /// Whether the product is added to what is there.
    keep: bool,
}

impl Chunk<'_> {
    fn multiply(self) {
        let [rows, columns] = self.sizes.map(|size| size.div_ceil(PAIR));
        let across = columns.div_ceil(TASK_COLUMNS);
        (0..rows.div_ceil(TASK_ROWS) * across).into_par_iter().for_each(|task| {
            let (row, column) = (task / across * TASK_ROWS, task % across * TASK_COLUMNS);
            // SAFETY: `multiply` has seen that there are tiles; nothing below uses them but this.
            let tiles = unsafe { Tiles::configured() };
            for column in column..columns.min(column + TASK_COLUMNS) {
                for row in row..rows.min(row + TASK_ROWS) {
                    self.square(&tiles, [row, column]);
                }
            }
        });
    }

    /// 32 rows by 32 columns, or what there is of them.
    fn square(self, tiles: &Tiles, at: [usize; 2]) {
        let [row, column] = at;
        let [rows, columns] = [0, 1].map(|axis| PAIR.min(self.sizes[axis] - at[axis] * PAIR));
        let job = Job {
            left: self.factors[0].block(2 * row),
            right: self.factors[1].block(2 * column),
            steps: self.factors[0].tiles_per_block(),
        };
        let row = self.first[0] + row * PAIR;
        let target = self.output.at(row * self.stride + self.first[1] + column * PAIR);
        if rows == PAIR && columns == PAIR {
            // SAFETY: all 32 rows and columns lie within the output, and no other task has them.
            return unsafe { tiles.multiply(self.parts, job, target, self.stride, self.keep) };
        }
        let mut square = [0.0_f32; PAIR * PAIR];
        // SAFETY: the square is of this size.
        unsafe { tiles.multiply(self.parts, job, square.as_mut_ptr(), PAIR, false) };
        for (row, values) in square.chunks_exact(PAIR).take(rows).enumerate() {
            for (column, value) in values[..columns].iter().enumerate() {
                // SAFETY: these rows and columns lie within the output, and no other task has them.
                let sum = unsafe { target.add(row * self.stride + column) };
                // SAFETY: as above; what is kept was written before.
                unsafe { sum.write(if self.keep { *sum + value } else { *value }) };
            }
        }
    }
}

/// Two blocks of lines of each factor.
#[derive(Clone, Copy)]
struct Job<'a> {
    left: &'a [Tile],
    right: &'a [Tile],
    /// Tiles of a block of lines.
    steps: usize,
}

/// The tile registers of a thread, each of 16 rows of 64 bytes; released when dropped.
struct Tiles(());

impl Tiles {
    /// # Safety
    ///
    /// There are tile registers, and nobody else on this thread uses them meanwhile.
    unsafe fn configured() -> Self {
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

    /// Two blocks of lines by two: 32 rows and columns of the output, whose rows are `stride`
    /// values apart.
    ///
    /// # Panics
    ///
    /// When the factors have fewer tiles than two blocks, or none.
    ///
    /// # Safety
    ///
    /// `output` points to 32 rows of 32 values that may be written, and read if they are kept.
    unsafe fn multiply(
        &self,
        parts: Parts,
        job: Job<'_>,
        output: *mut f32,
        stride: usize,
        keep: bool,
    ) {
        let tiles = 2 * job.steps;
        assert!(tiles > 0 && job.left.len() >= tiles && job.right.len() >= tiles, "tiles");
        let output = Square { output, lower: output.wrapping_add(LINES * stride), stride, keep };
        // SAFETY: the registers are configured, there are enough tiles, and the caller promises the
        // output.
        unsafe {
            match parts {
                Parts::One => add_products(job, output),
                Parts::Two => add_split_products(job, output),
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

/// Where 32 rows and columns go.
#[derive(Clone, Copy)]
struct Square {
    output: *mut f32,
    /// The 17th row.
    lower: *mut f32,
    stride: usize,
    keep: bool,
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
            lower = in(reg) $square.lower,
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
