//! What nvcc makes of the language, and the arithmetic of its device library.

use crate::case::{Case, DeviceCode};

type Instructions = &'static [&'static str];

const fn language(name: &'static str, checks: &'static str, exercises: Instructions) -> Case {
    let code = DeviceCode::Cuda { file: "language.cu", arch: "sm_90a" };
    Case { name, code, package: "nvidia-cuda-nvcc (language)", checks, exercises }
}

const fn math(name: &'static str, checks: &'static str, exercises: Instructions) -> Case {
    let code = DeviceCode::Cuda { file: "math.cu", arch: "sm_90a" };
    Case { name, code, package: "nvidia-nvvm (libdevice), nvidia-cuda-runtime (intrinsics)", checks, exercises }
}

pub const CASES: &[Case] = &[
    language("language_function_pointers", "functions from a table, chosen per thread", &["call"]),
    language("language_virtual_calls", "methods of two classes, objects on the stack", &["call", "ld.u64"]),
    language("language_recursion", "Ackermann's function, another depth in every lane", &["call.uni"]),
    language("language_grid_constant", "a struct parameter indexed at run time", &["ld.param"]),
    language("language_dynamic_shared", "two arrays in dynamic shared memory", &["st.shared", "bar.sync"]),
    language("language_local_arrays", "a stack in local memory", &["st.local", "ld.local"]),
    language("language_switch", "a switch with fall-through and early returns", &["setp.gt.s32", "bra.uni"]),
    language("language_variables", "constant, global and pointer-holding variables", &["ld.const", "atom.global.add"]),
    language("language_printf", "formats and arguments", &["call.uni", "vprintf"]),
    language("language_assert", "the failing condition, its file and line; none if it holds", &["__assertfail"]),
    language("language_trap", "a trap, or none", &["trap"]),
    math("math_float", "21 functions within their documented errors", &["ex2.approx", "lg2.approx", "rcp.approx.ftz"]),
    math("math_fast", "approximate intrinsics within their documented errors", &["sin.approx", "tanh.approx"]),
    math("math_rounding", "directed rounding exactly, against 128-bit integers", &["add.rz", "fma.rz", "sqrt.rp"]),
    math("math_double", "13 functions within their documented errors", &["fma.rn.f64", "rcp.approx.ftz.f64"]),
    math("math_integer", "27 bit, wide, dot-product and packed operations", &["dp4a", "dp2a", "prmt", "shf.r.clamp"]),
    math("math_conversions", "rounding to integers, f16, bf16 and fp8", &["cvt.rn.satfinite.e4m3x2", "cvt.rp.f16"]),
    math("math_half2", "packed f16 arithmetic, rounded once", &["fma.rn.f16x2", "fma.rn.relu.f16x2"]),
    math("math_bfloat162", "packed bf16 arithmetic, rounded once", &["fma.rn.bf16x2"]),
    math("math_half_functions", "f16 functions", &["ex2.approx.ftz.f32", "set.eq.f16.f16"]),
];
