//! The kernel of `bf16` products by AMX: blocks of 32 rows by 32 columns in the eight tile registers of Intel's processors since
//! Sapphire Rapids (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 1, chapter 18).
//!
//! The arithmetic of a block is behind [`Unit`]: the tile instructions, or the same in plain code, which tests the kernel where no such
//! processor is at hand. The instructions are used only after they agreed with the plain code in this process.

use std::arch::asm;
use std::arch::x86_64::{
    __cpuid_count, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_mul_ps,
    _mm512_set1_ps, _xgetbv,
};
use std::sync::OnceLock;

use super::Matrix;
use super::half::{self, Half, LANES};
use super::kernel::{Begin, Kernel, Place, Strip};
use super::pack::Buffer;

/// Rows and columns of a block.
const SIDE: usize = 32;

/// Words of a tile's row.
const STEP: usize = 16;

/// A block of sums, (32, 32).
#[repr(C, align(64))]
pub(super) struct Block([f32; SIDE * SIDE]);

/// The arithmetic of a block.
pub(super) trait Unit: Copy {
    /// Before the products of a thread.
    ///
    /// # Safety
    /// The processor has what the unit needs.
    unsafe fn open(self);

    /// After them.
    ///
    /// # Safety
    /// As [`Unit::open`].
    unsafe fn close(self);

    /// Sums `words` words, a multiple of [`STEP`], of 32 rows of `left`, `pitch` words apart, by 32 columns of `right`.
    ///
    /// # Safety
    /// `left` must hold 32 rows and `right` `words` rows of 32 words; the unit is open.
    unsafe fn sum(self, left: *const f32, pitch: usize, right: *const f32, words: usize, block: &mut Block);
}

/// Sums by blocks.
#[derive(Clone, Copy)]
pub(super) struct Tiles<U> {
    unit: U,
}

impl Tiles<Hardware> {
    /// The kernel, where the processor and the system have it.
    pub(super) fn new() -> Option<Self> {
        static USABLE: OnceLock<bool> = OnceLock::new();
        // SAFETY: where `is_present`, the instructions exist and the system keeps their registers.
        let usable = || Half::new().is_some() && is_present() && unsafe { agrees(Hardware) };
        USABLE.get_or_init(usable).then_some(Self { unit: Hardware })
    }
}

impl<U: Unit> Tiles<U> {
    /// Runs a product with this kernel.
    pub(super) fn run(self, part: super::Part<'_>) {
        #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx512bf16,avx2,fma")]
        fn compiled<U: Unit>(part: super::Part<'_>, kernel: Tiles<U>) {
            part.run(kernel);
        }
        // SAFETY: `new` found the features.
        unsafe {
            self.unit.open();
            compiled(part, self);
            self.unit.close();
        }
    }
}

impl<U: Unit> Kernel for Tiles<U> {
    const TERMS: usize = 2;

    /// What tiles lack is zero: the sum takes whole steps.
    #[inline(always)]
    fn words(self, terms: usize) -> usize {
        terms.div_ceil(2).next_multiple_of(STEP)
    }

    #[inline(always)]
    fn tile_rows(self) -> usize {
        SIDE
    }

    #[inline(always)]
    fn panel_columns(self) -> usize {
        SIDE
    }

    #[inline(always)]
    fn panels(self, b: Matrix<'_>, out: &mut [f32]) {
        let words = self.words(b.rows);
        for first in (0..b.columns).step_by(SIDE) {
            let panel = b.columns_from(first, SIDE.min(b.columns - first));
            // SAFETY: `new` found the features.
            unsafe { half::panel(panel, SIDE, &mut out[first * words..][..words * SIDE]) };
        }
    }

    /// Always 32 rows long; those that the tile lacks hold anything, and so do their sums.
    #[inline(always)]
    fn strip<'a>(self, a: Matrix<'a>, buffer: &'a mut Buffer) -> Strip<'a> {
        let words = self.words(a.columns);
        // A line more, so that rows do not all fall into the same sets of the first-level cache.
        let pitch = words + LANES;
        let room = buffer.room(SIDE * pitch);
        // SAFETY: `new` found the features.
        unsafe { half::rows(a, pitch, words, room) };
        Strip::new(room, (a.rows, words), (pitch, 1))
    }

    #[inline(always)]
    unsafe fn tile(self, strip: Strip<'_>, panel: &[f32], begin: Begin<'_>, scale: f32, place: Place, width: usize) {
        assert!(panel.len() >= strip.depth * SIDE && strip.rows <= SIDE && width <= SIDE);
        let mut block = Block([0.0; SIDE * SIDE]);
        // SAFETY: strips have room for 32 rows, and the panel's length was just checked; `run` opened the unit.
        unsafe {
            self.unit.sum(strip.start, strip.row, panel.as_ptr(), strip.depth, &mut block);
            finish(&block, strip.rows, begin, scale, place, width);
        }
    }
}

/// `place = begin + scale · block`.
///
/// # Safety
/// `rows` rows of `width` columns at `place` must be valid and unshared.
#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn finish(block: &Block, rows: usize, begin: Begin<'_>, scale: f32, place: Place, width: usize) {
    let scales = _mm512_set1_ps(scale);
    for row in 0..rows {
        for first in (0..width).step_by(LANES) {
            let mask = half::lanes(width - first);
            // SAFETY: the mask keeps to the columns of this row, which are valid and unshared by the caller's promise.
            unsafe {
                let sum = _mm512_loadu_ps(block.0.as_ptr().add(row * SIDE + first));
                let to = place.start.add(row * place.stride + first);
                let value = match begin {
                    Begin::Zero => _mm512_mul_ps(scales, sum),
                    Begin::Add => _mm512_fmadd_ps(scales, sum, _mm512_maskz_loadu_ps(mask, to)),
                    Begin::Bias(bias) => {
                        _mm512_fmadd_ps(scales, sum, half::load(&bias[first..width.min(first + LANES)]))
                    }
                };
                _mm512_mask_storeu_ps(to, mask, value);
            }
        }
    }
}

/// The tile instructions.
#[derive(Clone, Copy)]
pub(super) struct Hardware;

/// Palette 1: eight tiles of 16 rows of 64 bytes.
#[repr(C, align(64))]
struct Configuration {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

static CONFIGURATION: Configuration = Configuration {
    palette: 1,
    start_row: 0,
    reserved: [0; 14],
    row_bytes: [64, 64, 64, 64, 64, 64, 64, 64, 0, 0, 0, 0, 0, 0, 0, 0],
    rows: [16, 16, 16, 16, 16, 16, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
};

impl Unit for Hardware {
    unsafe fn open(self) {
        // SAFETY: the processor has tiles; the configuration is a valid one.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const CONFIGURATION, options(nostack, readonly)) };
    }

    unsafe fn close(self) {
        // SAFETY: as in `open`.
        unsafe { asm!("tilerelease", options(nostack, nomem)) };
    }

    #[inline(always)]
    unsafe fn sum(self, left: *const f32, pitch: usize, right: *const f32, words: usize, block: &mut Block) {
        if words == 0 {
            return;
        }
        // SAFETY: in bounds by the caller's promise: each step reads 16 words of 32 rows, and 16 rows of 32 words.
        unsafe {
            asm!(
                "tilezero tmm0",
                "tilezero tmm1",
                "tilezero tmm2",
                "tilezero tmm3",
                "2:",
                "tileloadd tmm4, [{upper} + {pitch}]",
                "tileloadd tmm6, [{right} + {row}]",
                "tileloadd tmm7, [{right} + {row} + 64]",
                "tdpbf16ps tmm0, tmm4, tmm6",
                "tdpbf16ps tmm1, tmm4, tmm7",
                "tileloadd tmm5, [{lower} + {pitch}]",
                "tdpbf16ps tmm2, tmm5, tmm6",
                "tdpbf16ps tmm3, tmm5, tmm7",
                "add {upper}, 64",
                "add {lower}, 64",
                "add {right}, 2048",
                "dec {steps}",
                "jnz 2b",
                "tilestored [{top} + {row}], tmm0",
                "tilestored [{top} + {row} + 64], tmm1",
                "tilestored [{bottom} + {row}], tmm2",
                "tilestored [{bottom} + {row} + 64], tmm3",
                upper = inout(reg) left => _,
                lower = inout(reg) left.add(16 * pitch) => _,
                right = inout(reg) right => _,
                steps = inout(reg) words / STEP => _,
                pitch = in(reg) 4 * pitch,
                row = in(reg) 4 * SIDE,
                top = in(reg) block.0.as_mut_ptr(),
                bottom = in(reg) block.0.as_mut_ptr().add(16 * SIDE),
                out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
                out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
                options(nostack),
            );
        }
    }
}

/// What the instructions do, in plain code.
#[derive(Clone, Copy)]
pub(super) struct Model;

impl Unit for Model {
    unsafe fn open(self) {}

    unsafe fn close(self) {}

    unsafe fn sum(self, left: *const f32, pitch: usize, right: *const f32, words: usize, block: &mut Block) {
        let halves = |word: f32| {
            let bits = word.to_bits();
            [f32::from_bits(bits << 16), f32::from_bits(bits & 0xffff_0000)]
        };
        for (at, sum) in block.0.iter_mut().enumerate() {
            let (row, column) = (at / SIDE, at % SIDE);
            *sum = 0.0;
            for word in 0..words {
                // SAFETY: in bounds by the caller's promise.
                let (a, b) = unsafe { (*left.add(row * pitch + word), *right.add(word * SIDE + column)) };
                let ([a0, a1], [b0, b1]) = (halves(a), halves(b));
                *sum += a0 * b0;
                *sum += a1 * b1;
            }
        }
    }
}

/// True where the processor has AMX with `bf16`, and the system keeps tile registers and lets this process use them.
fn is_present() -> bool {
    // `cpuid` is there on every x86-64 processor. Leaf 7: bits 22 and 24 of EDX; leaf 1: bit 27 of ECX is XGETBV.
    let (features, system) = (__cpuid_count(7, 0).edx, __cpuid_count(1, 0).ecx);
    let has =
        __cpuid_count(0, 0).eax >= 7 && features >> 22 & 1 == 1 && features >> 24 & 1 == 1 && system >> 27 & 1 == 1;
    #[target_feature(enable = "xsave")]
    fn kept() -> u64 {
        // SAFETY: XGETBV was just found.
        unsafe { _xgetbv(0) }
    }
    // Bits 17 and 18: the tiles' configuration and their data.
    // SAFETY: as above.
    has && unsafe { kept() } >> 17 & 0b11 == 0b11 && is_permitted()
}

/// Linux lends tile data to processes that ask (Documentation/arch/x86/xstate.rst).
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and touches no memory.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// True where a unit sums as [`Model`] does.
///
/// # Safety
/// The processor has what the unit needs.
unsafe fn agrees(unit: impl Unit) -> bool {
    const WORDS: usize = 2 * STEP;
    const PITCH: usize = WORDS + LANES;
    // Pairs of small whole numbers, whose sums are exact in every order.
    let pair = |i: usize| {
        let half = |x: usize| ((x * 31 % 23) as f32 - 11.0).to_bits() >> 16;
        f32::from_bits(half(i) | half(i + 7) << 16)
    };
    let left: Vec<f32> = (0..SIDE * PITCH).map(pair).collect();
    let right: Vec<f32> = (0..WORDS * SIDE).map(|i| pair(i * 5 + 3)).collect();
    let (mut ours, mut expected) = (Block([0.0; SIDE * SIDE]), Block([0.0; SIDE * SIDE]));
    // SAFETY: both operands have the sizes that are named.
    unsafe {
        unit.open();
        unit.sum(left.as_ptr(), PITCH, right.as_ptr(), WORDS, &mut ours);
        unit.close();
        Model.sum(left.as_ptr(), PITCH, right.as_ptr(), WORDS, &mut expected);
    }
    ours.0 == expected.0
}

impl Tiles<Model> {
    /// The kernel on plain arithmetic, for tests.
    #[cfg(test)]
    pub(super) fn model() -> Option<Self> {
        Half::new().map(|_| Self { unit: Model })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// On a processor with AMX this is the instructions' own test.
    #[test]
    fn instructions_that_are_present_are_used() {
        assert_eq!(Tiles::new().is_some(), Half::new().is_some() && is_present());
        // SAFETY: plain code.
        assert!(unsafe { agrees(Model) });
        assert_eq!(size_of::<Configuration>(), 64);
    }
}
