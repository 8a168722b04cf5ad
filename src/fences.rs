//! A pair of fences of which one costs nothing and the other a system call.
//!
//! Where a thread stores to `a`, then loads `b`, and another stores to `b`, then loads `a`, each needs
//! a sequentially consistent fence in between for at least one of them to see the other's store. If
//! one of the two does this often and the other seldom, the former may take the [`light`] fence and
//! the latter the [`heavy`] one: Linux's `membarrier` makes every thread of the process that is
//! running pass through a full fence. Kin: folly's `asymmetricThreadFence`, liburcu, C++'s P1202.

use std::sync::OnceLock;

/// The half that keeps the compiler from reordering, and nothing else.
///
/// loom models only the full fences, of which this pair has the effect.
#[inline(always)]
pub(crate) fn light() {
    #[cfg(not(loom_models))]
    std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(loom_models)]
    loom::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// The half that fences for all: it takes as long as it takes to interrupt all processors that run
/// this process.
///
/// # Panics
///
/// If the system refuses what it allowed when [`are_asymmetric`] was first asked.
pub(crate) fn heavy() {
    #[cfg(loom_models)]
    loom::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
    #[cfg(not(loom_models))]
    if let Err(refused) = system::fence_all() {
        panic!(
            "hotset: membarrier(2) was allowed when the first cache was built and is now refused \
             ({refused}): build it after the filter that refuses it was installed"
        );
    }
}

/// May the pair be used? Asking registers the process for it.
pub(crate) fn are_asymmetric() -> bool {
    static ARE: OnceLock<bool> = OnceLock::new();
    *ARE.get_or_init(|| cfg!(loom_models) || system::register())
}

#[cfg(target_os = "linux")]
mod system {
    use rustix::io;
    use rustix::thread::{MembarrierCommand, membarrier};

    pub(super) fn register() -> bool {
        membarrier(MembarrierCommand::RegisterPrivateExpedited).is_ok()
    }

    #[cfg_attr(loom_models, allow(dead_code))]
    pub(super) fn fence_all() -> io::Result<()> {
        membarrier(MembarrierCommand::PrivateExpedited).or_else(|_| {
            // A forked process may have to register anew.
            membarrier(MembarrierCommand::RegisterPrivateExpedited)?;
            membarrier(MembarrierCommand::PrivateExpedited)
        })
    }
}

#[cfg(not(target_os = "linux"))]
mod system {
    pub(super) fn register() -> bool {
        false
    }

    pub(super) fn fence_all() -> Result<(), &'static str> {
        Err("this system has none")
    }
}
