//! What the checkers report: one error type that says where, in the words of the person who wrote the kernel.

use std::fmt;

use serde::Serialize;

/// A place in a kernel: the PTX line and, where the module has `.loc` tables, the CUDA source line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Place {
    /// 1-based line in the PTX text.
    pub ptx_line: u32,
    /// File and 1-based line of the CUDA source.
    pub source: Option<(String, u32)>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.source {
            Some((file, line)) => write!(f, "{file}:{line} (PTX line {})", self.ptx_line),
            None => write!(f, "PTX line {}", self.ptx_line),
        }
    }
}

/// Which rule a kernel broke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
pub enum FindingKind {
    /// Access outside every allocation, or outside shared, local or parameter space.
    OutOfBounds,
    /// Access to an allocation that was freed.
    UseAfterFree,
    /// Address not a multiple of the access width.
    Misaligned,
    /// Read of bytes that nothing has written.
    Uninitialised,
    /// Two unordered accesses to one shared-memory word, at least one a write.
    SharedRace,
    /// Two unordered accesses to one global-memory word, at least one a write.
    GlobalRace,
    /// Use of what an asynchronous copy or wgmma that was not waited for still writes, or change of what it still reads.
    AsyncNotWaited,
    /// The asynchronous proxy touches generic writes without a proxy fence between.
    MissingProxyFence,
    /// wgmma uses registers that were written after the last wgmma.fence.
    MissingWgmmaFence,
    /// Threads of one warp at different aligned barriers, or lanes missing from a `.sync` operation.
    DivergentBarrier,
    /// No thread can make progress.
    Deadlock,
    /// The launch ran more instructions than its limit.
    InstructionLimit,
    /// `__assertfail`.
    Assert,
    /// `trap` or `brkpt`.
    Trap,
    /// An operand breaks a rule of the instruction.
    BadOperand,
}

/// A broken rule and where it happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub kind: FindingKind,
    pub kernel: String,
    pub cta: [u32; 3],
    /// The thread, where one is to blame.
    pub thread: Option<[u32; 3]>,
    pub place: Place,
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [cx, cy, cz] = self.cta;
        write!(f, "{:?} in {} at {}, CTA ({cx},{cy},{cz})", self.kind, self.kernel, self.place)?;
        if let Some([x, y, z]) = self.thread {
            write!(f, " thread ({x},{y},{z})")?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for Finding {}
