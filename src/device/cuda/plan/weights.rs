//! What a program needs among the weights: matrices, vectors, and tables that the host computes.

use crate::device::host::HostMemory;
use crate::device::{DeviceError, Limits, Purpose};
use crate::model::{DeltaInput, Epilogue, Program, Prologue, RopeTable, StageOp};

use crate::device::cuda::upload::WeightPlan;

/// Makes room for all matrices and vectors.
pub fn plan(program: &Program, plan: &mut WeightPlan) {
    for op in &program.ops {
        match op {
            StageOp::Embed(op) => plan.add_matrix(&op.table),
            StageOp::Attend(_) => {}
            StageOp::Linear(op) => {
                op.weights.iter().for_each(|matrix| plan.add_matrix(matrix));
                if let Prologue::AddNorm { delta, norm, .. } = &op.prologue {
                    plan.add_vector(norm);
                    if let DeltaInput::PostNormed(norm) = delta {
                        plan.add_vector(norm);
                    }
                }
                if let Epilogue::Qkv(e) = &op.epilogue {
                    let vectors = [&e.q_bias, &e.k_bias, &e.v_bias, &e.q_norm, &e.k_norm];
                    vectors.into_iter().flatten().for_each(|vector| plan.add_vector(vector));
                }
            }
        }
    }
}

/// Offsets of cosines and sines, `[position][pair]`, computed in f64.
pub fn plan_ropes(program: &Program, limits: &Limits, plan: &mut WeightPlan) -> Result<Vec<(u64, u64)>, DeviceError> {
    let mut host = HostMemory::of_system();
    let mut table = |table: &RopeTable, f: fn(f64) -> f64| {
        let mut values = host.vec(Purpose::RopeTables, limits.context_tokens_max as usize * table.inv_freq.len())?;
        for position in 0..limits.context_tokens_max {
            let angles = table.inv_freq.iter().map(|inv_freq| f64::from(position) * inv_freq);
            values.extend(angles.map(|angle| (f(angle) * f64::from(table.magnitude)) as f32));
        }
        Ok::<_, DeviceError>(plan.add_table(values))
    };
    program.rope_tables.iter().map(|t| Ok((table(t, f64::cos)?, table(t, f64::sin)?))).collect()
}
