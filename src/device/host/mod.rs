//! What devices share on the host: the checks of every call, the order of calls, queued steps, a batch as rows, and free memory.

mod check;
mod memory;
mod order;
mod queue;
mod rows;

pub use check::{LOGIT_BIASES_MAX, REPORTED_TOKENS_MAX, check_limits};
pub use memory::{HostMemory, address_space_left, free_bytes};
pub use order::CallOrder;
pub use queue::{HostQueue, QueuedStep};
pub use rows::{BatchRow, BatchRows, SeqRows};
