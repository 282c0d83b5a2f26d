//! What one worker counts while a kernel runs, per instruction.

use std::collections::BTreeMap;

use super::Counters;
use crate::lanes::Mask;
use crate::matrix::Kind;
use crate::program::{Op, Program};

/// How often an instruction was issued, and for how many lanes in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Issued {
    times: u64,
    lanes: u64,
}

macro_rules! accesses {
    ($($name:ident),* $(,)?) => {
        /// What an instruction's accesses and branches did: known only when it runs. The names are those of [`Counters`].
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Accesses {
            $(pub $name: u64,)*
        }

        impl Accesses {
            fn add_to(&self, counters: &mut Counters) {
                $(counters.$name += self.$name;)*
            }
        }

        impl std::ops::AddAssign for Accesses {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

accesses! {
    divergent_branches,
    global_loads,
    global_load_sectors,
    global_load_sectors_ideal,
    global_stores,
    global_store_sectors,
    global_store_sectors_ideal,
    global_atomics,
    global_atomic_sectors,
    mapped_load_bytes,
    mapped_store_bytes,
    shared_loads,
    shared_load_replays,
    shared_stores,
    shared_store_replays,
    local_loads,
    local_stores,
    param_loads,
    bulk_loads,
    bulk_load_bytes,
    bulk_load_sectors,
    bulk_stores,
    bulk_store_bytes,
    bulk_store_sectors,
    bulk_cluster_copies,
    bulk_cluster_bytes,
}

/// Counts per instruction of a program.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    issued: Vec<Issued>,
    accesses: Vec<Accesses>,
    pub ctas: u64,
}

impl Tally {
    /// Zero for each of a program's instructions.
    pub fn new(instructions: usize) -> Self {
        Tally {
            issued: vec![Issued::default(); instructions],
            accesses: vec![Accesses::default(); instructions],
            ctas: 0,
        }
    }

    /// Counts an instruction for the lanes that take part.
    #[inline(always)]
    pub fn issue(&mut self, pc: u32, active: Mask) {
        let issued = &mut self.issued[pc as usize];
        issued.times += 1;
        issued.lanes += u64::from(active.count_ones());
    }

    /// Takes back an instruction that waits: it counts when it is issued again.
    pub fn withdraw(&mut self, pc: u32, active: Mask) {
        let issued = &mut self.issued[pc as usize];
        issued.times -= 1;
        issued.lanes -= u64::from(active.count_ones());
    }

    /// The accesses of an instruction.
    #[inline(always)]
    pub fn at(&mut self, pc: u32) -> &mut Accesses {
        &mut self.accesses[pc as usize]
    }

    /// Adds what another worker counted in the same program.
    pub fn merge(&mut self, other: &Tally) {
        assert_eq!(self.issued.len(), other.issued.len(), "tallies of different programs");
        for (mine, theirs) in self.issued.iter_mut().zip(&other.issued) {
            mine.times += theirs.times;
            mine.lanes += theirs.lanes;
        }
        for (mine, theirs) in self.accesses.iter_mut().zip(&other.accesses) {
            *mine += *theirs;
        }
        self.ctas += other.ctas;
    }

    /// The counters of a whole launch, but for those of DRAM.
    pub fn total(&self, program: &Program) -> Counters {
        let mut total = Counters { ctas: self.ctas, ..Counters::default() };
        for pc in 0..self.issued.len() {
            self.add_instruction(program, pc, &mut total);
        }
        total
    }

    /// Counters by a key of each instruction; instructions without one, or that never ran, are left out.
    pub fn group<K: Ord>(&self, program: &Program, key: impl Fn(usize) -> Option<K>) -> BTreeMap<K, Counters> {
        let mut groups = BTreeMap::<K, Counters>::new();
        for pc in (0..self.issued.len()).filter(|&pc| self.issued[pc].times > 0) {
            if let Some(key) = key(pc) {
                self.add_instruction(program, pc, groups.entry(key).or_default());
            }
        }
        groups
    }

    fn add_instruction(&self, program: &Program, pc: usize, counters: &mut Counters) {
        let Issued { times, lanes } = self.issued[pc];
        if times == 0 {
            return;
        }
        counters.instructions += times;
        counters.active_lanes += lanes;
        counters.add_class(program.classes[pc], times);
        self.accesses[pc].add_to(counters);
        if let Some((kind, multiply_adds)) = multiply_adds(&program.instructions[pc].op) {
            // Matrix instructions run with all lanes or, predicated off, with none.
            let counter = match kind {
                Kind::F64 => &mut counters.multiply_adds_f64,
                Kind::F16 => &mut counters.multiply_adds_f16,
                Kind::Bf16 => &mut counters.multiply_adds_bf16,
                Kind::Tf32 => &mut counters.multiply_adds_tf32,
                Kind::F8 => &mut counters.multiply_adds_f8,
                Kind::I8 => &mut counters.multiply_adds_i8,
                Kind::I4 => &mut counters.multiply_adds_i4,
                Kind::B1 => &mut counters.multiply_adds_b1,
            };
            *counter += lanes / 32 * multiply_adds;
        }
    }
}

/// Kind of elements and multiply-adds per warp of a matrix instruction.
fn multiply_adds(op: &Op) -> Option<(Kind, u64)> {
    match op {
        Op::Mma(mma) => Some((mma.kind, mma.multiply_adds)),
        Op::Wgmma(wgmma) => Some((wgmma.kind, wgmma.multiply_adds)),
        _ => None,
    }
}
