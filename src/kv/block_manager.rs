//! Which block belongs to whom.
#[derive(Debug)]
pub struct BlockManager;
#[derive(Debug)]
pub struct BlockTable;
#[derive(Debug)]
pub enum KvError {}
