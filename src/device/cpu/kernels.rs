//! The kernels compiled for each instruction set, as a table of functions chosen at run time.
// SAFETY, for this file: kernels are `unsafe fn`s whose callers vouch for the pointers (they come from `prepare`'s buffers and
// `plan`'s offsets) and for the instruction set (`IsaPath::available`). Blocks inside only pass that on.
#![allow(unsafe_code, clippy::missing_safety_doc, clippy::undocumented_unsafe_blocks)]

use crate::device::KvCacheDType;
use crate::model::Activation;
use crate::weights::DType;

use super::attend::{AttendCall, Partial};
use super::cache::KvSlot;
use super::linear::LinearCall;
use super::rows::{AddNorm, HeadRow};

/// Which instructions the device uses. The results are equal bit for bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IsaPath {
    /// AVX-512 with VNNI.
    Avx512,
    /// AVX2, FMA, F16C.
    Avx2,
    /// Plain Rust.
    Portable,
}

impl IsaPath {
    /// The paths this machine can run, fastest first.
    pub fn available() -> Vec<IsaPath> {
        let mut paths = Vec::new();
        #[cfg(target_arch = "x86_64")]
        {
            let has_avx2 =
                is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c");
            let has_avx512 = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vnni");
            if has_avx2 && has_avx512 {
                paths.push(IsaPath::Avx512);
            }
            if has_avx2 {
                paths.push(IsaPath::Avx2);
            }
        }
        paths.push(IsaPath::Portable);
        paths
    }

    pub fn name(self) -> &'static str {
        match self {
            IsaPath::Avx512 => "AVX-512 VNNI",
            IsaPath::Avx2 => "AVX2",
            IsaPath::Portable => "portable",
        }
    }

    pub(super) fn kernels(self) -> Kernels {
        match self {
            #[cfg(target_arch = "x86_64")]
            IsaPath::Avx512 => {
                let mut table = avx512::table();
                if is_x86_feature_detected!("avx512bf16") && native_bf16::rounds_like_two_fmas(&table) {
                    table.linear[DType::BF16 as usize] = native_bf16::bf16_weights;
                }
                table
            }
            #[cfg(target_arch = "x86_64")]
            IsaPath::Avx2 => avx2::table(),
            #[cfg(not(target_arch = "x86_64"))]
            IsaPath::Avx512 | IsaPath::Avx2 => portable::table(),
            IsaPath::Portable => portable::table(),
        }
    }
}

/// One instruction set's kernels. Calling one needs a machine that [`IsaPath::available`] lists for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kernels {
    linear: [unsafe fn(&LinearCall); DType::ALL.len()],
    attend_segment: [unsafe fn(&AttendCall<'_>); 2],
    pub merge: unsafe fn(&Partial, &Partial, usize, usize),
    pub finish: unsafe fn(&Partial, usize, usize, usize, *mut f32),
    pub add_norm: unsafe fn(&mut AddNorm<'_>),
    pub quantise_column: unsafe fn(&[f32], *mut u32, usize, usize),
    pub float_column: unsafe fn(&[f32], *mut u32, usize, usize),
    pub bf16_column: unsafe fn(&[f32], *mut u32, usize, usize),
    pub finish_head: unsafe fn(&mut HeadRow<'_>),
    store_key: [unsafe fn(&[f32], &KvSlot); 2],
    store_value: [unsafe fn(&[f32], &KvSlot); 2],
    pub gate: unsafe fn(Activation, *const f32, *const f32, *mut f32),
    pub prefetch: unsafe fn(*const u8, usize),
}

impl Kernels {
    /// The linear kernel for weights of `dtype`.
    pub fn linear(&self, dtype: DType) -> unsafe fn(&LinearCall) {
        self.linear[dtype as usize]
    }

    /// The attention kernel for a cache of `dtype`.
    pub fn attend_segment(&self, dtype: KvCacheDType) -> unsafe fn(&AttendCall<'_>) {
        self.attend_segment[dtype as usize]
    }

    pub fn store_key(&self, dtype: KvCacheDType) -> unsafe fn(&[f32], &KvSlot) {
        self.store_key[dtype as usize]
    }

    pub fn store_value(&self, dtype: KvCacheDType) -> unsafe fn(&[f32], &KvSlot) {
        self.store_value[dtype as usize]
    }
}

/// Compiles every kernel with the features of one instruction set.
macro_rules! table {
    ($module:ident, $isa:ident $(, #[$attr:meta])*) => {
        mod $module {
            use super::*;
            use crate::device::cpu::simd::$isa;
            use crate::device::cpu::cache::{Cell, F16, Int8};
            use crate::device::cpu::{attend, linear, panel, rows};

            pub fn table() -> Kernels {
                let linear_of = |dtype| -> unsafe fn(&LinearCall) {
                    match dtype {
                        DType::Q4_0 => q4_0,
                        DType::Q4_1 => q4_1,
                        DType::Q5_0 => q5_0,
                        DType::Q5_1 => q5_1,
                        DType::Q8_0 => q8_0,
                        DType::Q4_K => q4_k,
                        DType::Q5_K => q5_k,
                        DType::Q6_K => q6_k,
                        DType::F32 => f32_weights,
                        DType::F16 => f16_weights,
                        DType::BF16 => bf16_weights,
                    }
                };
                Kernels {
                    linear: DType::ALL.map(linear_of),
                    attend_segment: [attend_f16, attend_int8],
                    merge,
                    finish,
                    add_norm,
                    quantise_column,
                    float_column,
                    bf16_column,
                    finish_head,
                    store_key: [store_key_f16, store_key_int8],
                    store_value: [store_value_f16, store_value_int8],
                    gate,
                    prefetch,
                }
            }

            $(#[$attr])*
            unsafe fn q4_0(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::Q4_0>(call) }
            }

            $(#[$attr])*
            unsafe fn q4_1(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::Q4_1>(call) }
            }

            $(#[$attr])*
            unsafe fn q5_0(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::Q5_0>(call) }
            }

            $(#[$attr])*
            unsafe fn q5_1(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::Q5_1>(call) }
            }

            $(#[$attr])*
            unsafe fn q8_0(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::Q8_0>(call) }
            }

            $(#[$attr])*
            unsafe fn q4_k(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::Q4_K>(call) }
            }

            $(#[$attr])*
            unsafe fn q5_k(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::Q5_K>(call) }
            }

            $(#[$attr])*
            unsafe fn q6_k(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::Q6_K>(call) }
            }

            $(#[$attr])*
            unsafe fn f32_weights(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::OfFloats<linear::F32>>(call) }
            }

            $(#[$attr])*
            unsafe fn f16_weights(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::OfFloats<linear::F16>>(call) }
            }

            $(#[$attr])*
            unsafe fn bf16_weights(call: &LinearCall) {
                unsafe { linear::linear::<$isa, linear::OfFloats<linear::BF16>>(call) }
            }

            $(#[$attr])*
            unsafe fn attend_f16(call: &AttendCall<'_>) {
                unsafe { attend::attend_segment::<$isa, F16>(call) }
            }

            $(#[$attr])*
            unsafe fn attend_int8(call: &AttendCall<'_>) {
                unsafe { attend::attend_segment::<$isa, Int8>(call) }
            }

            $(#[$attr])*
            unsafe fn merge(total: &Partial, part: &Partial, rows: usize, dim_stride: usize) {
                unsafe { attend::merge::<$isa>(total, part, rows, dim_stride) }
            }

            $(#[$attr])*
            unsafe fn finish(total: &Partial, row: usize, head_dim: usize, dim_stride: usize, out: *mut f32) {
                unsafe { attend::finish::<$isa>(total, row, head_dim, dim_stride, out) }
            }

            $(#[$attr])*
            unsafe fn add_norm(row: &mut AddNorm<'_>) {
                unsafe { rows::add_norm::<$isa>(row) }
            }

            $(#[$attr])*
            unsafe fn quantise_column(row: &[f32], panel: *mut u32, column: usize, cols: usize) {
                unsafe { panel::quantise_column::<$isa>(row, panel, column, cols) }
            }

            $(#[$attr])*
            unsafe fn float_column(row: &[f32], panel: *mut u32, column: usize, cols: usize) {
                unsafe { panel::float_column(row, panel, column, cols) }
            }

            $(#[$attr])*
            unsafe fn bf16_column(row: &[f32], panel: *mut u32, column: usize, cols: usize) {
                unsafe { panel::bf16_column(row, panel, column, cols) }
            }

            $(#[$attr])*
            unsafe fn finish_head(row: &mut HeadRow<'_>) {
                unsafe { rows::finish_head::<$isa>(row) }
            }

            $(#[$attr])*
            unsafe fn store_key_f16(x: &[f32], to: &KvSlot) {
                unsafe { F16::store_key::<$isa>(x, to) }
            }

            $(#[$attr])*
            unsafe fn store_key_int8(x: &[f32], to: &KvSlot) {
                unsafe { Int8::store_key::<$isa>(x, to) }
            }

            $(#[$attr])*
            unsafe fn store_value_f16(x: &[f32], to: &KvSlot) {
                unsafe { F16::store_value::<$isa>(x, to) }
            }

            $(#[$attr])*
            unsafe fn store_value_int8(x: &[f32], to: &KvSlot) {
                unsafe { Int8::store_value::<$isa>(x, to) }
            }

            $(#[$attr])*
            unsafe fn prefetch(from: *const u8, bytes: usize) {
                unsafe { linear::prefetch::<$isa>(from, bytes) }
            }

            $(#[$attr])*
            unsafe fn gate(activation: Activation, gate: *const f32, up: *const f32, out: *mut f32) {
                unsafe { rows::gate::<$isa>(activation, gate, up, out) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
table!(avx512, Avx512, #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma,f16c")]);
#[cfg(target_arch = "x86_64")]
table!(avx2, Avx2, #[target_feature(enable = "avx2,fma,f16c")]);
table!(portable, Portable);

/// `vdpbf16ps` where there is one that rounds as documented.
#[cfg(target_arch = "x86_64")]
mod native_bf16 {
    use super::*;
    use crate::device::cpu::linear;
    use crate::device::cpu::simd::{Avx512, NativePairs};

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx512bf16,avx2,fma,f16c")]
    pub unsafe fn bf16_weights(call: &LinearCall) {
        unsafe { linear::linear::<Avx512, linear::OfFloats<NativePairs>>(call) }
    }

    /// Runs 64 sums of 64 products both ways and compares bits. Call only where the instruction exists.
    pub fn rounds_like_two_fmas(table: &Kernels) -> bool {
        const PAIRS: usize = 32;
        let mut seed = 1u32;
        let mut word = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // Exponents of 2^-8 to 2^8 either way, any mantissa and sign.
            let half = |bits: u32| (bits & 0x807f) | (119 + (bits >> 8 & 15)) << 7;
            half(seed >> 16) << 16 | half(seed)
        };
        let weights: Vec<u32> = (0..4 * PAIRS * 16).map(|_| word()).collect();
        let panel: Vec<u32> = (0..PAIRS).map(|_| word()).collect();
        let run = |kernel: unsafe fn(&LinearCall)| {
            let mut out = [0f32; 64];
            let call = LinearCall {
                weights: weights.as_ptr().cast(),
                tiles: 4,
                tile_bytes: PAIRS * 64,
                cols: 2 * PAIRS,
                segment_blocks: 4,
                panel: panel.as_ptr(),
                panel_cols: 1,
                out: out.as_mut_ptr(),
                out_stride: 64,
            };
            // SAFETY: the buffers are as large as the call says; the caller checked the instruction set.
            unsafe { kernel(&call) };
            out.map(f32::to_bits)
        };
        run(table.linear(DType::BF16)) == run(bf16_weights)
    }
}
