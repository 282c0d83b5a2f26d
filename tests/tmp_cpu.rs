//! Temporary: kernels against the stated order, and speed.
use kiln::device::cpu::*;
use kiln::device::quant;
use kiln::device::*;
use kiln::ids::*;
use kiln::model::*;
use kiln::weights::*;
use std::collections::HashMap;
use std::time::Instant;
struct Mem(HashMap<String, (DType, u64, u64, Vec<u8>)>);
impl TensorSource for Mem {
    fn tensor(&self, n: &str) -> Option<TensorView<'_>> {
        let (k, v) = self.0.get_key_value(n)?;
        TensorView::new(k, v.0, v.1, v.2, &v.3).ok()
    }
}
fn rng(s: &mut u64) -> u64 {
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    *s
}
fn rand_tensor(d: DType, rows: u64, cols: u64, s: &mut u64) -> (DType, u64, u64, Vec<u8>) {
    let n = (d.row_bytes(cols).unwrap() * rows) as usize;
    let mut v: Vec<u8> = (0..n).map(|_| (rng(s) >> 20) as u8).collect();
    let bb = d.block_bytes() as usize;
    let set = |v: &mut [u8], at: usize, x: f32| {
        v[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes());
    };
    for b in v.chunks_mut(bb) {
        let x = (rng(s) % 1000) as f32 / 1e5;
        match d {
            DType::F32 => b.copy_from_slice(&(x - 0.005).to_le_bytes()),
            DType::F16 => b.copy_from_slice(&half::f16::from_f32(x - 0.005).to_le_bytes()),
            DType::BF16 => b.copy_from_slice(&half::bf16::from_f32(x - 0.005).to_le_bytes()),
            DType::Q6_K => set(b, 208, x / 50.0),
            DType::Q4_1 | DType::Q5_1 => {
                set(b, 0, x / 10.);
                set(b, 2, -x);
            }
            DType::Q4_K | DType::Q5_K => {
                set(b, 0, x / 100.);
                set(b, 2, x / 100.);
            }
            _ => set(b, 0, x / 10.),
        }
    }
    (d, rows, cols, v)
}
fn linear_ref(t: TensorView, x: &[f32]) -> Vec<f32> {
    let k = x.len();
    let nb = k.div_ceil(32);
    let seg = quant::segment_blocks(nb);
    (0..t.rows as usize)
        .map(|r| {
            let row = t.row(r);
            let mut total = 0f32;
            let mut b = 0;
            let mut wf = vec![0f32; k];
            if !t.dtype.is_quantised() {
                dequantise_row(t.dtype, row, &mut wf);
            }
            while b < nb {
                let e = (b + seg).min(nb);
                let mut a = 0f32;
                for i in b..e {
                    let xs = &x[i * 32..(i * 32 + 32).min(k)];
                    if t.dtype.is_quantised() {
                        let w = unpack_block(t.dtype, row, i);
                        let mut q = [0i8; 32];
                        let (da, sq) = quant::quantise_block(xs, &mut q);
                        let mut d = 0i32;
                        for j in 0..32 {
                            d += w.sub[j / 16] * w.q[j] as i32 * q[j] as i32;
                        }
                        a = (d as f32).mul_add(w.scale * da, a);
                        if matches!(t.dtype, DType::Q4_1 | DType::Q5_1 | DType::Q4_K | DType::Q5_K) {
                            a = w.min.mul_add(da * sq as f32, a);
                        }
                    } else {
                        for j in 0..xs.len() {
                            a = wf[i * 32 + j].mul_add(
                                if t.dtype == DType::BF16 {
                                    f32::from_bits((quant::round_bf16(xs[j]) as u32) << 16)
                                } else {
                                    xs[j]
                                },
                                a,
                            );
                        }
                    }
                }
                total += a;
                b = e;
            }
            total
        })
        .collect()
}
fn limits(rows: u32, threads: u32) -> Limits {
    Limits {
        slots_max: 4,
        context_tokens_max: 1024,
        step_rows_max: rows,
        logit_rows_max: rows.min(64),
        block_tokens: 16,
        num_blocks: 64,
        threads,
    }
}
fn batch(start: u32, rows: u32, logits: Vec<u32>) -> Batch {
    Batch {
        starts: vec![],
        seqs: vec![BatchSeq {
            slot: SlotId(0),
            position_start: start,
            tokens: (0..rows).map(|i| InputToken::Id(TokenId(i % 7))).collect(),
            block_table: (0..64).map(BlockId).collect(),
            logit_rows: logits,
        }],
    }
}
#[test]
fn linear_bits() {
    let mut s = 88172645463325252u64;
    for d in DType::ALL {
        for path in IsaPath::available() {
            for (n, k) in [(64u32, 256u32), (48, 768), (33, 1536)] {
                let src = Mem(HashMap::from([("w".to_string(), rand_tensor(d, n as u64, k as u64, &mut s))]));
                let p = Program {
                    vocab_size: 10,
                    hidden_size: n,
                    rope_tables: vec![],
                    ops: vec![StageOp::Linear(LinearOp {
                        stage: Stage::Down,
                        layer: 0,
                        prologue: Prologue::GatedOutput,
                        weights: vec![MatrixRef::find(&src, "w", n, k).unwrap()],
                        epilogue: Epilogue::Delta,
                    })],
                };
                let mut dev = CpuDevice::prepare_on(&p, &src, &limits(40, 2), path).unwrap();
                for rows in [1u32, 2, 3, 5, 8, 12, 13, 31] {
                    let x: Vec<f32> = (0..rows * k).map(|_| (rng(&mut s) % 2000) as f32 / 1000.0 - 1.0).collect();
                    let b = batch(0, rows, vec![]);
                    dev.write(&b, Checkpoint::GatedOutput, &x).unwrap();
                    dev.submit(&b).unwrap();
                    dev.collect().unwrap();
                    let got = dev.read(Checkpoint::Delta).unwrap();
                    for r in 0..rows as usize {
                        let want = linear_ref(src.tensor("w").unwrap(), &x[r * k as usize..(r + 1) * k as usize]);
                        for i in 0..n as usize {
                            assert_eq!(
                                got[r * n as usize + i].to_bits(),
                                want[i].to_bits(),
                                "{d} {path:?} {n}x{k} rows {rows} r{r} i{i} {} {}",
                                got[r * n as usize + i],
                                want[i]
                            );
                        }
                    }
                }
            }
        }
    }
}
fn smol(d: DType, s: &mut u64) -> (Mem, ModelSpec) {
    let mut m = HashMap::new();
    let mut add = |n: String, d: DType, r: u64, c: u64, s: &mut u64| {
        m.insert(n, rand_tensor(d, r, c, s));
    };
    let kd = |c: u64| {
        if c % 256 != 0 {
            match d {
                DType::Q4_K => DType::Q5_0,
                DType::Q5_K => DType::Q5_1,
                DType::Q6_K => DType::Q8_0,
                d => d,
            }
        } else {
            d
        }
    };
    add("emb".into(), DType::Q8_0, 49152, 576, s);
    add("n".into(), DType::F32, 1, 576, s);
    for l in 0..30 {
        for (n, r, c) in [
            ("q", 576, 576),
            ("k", 192, 576),
            ("v", 192, 576),
            ("o", 576, 576),
            ("g", 1536, 576),
            ("u", 1536, 576),
            ("d", 576, 1536),
        ] {
            add(format!("{n}{l}"), kd(c), r, c, s);
        }
    }
    let m = Mem(m);
    let mr = |n: String, r, c| MatrixRef::find(&m, &n, r, c).unwrap();
    let v = || VectorRef::find(&m, "n", 576).unwrap();
    let spec = ModelSpec {
        architecture: "llama".into(),
        name: "x".into(),
        vocab_size: 49152,
        hidden_size: 576,
        context_tokens_trained: 1024,
        norm_eps: 1e-5,
        embed: EmbedSpec { table: mr("emb".into(), 49152, 576), scale: 1.0 },
        rope_tables: vec![RopeTable {
            pairing: RopePairing::Adjacent,
            inv_freq: (0..32).map(|i| 1e5f64.powf(-(i as f64) / 32.0)).collect(),
            magnitude: 1.0,
        }],
        head: HeadSpec { norm: v(), matrix: mr("emb".into(), 49152, 576) },
        layers: (0..30)
            .map(|l| LayerSpec {
                num_heads: 9,
                num_kv_heads: 3,
                head_dim: 64,
                intermediate_size: 1536,
                window: None,
                rope: 0,
                score_scale: 0.125,
                activation: Activation::Silu,
                tensors: LayerTensors {
                    attn_norm: v(),
                    q: mr(format!("q{l}"), 576, 576),
                    k: mr(format!("k{l}"), 192, 576),
                    v: mr(format!("v{l}"), 192, 576),
                    q_bias: None,
                    k_bias: None,
                    v_bias: None,
                    q_norm: None,
                    k_norm: None,
                    attn_out: mr(format!("o{l}"), 576, 576),
                    post_attn_norm: None,
                    ffn_norm: v(),
                    gate: mr(format!("g{l}"), 1536, 576),
                    up: mr(format!("u{l}"), 1536, 576),
                    down: mr(format!("d{l}"), 576, 1536),
                    post_ffn_norm: None,
                },
            })
            .collect(),
    };
    (m, spec)
}
#[test]
fn speed() {
    let only = std::env::var("FMT").ok();
    let mut s = 88172645463325252u64;
    for d in DType::ALL {
        if only.as_ref().is_some_and(|o| o != d.name()) {
            continue;
        }
        let (m, spec) = smol(d, &mut s);
        let t0 = Instant::now();
        let mut dev = CpuDevice::prepare(&Program::of(&spec), &m, &limits(512, 2)).unwrap();
        let load = t0.elapsed();
        let mut pp = vec![];
        let mut tg = vec![];
        for _ in 0..7 {
            let b = batch(0, 512, vec![511]);
            let t = Instant::now();
            dev.submit(&b).unwrap();
            dev.collect().unwrap();
            pp.push(512.0 / t.elapsed().as_secs_f64());
            let t = Instant::now();
            for i in 0..64 {
                let b = batch(i, 1, vec![0]);
                dev.submit(&b).unwrap();
                dev.collect().unwrap();
            }
            tg.push(64.0 / t.elapsed().as_secs_f64());
        }
        pp.sort_by(f64::total_cmp);
        tg.sort_by(f64::total_cmp);
        let bytes = dev.memory().weights_bytes as f64;
        println!(
            "{d:>5} load {load:?} pp512 {:.0} (max {:.0}) tg {:.1} (max {:.1}) {:.1} GB/s",
            pp[3],
            pp[6],
            tg[3],
            tg[6],
            tg[3] * bytes / 1e9
        );
    }
}
