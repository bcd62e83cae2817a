//! Compiling a function for several instruction sets and picking one at run time.

/// Defines a function whose body is compiled once for each instruction set and picked by what the processor has.
///
/// The body must be plain loops, and what it calls `#[inline(always)]`; the compiler vectorises them for each set. No
/// multiplication is fused with an addition, so that every set gives the same numbers.
macro_rules! vectorised {
    ($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $ret:ty)? $body:block) => {
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $ret)? {
            #[inline(always)]
            fn body($($arg: $type),*) $(-> $ret)? $body
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
                fn wide($($arg: $type),*) $(-> $ret)? {
                    body($($arg),*)
                }
                #[target_feature(enable = "avx2,fma")]
                fn narrow($($arg: $type),*) $(-> $ret)? {
                    body($($arg),*)
                }
                if $crate::vectorise::has_avx512() {
                    // SAFETY: the processor has the features that `wide` enables.
                    return unsafe { wide($($arg),*) };
                }
                if $crate::vectorise::has_avx2() {
                    // SAFETY: the processor has the features that `narrow` enables.
                    return unsafe { narrow($($arg),*) };
                }
            }
            // Other processors: NEON is part of the base of aarch64.
            body($($arg),*)
        }
    };
}
pub(crate) use vectorised;

/// AVX-512 with the extensions of every server processor since Skylake.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && has_avx2()
}

/// AVX2 with fused multiply-add.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_avx2() -> bool {
    is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma")
}
