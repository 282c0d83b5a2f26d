//! Decode steps as CUDA graphs: captured when the device opens, launched with one call, never patched. All that differs between
//! steps lies in the step's inputs, so that one graph serves every step of up to as many rows as it was captured for.

use std::sync::Arc;

use crate::device::{DeviceError, Limits};
use crate::model::{Epilogue, Program, StageOp};

use super::driver::{Gpu, Graph};

/// Graphs by their rows: 1, 2, 4, ... up to what a step can hold.
#[derive(Debug, Default)]
pub struct DecodeGraphs(Vec<(u32, Graph)>);

impl DecodeGraphs {
    /// Captures what `queue(rows)` queues, and tells `on_graph` how many of how many graphs there are. A program that is no whole model decodes nothing and has no graphs.
    pub fn capture(
        gpu: &Arc<Gpu>,
        program: &Program,
        limits: &Limits,
        on_graph: &dyn Fn(u32, u32),
        queue: impl Fn(u32) -> Result<(), DeviceError>,
    ) -> Result<DecodeGraphs, DeviceError> {
        let embeds = program.ops.iter().any(|op| matches!(op, StageOp::Embed(_)));
        let is_head = |op: &StageOp| matches!(op, StageOp::Linear(op) if matches!(op.epilogue, Epilogue::Logits));
        let rows_max = limits.slots_max.min(limits.step_rows_max).min(limits.logit_rows_max);
        if !embeds || !program.ops.iter().any(is_head) || rows_max == 0 {
            return Ok(DecodeGraphs::default());
        }
        let buckets: Vec<u32> = (0..).map(|i| 1 << i).take_while(|rows| *rows < rows_max).chain([rows_max]).collect();
        let mut graphs = Vec::new();
        for &rows in &buckets {
            graphs.push((rows, gpu.capture(|| queue(rows))?));
            on_graph(graphs.len() as u32, buckets.len() as u32);
        }
        Ok(DecodeGraphs(graphs))
    }

    /// The smallest graph for a step of `rows` rows.
    pub fn for_rows(&self, rows: u32) -> Option<&Graph> {
        self.0.iter().find(|(most, _)| rows <= *most).map(|(_, graph)| graph)
    }
}
