use proptest::prelude::*;

use super::*;

const BLOCK_TOKENS: u32 = 2;

fn ids(numbers: &[u32]) -> impl Iterator<Item = TokenId> {
    numbers.iter().map(|id| TokenId(*id))
}

/// A table of `numbers`, all of them computed and published.
fn published(manager: &mut BlockManager, numbers: &[u32]) -> BlockTable {
    let mut table = BlockTable::default();
    manager.grow(&mut table, numbers.len() as u32).unwrap();
    let mut duplicates = manager.publish(&mut table, ids(numbers));
    manager.release(&mut duplicates);
    table
}

#[test]
fn growing_takes_all_or_nothing() {
    let mut manager = BlockManager::new(4, 16);
    let (mut a, mut b) = (BlockTable::default(), BlockTable::default());
    manager.grow(&mut a, 33).unwrap();
    assert_eq!((a.blocks().len(), manager.num_free()), (3, 1));
    manager.grow(&mut a, 48).unwrap();
    assert_eq!(a.blocks().len(), 3, "48 positions fit into three blocks");
    let error = manager.grow(&mut b, 17).unwrap_err();
    assert_eq!(error, KvError { asked: 2, free: 1, cached: 0, total: 4 });
    assert_eq!(error.to_string(), "out of KV-cache blocks: 2 asked for, 1 free and 0 cached of 4");
    assert_eq!((b.blocks().len(), manager.num_free()), (0, 1));
}

#[test]
fn extending_copies_what_is_shared_and_takes_all_or_nothing() {
    let mut manager = BlockManager::new(9, 4);
    let mut prompt = BlockTable::default();
    manager.grow(&mut prompt, 6).unwrap();
    let mut lanes: Vec<BlockTable> = (0..3).map(|_| manager.fork(&prompt, 6)).collect();
    manager.release(&mut prompt);
    let [full, tail] = lanes[0].blocks() else { panic!("6 positions are two blocks") };
    let (full, tail) = (*full, *tail);
    // Two lanes copy the block that all write to, the last one keeps it; two more blocks for each would be too many.
    let before = lanes.clone();
    let error = manager.extend(&mut lanes, 6, 13).unwrap_err();
    assert_eq!((error.asked, error.free), (2 + 3 * 2, 7));
    assert_eq!((&lanes, manager.num_free()), (&before, 7));
    let copies = manager.extend(&mut lanes, 6, 9).unwrap();
    assert!(copies.len() == 2 && copies.iter().all(|copy| copy.from == tail && copy.to != tail), "{copies:?}");
    assert_eq!(manager.num_free(), 7 - 2 - 3);
    assert!(lanes.iter().all(|lane| lane.blocks()[0] == full && lane.blocks().len() == 3));
    assert_eq!((manager.references(full), lanes[2].blocks()[1]), (3, tail));
    assert!(lanes.iter().flat_map(|lane| &lane.blocks()[1..]).all(|block| manager.is_writable(*block)));
    assert_eq!(manager.extend(&mut lanes, 9, 12).unwrap(), [], "nothing is shared or new");
    manager.assert_consistent(lanes.iter());
    lanes.iter_mut().for_each(|lane| manager.release(lane));
    assert_eq!(manager.num_free(), 9);
}

#[test]
fn only_full_blocks_after_the_same_ids_are_found() {
    let mut manager = BlockManager::new(8, BLOCK_TOKENS);
    let table = published(&mut manager, &[1, 2, 3, 4, 5]);
    let hits = |manager: &mut BlockManager, numbers: &[u32]| {
        let mut hit = manager.reuse(ids(numbers));
        let blocks = hit.blocks().to_vec();
        assert_eq!(blocks, table.blocks()[..blocks.len()]);
        manager.release(&mut hit);
        blocks.len()
    };
    for (numbers, expected) in [
        (&[1, 2, 3, 4, 5, 6][..], 2),
        (&[1, 2, 3, 4], 2),
        (&[1, 2, 3], 1),
        (&[1, 2, 4, 3], 1),
        (&[1], 0),
        // The second block's ids at the start.
        (&[3, 4], 0),
        (&[], 0),
    ] {
        assert_eq!(hits(&mut manager, numbers), expected, "{numbers:?}");
    }
}

#[test]
fn the_block_given_up_longest_ago_is_evicted_first() {
    let mut manager = BlockManager::new(4, BLOCK_TOKENS);
    let (mut a, mut b) = (published(&mut manager, &[1, 1, 2, 2]), published(&mut manager, &[3, 3]));
    manager.release(&mut a);
    manager.release(&mut b);
    assert_eq!((manager.num_free(), manager.num_cached()), (1, 3));
    let mut taken = BlockTable::default();
    let mut found = |manager: &mut BlockManager, tokens| {
        manager.grow(&mut taken, tokens).unwrap();
        [&[1, 1, 2, 2][..], &[3, 3]].map(|numbers| {
            let mut hit = manager.clone().reuse(ids(numbers));
            std::mem::take(&mut hit.blocks).len()
        })
    };
    assert_eq!(found(&mut manager, 2), [2, 1], "the free block first");
    assert_eq!(found(&mut manager, 4), [1, 1], "then the end of what was released first");
    let mut again = manager.reuse(ids(&[1, 1]));
    manager.release(&mut again);
    assert_eq!(found(&mut manager, 6), [1, 0], "what was used again stays");
    assert_eq!(found(&mut manager, 8), [0, 0]);
}

#[test]
fn children_of_an_evicted_block_are_not_found_below_its_successor() {
    let mut manager = BlockManager::new(4, BLOCK_TOKENS);
    // A child whose parent is published by another table, which gives it up.
    let mut parent = published(&mut manager, &[1, 1]);
    let child = published(&mut manager, &[1, 1, 2, 2]);
    let mut fork = manager.fork(&child, 4);
    assert_eq!(fork.blocks(), child.blocks());
    manager.release(&mut fork);
    manager.release(&mut parent);
    let other = published(&mut manager, &[7, 7]);
    assert_eq!(manager.reuse(ids(&[7, 7, 2, 2])).blocks(), other.blocks());
    assert_eq!(manager.reuse(ids(&[1, 1, 2, 2])).blocks(), child.blocks());
}

#[test]
fn whoever_writes_first_to_a_shared_block_copies_it() {
    let mut manager = BlockManager::new(4, BLOCK_TOKENS);
    let mut a = BlockTable::default();
    manager.grow(&mut a, 3).unwrap();
    let mut b = manager.fork(&a, 3);
    let copy = manager.make_writable(&mut b, 3).unwrap().unwrap();
    assert_eq!((copy.from, copy.to), (a.blocks()[1], b.blocks()[1]));
    assert_eq!(manager.make_writable(&mut a, 3), Ok(None), "the other is alone now");
    assert_eq!(a.blocks()[0], b.blocks()[0]);
    let mut c = manager.fork(&a, 3);
    manager.grow(&mut b, 6).unwrap();
    assert_eq!(manager.make_writable(&mut c, 3), Err(KvError { asked: 1, free: 0, cached: 0, total: 4 }));
    manager.assert_consistent([&a, &b, &c].into_iter());
}

/// What a published block held when it was, by linear search: block, its parent's serial number, its own, ids, and when it
/// was given up.
#[derive(Clone, Debug)]
struct Entry {
    serial: usize,
    parent: Option<usize>,
    ids: Vec<TokenId>,
    block: BlockId,
    given_up: usize,
}

/// A sequence: what it should read back, and how much of it is published.
#[derive(Clone, Debug, Default)]
struct Owner {
    ids: Vec<TokenId>,
    table: BlockTable,
    published: Vec<usize>,
}

/// The manager beside a naive model of it, and a memory that is really written.
struct Model {
    manager: BlockManager,
    owners: Vec<Owner>,
    entries: Vec<Entry>,
    memory: Vec<[TokenId; BLOCK_TOKENS as usize]>,
    time: usize,
}

impl Model {
    fn new(num_blocks: u32, num_owners: usize) -> Model {
        Model {
            manager: BlockManager::new(num_blocks, BLOCK_TOKENS),
            owners: vec![Owner::default(); num_owners],
            entries: Vec::new(),
            memory: vec![Default::default(); num_blocks as usize],
            time: 0,
        }
    }

    fn references(&self, block: BlockId) -> usize {
        self.owners.iter().flat_map(|owner| owner.table.blocks()).filter(|b| **b == block).count()
    }

    fn find(&self, parent: Option<usize>, ids: &[TokenId]) -> Option<Entry> {
        self.entries.iter().find(|e| e.parent == parent && e.ids == ids).cloned()
    }

    /// A block was taken for a table that held `before`: had it been cached, it was the one given up first, and there was no
    /// free one.
    fn taken(&mut self, block: BlockId, before: &BlockTable, num_free: u32) {
        let held = |b: &BlockId| *b != block && (self.references(*b) > 0 || before.blocks().contains(b));
        let unheld = |e: &&Entry| !held(&e.block);
        let oldest = self.entries.iter().filter(unheld).min_by_key(|e| e.given_up).cloned();
        if let Some(at) = self.entries.iter().position(|e| e.block == block) {
            assert_eq!((num_free, Some(block)), (0, oldest.map(|e| e.block)), "eviction takes the oldest, if it must");
            self.entries.remove(at);
        }
    }

    fn append(&mut self, i: usize, id: TokenId) {
        let owner = &mut self.owners[i];
        let (position, before) = (owner.ids.len() as u32, owner.table.clone());
        let (num_free, num_cached) = (self.manager.num_free(), self.manager.num_cached());
        let copy = self.manager.make_writable(&mut owner.table, position);
        let grown = copy.and_then(|copy| self.manager.grow(&mut owner.table, position + 1).map(|()| copy));
        let Ok(copy) = grown else {
            assert_eq!((num_free, num_cached, &owner.table), (0, 0, &before), "refused only when nothing can be taken");
            return;
        };
        owner.ids.push(id);
        owner.published.truncate((position / BLOCK_TOKENS) as usize);
        let block = owner.table.blocks()[(position / BLOCK_TOKENS) as usize];
        if !before.blocks().contains(&block) {
            self.taken(block, &before, num_free);
        }
        if let Some(copy) = copy {
            self.memory[copy.to.index()] = self.memory[copy.from.index()];
            self.given_up(copy.from);
        }
        self.memory[block.index()][(position % BLOCK_TOKENS) as usize] = id;
    }

    fn publish(&mut self, i: usize) {
        let mut owner = std::mem::take(&mut self.owners[i]);
        let before = owner.table.clone();
        let mut duplicates = self.manager.publish(&mut owner.table, owner.ids.iter().copied());
        for (at, ids) in owner.ids.chunks_exact(BLOCK_TOKENS as usize).enumerate().skip(owner.published.len()) {
            let parent = owner.published.last().copied();
            let own = before.blocks()[at];
            let entry = self.find(parent, ids).unwrap_or_else(|| {
                self.entries.retain(|e| e.block != own);
                self.time += 1;
                let entry = Entry { serial: self.time, parent, ids: ids.to_vec(), block: own, given_up: 0 };
                self.entries.push(entry.clone());
                entry
            });
            assert_eq!(owner.table.blocks()[at], entry.block, "the table holds the published block");
            owner.published.push(entry.serial);
        }
        self.manager.release(&mut duplicates);
        self.owners[i] = owner;
        before.blocks().iter().rev().for_each(|block| self.given_up(*block));
    }

    fn release(&mut self, i: usize) {
        let mut owner = std::mem::take(&mut self.owners[i]);
        let blocks = owner.table.blocks().to_vec();
        self.manager.release(&mut owner.table);
        blocks.iter().rev().for_each(|block| self.given_up(*block));
    }

    fn given_up(&mut self, block: BlockId) {
        if self.references(block) == 0 {
            self.time += 1;
            let now = self.time;
            self.entries.iter_mut().filter(|e| e.block == block).for_each(|e| e.given_up = now);
        }
    }

    fn reuse(&mut self, i: usize, ids: &[TokenId]) {
        self.release(i);
        let table = self.manager.reuse(ids.iter().copied());
        let mut published: Vec<usize> = Vec::new();
        let mut blocks = Vec::new();
        for ids in ids.chunks_exact(BLOCK_TOKENS as usize) {
            let Some(entry) = self.find(published.last().copied(), ids) else { break };
            published.push(entry.serial);
            blocks.push(entry.block);
        }
        assert_eq!(table.blocks(), blocks, "the longest run of published blocks");
        let ids = ids[..blocks.len() * BLOCK_TOKENS as usize].to_vec();
        self.owners[i] = Owner { ids, table, published };
    }

    fn fork(&mut self, from: usize, to: usize, tokens: usize) {
        self.release(to);
        let parent = &self.owners[from];
        let tokens = tokens % (parent.ids.len() + 1);
        let table = self.manager.fork(&parent.table, tokens as u32);
        let whole = (tokens / BLOCK_TOKENS as usize).min(parent.published.len());
        let (ids, published) = (parent.ids[..tokens].to_vec(), parent.published[..whole].to_vec());
        self.owners[to] = Owner { ids, table, published };
    }

    fn check(&self) {
        self.manager.assert_consistent(self.owners.iter().map(|owner| &owner.table));
        for owner in &self.owners {
            let stored = owner.table.blocks().iter().flat_map(|block| self.memory[block.index()]);
            let read: Vec<TokenId> = stored.take(owner.ids.len()).collect();
            assert_eq!(read, owner.ids, "a table reads what its sequence wrote");
        }
        let cached = self.entries.iter().filter(|e| self.references(e.block) == 0).count();
        assert_eq!(self.manager.num_cached() as usize, cached);
    }
}

proptest! {
    #[test]
    fn the_manager_is_the_naive_model(ops in prop::collection::vec((0u8..12, 0usize..4, 0usize..4, any::<u16>()), 1..300)) {
        let mut model = Model::new(9, 4);
        for (op, i, j, n) in ops {
            match op {
                0..6 => model.append(i, TokenId(u32::from(n % 2))),
                6..8 => model.publish(i),
                8 => model.release(i),
                9..11 => {
                    let ids: Vec<TokenId> = (0..8).map(|bit| TokenId(u32::from(n >> bit & 1))).collect();
                    model.reuse(i, &ids[..usize::from(n >> 8) % 9]);
                }
                _ if i != j => model.fork(i, j, usize::from(n)),
                _ => {}
            }
            model.check();
        }
    }
}
