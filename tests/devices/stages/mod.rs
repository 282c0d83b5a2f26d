//! One suite for every device: each stage alone, on synthetic weights, against the int8 reference.
//!
//! Stages whose input rows are given as f32 (`OutProj`, `Down`) must have the reference's bits: the rule of quantisation and
//! the order of sums are fixed, but for sums of floats on tensor cores. The others start with a norm or contain exponentials, which devices compute in their own
//! order: they come near, by tolerances derived in `cases.rs`.

mod cases;
mod harness;

use crate::common;
use kiln::device::KvCacheDType;
use kiln::model::{Activation, RopePairing, Stage};
use kiln::weights::DType;

use cases::{AttendCase, CacheCase, DeltaCase, EmbedCase, GateUpCase, HeadCase, Post, QkvCase};

const F16: KvCacheDType = KvCacheDType::F16;
const INT8: KvCacheDType = KvCacheDType::Int8;

/// Row counts around the panels and vectors of all devices.
const ODD_ROWS: [u32; 7] = [1, 2, 12, 13, 31, 33, 65];

/// All of them for devices of the host. On the simulated GPU a kernel runs a thousand times slower: every format gets a count for the
/// matrix-vector kernels (1, 2, 4 and 8 rows) and one for the matrix-matrix kernel, every count some formats.
fn row_counts(dtype: DType) -> Vec<u32> {
    let index = DType::ALL.iter().position(|d| *d == dtype).unwrap();
    match common::simulated::is_child() {
        true => vec![[1, 2, 3, 7][index % 4], [13, 33, 65][index % 3]],
        false => ODD_ROWS.to_vec(),
    }
}

/// The smallest legal number of columns that is at least `cols`.
fn legal_cols(dtype: DType, cols: u32) -> u32 {
    cols.next_multiple_of(dtype.block_weights())
}

#[test]
fn embed_gives_the_rows_of_its_tokens() {
    for dtype in DType::ALL {
        for (hidden_size, rows, scale) in [(32, 1, 1.0), (576, 33, 1.0), (4096, 2, 1.0), (160, 13, 3.5)] {
            let hidden_size = legal_cols(dtype, hidden_size);
            EmbedCase { dtype, vocab_size: 257, hidden_size, rows, scale }.check();
        }
    }
}

#[test]
fn out_proj_has_the_references_bits_in_every_format() {
    for dtype in DType::ALL {
        for rows in row_counts(dtype) {
            // Columns of two, nine, sixteen and more segments, some short; rows that fill no tile.
            for (cols, out) in [(32, 32), (96, 96), (160, 33), (576, 576), (2080, 17)] {
                DeltaCase { stage: Stage::OutProj, dtype, cols: legal_cols(dtype, cols), out, rows }.check();
            }
        }
    }
}

#[test]
fn down_has_the_references_bits_in_every_format() {
    for dtype in DType::ALL {
        for (cols, out, rows) in [(1536, 576, 13), (352, 1, 65), (32, 257, 2), (14336, 48, 3), (1536, 576, 1)] {
            DeltaCase { stage: Stage::Down, dtype, cols: legal_cols(dtype, cols), out, rows }.check();
        }
    }
}

#[test]
fn llama_3_8b_out_proj_and_down_have_the_references_bits() {
    DeltaCase { stage: Stage::OutProj, dtype: DType::Q4_K, cols: 4096, out: 4096, rows: 2 }.check();
    DeltaCase { stage: Stage::Down, dtype: DType::Q6_K, cols: 14336, out: 512, rows: 1 }.check();
}

#[test]
fn qkv_in_every_format() {
    for dtype in DType::ALL {
        let smol = QkvCase { dtypes: [dtype; 3], ..QkvCase::default() };
        for rows in row_counts(dtype) {
            let hidden_size = legal_cols(dtype, smol.hidden_size);
            QkvCase { rows, hidden_size, ..smol.clone() }.check();
        }
        let llama_3_8b = QkvCase { hidden_size: 4096, heads: (32, 8), head_dim: 128, rotary_dims: 128, ..smol.clone() };
        QkvCase { rows: 2, heads: (4, 1), ..llama_3_8b.clone() }.check();
        if dtype == DType::Q4_K {
            QkvCase { rows: 5, ..llama_3_8b }.check();
        }
    }
}

#[test]
fn qkv_with_mixed_formats_biases_norms_and_pairings() {
    let mixed = [DType::Q4_K, DType::Q6_K, DType::F16];
    for pairing in [RopePairing::Adjacent, RopePairing::Halves] {
        for dtypes in [mixed, [DType::Q4_0, DType::Q8_0, DType::BF16], [DType::F32, DType::Q5_1, DType::Q4_0]] {
            let case = QkvCase { dtypes, hidden_size: 768, pairing, rows: 13, ..QkvCase::default() };
            case.check();
            QkvCase { biases: true, ..case.clone() }.check();
            QkvCase { norms: true, ..case.clone() }.check();
            QkvCase { biases: true, norms: true, post: Post::Normed, rotary_dims: 32, ..case.clone() }.check();
            QkvCase { post: Post::None, rows: 33, ..case }.check();
        }
    }
}

#[test]
fn qkv_of_odd_heads() {
    for pairing in [RopePairing::Adjacent, RopePairing::Halves] {
        for head_dim in [32, 48, 80, 96, 128, 256] {
            for (hidden_size, heads, rows) in [(32, (1, 1), 1), (96, (6, 2), 13), (160, (5, 1), 31)] {
                let dtypes = [DType::Q4_1, DType::Q8_0, DType::Q5_0];
                let sizes =
                    QkvCase { dtypes, hidden_size, heads, head_dim, rotary_dims: head_dim, ..QkvCase::default() };
                let case = QkvCase { pairing, rows, ..sizes };
                case.check();
                QkvCase { rotary_dims: head_dim / 4 * 2, biases: true, norms: true, ..case }.check();
            }
        }
    }
}

#[test]
fn attend_over_ragged_batches_and_scattered_blocks() {
    for rows in ODD_ROWS {
        for window in [None, Some(1), Some(16), Some(40), Some(257)] {
            AttendCase { heads: (9, 3), head_dim: 64, kv_cache_dtype: F16, window, rows }.check();
        }
    }
    AttendCase { heads: (32, 8), head_dim: 128, kv_cache_dtype: F16, window: None, rows: 33 }.check();
}

#[test]
fn attend_of_odd_heads() {
    for head_dim in [32, 48, 80, 96, 128, 256] {
        for heads in [(1, 1), (7, 1), (6, 3), (16, 1)] {
            AttendCase { heads, head_dim, kv_cache_dtype: F16, window: None, rows: 31 }.check();
            AttendCase { heads, head_dim, kv_cache_dtype: F16, window: Some(33), rows: 12 }.check();
        }
    }
}

#[test]
fn an_int8_cache_has_the_references_bits() {
    let heads = [(32, DType::Q8_0), (64, DType::Q4_1), (80, DType::Q5_0), (128, DType::F32), (256, DType::Q4_K)];
    for (head_dim, dtype) in heads {
        for (rows, biases) in [(1, false), (2, true), (13, false), (33, true)] {
            CacheCase { kv_cache_dtype: INT8, dtype, head_dim, biases, rows }.check();
        }
    }
}

#[test]
fn qkv_into_an_int8_cache() {
    for (rows, norms, pairing) in
        [(1, false, RopePairing::Adjacent), (2, true, RopePairing::Halves), (13, false, RopePairing::Halves)]
    {
        let smol = QkvCase { kv_cache_dtype: INT8, rows, norms, pairing, ..QkvCase::default() };
        smol.check();
        QkvCase { heads: (4, 2), head_dim: 48, rotary_dims: 24, ..smol }.check();
    }
}

#[test]
fn attend_over_an_int8_cache() {
    for rows in ODD_ROWS {
        for window in [None, Some(40)] {
            AttendCase { heads: (9, 3), head_dim: 64, kv_cache_dtype: INT8, window, rows }.check();
        }
    }
    for head_dim in [32, 48, 96, 128, 256] {
        AttendCase { heads: (7, 1), head_dim, kv_cache_dtype: INT8, window: Some(33), rows: 12 }.check();
        AttendCase { heads: (6, 3), head_dim, kv_cache_dtype: INT8, window: None, rows: 31 }.check();
    }
}

#[test]
fn gate_up_in_every_format() {
    for dtype in DType::ALL {
        for (hidden_size, intermediate_size, rows) in [(576, 1536, 12), (32, 352, 65), (4096, 96, 2), (160, 32, 1)] {
            let hidden_size = legal_cols(dtype, hidden_size);
            let case = GateUpCase { dtypes: [dtype; 2], hidden_size, intermediate_size, rows, ..GateUpCase::default() };
            case.check();
        }
    }
}

#[test]
fn gate_up_of_mixed_formats_gelu_and_post_norm() {
    let mixed = [[DType::Q4_0, DType::Q5_1], [DType::F16, DType::Q8_0], [DType::BF16, DType::F32]];
    for dtypes in mixed {
        for rows in [1, 13, 33] {
            let case = GateUpCase { dtypes, rows, ..GateUpCase::default() };
            GateUpCase { activation: Activation::GeluTanh, post: Post::Normed, ..case.clone() }.check();
            GateUpCase { intermediate_size: 48, ..case }.check();
        }
    }
}

#[test]
fn head_gives_logits_of_the_rows_that_ask() {
    for dtype in DType::ALL {
        for (hidden_size, vocab_size, rows) in
            [(576, 1000, 13), (32, 1, 1), (96, 33, 65), (4096, 257, 2), (160, 257, 31)]
        {
            let hidden_size = legal_cols(dtype, hidden_size);
            HeadCase { dtype, hidden_size, vocab_size, rows, post: Post::Plain }.check();
        }
    }
    HeadCase { dtype: DType::Q8_0, hidden_size: 576, vocab_size: 257, rows: 12, post: Post::Normed }.check();
}

common::simulated::on_the_simulated_gpu! {
    cases:
    embed_gives_the_rows_of_its_tokens
    out_proj_has_the_references_bits_in_every_format ["multiply_adds_i8" "multiply_adds_f16" "multiply_adds_bf16"]
    down_has_the_references_bits_in_every_format ["multiply_adds_i8" "multiply_adds_f16" "multiply_adds_bf16"]
    llama_3_8b_out_proj_and_down_have_the_references_bits
    qkv_in_every_format ["multiply_adds_i8"]
    qkv_with_mixed_formats_biases_norms_and_pairings
    qkv_of_odd_heads
    attend_over_ragged_batches_and_scattered_blocks ["multiply_adds_f16"]
    attend_of_odd_heads ["multiply_adds_f16"]
    an_int8_cache_has_the_references_bits
    qkv_into_an_int8_cache
    attend_over_an_int8_cache ["multiply_adds_f16" "multiply_adds_bf16"]
    gate_up_in_every_format ["multiply_adds_i8"]
    gate_up_of_mixed_formats_gelu_and_post_norm
    head_gives_logits_of_the_rows_that_ask
}
