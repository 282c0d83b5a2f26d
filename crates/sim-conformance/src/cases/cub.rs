//! CUB: warp-, block- and device-wide algorithms.

use crate::case::{Case, DeviceCode};

const fn block(name: &'static str, checks: &'static str, exercises: &'static [&'static str]) -> Case {
    let code = DeviceCode::Cuda { file: "cub_block.cu", arch: "sm_90a" };
    Case { name, code, package: "nvidia-cuda-cccl (CUB)", checks, exercises }
}

pub const CASES: &[Case] =
    &[block("cub_block_reduce", "sum of each block's 128 integers", &["redux.sync.add", "bar.sync"])];
