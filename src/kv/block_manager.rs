//! Reference-counted blocks, the tables that map positions to them, and the reuse of blocks by what they hold.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::ids::{BlockId, TokenId};

/// Too few blocks that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("out of KV-cache blocks: {asked} asked for, {free} free and {cached} cached of {total}")]
pub struct KvError {
    pub asked: u32,
    pub free: u32,
    pub cached: u32,
    pub total: u32,
}

/// What must be copied before a position is written: the block was shared.
#[must_use = "the table already names the copy"]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyOnWrite {
    pub from: BlockId,
    pub to: BlockId,
}

/// Who owns which block, and what the full ones hold. Numbers only: the memory is the device's.
///
/// A block is *used* while tables hold it. A full block whose rows are computed can be *published*: sequences that start with
/// the same ids then hold it too. Once nobody does, a published block is *cached*: still found, and evicted when no block is
/// free, the one given up longest ago first. All other blocks are *free*.
#[derive(Clone, Debug)]
pub struct BlockManager {
    block_tokens: u32,
    blocks: Vec<Block>,
    /// The one freed last is used first, since the processor's caches may still hold it.
    free: Vec<BlockId>,
    /// Published blocks. Keys are compared in full: an equal hash alone never makes a hit.
    published: HashMap<Content, BlockId>,
    /// Published blocks that nobody holds, by when they were given up.
    cached: BTreeMap<u64, BlockId>,
    ticks: u64,
}

#[derive(Clone, Debug, Default)]
struct Block {
    /// Tables that hold it.
    references: u32,
    node: Option<Node>,
}

/// A published block's place in the tree of contents.
#[derive(Clone, Debug)]
struct Node {
    /// Never given twice, so that children of an evicted block are not found below its successor.
    id: NodeId,
    content: Content,
    /// Its key in `cached` while nobody holds it.
    given_up: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct NodeId(u64);

/// The parent of first blocks.
const ROOT: NodeId = NodeId(0);

/// What a full block holds: rows of these ids after those of all its ancestors.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Content {
    parent: NodeId,
    ids: Arc<[TokenId]>,
}

/// Blocks of `lanes` sequences of `tokens` positions each that share full blocks only, those of the first `shared_tokens`.
pub fn blocks_for_lanes(block_tokens: u32, lanes: u32, shared_tokens: u32, tokens: u32) -> u32 {
    let blocks = tokens.div_ceil(block_tokens);
    let shared = (shared_tokens / block_tokens).min(blocks);
    shared + lanes * (blocks - shared)
}

impl BlockManager {
    pub fn new(num_blocks: u32, block_tokens: u32) -> BlockManager {
        assert!(block_tokens > 0, "blocks hold positions");
        BlockManager {
            block_tokens,
            blocks: vec![Block::default(); num_blocks as usize],
            free: (0..num_blocks).rev().map(BlockId).collect(),
            published: HashMap::new(),
            cached: BTreeMap::new(),
            ticks: 0,
        }
    }

    pub fn num_blocks(&self) -> u32 {
        self.blocks.len() as u32
    }

    /// Positions per block.
    pub fn block_tokens(&self) -> u32 {
        self.block_tokens
    }

    pub fn num_free(&self) -> u32 {
        self.free.len() as u32
    }

    pub fn num_cached(&self) -> u32 {
        self.cached.len() as u32
    }

    /// Blocks that can be taken: free ones, and cached ones by eviction.
    pub fn num_available(&self) -> u32 {
        self.num_free() + self.num_cached()
    }

    /// Tables that hold a block.
    pub fn references(&self, block: BlockId) -> u32 {
        self.blocks[block.index()].references
    }

    /// Blocks that `tokens` positions need.
    pub fn blocks_for(&self, tokens: u32) -> u32 {
        tokens.div_ceil(self.block_tokens)
    }

    /// Grows `table` until it covers `tokens` positions. Takes all blocks or none.
    pub fn grow(&mut self, table: &mut BlockTable, tokens: u32) -> Result<(), KvError> {
        let asked = self.blocks_for(tokens).saturating_sub(table.blocks.len() as u32);
        self.check_available(asked)?;
        table.blocks.extend((0..asked).map_while(|_| self.take()));
        Ok(())
    }

    /// Blocks that so many sequences take together: [`blocks_for_lanes`].
    pub fn blocks_for_lanes(&self, lanes: u32, shared_tokens: u32, tokens: u32) -> u32 {
        blocks_for_lanes(self.block_tokens, lanes, shared_tokens, tokens)
    }

    /// Makes room for positions `start..end` of each of `tables`, and sure that nobody else sees what one of them writes there;
    /// `start` is in their last blocks or just beyond. Takes all blocks or none. What is returned is copied before anything is
    /// written.
    pub fn extend(&mut self, tables: &mut [BlockTable], start: u32, end: u32) -> Result<Vec<CopyOnWrite>, KvError> {
        self.check_available(self.blocks_to_extend(tables, start, end))?;
        let mut copies = Vec::new();
        for table in tables {
            copies.extend(self.make_writable(table, start)?);
            self.grow(table, end)?;
        }
        Ok(copies)
    }

    fn blocks_to_extend(&self, tables: &[BlockTable], start: u32, end: u32) -> u32 {
        let new = |table: &BlockTable| self.blocks_for(end).saturating_sub(table.blocks.len() as u32);
        let at = (start / self.block_tokens) as usize;
        let written: Vec<BlockId> = tables.iter().filter_map(|table| table.blocks.get(at).copied()).collect();
        // The last of the owners keeps the block.
        let is_copied = |i: usize| {
            let gone = written[..i].iter().filter(|&&block| block == written[i]).count() as u32;
            !self.is_held_only_by(written[i], gone + 1)
        };
        tables.iter().map(new).sum::<u32>() + (0..written.len()).filter(|&i| is_copied(i)).count() as u32
    }

    /// A second owner of the blocks of `table`'s first `tokens` positions. Before either writes, it asks for
    /// [`BlockManager::make_writable`].
    pub fn fork(&mut self, table: &BlockTable, tokens: u32) -> BlockTable {
        let blocks = table.blocks[..self.blocks_for(tokens) as usize].to_vec();
        for block in &blocks {
            self.hold(*block);
        }
        BlockTable { blocks, num_published: table.num_published.min((tokens / self.block_tokens) as usize) }
    }

    /// Makes sure that nobody else sees what is written at `position` and after, which must be in the table's last block or
    /// beyond. If others do, the table gets a block of its own, into which the caller copies the old one first.
    pub fn make_writable(&mut self, table: &mut BlockTable, position: u32) -> Result<Option<CopyOnWrite>, KvError> {
        let at = (position / self.block_tokens) as usize;
        let Some(&from) = table.blocks.get(at) else { return Ok(None) };
        assert_eq!(at + 1, table.blocks.len(), "position {position} is before the table's last block");
        if self.is_writable(from) {
            return Ok(None);
        }
        self.check_available(1)?;
        let Some(to) = self.take() else { return Ok(None) };
        table.blocks[at] = to;
        table.num_published = table.num_published.min(at);
        self.give_up(from);
        Ok(Some(CopyOnWrite { from, to }))
    }

    /// Whether a block has one owner and can be found by no other.
    pub fn is_writable(&self, block: BlockId) -> bool {
        self.is_held_only_by(block, 1)
    }

    /// Whether a block has so many owners and can be found by no other.
    pub fn is_held_only_by(&self, block: BlockId, owners: u32) -> bool {
        let block = &self.blocks[block.index()];
        block.references == owners && block.node.is_none()
    }

    /// A table of the published blocks that `ids` start with. To compute logits a sequence needs its last row: give all its
    /// known ids but the last.
    pub fn reuse(&mut self, mut ids: impl Iterator<Item = TokenId>) -> BlockTable {
        let mut table = BlockTable::default();
        while let Some(content) = self.next_content(&table, &mut ids)
            && let Some(&block) = self.published.get(&content)
        {
            self.hold(block);
            table.blocks.push(block);
            table.num_published += 1;
        }
        table
    }

    /// Publishes the full blocks of a table whose leading rows, which are of `ids`, are computed and never written again.
    /// Where the same content was published before, the table changes over to that block; its own ones are returned, for the
    /// caller to release when nothing in flight reads them.
    pub fn publish(&mut self, table: &mut BlockTable, ids: impl Iterator<Item = TokenId>) -> BlockTable {
        let mut duplicates = BlockTable::default();
        let mut ids = ids.skip(table.num_published * self.block_tokens as usize);
        while let Some(content) = self.next_content(table, &mut ids) {
            let own = table.blocks[table.num_published];
            match self.published.get(&content) {
                Some(&known) if known != own => {
                    self.hold(known);
                    table.blocks[table.num_published] = known;
                    duplicates.blocks.push(own);
                }
                Some(_) => {}
                None => {
                    self.forget(own);
                    let id = NodeId(self.tick());
                    self.published.insert(content.clone(), own);
                    self.blocks[own.index()].node = Some(Node { id, content, given_up: 0 });
                }
            }
            table.num_published += 1;
        }
        duplicates
    }

    /// Gives `table`'s blocks up; those without another owner become cached, if published, or free. Later positions are
    /// evicted before those that lead to them.
    pub fn release(&mut self, table: &mut BlockTable) {
        for block in std::mem::take(table).blocks.into_iter().rev() {
            self.give_up(block);
        }
    }

    /// Asserts what must always hold, given all tables there are.
    pub fn assert_consistent<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) {
        let mut owners = vec![0; self.blocks.len()];
        tables.flat_map(|table| &table.blocks).for_each(|block| owners[block.index()] += 1);
        let references: Vec<u32> = self.blocks.iter().map(|block| block.references).collect();
        assert_eq!(references, owners, "reference counts match owners");
        let num_used = owners.iter().filter(|&&owners| owners > 0).count();
        assert_eq!(self.free.len() + num_used + self.cached.len(), self.blocks.len(), "free + used + cached = total");
        let num_nodes = self.blocks.iter().filter(|block| block.node.is_some()).count();
        assert_eq!(num_nodes, self.published.len(), "published blocks are found");
    }

    /// What the first unpublished block of `table` holds, if `ids`, which start there, fill it.
    fn next_content(&self, table: &BlockTable, ids: &mut impl Iterator<Item = TokenId>) -> Option<Content> {
        let parent = match table.num_published {
            0 => ROOT,
            n => self.blocks[table.blocks[n - 1].index()].node.as_ref()?.id,
        };
        let ids: Arc<[TokenId]> = ids.take(self.block_tokens as usize).collect();
        (ids.len() == self.block_tokens as usize).then_some(Content { parent, ids })
    }

    fn check_available(&self, asked: u32) -> Result<(), KvError> {
        if asked <= self.num_available() {
            return Ok(());
        }
        Err(KvError { asked, free: self.num_free(), cached: self.num_cached(), total: self.num_blocks() })
    }

    /// A block for one owner: a free one, or the cached one given up longest ago.
    fn take(&mut self) -> Option<BlockId> {
        let block = self.free.pop().or_else(|| self.cached.pop_first().map(|(_, block)| block))?;
        self.forget(block);
        self.blocks[block.index()].references = 1;
        Some(block)
    }

    fn hold(&mut self, block: BlockId) {
        let block = &mut self.blocks[block.index()];
        if let (0, Some(node)) = (block.references, &block.node) {
            self.cached.remove(&node.given_up);
        }
        block.references += 1;
    }

    fn give_up(&mut self, id: BlockId) {
        let now = self.tick();
        let block = &mut self.blocks[id.index()];
        assert!(block.references > 0, "block {id} is released more often than it was taken");
        block.references -= 1;
        if block.references > 0 {
            return;
        }
        match &mut block.node {
            Some(node) => {
                node.given_up = now;
                self.cached.insert(now, id);
            }
            None => self.free.push(id),
        }
    }

    /// Nobody finds this block any more.
    fn forget(&mut self, block: BlockId) {
        if let Some(node) = self.blocks[block.index()].node.take() {
            self.published.remove(&node.content);
        }
    }

    /// A number greater than all before and than `ROOT`'s.
    fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }
}

/// The blocks of one sequence, by position.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    /// Leading blocks that are published.
    num_published: usize,
}

impl BlockTable {
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Leading blocks that are published.
    pub fn num_published(&self) -> u32 {
        self.num_published as u32
    }

    /// Those after the published ones.
    pub fn unpublished(&self) -> &[BlockId] {
        &self.blocks[self.num_published..]
    }
}

#[cfg(test)]
mod tests;
