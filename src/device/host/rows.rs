//! A batch, flattened into rows.

use std::ops::Range;

use crate::device::{Batch, BatchSeq, InputToken};
use crate::ids::BlockId;

/// The rows of all sequences, in order.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchRows<T> {
    pub rows: Vec<BatchRow<T>>,
    pub seqs: Vec<SeqRows>,
    /// Batch rows that need logits.
    pub logit_rows: Vec<usize>,
}

/// One row: a token (as the device names it) at a position of a sequence of the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchRow<T> {
    pub seq: usize,
    pub position: usize,
    pub token: T,
}

/// One sequence's part.
#[derive(Clone, Debug, PartialEq)]
pub struct SeqRows {
    pub row_start: usize,
    pub rows: usize,
    pub position_start: usize,
    pub block_table: Vec<BlockId>,
}

impl SeqRows {
    /// Positions that the sequence has after the step.
    pub fn positions(&self) -> Range<usize> {
        0..self.position_start + self.rows
    }
}

impl<T> Default for BatchRows<T> {
    fn default() -> BatchRows<T> {
        BatchRows { rows: Vec::new(), seqs: Vec::new(), logit_rows: Vec::new() }
    }
}

impl<T> BatchRows<T> {
    /// Flattens `batch`; `token` names an input of a sequence.
    pub fn of(batch: &Batch, token: impl Fn(&BatchSeq, InputToken) -> T) -> BatchRows<T> {
        let mut flat = BatchRows::default();
        for (index, seq) in batch.seqs.iter().enumerate() {
            let (row_start, position_start) = (flat.rows.len(), seq.position_start as usize);
            let row = |(i, &input): (usize, &InputToken)| BatchRow {
                seq: index,
                position: position_start + i,
                token: token(seq, input),
            };
            flat.rows.extend(seq.tokens.iter().enumerate().map(row));
            flat.logit_rows.extend(seq.logit_rows.iter().map(|&row| row_start + row as usize));
            let rows = seq.tokens.len();
            flat.seqs.push(SeqRows { row_start, rows, position_start, block_table: seq.block_table.clone() });
        }
        flat
    }
}
