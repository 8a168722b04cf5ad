//! Prefetch instructions.
//!
//! The tests run the one of x86-64, and the empty function as 32-bit programs. That of `AArch64` is only compiled.

#![allow(unsafe_code)]

/// Begins to load the cache line of a place, so that a later access waits less for memory. It does nothing on
/// processors other than x86-64 and `AArch64`.
#[inline(always)]
pub(crate) fn prefetch<T>(place: &T) {
    let place = std::ptr::from_ref(place);
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    // SAFETY: The instruction is part of SSE, which each x86-64 processor has. It is a hint, which changes nothing that
    // the program can observe and cannot fault, whatever the address.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(place.cast());
    }
    #[cfg(all(target_arch = "aarch64", not(miri)))]
    // SAFETY: The instruction is a hint, which changes nothing that the program can observe and cannot fault, whatever
    // the address. It changes neither the stack nor the flags.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{place}]",
            place = in(reg) place,
            options(readonly, nostack, preserves_flags)
        );
    }
    let _ = place;
}
