//! What a launch did, counted. Numbers are exact and do not depend on the machine; none of them is a time.
//!
//! While a kernel runs, a [`Tally`] per worker counts how often each instruction was issued and for how many lanes, and what its
//! accesses asked of memory. Everything else follows from that when the launch is over, for the launch and for each line.

mod class;
mod patterns;
mod table;
mod tally;

use serde::{Deserialize, Serialize, Serializer};

pub use class::Class;
pub use patterns::{Sectors, bank_replays, is_consecutive};
pub use table::grouped;
pub use tally::Tally;

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident),* $(,)?) => {
        /// Counts of one launch; sums over launches and over lines with `+=`. As JSON an object without the zeros.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
        #[serde(default)]
        pub struct Counters {
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Counters {
            /// Every counter's name and what it counts, in the order of [`Counters::entries`].
            pub fn meanings() -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), concat!($($doc),*).trim())),*]
            }

            /// Every counter by name, in the order of their declaration.
            pub fn entries(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name)),*]
            }
        }

        impl std::ops::AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

counters! {
    /// CTAs run.
    ctas,
    /// Warp instructions issued; an instruction that waits counts once, when it goes on. The classes below add up to it.
    instructions,
    /// Lanes that took part, over all warp instructions (32 per instruction is the best).
    active_lanes,
    /// Integer and bitwise arithmetic, comparisons and predicates.
    integer,
    /// f32 arithmetic.
    float,
    /// f64 arithmetic.
    double,
    /// f16 and bf16 arithmetic, packed or not.
    half,
    /// Conversions between number types.
    convert,
    /// Approximations: reciprocals, roots, exponentials, logarithms, sines, approximate division.
    special,
    /// Moves, packing, and address conversions, most of which machine code does not need.
    moves,
    /// Branches, calls, returns, exits, fences and hints.
    control,
    /// Shuffles, votes, matches, warp reductions.
    exchange,
    /// Loads and stores of any space, and ldmatrix and stmatrix.
    memory,
    /// Atomics and reductions in memory.
    atomics,
    /// Matrix multiply-adds.
    matrix,
    /// Asynchronous copies.
    async_copies,
    /// CTA and cluster barriers.
    barriers,
    /// Operations on mbarrier objects.
    mbarriers,
    /// Branches whose lanes went both ways.
    divergent_branches,
    /// Warp loads from global memory, and cp.async.
    global_loads,
    /// 32-byte sectors that they asked for, per warp instruction.
    global_load_sectors,
    /// Sectors that their distinct bytes would need if they were contiguous and aligned.
    global_load_sectors_ideal,
    /// Warp stores to global memory.
    global_stores,
    /// 32-byte sectors that they wrote to, per warp instruction.
    global_store_sectors,
    /// Sectors that their distinct bytes would need if they were contiguous and aligned.
    global_store_sectors_ideal,
    /// Warp atomics on global memory.
    global_atomics,
    /// 32-byte sectors that they touched, per warp instruction.
    global_atomic_sectors,
    /// Distinct 32-byte sectors of device memory that the launch touched, in bytes.
    footprint_bytes,
    /// Bytes that come from DRAM if the L2 is empty at first and holds the footprint.
    dram_read_bytes,
    /// Bytes that go to DRAM if every sector that was written goes there once.
    dram_write_bytes,
    /// Bytes that lanes loaded from mapped host memory.
    mapped_load_bytes,
    /// Bytes that lanes stored to mapped host memory.
    mapped_store_bytes,
    /// Warp loads from shared memory, ldmatrix among them.
    shared_loads,
    /// Extra passes over the banks that they need because lanes ask for different words of one bank.
    shared_load_replays,
    /// Warp stores to shared memory, stmatrix and the destinations of cp.async among them.
    shared_stores,
    /// Extra passes over the banks that they need.
    shared_store_replays,
    /// Warp loads from local memory (spills and arrays).
    local_loads,
    /// Warp stores to local memory.
    local_stores,
    /// Warp loads of kernel parameters.
    param_loads,
    /// Bulk copies from global memory, tensor copies among them; a multicast is one.
    bulk_loads,
    /// Bytes of global memory that they read.
    bulk_load_bytes,
    /// 32-byte sectors that they read, per copy.
    bulk_load_sectors,
    /// Bulk copies and reductions to global memory, those of tensors among them.
    bulk_stores,
    /// Bytes of global memory that they wrote.
    bulk_store_bytes,
    /// 32-byte sectors that they wrote, per copy.
    bulk_store_sectors,
    /// Bulk copies and reductions from shared memory to that of a CTA of the cluster.
    bulk_cluster_copies,
    /// Bytes that they moved.
    bulk_cluster_bytes,
    /// Multiply-adds of f64 matrices.
    multiply_adds_f64,
    /// Multiply-adds of f16 matrices.
    multiply_adds_f16,
    /// Multiply-adds of bf16 matrices.
    multiply_adds_bf16,
    /// Multiply-adds of tf32 matrices.
    multiply_adds_tf32,
    /// Multiply-adds of fp8 matrices.
    multiply_adds_f8,
    /// Multiply-adds of 8-bit integer matrices.
    multiply_adds_i8,
    /// Multiply-adds of 4-bit integer matrices.
    multiply_adds_i4,
    /// Combined and counted bits of one-bit matrices.
    multiply_adds_b1,
}

impl Serialize for Counters {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.entries().into_iter().filter(|(_, n)| *n > 0))
    }
}

impl Counters {
    /// Share of lanes that were active, 0 to 1.
    pub fn active_lane_share(&self) -> f64 {
        self.active_lanes as f64 / (32 * self.instructions.max(1)) as f64
    }

    /// Multiply-adds of matrix instructions, all types.
    pub fn multiply_adds(&self) -> u64 {
        self.multiply_adds_f64
            + self.multiply_adds_f16
            + self.multiply_adds_bf16
            + self.multiply_adds_tf32
            + self.multiply_adds_f8
            + self.multiply_adds_i8
            + self.multiply_adds_i4
            + self.multiply_adds_b1
    }

    /// Sectors of global loads and stores over the ideal: 1 is the best; `None` without such accesses.
    pub fn sectors_over_ideal(&self) -> Option<f64> {
        let sectors = self.global_load_sectors + self.global_store_sectors;
        let ideal = self.global_load_sectors_ideal + self.global_store_sectors_ideal;
        (ideal > 0).then(|| sectors as f64 / ideal as f64)
    }

    /// Counts instructions of one class.
    pub(crate) fn add_class(&mut self, class: Class, instructions: u64) {
        let counter = match class {
            Class::Integer => &mut self.integer,
            Class::Float => &mut self.float,
            Class::Double => &mut self.double,
            Class::Half => &mut self.half,
            Class::Convert => &mut self.convert,
            Class::Special => &mut self.special,
            Class::Move => &mut self.moves,
            Class::Control => &mut self.control,
            Class::Exchange => &mut self.exchange,
            Class::Memory => &mut self.memory,
            Class::Atomic => &mut self.atomics,
            Class::Matrix => &mut self.matrix,
            Class::AsyncCopy => &mut self.async_copies,
            Class::Barrier => &mut self.barriers,
            Class::Mbarrier => &mut self.mbarriers,
        };
        *counter += instructions;
    }
}
