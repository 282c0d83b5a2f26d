//! What a model is: its sizes and tensors ([`ModelSpec`]) and the short program of fused stages they yield
//! ([`Program`]). Architectures are data: each is one file that builds a spec.

mod arch;
mod kv_cache;
mod spec;
pub mod stage;

pub use arch::build_spec;
pub use kv_cache::{KvCacheDType, KvShape};
pub use spec::{
    Activation, EmbedSpec, HeadSpec, LayerSpec, LayerTensors, MatrixRef, ModelSpec, RopePairing, RopeTable, VectorRef,
};
pub use stage::{
    AttendOp, BatchShape, DeltaInput, EmbedOp, Epilogue, LinearOp, Program, Prologue, QkvEpilogue, Stage, StageCost,
    StageOp,
};
