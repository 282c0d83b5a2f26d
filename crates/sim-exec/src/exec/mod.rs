//! Running a launch: workers take clusters, clusters take turns with their warps, and the first finding stops everything.

mod arithmetic;
mod atomics;
mod barriers;
mod between_lanes;
mod bulk;
mod calls;
mod copies;
mod counting;
mod fragments;
mod host_calls;
mod matrices;
mod mbarrier;
mod memory;
mod special;
mod state;
mod tensor_maps;
mod transfers;
mod undefined;
mod warp;
mod warpgroups;
mod wgmma;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};

use crate::check::global_race::LAUNCHES;
use crate::counters::Tally;
use crate::finding::{Finding, FindingKind, Place};
use crate::gpu::{Gpu, Kernel, LaunchConfig, LaunchError, LaunchReport};
use crate::rng::Rng;
use crate::traffic::Traffic;
use state::{Cluster, Fault, Launch, Wait};
use warp::Outcome;

/// Warp instructions per turn: short enough to interleave warps, long enough to keep their registers in cache.
const TURN: u64 = 400;
/// Rounds without progress after which spinning warps count as dead.
const STALLED_ROUNDS: u32 = 2000;

static LAUNCH_NUMBER: AtomicU64 = AtomicU64::new(0);

/// See [`Gpu::launch`].
pub fn launch(gpu: &Gpu, kernel: &Kernel, config: &LaunchConfig<'_>) -> Result<LaunchReport, LaunchError> {
    validate(gpu, kernel, config)?;
    let memory = gpu.memory.snapshot();
    let number = LAUNCH_NUMBER.fetch_add(1, Relaxed) % LAUNCHES;
    let launch = Launch {
        gpu,
        kernel,
        program: &kernel.program,
        config,
        memory: &memory,
        traffic: Traffic::new(memory.len()),
        number,
        sync: (0..64).map(|_| Mutex::default()).collect(),
        sync_used: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        instructions: AtomicU64::new(0),
        progress: AtomicU64::new(0),
        output: Mutex::default(),
    };
    if number == 0 {
        launch.memory.iter().for_each(|a| a.races.clear());
    }
    let tally = run_clusters(&launch)?;
    let mut counters = tally.total(&kernel.program);
    launch.traffic.add_to(&mut counters);
    let output = launch.output.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok(LaunchReport { counters, output, tally })
}

fn validate(gpu: &Gpu, kernel: &Kernel, config: &LaunchConfig<'_>) -> Result<(), LaunchError> {
    let invalid = |message: String| Err(LaunchError::Invalid(format!("{}: {message}", kernel.name)));
    let threads: u64 = config.block.iter().map(|&n| u64::from(n)).product();
    if config.grid.contains(&0) || config.cluster.contains(&0) || threads == 0 {
        return invalid("grid, block and cluster need at least 1 in every direction".into());
    }
    if threads > u64::from(kernel.threads_max()) {
        return invalid(format!("{threads} threads per CTA, the kernel allows {}", kernel.threads_max()));
    }
    if config.params.len() != kernel.param_bytes as usize {
        return invalid(format!("{} parameter bytes, expected {}", config.params.len(), kernel.param_bytes));
    }
    if (0..3).any(|i| !config.grid[i].is_multiple_of(config.cluster[i])) {
        return invalid(format!("grid {:?} is no multiple of cluster {:?}", config.grid, config.cluster));
    }
    if kernel.cluster.is_some_and(|required| required != config.cluster) {
        return invalid(format!("cluster {:?}, the kernel requires {:?}", config.cluster, kernel.cluster));
    }
    let shared = kernel.static_shared_bytes + config.dynamic_shared_bytes;
    let shared_max = match gpu.config.compute_capability {
        (8, 0) => 163 << 10,
        (8, _) | (12, _) => 99 << 10,
        _ => 227 << 10,
    };
    if shared > shared_max {
        return invalid(format!("{shared} bytes of shared memory, the device has {shared_max}"));
    }
    Ok(())
}

fn run_clusters(launch: &Launch<'_>) -> Result<Tally, LaunchError> {
    let per_cluster: u32 = launch.config.cluster.iter().product();
    let clusters = launch.config.grid.iter().product::<u32>() / per_cluster;
    let workers = launch.gpu.config.workers.clamp(1, clusters as usize) as u32;
    let next = AtomicU32::new(0);
    let work = |worker: u32| {
        let result = if launch.config.cooperative {
            run_resident(launch, (worker..clusters).step_by(workers as usize))
        } else {
            run_in_order(launch, &next, clusters)
        };
        if result.is_err() {
            launch.stop.store(true, Relaxed);
        }
        result
    };
    let results: Vec<Result<Tally, Finding>> = if workers == 1 {
        vec![work(0)]
    } else {
        std::thread::scope(|scope| {
            let handles: Vec<_> = (0..workers).map(|w| scope.spawn(move || work(w))).collect();
            handles.into_iter().map(|h| h.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
        })
    };
    let mut results = results.into_iter().map(|r| r.map_err(|finding| LaunchError::Finding(Box::new(finding))));
    let mut total = results.next().expect("there is at least one worker")?;
    for result in results {
        total.merge(&result?);
    }
    Ok(total)
}

/// CTAs start in the order of their index, as hardware does and look-back algorithms rely on.
fn run_in_order(launch: &Launch<'_>, next: &AtomicU32, clusters: u32) -> Result<Tally, Finding> {
    let mut tally = Tally::new(launch.program.instructions.len());
    loop {
        let id = next.fetch_add(1, Relaxed);
        if id >= clusters || launch.stop.load(Relaxed) {
            return Ok(tally);
        }
        let mut cluster = Cluster::new(launch, id);
        while !cluster.is_done() && !launch.stop.load(Relaxed) {
            run_round(launch, &mut cluster, &mut tally, TURN)?;
        }
        if cluster.is_done() {
            warp::finish(launch, &mut cluster, &mut tally)?;
        }
    }
}

/// All clusters of this worker are resident and take turns.
fn run_resident(launch: &Launch<'_>, ids: impl Iterator<Item = u32>) -> Result<Tally, Finding> {
    let mut clusters: Vec<Cluster> = ids.map(|id| Cluster::new(launch, id)).collect();
    let mut tally = Tally::new(launch.program.instructions.len());
    let mut rng = Rng::new(launch.config.seed);
    while !clusters.is_empty() && !launch.stop.load(Relaxed) {
        let turn = 1 + rng.below(TURN);
        for cluster in &mut clusters {
            run_round(launch, cluster, &mut tally, turn)?;
        }
        for done in clusters.extract_if(.., |cluster| cluster.is_done()) {
            warp::finish(launch, &mut { done }, &mut tally)?;
        }
    }
    Ok(tally)
}

/// Gives every warp one turn, in an order and of lengths that the seed chooses.
fn run_round(launch: &Launch<'_>, cluster: &mut Cluster, tally: &mut Tally, turn: u64) -> Result<(), Finding> {
    let count = cluster.warps.len();
    let first = cluster.rng.below(count as u64) as usize;
    let mut moved = false;
    for i in 0..count {
        let at = (first + i) % count;
        if cluster.warps[at].fragments.is_empty() {
            continue;
        }
        // Mostly short turns, some long: races and missing waits show at both scales.
        let scale = cluster.rng.below(u64::from(turn.ilog2()) + 1);
        let budget = 1 + cluster.rng.below(2 << scale);
        let before = cluster.warps[at].instructions;
        let outcome = warp::run(launch, cluster, tally, at, budget)?;
        let warp = &cluster.warps[at];
        launch.instructions.fetch_add(warp.instructions - before, Relaxed);
        // A warp between two failed waits of one loop has not moved, whatever ended its turn.
        moved |= !warp.spinning && outcome != Outcome::Blocked;
        if outcome == Outcome::Blocked && warp.instructions != before {
            moved = true;
        }
    }
    if launch.instructions.load(Relaxed) > launch.gpu.config.instructions_max {
        return Err(stuck(launch, cluster, FindingKind::InstructionLimit));
    }
    if moved {
        cluster.stalled_rounds = 0;
        launch.progress.fetch_add(1, Relaxed);
        return Ok(());
    }
    watch_for_deadlock(launch, cluster)
}

/// Blocked warps that nobody outside can wake are a deadlock at once; spinning ones only when nothing moves anywhere.
fn watch_for_deadlock(launch: &Launch<'_>, cluster: &mut Cluster) -> Result<(), Finding> {
    let spinning = cluster.warps.iter().any(|w| w.spinning);
    let progress = launch.progress.load(Relaxed);
    if progress != cluster.seen_progress && spinning {
        cluster.seen_progress = progress;
        cluster.stalled_rounds = 0;
    }
    cluster.stalled_rounds += 1;
    let limit = if spinning { STALLED_ROUNDS } else { 2 };
    if cluster.is_done() || cluster.stalled_rounds < limit {
        return Ok(());
    }
    let fragments = || cluster.warps.iter().flat_map(|w| w.fragments.iter());
    let divergent = fragments()
        .any(|f| matches!(f.wait, Some(Wait::Converge { .. } | Wait::WarpSync { .. } | Wait::Warpgroup { .. })));
    let kind = if divergent { FindingKind::DivergentBarrier } else { FindingKind::Deadlock };
    Err(stuck(launch, cluster, kind))
}

/// A finding that says who waits where.
fn stuck(launch: &Launch<'_>, cluster: &Cluster, kind: FindingKind) -> Finding {
    let mut lines = Vec::new();
    let mut first: Option<(usize, u32, u32)> = None;
    for warp in &cluster.warps {
        for fragment in &warp.fragments {
            let place = &launch.program.places[fragment.pc as usize];
            let what = match fragment.wait {
                Some(Wait::Converge { lanes }) => format!("waits for lanes {:#x} of its warp", lanes & !fragment.mask),
                Some(Wait::WarpSync { lanes }) => {
                    format!("waits for lanes {:#x} at a warp barrier", lanes & !fragment.mask)
                }
                Some(Wait::Barrier { id, .. }) => {
                    let barrier = &cluster.ctas[warp.cta].barriers[id];
                    let expected = barrier.expected.unwrap_or(cluster.ctas[warp.cta].live_threads);
                    format!("waits at barrier {id}, where {} of {expected} threads arrived", barrier.arrived)
                }
                Some(Wait::Cluster { .. }) => "waits at the cluster barrier".into(),
                Some(Wait::Warpgroup { issued }) => {
                    let group = &cluster.ctas[warp.cta].warpgroups[warp.index / 4];
                    format!(
                        "waits for {issued} wgmmas, of which the warps of its warpgroup issued {:?}",
                        group.issued()
                    )
                }
                None => "spins".into(),
            };
            if first.is_none() || matches!(fragment.wait, Some(Wait::Converge { .. } | Wait::Warpgroup { .. })) {
                first = Some((warp.id, fragment.pc, fragment.mask));
            }
            lines.push(format!("CTA {} warp {} lanes {:#x} at {place} {what}", warp.cta, warp.index, fragment.mask));
        }
    }
    let (warp, pc, mask) = first.unwrap_or((0, 0, 1));
    let fault = Fault::new(kind, Some(mask.trailing_zeros() as usize), lines.join("; "));
    locate(launch, cluster, warp, pc, fault)
}

/// Adds kernel, CTA, thread and place to a fault.
fn locate(launch: &Launch<'_>, cluster: &Cluster, warp: usize, pc: u32, fault: Fault) -> Finding {
    let warp = &cluster.warps[warp];
    let pc = fault.pc.unwrap_or(pc);
    let thread = |lane: usize| state::unflatten((warp.index * 32 + lane) as u32, launch.config.block);
    Finding {
        kind: fault.kind,
        kernel: launch.kernel.name.clone(),
        cta: cluster.ctas[warp.cta].index,
        thread: fault.lane.map(thread),
        place: launch.program.places.get(pc as usize).cloned().unwrap_or_else(Place::default),
        message: fault.message,
    }
}
