//! One step, stage by stage, row by row.

use crate::device::host::{BatchRow, BatchRows};
use crate::device::quant::CACHE_OVERFLOW;
use crate::ids::TokenId;
use crate::model::{AttendOp, RopeTable};

use super::cache::{Cache, Part};
use super::linear::InputRow;
use super::ops::{Delta, Input, Linear, Op, Output, Qkv};
use super::rows;

/// Rows of f32, all of one width.
pub type Rows = Vec<Vec<f32>>;

/// What stages hand to each other, `[batch row][element]`; logits `[logit row][token]`.
#[derive(Debug, Default)]
pub struct Work {
    pub residual: Rows,
    pub delta: Rows,
    pub query: Rows,
    pub attended: Rows,
    pub gated: Rows,
    pub logits: Rows,
}

/// The batch of a step.
pub type StepRows = BatchRows<TokenId>;

/// Everything a stage can touch.
#[derive(Debug)]
pub struct Machine {
    pub work: Work,
    pub cache: Cache,
    pub rope_tables: Vec<RopeTable>,
    pub threads: usize,
}

impl Machine {
    pub fn run(&mut self, ops: &[Op], step: &StepRows) {
        for op in ops {
            match op {
                Op::Embed { table, hidden_size, scale } => {
                    let embed = |row: &BatchRow<TokenId>| {
                        table[row.token.index() * hidden_size..][..*hidden_size].iter().map(|x| x * scale).collect()
                    };
                    self.work.residual = step.rows.iter().map(embed).collect();
                }
                Op::Linear(linear) => self.linear(linear, step),
                Op::Attend(op) => {
                    self.work.attended = (0..step.rows.len()).map(|row| self.attend(op, step, row)).collect();
                }
            }
        }
    }

    fn linear(&mut self, op: &Linear, step: &StepRows) {
        let batch_rows: Vec<usize> = match op.output {
            Output::Logits => step.logit_rows.clone(),
            _ => (0..step.rows.len()).collect(),
        };
        let inputs: Vec<InputRow> = batch_rows.iter().map(|&row| self.input_row(&op.input, row)).collect();
        // [matrix][input row][element]
        let mut outputs = op.matrices.iter().map(|matrix| matrix.project(&inputs, self.threads));
        let mut next = || outputs.next().unwrap_or_default();
        match &op.output {
            Output::Delta => self.work.delta = next(),
            Output::Logits => self.work.logits = next(),
            Output::Gated(activation) => {
                let activate = |(gate, up): (Vec<f32>, Vec<f32>)| {
                    gate.iter().zip(&up).map(|(gate, up)| rows::gated(*activation, *gate, *up)).collect()
                };
                self.work.gated = next().into_iter().zip(next()).map(activate).collect();
            }
            Output::Qkv(qkv) => {
                let [q, k, v] = [next(), next(), next()];
                self.finish_qkv(op.layer, qkv, step, [q, k, v]);
            }
        }
    }

    fn input_row(&mut self, input: &Input, row: usize) -> InputRow {
        match input {
            Input::AttendOutput => InputRow::new(&self.work.attended[row]),
            Input::GatedOutput => InputRow::new(&self.work.gated[row]),
            Input::AddNorm { delta, norm, norm_eps } => {
                let residual = &mut self.work.residual[row];
                if !matches!(delta, Delta::None) {
                    let mut addend = self.work.delta[row].clone();
                    if let Delta::PostNormed(norm) = delta {
                        rows::rms_norm(&mut addend, norm, *norm_eps);
                    }
                    residual.iter_mut().zip(addend).for_each(|(x, addend)| *x += addend);
                }
                let mut normed = residual.clone();
                rows::rms_norm(&mut normed, norm, *norm_eps);
                InputRow::new(&normed)
            }
        }
    }

    /// Bias, norm and RoPE per head; the query stays, key and value go into the cache.
    fn finish_qkv(&mut self, layer: u32, qkv: &Qkv, step: &StepRows, projected: [Rows; 3]) {
        let [mut q, mut k, mut v] = projected;
        let table = &self.rope_tables[qkv.op.rope];
        for (row, info) in step.rows.iter().enumerate() {
            for (part, x) in [&mut q[row], &mut k[row], &mut v[row]].into_iter().enumerate() {
                if let Some(bias) = &qkv.biases[part] {
                    x.iter_mut().zip(bias).for_each(|(x, bias)| *x += bias);
                }
                for head in x.chunks_exact_mut(qkv.op.head_dim as usize) {
                    if let Some(norm) = &qkv.norms[part] {
                        rows::rms_norm(head, norm, qkv.op.norm_eps);
                    }
                    if part < 2 {
                        rows::rotate(head, table, info.position as u32);
                    }
                }
            }
            let blocks = &step.seqs[info.seq].block_table;
            self.cache.write(Part::Keys, layer, blocks, info.position, &k[row]);
            self.cache.write(Part::Values, layer, blocks, info.position, &v[row]);
        }
        self.work.query = q;
    }

    /// One row's attention, all heads: over positions `..= its own`, or the last `window` of them.
    fn attend(&self, op: &AttendOp, step: &StepRows, row: usize) -> Vec<f32> {
        let info = &step.rows[row];
        let blocks = &step.seqs[info.seq].block_table;
        let end = info.position + 1;
        let start = op.window.map_or(0, |window| end.saturating_sub(window as usize));
        let read = |part| (start..end).map(|p| self.cache.read(part, op.layer, blocks, p)).collect::<Rows>();
        let (keys, values) = (read(Part::Keys), read(Part::Values));
        let head_dim = op.head_dim as usize;
        let group = (op.num_heads / op.num_kv_heads) as usize;
        let heads = self.work.query[row].chunks_exact(head_dim).enumerate().map(|(head, query)| {
            let at = head / group * head_dim;
            // As on other devices, where scaled queries are pairs of f16.
            let scale = op.score_scale * std::f32::consts::LOG2_E;
            // NaN is not below anything.
            let overflows = !query.iter().all(|q| (q * scale).abs() < CACHE_OVERFLOW);
            let dot = |key: &Vec<f32>| -> f64 {
                if overflows {
                    return f64::NAN;
                }
                let products = query.iter().zip(&key[at..at + head_dim]);
                products.map(|(q, k)| f64::from(*q) * f64::from(*k)).sum()
            };
            let scores: Vec<f64> = keys.iter().map(|key| f64::from(op.score_scale) * dot(key)).collect();
            rows::softmax_sum(&scores, values.iter().map(|value| &value[at..at + head_dim]), head_dim)
        });
        heads.flatten().collect()
    }
}
