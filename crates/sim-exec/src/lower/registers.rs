//! Which registers operations read and write, when each is live, and fewer registers for the same program.
//!
//! PTX names a new register for nearly every result. A warp's register file holds 256 bytes for each, so registers that are never
//! live together share one: warps start faster, and what they touch stays in the host's caches.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::program::{
    Address, BarrierKind, BulkFar, FragmentMove, Instruction, MbarrierOp, Op, Program, SINK, Slot, WgmmaA,
};

/// How an operation uses a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    Read,
    Write,
}

/// Registers that an operation reads and writes.
pub fn of(op: &Op) -> (Vec<Slot>, Vec<Slot>) {
    let (mut reads, mut writes) = (Vec::new(), Vec::new());
    visit(&mut op.clone(), &mut |slot, how| if how == Use::Read { reads.push(*slot) } else { writes.push(*slot) });
    (reads, writes)
}

/// Calls `f` for every register operand.
fn visit(op: &mut Op, f: &mut impl FnMut(&mut Slot, Use)) {
    fn all(slots: &mut [Slot], how: Use, f: &mut impl FnMut(&mut Slot, Use)) {
        slots.iter_mut().for_each(|slot| f(slot, how));
    }
    fn base(address: &mut Address, f: &mut impl FnMut(&mut Slot, Use)) {
        address.base.iter_mut().for_each(|slot| f(slot, Use::Read));
    }
    macro_rules! use_of {
        ($($slot:expr),* => $($d:expr),*) => {{
            $(f($slot, Use::Read);)*
            $(f($d, Use::Write);)*
        }};
    }
    match op {
        Op::Nop
        | Op::Logic { .. }
        | Op::Branch { .. }
        | Op::Exit
        | Op::Trap
        | Op::CallAgain(_)
        | Op::Return { .. }
        | Op::ClusterArrive
        | Op::ClusterWait
        | Op::Fence
        | Op::Yield
        | Op::WgmmaFence
        | Op::WgmmaCommit
        | Op::WgmmaWait { .. }
        | Op::CopyCommit
        | Op::CopyWait { .. }
        | Op::BulkCommit
        | Op::BulkWait { .. }
        | Op::ProxyFence { .. } => {}
        Op::Lanes { d, a, b, c, .. }
        | Op::Lop3 { d, a, b, c, .. }
        | Op::Carry { d, a, b, c, .. }
        | Op::SelectBySign { d, a, b, c, .. } => use_of!(a, b, c => d),
        Op::Insert { d, a, b, position, count, .. } => use_of!(a, b, position, count => d),
        Op::Approx { d, a, b, .. }
        | Op::ConvertPair { d, a, b, .. }
        | Op::Set { d, a, b, .. }
        | Op::SetHalves { d, a, b, .. }
        | Op::Select { d, a, b, .. }
        | Op::MapShared { d, a, rank: b, .. } => use_of!(a, b => d),
        Op::Convert { d, a, .. }
        | Op::ConvertHalves { d, a, .. }
        | Op::ClusterRank { d, a }
        | Op::MoveMatrix { d, a } => use_of!(a => d),
        Op::Compare { a, b, .. } | Op::CompareHalves { a, b, .. } => use_of!(a, b =>),
        Op::Pack { d, parts, .. } => {
            all(parts, Use::Read, f);
            f(d, Use::Write);
        }
        Op::Unpack { parts, a, .. } => {
            f(a, Use::Read);
            all(parts, Use::Write, f);
        }
        Op::ActiveMask { d } | Op::Clock { d } => use_of!(=> d),
        Op::BranchIndexed { index: a, .. }
        | Op::CheckFunction { address: a }
        | Op::WarpSync { mask: a }
        | Op::IsSpace { a, .. } => use_of!(a =>),
        Op::Barrier(barrier) => {
            f(&mut barrier.id, Use::Read);
            barrier.threads.iter_mut().for_each(|slot| f(slot, Use::Read));
            if let BarrierKind::RedPopc { d, .. } = &mut barrier.kind {
                f(d, Use::Write);
            }
        }
        Op::Load(access) => {
            base(&mut access.address, f);
            all(&mut access.registers, Use::Write, f);
        }
        Op::Store(access) => {
            base(&mut access.address, f);
            all(&mut access.registers, Use::Read, f);
        }
        Op::Atomic(atomic) => {
            base(&mut atomic.address, f);
            all(&mut atomic.value, Use::Read, f);
            atomic.swap.iter_mut().for_each(|slot| f(slot, Use::Read));
            all(&mut atomic.d, Use::Write, f);
        }
        Op::Shuffle { d, a, b, c, mask, .. } => use_of!(a, b, c, mask => d),
        Op::Vote { d, mask, .. } | Op::Elect { d, mask, .. } => use_of!(mask => d),
        Op::Match { d, a, mask, .. } | Op::Redux { d, a, mask, .. } => use_of!(a, mask => d),
        Op::LoadMatrix(load) => {
            base(&mut load.address, f);
            all(&mut load.registers, Use::Write, f);
        }
        Op::StoreMatrix(store) => {
            base(&mut store.address, f);
            all(&mut store.registers, Use::Read, f);
        }
        Op::Mma(mma) => {
            [&mut mma.a, &mut mma.b, &mut mma.c].into_iter().for_each(|slots| all(slots, Use::Read, f));
            all(&mut mma.d, Use::Write, f);
        }
        Op::LoadFragment(fragment) => visit_fragment(fragment, Use::Write, f),
        Op::StoreFragment(fragment) => visit_fragment(fragment, Use::Read, f),
        Op::Wgmma(wgmma) => {
            match &mut wgmma.a {
                WgmmaA::Registers(a) => all(a, Use::Read, f),
                WgmmaA::Memory(a, _) => f(a, Use::Read),
            }
            f(&mut wgmma.b, Use::Read);
            all(&mut wgmma.d, Use::Read, f);
            all(&mut wgmma.d, Use::Write, f);
        }
        Op::CopyAsync { to, from, from_bytes, .. } => {
            base(to, f);
            base(from, f);
            from_bytes.iter_mut().for_each(|slot| f(slot, Use::Read));
        }
        Op::Mbarrier { op, address } => {
            base(address, f);
            match &mut **op {
                MbarrierOp::Init { count: a } | MbarrierOp::ExpectTx { tx: a } | MbarrierOp::CompleteTx { tx: a } => {
                    f(a, Use::Read);
                }
                MbarrierOp::Arrive { count, tx, state, .. } => {
                    count.iter_mut().chain(tx).for_each(|slot| f(slot, Use::Read));
                    f(state, Use::Write);
                }
                MbarrierOp::Wait { state, .. } => f(state, Use::Read),
                MbarrierOp::Invalidate | MbarrierOp::ArriveAfterCopies { .. } => {}
            }
        }
        Op::Bulk(bulk) => {
            base(&mut bulk.shared, f);
            match &mut bulk.far {
                BulkFar::Bytes { address, bytes } => {
                    base(address, f);
                    f(bytes, Use::Read);
                }
                BulkFar::Tensor { map, coordinates } => {
                    base(map, f);
                    all(coordinates, Use::Read, f);
                }
            }
            bulk.mbarrier.iter_mut().for_each(|address| base(address, f));
            bulk.cta_mask.iter_mut().for_each(|slot| f(slot, Use::Read));
        }
        Op::ReplaceInMap { address, value, .. } => {
            base(address, f);
            f(value, Use::Read);
        }
        Op::CopyMap { to, from } => {
            base(to, f);
            base(from, f);
        }
        Op::Printf { format, arguments, d } => use_of!(format, arguments => d),
        Op::Assert { message, file, line } => use_of!(message, file, line =>),
    }
}

/// `how` the pieces use their registers.
fn visit_fragment(fragment: &mut FragmentMove, how: Use, f: &mut impl FnMut(&mut Slot, Use)) {
    fragment.address.base.iter_mut().for_each(|slot| f(slot, Use::Read));
    f(&mut fragment.stride, Use::Read);
    for piece in &mut fragment.pieces {
        piece.access.registers.iter_mut().for_each(|slot| f(slot, how));
    }
    for Instruction { op, .. } in &mut fragment.parts {
        visit(op, f);
    }
}

/// From the first to the last instruction at which a register is live or named; `None` for one that is neither.
type Range = Option<(usize, usize)>;

/// A set of registers.
type Set = Vec<u64>;

/// Instructions that run one after the other.
struct Block {
    start: usize,
    end: usize,
    next: Vec<usize>,
    /// Read before any certain write in the block, and certainly written in it.
    reads: Set,
    kills: Set,
    live_in: Set,
}

/// The live range of every register, by the thread's control flow: a write under a guard may leave the old value.
fn ranges(program: &Program) -> Vec<Range> {
    let mut blocks = blocks(program);
    let words = program.slots.div_ceil(64);
    let mut ranges = vec![None; program.slots];
    for block in &mut blocks {
        (block.reads, block.kills, block.live_in) = (vec![0; words], vec![0; words], vec![0; words]);
        for pc in block.start..block.end {
            let Instruction { op, guard } = &program.instructions[pc];
            let (reads, writes) = of(op);
            for slot in reads.into_iter().filter(|s| *s != SINK).map(usize::from) {
                extend(&mut ranges, slot, pc);
                block.reads[slot / 64] |= 1 << (slot % 64) & !block.kills[slot / 64];
            }
            for slot in writes.into_iter().filter(|s| *s != SINK).map(usize::from) {
                extend(&mut ranges, slot, pc);
                block.kills[slot / 64] |= u64::from(guard.is_none()) << (slot % 64);
            }
        }
    }
    let mut changed = true;
    while std::mem::take(&mut changed) {
        for at in (0..blocks.len()).rev() {
            let out = live_out(&blocks, at, words);
            let block = &mut blocks[at];
            for (word, out) in out.into_iter().enumerate() {
                let live = block.reads[word] | out & !block.kills[word];
                changed |= live != block.live_in[word];
                block.live_in[word] = live;
            }
        }
    }
    // Only the first block that a register is live into and the last that it is live out of matter.
    let mut seen = vec![0; words];
    for block in &blocks {
        each_new(&mut seen, &block.live_in, |slot| extend(&mut ranges, slot, block.start));
    }
    let mut seen = vec![0; words];
    for at in (0..blocks.len()).rev() {
        each_new(&mut seen, &live_out(&blocks, at, words), |slot| extend(&mut ranges, slot, blocks[at].end - 1));
    }
    ranges
}

fn extend(ranges: &mut [Range], slot: usize, at: usize) {
    let range = ranges[slot].get_or_insert((at, at));
    *range = (range.0.min(at), range.1.max(at));
}

/// Calls `f` for the elements of `set` that `seen` lacks, and adds them to it.
fn each_new(seen: &mut [u64], set: &[u64], mut f: impl FnMut(usize)) {
    for (word, (seen, set)) in seen.iter_mut().zip(set).enumerate() {
        let mut new = set & !*seen;
        *seen |= set;
        while new != 0 {
            f(word * 64 + new.trailing_zeros() as usize);
            new &= new - 1;
        }
    }
}

fn live_out(blocks: &[Block], at: usize, words: usize) -> Set {
    let mut out = vec![0; words];
    for &next in &blocks[at].next {
        out.iter_mut().zip(&blocks[next].live_in).for_each(|(out, live)| *out |= live);
    }
    out
}

fn blocks(program: &Program) -> Vec<Block> {
    let count = program.instructions.len();
    let mut starts = vec![false; count + 1];
    starts[0] = true;
    let targets = |at: usize| -> Vec<usize> {
        match &program.instructions[at].op {
            Op::Branch { target } => vec![*target as usize],
            Op::BranchIndexed { targets, .. } => targets.iter().map(|t| *t as usize).collect(),
            _ => Vec::new(),
        }
    };
    let ends =
        |at: usize| matches!(program.instructions[at].op, Op::Branch { .. } | Op::BranchIndexed { .. } | Op::Exit);
    for at in (0..count).filter(|&at| ends(at)) {
        starts[at + 1] = true;
        targets(at).into_iter().for_each(|target| starts[target] = true);
    }
    let starts: Vec<usize> = (0..count).filter(|&at| starts[at]).collect();
    let block_at = |pc: usize| starts.binary_search(&pc).expect("a block starts at every target");
    let ends_at = |block: usize| starts.get(block + 1).copied().unwrap_or(count);
    let block = |n: usize| {
        let last = ends_at(n) - 1;
        let goes_on = !ends(last) || program.instructions[last].guard.is_some();
        let mut next: Vec<usize> = targets(last).into_iter().map(block_at).collect();
        next.extend((goes_on && last + 1 < count).then_some(n + 1));
        let empty = Set::new;
        Block { start: starts[n], end: last + 1, next, reads: empty(), kills: empty(), live_in: empty() }
    };
    (0..starts.len()).map(block).collect()
}

/// Gives registers that are never live together one place, and returns how many 32-bit registers a compiler would need at least: the
/// largest number of live ranges that overlap, without constants and special registers, and a few for addresses.
pub fn compact(program: &mut Program) -> u32 {
    let mut ranges = ranges(program);
    let initial: Vec<Slot> =
        program.constants.iter().map(|c| c.0).chain(program.specials.iter().map(|s| s.0)).collect();
    initial.iter().for_each(|&slot| ranges[usize::from(slot)] = None);
    let registers = (overlap(&ranges, program.instructions.len()) + 8).clamp(16, 255);
    // A wgmma goes on reading and writing its registers after its instruction, and a recursive call saves a range of them.
    let is_fixed = |i: &Instruction| matches!(i.op, Op::Wgmma(_) | Op::CallAgain(_) | Op::Return { .. });
    if program.instructions.iter().any(is_fixed) {
        return registers;
    }
    let mut places = vec![SINK; program.slots];
    let mut used: Slot = 0;
    let mut fresh = || {
        used += 1;
        used - 1
    };
    initial.iter().for_each(|&slot| places[usize::from(slot)] = fresh());
    let mut order: Vec<(usize, usize, usize)> =
        ranges.iter().enumerate().filter_map(|(slot, range)| range.map(|(start, end)| (start, end, slot))).collect();
    order.sort_unstable();
    let mut live: BinaryHeap<Reverse<(usize, Slot)>> = BinaryHeap::new();
    let mut free = Vec::new();
    for (start, end, slot) in order {
        // An operation may write one result before it reads the operand of the next: a place is free after its last instruction.
        while let Some(&Reverse((_, place))) = live.peek().filter(|Reverse((end, _))| *end < start) {
            live.pop();
            free.push(place);
        }
        let place = free.pop().unwrap_or_else(&mut fresh);
        places[slot] = place;
        live.push(Reverse((end, place)));
    }
    program.slots = used.into();
    let place = |slot: &mut Slot| {
        if *slot != SINK {
            *slot = places[usize::from(*slot)];
        }
    };
    program.instructions.iter_mut().for_each(|i| visit(&mut i.op, &mut |slot, _| place(slot)));
    program.constants.iter_mut().for_each(|(slot, _)| place(slot));
    program.specials.iter_mut().for_each(|(slot, _)| place(slot));
    registers
}

/// The largest number of ranges that hold one instruction.
fn overlap(ranges: &[Range], instructions: usize) -> u32 {
    let mut change = vec![0i32; instructions + 1];
    for (start, end) in ranges.iter().flatten() {
        change[*start] += 1;
        change[end + 1] -= 1;
    }
    let live = change.iter().scan(0, |live, change| {
        *live += change;
        Some(*live)
    });
    live.max().unwrap_or(0) as u32
}

#[cfg(test)]
mod tests {
    use crate::{Gpu, GpuConfig, LaunchConfig, LoadedModule};

    /// Runs a kernel of 32 threads with one parameter, the address of its output, and returns the number of its registers' places and
    /// what it wrote.
    fn run(body: &str) -> (usize, Vec<u32>) {
        let ptx = format!(
            ".version 8.5\n.target sm_90\n.address_size 64\n.visible .entry k(.param .u64 out) {{
            .reg .b32 %r<100>; .reg .b64 %rd<4>; .reg .pred %p<4>;
            ld.param.u64 %rd1, [out]; mov.u32 %r1, %tid.x; mul.wide.u32 %rd2, %r1, 4; add.s64 %rd1, %rd1, %rd2;
            {body}
            st.global.u32 [%rd1], %r2; ret; }}"
        );
        let gpu = Gpu::new(GpuConfig::default());
        let module = LoadedModule::load(&gpu, &ptx, "test.ptx").expect("loads");
        let address = gpu.memory.alloc(128, "out").expect("memory");
        let params = address.to_le_bytes();
        let launch = LaunchConfig { block: [32, 1, 1], params: &params, ..LaunchConfig::default() };
        gpu.launch(&module.kernels["k"], &launch).expect("runs");
        let mut bytes = [0; 128];
        gpu.memory.read(address, &mut bytes).expect("in bounds");
        let words = bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        (module.kernels["k"].program.slots, words)
    }

    #[test]
    fn a_chain_of_results_takes_few_places() {
        let chain: String = (2..99).map(|i| format!("add.u32 %r{}, %r{}, 1;\n", i + 1, i)).collect();
        let (places, out) = run(&format!("mov.u32 %r2, %r1; {chain} mov.u32 %r2, %r99;"));
        assert!(places < 16, "{places} places");
        assert_eq!(out, (0..32).map(|lane| lane + 97).collect::<Vec<u32>>());
    }

    #[test]
    fn a_guarded_write_leaves_the_other_lanes_their_value() {
        // %r3 must outlive its first range in the lanes that the guard leaves out.
        let (_, out) =
            run("setp.lt.u32 %p1, %r1, 7; add.u32 %r3, %r1, 100; add.u32 %r4, %r1, 1; @%p1 mov.u32 %r3, %r4;
            add.u32 %r5, %r1, 2; mov.u32 %r2, %r3;");
        assert_eq!(out, (0..32).map(|lane| if lane < 7 { lane + 1 } else { lane + 100 }).collect::<Vec<u32>>());
    }

    #[test]
    fn a_value_survives_a_loop_that_only_its_end_reads() {
        // %r6 is written before the loop and read after the inner results are dead; %r7 goes round the loop.
        let (_, out) = run("mov.u32 %r6, %r1; mov.u32 %r7, 0; mov.u32 %r8, 0;
            L: add.u32 %r10, %r8, 1; mul.lo.u32 %r11, %r10, %r10; add.u32 %r7, %r7, %r11;
            and.b32 %r12, %r1, 3; setp.lt.u32 %p1, %r8, %r12; mov.u32 %r8, %r10; @%p1 bra L;
            add.u32 %r2, %r7, %r6;");
        let squares = |n: u32| (1..=n + 1).map(|i| i * i).sum::<u32>();
        assert_eq!(out, (0..32).map(|lane| squares(lane & 3) + lane).collect::<Vec<u32>>());
    }
}
