//! The KV cache's bookkeeping: which block belongs to whom. Pure numbers; no device, no memory.

mod block_manager;

pub use block_manager::{BlockManager, BlockTable, KvError};
