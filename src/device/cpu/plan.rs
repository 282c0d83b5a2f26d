//! A program made ready: which tiles every stage streams, in which order, and what it needs beside them.
//!
//! Rows of a stage's matrices are grouped into *units*, the smallest piece of work that can finish alone: a head for
//! `Qkv` (RoPE and norm need all of it), 32 gate rows interleaved with their 32 up rows for `GateUp`, 64 rows otherwise.
//! Heads are stored in "halves" order: rotated pairs are `(i, i + half)`, whatever the file's pairing, so that RoPE is two
//! vectors against each other. Attention scores do not mind, since q and k are permuted alike.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::device::host::HostMemory;
use crate::device::{DeviceError, Purpose, quant};
use crate::model::{
    Activation, AttendOp, DeltaInput, Epilogue, LinearOp, MatrixRef, Program, Prologue, QkvEpilogue, RopePairing,
    StageOp, VectorRef,
};
use crate::weights::{DType, TensorSource, TensorView};

use super::pool::Pool;
use super::shared::Shared;
use super::simd::LANES;
use super::tile::{TILE_ROWS, dequantise_lane, pack_tile, tile_bytes};

/// Tiles start on cache lines.
const TILE_ALIGN: usize = 64;

/// One tile in the weight arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    pub dtype: DType,
    pub offset: usize,
    pub bytes: usize,
}

impl Tile {
    /// Bytes to the next one packed after it.
    pub fn stride(&self) -> usize {
        self.bytes.next_multiple_of(TILE_ALIGN)
    }
}

/// Consecutive tiles that finish together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unit {
    pub tile: usize,
    pub tiles: usize,
    pub output: UnitOutput,
}

/// Where a unit's rows go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitOutput {
    /// Rows from this one on, of the delta or the logits.
    Rows(usize),
    Query(usize),
    Key(usize),
    Value(usize),
    /// Gated elements from this one on, at most 32.
    Gated(usize),
}

#[derive(Debug)]
pub enum PlannedOp {
    Embed(PlannedEmbed),
    Linear(Box<PlannedLinear>),
    Attend(AttendOp),
}

#[derive(Debug)]
pub struct PlannedEmbed {
    pub tiles: Vec<Tile>,
    pub cols: usize,
    pub scale: f32,
}

#[derive(Debug)]
pub struct PlannedLinear {
    pub layer: usize,
    pub input: Input,
    pub cols: usize,
    pub segment_blocks: usize,
    pub needs_int8: bool,
    pub needs_float: bool,
    pub needs_bf16: bool,
    pub tiles: Vec<Tile>,
    pub units: Vec<Unit>,
    /// Elements of an output row, after the epilogue.
    pub out_len: usize,
    pub output: Output,
}

#[derive(Debug)]
pub enum Input {
    AddNorm { add_delta: bool, post_norm: Option<Vec<f32>>, norm: Vec<f32>, norm_eps: f32 },
    Attend,
    Gated,
}

#[derive(Debug)]
pub enum Output {
    Qkv(PlannedQkv),
    Delta,
    Gated(Activation),
    Logits,
}

/// Vectors in halves order, padded to lanes; biases `[head][padded dim]`.
#[derive(Debug)]
pub struct PlannedQkv {
    pub num_heads: usize,
    pub head_dim: usize,
    pub rope: usize,
    pub norm_eps: f32,
    pub q_bias: Option<Vec<f32>>,
    pub k_bias: Option<Vec<f32>>,
    pub v_bias: Option<Vec<f32>>,
    pub q_norm: Option<Vec<f32>>,
    pub k_norm: Option<Vec<f32>>,
    /// `order[i]`: the model's dimension at the device's dimension `i`.
    pub order: Vec<usize>,
}

/// What packing must copy: one tile's rows.
struct PackJob<'a> {
    tile: Tile,
    view: TensorView<'a>,
    /// Rows of the view, [`NO_ROW`] for padding.
    rows: [u32; TILE_ROWS],
}

const NO_ROW: u32 = u32::MAX;

/// `len` rounded up to whole vectors.
pub fn padded(len: usize) -> usize {
    len.next_multiple_of(LANES)
}

/// Plans `program` and packs its weights into one arena, on the pool's threads.
pub fn plan(
    program: &Program,
    source: &dyn TensorSource,
    pool: &mut Pool,
    host: &mut HostMemory,
) -> Result<(Vec<PlannedOp>, Shared), DeviceError> {
    let mut planner = Planner { source, jobs: Vec::new(), arena_bytes: 0, sequential: HashMap::new() };
    let mut ops = Vec::new();
    for op in &program.ops {
        ops.push(match op {
            StageOp::Embed(op) => PlannedOp::Embed(PlannedEmbed {
                tiles: planner.sequential(&op.table)?,
                cols: op.table.cols as usize,
                scale: op.scale,
            }),
            StageOp::Linear(op) => PlannedOp::Linear(Box::new(planner.linear(program, op)?)),
            StageOp::Attend(op) => PlannedOp::Attend(op.clone()),
        });
    }
    // Kernels prefetch a little past a tile; prefetches never fault, so no slack is needed.
    let mut arena = Shared::new(host, Purpose::Weights, planner.arena_bytes as u64)?;
    pack(&planner.jobs, arena.as_mut_slice(), pool);
    Ok((ops, arena))
}

/// Row `row` of a matrix of sequential tiles, as f32.
pub fn read_row(arena: &[u8], tiles: &[Tile], cols: usize, row: usize, out: &mut [f32]) {
    let tile = tiles[row / TILE_ROWS];
    dequantise_lane(tile.dtype, cols, &arena[tile.offset..][..tile.bytes], row % TILE_ROWS, out);
}

fn pack(jobs: &[PackJob<'_>], arena: &mut [u8], pool: &mut Pool) {
    let mut slots = Vec::with_capacity(jobs.len());
    let (mut rest, mut at) = (arena, 0);
    for job in jobs {
        let (_, tail) = std::mem::take(&mut rest).split_at_mut(job.tile.offset - at);
        let (slot, tail) = tail.split_at_mut(job.tile.bytes);
        slots.push(std::sync::Mutex::new(Some(slot)));
        (rest, at) = (tail, job.tile.offset + job.tile.bytes);
    }
    let next = AtomicUsize::new(0);
    pool.run(&|_| {
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            let Some(job) = jobs.get(index) else { return };
            let slot = slots[index].lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
            let rows = job.rows.map(|row| (row != NO_ROW).then(|| job.view.row(row as usize)));
            pack_tile(job.tile.dtype, job.view.cols as usize, &rows, slot.expect("each tile is packed once"));
        }
    });
}

struct Planner<'a> {
    source: &'a dyn TensorSource,
    jobs: Vec<PackJob<'a>>,
    arena_bytes: usize,
    /// Matrices in plain row order, by name: a tied head reads the embedding's tiles.
    sequential: HashMap<String, Vec<Tile>>,
}

impl<'a> Planner<'a> {
    /// Tiles of `rows` of one matrix, in the order given.
    fn tiles(&mut self, view: TensorView<'a>, rows: impl Iterator<Item = usize>) -> Vec<Tile> {
        let rows: Vec<u32> = rows.map(|row| row as u32).collect();
        rows.chunks(TILE_ROWS)
            .map(|chunk| {
                let bytes = tile_bytes(view.dtype, view.cols as usize);
                let tile = Tile { dtype: view.dtype, offset: self.arena_bytes, bytes };
                self.arena_bytes = (tile.offset + tile.bytes).next_multiple_of(TILE_ALIGN);
                let row = |lane: usize| chunk.get(lane).copied().unwrap_or(NO_ROW);
                self.jobs.push(PackJob { tile, view, rows: std::array::from_fn(row) });
                tile
            })
            .collect()
    }

    fn sequential(&mut self, matrix: &MatrixRef) -> Result<Vec<Tile>, DeviceError> {
        if let Some(tiles) = self.sequential.get(&matrix.name) {
            return Ok(tiles.clone());
        }
        let view = matrix.view(self.source)?;
        let tiles = self.tiles(view, 0..matrix.rows as usize);
        self.sequential.insert(matrix.name.clone(), tiles.clone());
        Ok(tiles)
    }

    fn linear(&mut self, program: &Program, op: &LinearOp) -> Result<PlannedLinear, DeviceError> {
        let cols = op.cols() as usize;
        if op.weights.iter().any(|w| w.cols as usize != cols) {
            return Err(unsupported(op, "matrices with one input width", "several"));
        }
        let (tiles, units, output) = match (&op.epilogue, &op.weights[..]) {
            (Epilogue::Qkv(qkv), [q, k, v]) => self.qkv(program, qkv, [q, k, v])?,
            (Epilogue::Gated(activation), [gate, up]) if gate.rows == up.rows => {
                let (tiles, units) = self.gated(gate, up)?;
                (tiles, units, Output::Gated(*activation))
            }
            (Epilogue::Delta, [matrix]) | (Epilogue::Logits, [matrix]) => {
                let tiles = self.sequential(matrix)?;
                const UNIT_TILES: usize = 4;
                let units = (0..tiles.len())
                    .step_by(UNIT_TILES)
                    .map(|tile| Unit {
                        tile,
                        tiles: UNIT_TILES.min(tiles.len() - tile),
                        output: UnitOutput::Rows(tile * TILE_ROWS),
                    })
                    .collect();
                let is_delta = op.epilogue == Epilogue::Delta;
                (tiles, units, if is_delta { Output::Delta } else { Output::Logits })
            }
            _ => return Err(unsupported(op, "the matrices of its epilogue", "others")),
        };
        Ok(PlannedLinear {
            layer: op.layer as usize,
            input: self.input(&op.prologue)?,
            cols,
            segment_blocks: quant::segment_blocks(cols.div_ceil(quant::BLOCK)),
            needs_int8: tiles.iter().any(|t| t.dtype.is_quantised()),
            needs_float: tiles.iter().any(|t| matches!(t.dtype, DType::F32 | DType::F16)),
            needs_bf16: tiles.iter().any(|t| t.dtype == DType::BF16),
            tiles,
            units,
            out_len: if matches!(output, Output::Gated(_)) { op.rows() / 2 } else { op.rows() } as usize,
            output,
        })
    }

    fn input(&self, prologue: &Prologue) -> Result<Input, DeviceError> {
        Ok(match prologue {
            Prologue::AttendOutput => Input::Attend,
            Prologue::GatedOutput => Input::Gated,
            Prologue::AddNorm { delta, norm, norm_eps } => Input::AddNorm {
                add_delta: *delta != DeltaInput::None,
                post_norm: match delta {
                    DeltaInput::PostNormed(weights) => Some(self.vector(weights)?),
                    _ => None,
                },
                norm: self.vector(norm)?,
                norm_eps: *norm_eps,
            },
        })
    }

    /// A vector padded to lanes with zeros.
    fn vector(&self, vector: &VectorRef) -> Result<Vec<f32>, DeviceError> {
        let mut values = vector.values(self.source)?;
        values.resize(padded(values.len()), 0.0);
        Ok(values)
    }

    /// Per-head vectors in device order: `[head][padded dim]`.
    fn heads(&self, vector: &Option<VectorRef>, order: &[usize]) -> Result<Option<Vec<f32>>, DeviceError> {
        let Some(vector) = vector else { return Ok(None) };
        let values = vector.values(self.source)?;
        let stride = padded(order.len());
        let mut out = vec![0.0; values.len() / order.len() * stride];
        for (from, to) in values.chunks(order.len()).zip(out.chunks_mut(stride)) {
            for (to, &dim) in to.iter_mut().zip(order) {
                *to = from[dim];
            }
        }
        Ok(Some(out))
    }

    fn qkv(
        &mut self,
        program: &Program,
        op: &QkvEpilogue,
        [q, k, v]: [&MatrixRef; 3],
    ) -> Result<(Vec<Tile>, Vec<Unit>, Output), DeviceError> {
        let head_dim = op.head_dim as usize;
        let rope = program.rope_tables.get(op.rope).ok_or_else(|| DeviceError::Unsupported {
            subject: "RoPE table".into(),
            expected: format!("index below {}", program.rope_tables.len()),
            found: op.rope.to_string(),
        })?;
        let order = head_order(rope.pairing, rope.inv_freq.len(), head_dim);
        let plain: Vec<usize> = (0..head_dim).collect();
        let (mut tiles, mut units) = (Vec::new(), Vec::new());
        type Role<'r> = (&'r MatrixRef, &'r [usize], fn(usize) -> UnitOutput);
        let roles: [Role<'_>; 3] =
            [(q, &order, UnitOutput::Query), (k, &order, UnitOutput::Key), (v, &plain, UnitOutput::Value)];
        for (matrix, order, output) in roles {
            let view = matrix.view(self.source)?;
            for head in 0..matrix.rows as usize / head_dim {
                let packed = self.tiles(view, order.iter().map(|dim| head * head_dim + dim));
                units.push(Unit { tile: tiles.len(), tiles: packed.len(), output: output(head) });
                tiles.extend(packed);
            }
        }
        let planned = PlannedQkv {
            num_heads: op.num_heads as usize,
            head_dim,
            rope: op.rope,
            norm_eps: op.norm_eps,
            q_bias: self.heads(&op.q_bias, &order)?,
            k_bias: self.heads(&op.k_bias, &order)?,
            v_bias: self.heads(&op.v_bias, &plain)?,
            q_norm: self.heads(&op.q_norm, &order)?,
            k_norm: self.heads(&op.k_norm, &order)?,
            order,
        };
        Ok((tiles, units, Output::Qkv(planned)))
    }

    /// Units of up to 32 gated elements: 16 gate rows, their 16 up rows, the next 16 gate rows, their up rows.
    fn gated(&mut self, gate: &MatrixRef, up: &MatrixRef) -> Result<(Vec<Tile>, Vec<Unit>), DeviceError> {
        const UNIT_ELEMENTS: usize = 2 * TILE_ROWS;
        let (gate_view, up_view) = (gate.view(self.source)?, up.view(self.source)?);
        let (mut tiles, mut units) = (Vec::new(), Vec::new());
        let rows = gate.rows as usize;
        for start in (0..rows).step_by(UNIT_ELEMENTS) {
            let first_tile = tiles.len();
            for from in (start..(start + UNIT_ELEMENTS).min(rows)).step_by(TILE_ROWS) {
                let range = from..(from + TILE_ROWS).min(rows);
                tiles.extend(self.tiles(gate_view, range.clone()));
                tiles.extend(self.tiles(up_view, range));
            }
            units.push(Unit { tile: first_tile, tiles: tiles.len() - first_tile, output: UnitOutput::Gated(start) });
        }
        Ok((tiles, units))
    }
}

/// The device's order of a head's dimensions: rotated pairs at `(i, i + half)`.
fn head_order(pairing: RopePairing, half: usize, head_dim: usize) -> Vec<usize> {
    match pairing {
        RopePairing::Halves => (0..head_dim).collect(),
        RopePairing::Adjacent => {
            let even = (0..half).map(|i| 2 * i);
            let odd = (0..half).map(|i| 2 * i + 1);
            even.chain(odd).chain(2 * half..head_dim).collect()
        }
    }
}

fn unsupported(op: &LinearOp, expected: &str, found: &str) -> DeviceError {
    DeviceError::Unsupported {
        subject: format!("stage {:?} of layer {}", op.stage, op.layer),
        expected: expected.to_owned(),
        found: found.to_owned(),
    }
}
