//! Dequantisation against values that the `gguf` Python package gave (recorded by `xtask/goldens/dequant.py`).

use kiln::weights::{BLOCK_WEIGHTS, DType, dequantise_row, has_min, unpack_block};

const GOLDEN: &[u8] = include_bytes!("../golden/dequant.bin");

struct Record {
    dtype: DType,
    stored: &'static [u8],
    values: Vec<f32>,
}

fn records() -> Vec<Record> {
    let mut rest = GOLDEN;
    let mut take = |count: usize| {
        let (taken, left) = rest.split_at_checked(count)?;
        rest = left;
        Some(taken)
    };
    let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
    let mut records = Vec::new();
    while let Some(head) = take(12) {
        let dtype = DType::from_ggml_type(word(&head[..4])).expect("a format that kiln reads");
        let stored = take(word(&head[8..]) as usize).expect("a whole record");
        let values = take(4 * word(&head[4..8]) as usize).expect("a whole record");
        let values = values.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().expect("four bytes"))).collect();
        records.push(Record { dtype, stored, values });
    }
    records
}

#[test]
fn every_format_is_recorded() {
    let mut found: Vec<DType> = records().iter().map(|record| record.dtype).collect();
    found.sort();
    let mut all = DType::ALL.to_vec();
    all.sort();
    assert_eq!(found, all);
    for Record { dtype, values, .. } in records() {
        assert!(values.len() >= 1024, "{dtype}");
        let distinct: std::collections::HashSet<u32> = values.iter().map(|v| v.to_bits()).collect();
        assert!(distinct.len() > 256, "{dtype}: a recording of {} values", distinct.len());
    }
}

#[test]
fn dequantised_rows_equal_the_gguf_packages_bit_for_bit() {
    for Record { dtype, stored, values } in records() {
        let mut out = vec![f32::NAN; values.len()];
        dequantise_row(dtype, stored, &mut out);
        for (i, (out, value)) in out.iter().zip(&values).enumerate() {
            assert_eq!(out.to_bits(), value.to_bits(), "{dtype} weight {i}: {out:e}, the gguf package says {value:e}");
        }
    }
}

/// What kernels rely on: integers in their ranges, and the formula that [`unpack_block`]'s documentation states.
#[test]
fn unpacked_blocks_obey_the_stated_formula() {
    for Record { dtype, stored, values } in records() {
        if !dtype.is_quantised() {
            continue;
        }
        let range = match dtype {
            DType::Q4_0 => -8..=7,
            DType::Q4_1 | DType::Q4_K => 0..=15,
            DType::Q5_0 => -16..=15,
            DType::Q5_1 | DType::Q5_K => 0..=31,
            DType::Q6_K => -32..=31,
            _ => i8::MIN..=i8::MAX,
        };
        let (mut least, mut most) = (i8::MAX, i8::MIN);
        for (index, values) in values.chunks_exact(BLOCK_WEIGHTS).enumerate() {
            let block = unpack_block(dtype, stored, index);
            assert!(has_min(dtype) || block.min == 0.0, "{dtype} block {index}");
            assert!(dtype == DType::Q6_K || block.sub == [1, 1], "{dtype} block {index}");
            for (j, &value) in values.iter().enumerate() {
                least = least.min(block.q[j]);
                most = most.max(block.q[j]);
                let weight = block.scale * block.sub[j / 16] as f32 * f32::from(block.q[j]) + block.min;
                assert!(weight == value, "{dtype} block {index} weight {j}: {weight:e}, not {value:e}");
            }
        }
        assert_eq!((least, most), (*range.start(), *range.end()), "{dtype}: the recording reaches both ends");
    }
}

#[test]
fn nans_stay_nans() {
    let cases: [(DType, &[u8]); 4] = [
        (DType::F32, &[1, 0, 0xc0, 0x7f]),
        (DType::F16, &[1, 0x7e]),
        (DType::BF16, &[0x81, 0xff]),
        (DType::Q8_0, &[[0x00, 0x7e].as_slice(), &[1; 32]].concat()),
    ];
    for (dtype, stored) in cases {
        let mut out = vec![0.0; dtype.block_weights() as usize];
        dequantise_row(dtype, stored, &mut out);
        assert!(out.iter().all(|v| v.is_nan()), "{dtype}: {out:?}");
    }
}

#[test]
#[should_panic(expected = "33 Q8_0 weights in 34 bytes")]
fn a_row_of_another_length_is_a_broken_invariant() {
    dequantise_row(DType::Q8_0, &[0; 34], &mut [0.0; 33]);
}
