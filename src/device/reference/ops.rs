//! A program with its weights in host memory.

use crate::model::{
    Activation, AttendOp, DeltaInput, Epilogue, LinearOp, MatrixRef, Program, Prologue, QkvEpilogue, StageOp, VectorRef,
};
use crate::weights::{BLOCK_WEIGHTS, Block32, TensorSource, WeightsError, dequantise_row};

use super::Mode;
use super::linear::Matrix;

#[derive(Debug)]
pub enum Op {
    Embed { table: Vec<f32>, hidden_size: usize, scale: f32 },
    Linear(Linear),
    Attend(AttendOp),
}

#[derive(Debug)]
pub struct Linear {
    pub layer: u32,
    pub input: Input,
    pub matrices: Vec<Matrix>,
    pub output: Output,
}

#[derive(Debug)]
pub enum Input {
    AddNorm { delta: Delta, norm: Vec<f32>, norm_eps: f32 },
    AttendOutput,
    GatedOutput,
}

#[derive(Debug)]
pub enum Delta {
    None,
    Plain,
    PostNormed(Vec<f32>),
}

#[derive(Debug)]
pub enum Output {
    Qkv(Box<Qkv>),
    Delta,
    Gated(Activation),
    Logits,
}

/// What happens to the rows of Q, K and V, in this order of index.
#[derive(Debug)]
pub struct Qkv {
    pub op: QkvEpilogue,
    pub biases: [Option<Vec<f32>>; 3],
    pub norms: [Option<Vec<f32>>; 3],
}

impl Op {
    pub fn load_all(program: &Program, source: &dyn TensorSource, mode: Mode) -> Result<Vec<Op>, WeightsError> {
        let load = |op: &StageOp| {
            Ok(match op {
                StageOp::Embed(op) => {
                    let (view, cols) = (op.table.view(source)?, op.table.cols as usize);
                    let mut table = vec![0.0; op.table.rows as usize * cols];
                    dequantise_row(view.dtype, view.data, &mut table);
                    Op::Embed { table, hidden_size: cols, scale: op.scale }
                }
                StageOp::Linear(op) => Op::Linear(Linear::load(op, source, mode)?),
                StageOp::Attend(op) => Op::Attend(op.clone()),
            })
        };
        program.ops.iter().map(load).collect()
    }

    pub fn bytes(&self) -> u64 {
        match self {
            Op::Embed { table, .. } => size_of_val(&table[..]) as u64,
            Op::Linear(linear) => linear.matrices.iter().map(Matrix::bytes).sum(),
            Op::Attend(_) => 0,
        }
    }
}

/// Bytes of all weights in this mode, before they are loaded.
pub fn bytes_of(program: &Program, mode: Mode) -> u64 {
    let bytes = |matrix: &MatrixRef, is_table: bool| {
        let weights = u64::from(matrix.rows) * u64::from(matrix.cols);
        match mode == Mode::Int8 && matrix.dtype.is_quantised() && !is_table {
            true => weights / BLOCK_WEIGHTS as u64 * size_of::<Block32>() as u64,
            false => 4 * weights,
        }
    };
    let of_op = |op: &StageOp| match op {
        StageOp::Embed(op) => bytes(&op.table, true),
        StageOp::Linear(op) => op.weights.iter().map(|matrix| bytes(matrix, false)).sum(),
        StageOp::Attend(_) => 0,
    };
    program.ops.iter().map(of_op).sum()
}

impl Linear {
    fn load(op: &LinearOp, source: &dyn TensorSource, mode: Mode) -> Result<Linear, WeightsError> {
        let optional = |vector: &Option<VectorRef>| vector.as_ref().map(|v| v.values(source)).transpose();
        let input = match &op.prologue {
            Prologue::AddNorm { delta, norm, norm_eps } => Input::AddNorm {
                delta: match delta {
                    DeltaInput::None => Delta::None,
                    DeltaInput::Plain => Delta::Plain,
                    DeltaInput::PostNormed(norm) => Delta::PostNormed(norm.values(source)?),
                },
                norm: norm.values(source)?,
                norm_eps: *norm_eps,
            },
            Prologue::AttendOutput => Input::AttendOutput,
            Prologue::GatedOutput => Input::GatedOutput,
        };
        let output = match &op.epilogue {
            Epilogue::Qkv(qkv) => Output::Qkv(Box::new(Qkv {
                biases: [optional(&qkv.q_bias)?, optional(&qkv.k_bias)?, optional(&qkv.v_bias)?],
                norms: [optional(&qkv.q_norm)?, optional(&qkv.k_norm)?, None],
                op: (**qkv).clone(),
            })),
            Epilogue::Delta => Output::Delta,
            Epilogue::Gated(activation) => Output::Gated(*activation),
            Epilogue::Logits => Output::Logits,
        };
        let matrices = op.weights.iter().map(|w| Matrix::load(w, source, mode)).collect::<Result<_, _>>()?;
        Ok(Linear { layer: op.layer, input, matrices, output })
    }
}
