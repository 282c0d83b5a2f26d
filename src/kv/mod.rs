//! The KV cache's bookkeeping: which block belongs to whom, and what it holds. Pure numbers; no device, no memory.

mod block_manager;

pub use block_manager::{BlockManager, BlockTable, CopyOnWrite, KvError, blocks_for_lanes};
