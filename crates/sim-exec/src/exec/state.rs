//! What exists while a launch runs: the launch itself, clusters, CTAs, warps and their fragments.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use super::calls::Frame;
use super::copies::PendingCopy;
use super::mbarrier::Mbarrier;
use super::transfers::Transfers;
use super::undefined::Undefined;
use super::warpgroups::Warpgroup;
use super::wgmma::Wgmmas;
use crate::check::clock::Clock;
use crate::check::shared::SharedMemory;
use crate::finding::FindingKind;
use crate::gpu::{Gpu, Kernel, LaunchConfig};
use crate::lanes::{FULL, Lanes, Mask};
use crate::memory::Allocation;
use crate::program::{Program, RESERVED_SHARED_BYTES, Special};
use crate::rng::Rng;
use crate::traffic::Traffic;

/// Named barriers per CTA.
pub const BARRIERS: usize = 16;
/// What registers hold before their first write: nothing that looks like data.
const REGISTER_POISON: u64 = 0xbadc_0de5_badc_0de5;

/// A rule that a warp broke, before it is known where.
#[derive(Debug)]
pub struct Fault {
    pub kind: FindingKind,
    pub lane: Option<usize>,
    /// The instruction to blame, if it is not the one that runs.
    pub pc: Option<u32>,
    pub message: String,
}

impl Fault {
    pub fn new(kind: FindingKind, lane: Option<usize>, message: impl Into<String>) -> Self {
        Fault { kind, lane, pc: None, message: message.into() }
    }
}

/// Clocks published at addresses by releasing writes, for acquiring reads: address → (clock, cluster).
pub type SyncTable = Mutex<HashMap<u64, (Clock, u32)>>;

/// What all workers of a launch share.
pub struct Launch<'a> {
    pub gpu: &'a Gpu,
    pub kernel: &'a Kernel,
    pub program: &'a Program,
    pub config: &'a LaunchConfig<'a>,
    pub memory: &'a [Arc<Allocation>],
    /// What was touched, in the order of `memory`.
    pub traffic: Traffic,
    pub number: u64,
    pub sync: Vec<SyncTable>,
    /// Whether anything was ever published: spares lock traffic in kernels that never release.
    pub sync_used: AtomicBool,
    pub stop: AtomicBool,
    pub instructions: AtomicU64,
    /// Grows whenever any warp does more than fail to pass a wait.
    pub progress: AtomicU64,
    pub output: Mutex<String>,
}

/// A barrier that counts threads.
#[derive(Debug, Clone)]
pub struct BarrierState {
    pub generation: u64,
    pub arrived: u32,
    /// Threads to wait for; `None` for all live threads of the CTA.
    pub expected: Option<u32>,
    pub clock: Clock,
    /// The clock of the generation that completed last.
    pub done_clock: Clock,
    pub popc: u32,
    pub all: bool,
    pub any: bool,
    /// popc, all and any of the generation that completed last.
    pub done: (u32, bool, bool),
}

impl BarrierState {
    pub fn new(warps: usize) -> Self {
        let clock = Clock::empty(warps);
        BarrierState {
            generation: 0,
            arrived: 0,
            expected: None,
            done_clock: clock.clone(),
            clock,
            popc: 0,
            all: true,
            any: false,
            done: (0, true, false),
        }
    }

    /// Ends the generation if everyone arrived.
    pub fn settle(&mut self, live_threads: u32) {
        if self.arrived == 0 || self.arrived < self.expected.unwrap_or(live_threads) {
            return;
        }
        let empty = Clock::empty(self.clock.own.len());
        self.done_clock = std::mem::replace(&mut self.clock, empty);
        self.done = (self.popc, self.all, self.any);
        self.generation += 1;
        (self.arrived, self.popc, self.all, self.any) = (0, 0, true, false);
    }
}

/// One CTA.
pub struct Cta {
    pub index: [u32; 3],
    pub shared: SharedMemory,
    /// Declared by the program or asked for by the launch.
    pub shared_bytes: u32,
    /// Shared memory that only `%reserved_smem_offset_*` leads to; empty if the program does not ask for it.
    pub reserved_shared: Range<u32>,
    pub barriers: Vec<BarrierState>,
    pub live_threads: u32,
    pub mbarriers: HashMap<u32, Mbarrier>,
    pub warpgroups: Vec<Warpgroup>,
}

/// Why a fragment waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For the other lanes of the mask to arrive at the same instruction.
    Converge {
        lanes: Mask,
    },
    /// For the other lanes of the mask to arrive at any `bar.warp.sync`.
    WarpSync {
        lanes: Mask,
    },
    Barrier {
        id: usize,
        generation: u64,
    },
    Cluster {
        generation: u64,
    },
    /// For the other warps of the warpgroup to issue so many wgmmas.
    Warpgroup {
        issued: u64,
    },
}

/// Lanes of a warp that run together.
#[derive(Clone, Copy, Debug)]
pub struct Fragment {
    pub pc: u32,
    pub mask: Mask,
    pub wait: Option<Wait>,
    /// The warp's instruction count when the fragment last ran.
    pub ran: u64,
}

impl Fragment {
    pub fn new(pc: u32, mask: Mask, wait: Option<Wait>) -> Self {
        Fragment { pc, mask, wait, ran: 0 }
    }
}

/// One warp.
pub struct Warp {
    pub cta: usize,
    /// In its CTA.
    pub index: usize,
    /// In its cluster.
    pub id: usize,
    pub registers: Vec<Lanes>,
    pub preds: Vec<Mask>,
    pub fragments: Vec<Fragment>,
    pub live: Mask,
    pub carry: Mask,
    /// Local memory, lane after lane, and which of its bytes were written.
    pub local: Vec<u8>,
    pub local_written: Vec<bool>,
    pub undefined: Undefined,
    pub wgmmas: Wgmmas,
    /// Waiting activations of functions that call themselves, lane by lane.
    pub frames: Vec<Vec<Frame>>,
    pub clock: Clock,
    /// The clock at the last fence: what relaxed writes after it publish.
    pub fence_clock: Option<Clock>,
    /// Clocks seen by relaxed reads: learned at the next fence.
    pub pending_acquire: Vec<(Clock, u32)>,
    pub copies: Vec<PendingCopy>,
    pub copy_groups: [u32; 32],
    /// Bulk groups that each lane has committed.
    pub bulk_groups: [u32; 32],
    /// The proxy fences that the warp has executed, plus one.
    pub proxy_epoch: u16,
    pub instructions: u64,
    /// Backward branches taken while other fragments waited for their turn.
    pub impatience: u32,
    pub last_allocation: usize,
    /// The generation of the cluster barrier that the warp arrived at last.
    pub cluster_generation: u64,
    /// Has failed a wait and since then neither passed one nor written memory.
    pub spinning: bool,
}

/// A cluster of CTAs: the unit that one worker runs.
pub struct Cluster {
    pub id: u32,
    pub ctas: Vec<Cta>,
    pub warps: Vec<Warp>,
    pub barrier: BarrierState,
    pub rng: Rng,
    pub transfers: Transfers,
    pub stalled_rounds: u32,
    pub seen_progress: u64,
}

impl Cluster {
    /// The `id`-th cluster of the grid, its warps at the entry.
    pub fn new(launch: &Launch<'_>, id: u32) -> Self {
        let config = launch.config;
        let per_cluster: u32 = config.cluster.iter().product();
        let threads: u32 = config.block.iter().product();
        let warps_per_cta = threads.div_ceil(32) as usize;
        let warps = warps_per_cta * per_cluster as usize;
        // The asynchronous proxy is a warp of its own to the race checker.
        let clocks = warps + usize::from(launch.program.uses_async_proxy);
        let checks = launch.gpu.config.checks;
        let shared_bytes = launch.kernel.static_shared_bytes + config.dynamic_shared_bytes;
        let reserved_shared = reserved_shared(launch.program, shared_bytes);
        let clusters: [u32; 3] = std::array::from_fn(|i| config.grid[i] / config.cluster[i]);
        let origin = unflatten(id, clusters);
        let mut cluster = Cluster {
            id,
            ctas: Vec::new(),
            warps: Vec::new(),
            barrier: BarrierState::new(clocks),
            rng: Rng::new(config.seed ^ u64::from(id) << 20),
            transfers: Transfers::new(config.seed ^ u64::from(id) << 20),
            stalled_rounds: 0,
            seen_progress: 0,
        };
        for rank in 0..per_cluster {
            let inside = unflatten(rank, config.cluster);
            let bytes = reserved_shared.end.max(shared_bytes);
            let mut shared = SharedMemory::new(bytes, checks.uninitialised, checks.races);
            // Its owner is the system, which gives it a value.
            shared.finish_copy(reserved_shared.start, &vec![0; reserved_shared.len()]);
            cluster.ctas.push(Cta {
                index: std::array::from_fn(|i| origin[i] * config.cluster[i] + inside[i]),
                shared,
                shared_bytes,
                reserved_shared: reserved_shared.clone(),
                barriers: vec![BarrierState::new(clocks); BARRIERS],
                live_threads: threads,
                mbarriers: HashMap::new(),
                warpgroups: Vec::new(),
            });
            for index in 0..warps_per_cta {
                let id = cluster.warps.len();
                let warp = Warp::new(launch, &cluster.ctas[rank as usize], rank as usize, index, id, clocks, threads);
                cluster.warps.push(warp);
            }
        }
        cluster
    }

    pub fn is_done(&self) -> bool {
        self.warps.iter().all(|w| w.fragments.is_empty())
    }
}

impl Warp {
    fn new(launch: &Launch<'_>, cta: &Cta, rank: usize, index: usize, id: usize, clocks: usize, threads: u32) -> Self {
        let program = launch.program;
        let count = (threads - 32 * index as u32).min(32);
        let live = if count == 32 { FULL } else { (1 << count) - 1 };
        let mut registers = vec![[REGISTER_POISON; 32]; program.slots];
        for &(slot, value) in &program.constants {
            registers[slot as usize] = [value; 32];
        }
        for &(slot, special) in &program.specials {
            let register = &mut registers[slot as usize];
            for (lane, value) in register.iter_mut().enumerate() {
                *value = super::special::value(launch, cta, rank, index, lane, special).into();
            }
        }
        Warp {
            cta: rank,
            index,
            id,
            registers,
            preds: vec![0; program.preds],
            fragments: vec![Fragment::new(0, live, None)],
            live,
            carry: 0,
            local: vec![0; program.local_bytes as usize * 32],
            local_written: vec![false; program.local_bytes as usize * 32],
            undefined: Undefined::default(),
            wgmmas: Wgmmas::default(),
            frames: Vec::new(),
            clock: Clock::start(clocks, id),
            fence_clock: None,
            pending_acquire: Vec::new(),
            copies: Vec::new(),
            copy_groups: [0; 32],
            bulk_groups: [0; 32],
            proxy_epoch: 1,
            instructions: 0,
            impatience: 0,
            last_allocation: 0,
            cluster_generation: 0,
            spinning: false,
        }
    }

    /// The clock as it is released to others; later accesses of this warp are after it.
    pub fn release(&mut self) -> Clock {
        let published = self.clock.clone();
        self.clock.own[self.id] += 1;
        published
    }
}

/// Where the reserved shared memory lies: some way behind the program's own, so that an overrun does not land in it.
fn reserved_shared(program: &Program, shared_bytes: u32) -> Range<u32> {
    let asks = program.specials.iter().any(|(_, s)| matches!(s, Special::ReservedSharedOffset(_)));
    let start = shared_bytes.next_multiple_of(RESERVED_SHARED_BYTES) + RESERVED_SHARED_BYTES;
    if asks { start..start + RESERVED_SHARED_BYTES } else { 0..0 }
}

/// The coordinates of the `n`-th element of a box.
pub fn unflatten(n: u32, extent: [u32; 3]) -> [u32; 3] {
    [n % extent[0], n / extent[0] % extent[1], n / extent[0] / extent[1]]
}
