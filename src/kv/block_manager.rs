//! Reference-counted blocks and the tables that map positions to them.

use crate::ids::BlockId;

/// Too few free blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of KV-cache blocks: {asked} asked for, {free} of {total} free")]
pub struct KvError {
    pub asked: u32,
    pub free: u32,
    pub total: u32,
}

/// Who owns which block. Numbers only: the memory is the device's.
#[derive(Clone, Debug)]
pub struct BlockManager {
    block_tokens: u32,
    /// Owners of each block; 0 is free.
    references: Vec<u32>,
    /// Free blocks; the one freed last is used first, since caches may still hold it.
    free: Vec<BlockId>,
}

impl BlockManager {
    pub fn new(num_blocks: u32, block_tokens: u32) -> BlockManager {
        assert!(block_tokens > 0, "blocks hold positions");
        let free = (0..num_blocks).rev().map(BlockId).collect();
        BlockManager { block_tokens, references: vec![0; num_blocks as usize], free }
    }

    pub fn num_blocks(&self) -> u32 {
        self.references.len() as u32
    }

    pub fn num_free(&self) -> u32 {
        self.free.len() as u32
    }

    /// Blocks that `tokens` positions need.
    pub fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_tokens)
    }

    /// Grows `table` until it covers `tokens` positions. Takes all blocks or none.
    pub fn grow(&mut self, table: &mut BlockTable, tokens: u32) -> Result<(), KvError> {
        let asked = self.blocks_for(tokens).saturating_sub(table.blocks.len() as u32);
        if asked > self.num_free() {
            return Err(KvError { asked, free: self.num_free(), total: self.num_blocks() });
        }
        for block in self.free.drain(self.free.len() - asked as usize..).rev() {
            self.references[block.index()] = 1;
            table.blocks.push(block);
        }
        Ok(())
    }

    /// A second owner of all of `table`'s blocks. Neither may write to a shared block.
    pub fn share(&mut self, table: &BlockTable) -> BlockTable {
        for block in &table.blocks {
            self.references[block.index()] += 1;
        }
        table.clone()
    }

    /// Owners of a block.
    pub fn references(&self, block: BlockId) -> u32 {
        self.references[block.index()]
    }

    /// Gives `table`'s blocks up; those without another owner become free.
    pub fn release(&mut self, table: &mut BlockTable) {
        for block in table.blocks.drain(..).rev() {
            let references = &mut self.references[block.index()];
            assert!(*references > 0, "block {block} is released more often than it was taken");
            *references -= 1;
            if *references == 0 {
                self.free.push(block);
            }
        }
    }
}

/// The blocks of one sequence, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
}

impl BlockTable {
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn growing_takes_all_or_nothing() {
        let mut manager = BlockManager::new(4, 16);
        let (mut a, mut b) = (BlockTable::default(), BlockTable::default());
        manager.grow(&mut a, 33).unwrap();
        assert_eq!((a.blocks().len(), manager.num_free()), (3, 1));
        manager.grow(&mut a, 48).unwrap();
        assert_eq!(a.blocks().len(), 3, "48 positions fit into three blocks");
        assert_eq!(manager.grow(&mut b, 17), Err(KvError { asked: 2, free: 1, total: 4 }));
        assert_eq!((b.blocks().len(), manager.num_free()), (0, 1));
    }

    proptest! {
        /// Against a naive model: a multiset of owned blocks per table.
        #[test]
        fn blocks_are_owned_as_often_as_counted(ops in prop::collection::vec((0u8..3, 0usize..6, 0u32..100), 1..200)) {
            let mut manager = BlockManager::new(20, 16);
            let mut tables: Vec<BlockTable> = vec![BlockTable::default(); 6];
            for (op, i, n) in ops {
                match op {
                    0 if tables[i].blocks().iter().all(|b| manager.references(*b) == 1) => {
                        let before = tables[i].clone();
                        let free = manager.num_free();
                        let need = n.div_ceil(16).saturating_sub(before.blocks().len() as u32);
                        let grown = manager.grow(&mut tables[i], n);
                        prop_assert_eq!(grown.is_ok(), need <= free);
                        if grown.is_err() {
                            prop_assert_eq!(&tables[i], &before);
                        }
                    }
                    1 => {
                        let mut old = std::mem::take(&mut tables[i]);
                        manager.release(&mut old);
                    }
                    _ => {
                        let j = n as usize % 6;
                        if i != j {
                            let shared = manager.share(&tables[i]);
                            let mut old = std::mem::replace(&mut tables[j], shared);
                            manager.release(&mut old);
                        }
                    }
                }
                let mut owners = [0; 20];
                tables.iter().flat_map(BlockTable::blocks).for_each(|b| owners[b.index()] += 1);
                for (block, owners) in owners.iter().enumerate() {
                    prop_assert_eq!(manager.references(BlockId(block as u32)), *owners);
                }
                prop_assert_eq!(manager.num_free() as usize, owners.iter().filter(|&&o| o == 0).count());
            }
        }
    }
}
