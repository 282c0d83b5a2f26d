//! Runs plain loops compiled for the vector instructions of the machine at hand.
#![allow(unsafe_code)]

/// Work whose loops are worth compiling more than once. `run` must be `#[inline(always)]` down to its loops: only what is inlined
/// is compiled anew.
pub trait Work {
    type Output;

    fn run(self) -> Self::Output;
}

/// Runs `work` with the widest instructions that the machine has. The result does not depend on which: they only compute the
/// same operations on more elements at a time.
#[inline]
pub fn run<W: Work>(work: W) -> W::Output {
    #[cfg(target_arch = "x86_64")]
    {
        if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
            // SAFETY: the machine has the instructions that `with_avx512` is compiled for.
            return unsafe { with_avx512(work) };
        }
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
            // SAFETY: the machine has the instructions that `with_avx2` is compiled for.
            return unsafe { with_avx2(work) };
        }
    }
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vl,avx2,fma")]
fn with_avx512<W: Work>(work: W) -> W::Output {
    work.run()
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn with_avx2<W: Work>(work: W) -> W::Output {
    work.run()
}
