//! The kernels, all resolved when the device opens: a missing name fails at start-up.

use std::sync::Arc;

use crate::device::{DeviceError, KvCacheDType};

use super::abi::*;
use super::driver::{Gpu, Kernel, Module};

/// Attention kernels, by what the cache holds and the largest head; smaller heads use the next larger size.
const ATTEND: [(KvCacheDType, u32, &str); 8] = [
    (KvCacheDType::F16, 32, "kiln_attend_32"),
    (KvCacheDType::F16, 64, "kiln_attend_64"),
    (KvCacheDType::F16, 96, "kiln_attend_96"),
    (KvCacheDType::F16, 128, "kiln_attend_128"),
    (KvCacheDType::F16, 256, "kiln_attend_256"),
    (KvCacheDType::Int8, 64, "kiln_attend_int8_64"),
    (KvCacheDType::Int8, 128, "kiln_attend_int8_128"),
    (KvCacheDType::Int8, 256, "kiln_attend_int8_256"),
];

/// The index among [`Kernels::attend`] of the kernel for such heads, at most 256, and the head size that it is compiled for.
pub fn attend_kernel(dtype: KvCacheDType, head_dim: u32) -> (usize, u32) {
    let fits = |&(cache, largest, _): &(KvCacheDType, u32, &str)| cache == dtype && head_dim <= largest;
    let index = ATTEND.iter().position(fits).unwrap_or(ATTEND.len() - 1);
    (index, ATTEND[index].1)
}

/// Rows that the matrix-vector kernel is compiled for.
pub const SMALL_ROWS: [u32; 4] = [1, 2, 4, 8];

/// Batch rows and threads of a CTA of the matrix-matrix kernel (cuda/linear_large.cu).
pub const LARGE_ROWS: u32 = 64;
pub const LARGE_THREADS: u32 = 128;

/// Dynamic shared memory that the fused kernel may use beside its static one, on every architecture.
pub const FUSED_SHARED_BYTES_MAX: u32 = 88 << 10;

#[derive(Debug)]
pub struct Kernels {
    pub embed: Kernel,
    pub norm: Kernel,
    pub quantise: Kernel,
    pub finish_qkv: Kernel,
    pub copy_blocks: Kernel,
    pub repack: Kernel,
    pub linear_small: [Kernel; 4],
    /// For one and two rows.
    pub linear_fused: [Kernel; 2],
    pub linear_large: Kernel,
    /// By [`attend_kernel`].
    pub attend: Vec<Kernel>,
    /// Kept loaded.
    _modules: Vec<Module>,
}

macro_rules! fatbin {
    ($name:literal) => {
        ($name, include_bytes!(concat!(env!("OUT_DIR"), "/", $name, ".fatbin")).as_slice())
    };
}
pub(super) use fatbin;

impl Kernels {
    pub fn load(gpu: &Arc<Gpu>) -> Result<Kernels, DeviceError> {
        let load = |(name, image)| Module::load(gpu, name, image);
        let (rows, repack) = (load(fatbin!("rows"))?, load(fatbin!("repack"))?);
        let (small, large) = (load(fatbin!("linear_small"))?, load(fatbin!("linear_large"))?);
        let attend = load(fatbin!("attend"))?;
        Ok(Kernels {
            embed: rows.kernel("kiln_embed", 0)?,
            norm: rows.kernel("kiln_norm", 0)?.early(),
            quantise: rows.kernel("kiln_quantise", 0)?.early(),
            finish_qkv: rows.kernel("kiln_finish_qkv", 0)?.early(),
            copy_blocks: rows.kernel("kiln_copy_blocks", 0)?,
            repack: repack.kernel("kiln_repack", 0)?,
            linear_small: [
                small.kernel("kiln_linear_small_1", 0)?.early(),
                small.kernel("kiln_linear_small_2", 0)?.early(),
                small.kernel("kiln_linear_small_4", 0)?.early(),
                small.kernel("kiln_linear_small_8", 0)?.early(),
            ],
            linear_fused: [
                small.kernel("kiln_linear_fused_1", FUSED_SHARED_BYTES_MAX)?.early(),
                small.kernel("kiln_linear_fused_2", FUSED_SHARED_BYTES_MAX)?.early(),
            ],
            linear_large: large.kernel("kiln_linear_large", KILN_LARGE_SHARED_BYTES)?.early(),
            attend: ATTEND
                .iter()
                .map(|&(dtype, head_dim, name)| Ok(attend.kernel(name, attend_shared_bytes(dtype, head_dim))?.early()))
                .collect::<Result<_, DeviceError>>()?,
            _modules: vec![rows, repack, small, large, attend],
        })
    }
}

/// `sizeof(AttendShared<head_dim, T>)` of cuda/attend.cu, whose members these are in order.
fn attend_shared_bytes(dtype: KvCacheDType, head_dim: u32) -> u32 {
    let cell_bytes = if dtype == KvCacheDType::Int8 { 1 } else { 2 };
    let (pairs, warps) = (KILN_ATTEND_PAIRS, KILN_ATTEND_THREADS / 32);
    let queries = 2 * pairs * (head_dim + if head_dim.is_multiple_of(64) { 32 } else { 0 }) * 2;
    let weights = (2 * pairs * (KILN_ATTEND_SEGMENT + 8) * 2).max(pairs * (head_dim + 8) * 4);
    let values = warps * 2 * 32 * (((head_dim * cell_bytes / warps / 16) | 1) * 16);
    let extremes = 2 * warps * pairs * 4;
    queries + weights + values + extremes + 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ptx_of_all() -> Vec<(&'static str, String)> {
        let images = [
            fatbin!("rows"),
            fatbin!("repack"),
            fatbin!("linear_small"),
            fatbin!("linear_large"),
            fatbin!("attend"),
            fatbin!("sample"),
        ];
        images
            .into_iter()
            .flat_map(|(name, image)| {
                let fatbin = sim_fatbin::Fatbin::parse(image).unwrap_or_else(|e| panic!("{name}: {e}"));
                [(8, 0), (9, 0)].map(|(major, minor)| (name, fatbin.ptx_for(major, minor).unwrap().to_owned()))
            })
            .collect()
    }

    /// The declared bytes of every kernel's one parameter.
    fn param_bytes(ptx: &str) -> Vec<(String, usize)> {
        let params = ptx.lines().filter_map(|line| line.trim().strip_prefix(".param .align 8 .b8 "));
        params
            .filter_map(|param| {
                let (name, rest) = param.split_once("_param_0[")?;
                Some((name.to_owned(), rest.split(']').next()?.parse().ok()?))
            })
            .collect()
    }

    #[test]
    fn parameter_structs_have_the_sizes_that_kernels_declare() {
        let size_of_params = |kernel: &str| match kernel {
            "kiln_embed" => size_of::<KilnEmbedParams>(),
            "kiln_norm" => size_of::<KilnNormParams>(),
            "kiln_quantise" => size_of::<KilnQuantiseParams>(),
            "kiln_finish_qkv" => size_of::<KilnFinishQkvParams>(),
            "kiln_copy_blocks" => size_of::<KilnCopyBlocksParams>(),
            "kiln_repack" => size_of::<KilnRepackParams>(),
            "kiln_linear_large" => size_of::<KilnLinearParams>(),
            name if name.starts_with("kiln_linear_small_") => size_of::<KilnLinearParams>(),
            name if name.starts_with("kiln_linear_fused_") => size_of::<KilnFusedParams>(),
            name if name.starts_with("kiln_attend_") => size_of::<KilnAttendParams>(),
            "kiln_sample" => size_of::<KilnSampleParams>(),
            "kiln_start_slots" => size_of::<KilnStartParams>(),
            name => panic!("{name} has no entry here"),
        };
        let mut compared = 0;
        for (image, ptx) in ptx_of_all() {
            for (kernel, declared) in param_bytes(&ptx) {
                assert_eq!(declared, size_of_params(&kernel), "{kernel} of {image}");
                compared += 1;
            }
        }
        assert_eq!(compared, 2 * 23, "two architectures of every kernel");
    }

    /// Kernels that may start while their predecessor runs touch no memory before they wait for it, in straight code. Each CTA waits, so
    /// that a kernel's end implies its predecessor's.
    #[test]
    fn kernels_that_start_early_wait_before_they_touch_memory() {
        let mut waiting = 0;
        for (image, ptx) in ptx_of_all() {
            for entry in ptx.split(".entry ").skip(1) {
                let name = entry.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap();
                let Some((before, _)) = entry.split_once("griddepcontrol.wait;") else { continue };
                waiting += 1;
                let code = || before.lines().map(str::trim);
                let touches = |line: &&str| {
                    ["ld", "st", "atom", "red", "cp"].iter().any(|op| line.contains(&format!("{op}.")))
                        && !line.contains("ld.param")
                        && !line.starts_with('.')
                };
                assert_eq!(code().find(touches), None, "{name} of {image}, before it waits");
                let leaves = |line: &&str| line.contains("ret;") || line.contains("exit;");
                assert_eq!(code().find(leaves), None, "{name} of {image}: a CTA that ends without waiting");
            }
        }
        assert_eq!(waiting, 3 + 4 + 2 + 1 + 8, "the kernels that `Kernels::load` calls early");
    }

    /// ptxas may fuse a multiplication and an addition that carry no rounding modifier, and then bits would depend on it.
    #[test]
    fn every_float_operation_says_how_it_rounds() {
        for (image, ptx) in ptx_of_all() {
            for (number, line) in ptx.lines().enumerate() {
                let code = line.trim().trim_start_matches(|c| c != ' ' && line.trim().starts_with('@')).trim();
                let opcode = code.split_whitespace().next().unwrap_or("");
                let mut parts = opcode.split('.');
                let may_fuse = matches!(parts.next(), Some("add" | "sub" | "mul" | "mad"));
                let modifiers: Vec<&str> = parts.map(|part| part.trim_end_matches(';')).collect();
                let is_float =
                    modifiers.iter().any(|m| matches!(*m, "f32" | "f64" | "f16" | "f16x2" | "bf16" | "bf16x2"));
                let rounds = modifiers.iter().any(|m| matches!(*m, "rn" | "rz" | "rm" | "rp"));
                assert!(!may_fuse || !is_float || rounds, "{image} PTX line {}: {line}", number + 1);
            }
        }
    }
}
