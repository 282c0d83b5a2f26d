//! A lowered kernel: flat operations over numbered registers, with every name, immediate and special register resolved.

use std::ops::Range;

use crate::counters::Class;
use crate::finding::Place;
use crate::lanes::approx::ApproxOp;
use crate::lanes::convert::Conversion;
use crate::lanes::{CompareFn, LaneFn};
use crate::matrix::descriptor::Major;
use crate::matrix::fragments::{Fragment, Origin};
use crate::matrix::moves::Arrangement;
use crate::matrix::{Kind, Tile};
use crate::tensor_map::MapField;

/// Index of a register of 32 × 64 bits.
pub type Slot = u16;
/// Index of a predicate register of 32 bits.
pub type PredSlot = u16;
/// A destination that is thrown away (`_`).
pub const SINK: u16 = u16::MAX;

/// A predicate operand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pred {
    pub slot: PredSlot,
    pub negated: bool,
}

/// One operation with its guard.
#[derive(Clone, Debug)]
pub struct Instruction {
    pub op: Op,
    pub guard: Option<Pred>,
}

/// State space of an access, after lowering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Space {
    Global,
    Shared,
    SharedCluster,
    Local,
    Param,
    Generic,
}

/// `[base + offset]`; without a base the offset is the address.
#[derive(Clone, Copy, Debug)]
pub struct Address {
    pub base: Option<Slot>,
    pub offset: i64,
    /// The base register holds 64 bits.
    pub wide: bool,
}

/// Memory ordering of an access.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Strength {
    Weak,
    Relaxed,
    Acquire,
    Release,
    AcquireRelease,
}

impl Strength {
    pub fn acquires(self) -> bool {
        matches!(self, Strength::Acquire | Strength::AcquireRelease)
    }

    pub fn releases(self) -> bool {
        matches!(self, Strength::Release | Strength::AcquireRelease)
    }
}

/// A load or store of one or more registers per lane.
#[derive(Clone, Debug)]
pub struct Access {
    pub space: Space,
    /// Bytes per register.
    pub width: u32,
    pub signed: bool,
    pub strength: Strength,
    pub address: Address,
    pub registers: Box<[Slot]>,
    /// Bit by bit, the bytes that the program uses of what it loads (`.pragma "used_bytes_mask"`): the others may be
    /// anything, and may be written meanwhile.
    pub used_bytes: u32,
}

impl Access {
    /// All bytes are used.
    pub const ALL_USED: u32 = !0;

    /// The used bytes of register `r`, from the first to the last: offset in the access and length.
    pub fn used_range(&self, r: usize) -> Option<(u32, u32)> {
        let first = r as u32 * self.width;
        let used = (u64::from(self.used_bytes) >> first) & ((1 << self.width) - 1);
        (used != 0).then(|| (first + used.trailing_zeros(), u64::BITS - used.leading_zeros() - used.trailing_zeros()))
    }

    /// Whether an access of `bytes` per lane is one step for others although it is more than one word.
    pub fn is_strong_and_wide(&self, bytes: u64) -> bool {
        self.strength > Strength::Weak && bytes > 4
    }
}

/// What an atomic does to the old value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicKind {
    Add,
    Min,
    Max,
    And,
    Or,
    Xor,
    Exchange,
    CompareExchange,
    Increment,
    Decrement,
}

/// The element type of an atomic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AtomicType {
    Unsigned(u32),
    Signed(u32),
    F32,
    F64,
    F16,
    Bf16,
    F16x2,
    Bf16x2,
}

impl AtomicType {
    /// Bytes of one element.
    pub fn width(self) -> u32 {
        match self {
            AtomicType::Unsigned(bits) | AtomicType::Signed(bits) => bits / 8,
            AtomicType::F32 | AtomicType::F16x2 | AtomicType::Bf16x2 => 4,
            AtomicType::F64 => 8,
            AtomicType::F16 | AtomicType::Bf16 => 2,
        }
    }
}

/// `atom` and `red`, also vectors.
#[derive(Clone, Debug)]
pub struct Atomic {
    pub kind: AtomicKind,
    pub ty: AtomicType,
    pub space: Space,
    pub strength: Strength,
    pub address: Address,
    /// Empty for `red`.
    pub d: Box<[Slot]>,
    pub value: Box<[Slot]>,
    /// The new value of a compare-exchange.
    pub swap: Option<Slot>,
}

/// `shfl` mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    Up,
    Down,
    Butterfly,
    Index,
}

/// `vote` mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vote {
    All,
    Any,
    Uniform,
    Ballot,
}

/// `redux` operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redux {
    Add,
    MinU,
    MaxU,
    MinS,
    MaxS,
    And,
    Or,
    Xor,
}

/// What a CTA barrier does besides waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BarrierKind {
    Sync,
    Arrive,
    RedPopc { d: Slot, p: Pred },
    RedAnd { d: PredSlot, p: Pred },
    RedOr { d: PredSlot, p: Pred },
}

/// `bar` and `barrier.cta`.
#[derive(Clone, Debug)]
pub struct Barrier {
    pub kind: BarrierKind,
    pub id: Slot,
    /// Number of threads; all live threads of the CTA if absent.
    pub threads: Option<Slot>,
    /// All threads of a warp must execute it together.
    pub aligned: bool,
}

/// add/sub/mad with carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CarryKind {
    Add,
    Sub,
    MadLo,
    MadHi { signed: bool },
}

/// The bits of an mbarrier's state that say how many arrivals its phase still needs.
pub const MBARRIER_PENDING_MASK: u64 = 0xf_ffff;

/// An operation on an mbarrier object.
#[derive(Clone, Debug)]
pub enum MbarrierOp {
    Init {
        count: Slot,
    },
    Invalidate,
    /// Arrive; `drop` also lowers the expected count; `tx` expects bytes first.
    Arrive {
        count: Option<Slot>,
        tx: Option<Slot>,
        drop: bool,
        state: Slot,
        releases: bool,
    },
    ExpectTx {
        tx: Slot,
    },
    CompleteTx {
        tx: Slot,
    },
    /// test_wait and try_wait; `parity` tells what `state` is.
    Wait {
        d: PredSlot,
        state: Slot,
        parity: bool,
        acquires: bool,
    },
    /// `cp.async.mbarrier.arrive`.
    ArriveAfterCopies {
        no_increment: bool,
    },
}

/// Where a bulk copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BulkRoute {
    /// From global memory to shared memory, of one or several CTAs of the cluster.
    Load,
    /// From the CTA's shared memory to global memory.
    Store,
    /// From the CTA's shared memory to that of a CTA of the cluster.
    Between,
}

/// The side of a bulk copy that is not `Bulk::shared`.
#[derive(Clone, Debug)]
pub enum BulkFar {
    /// So many bytes from an address on.
    Bytes { address: Address, bytes: Slot },
    /// The box of a tensor map that begins at the coordinates.
    Tensor { map: Address, coordinates: Box<[Slot]> },
}

/// `cp.async.bulk`, `cp.reduce.async.bulk` and their tensor forms.
#[derive(Clone, Debug)]
pub struct Bulk {
    pub route: BulkRoute,
    /// The destination of a load, else the source.
    pub shared: Address,
    pub far: BulkFar,
    /// What counts the bytes that arrived; stores have bulk groups instead.
    pub mbarrier: Option<Address>,
    /// The CTAs that a load goes to, if several.
    pub cta_mask: Option<Slot>,
    /// Updates the destination; a tensor map knows the type itself.
    pub reduce: Option<(AtomicKind, Option<AtomicType>)>,
}

impl Bulk {
    /// All registers that the copy reads.
    pub fn registers(&self) -> impl Iterator<Item = Slot> {
        let (far, others) = match &self.far {
            BulkFar::Bytes { address, bytes } => (address, std::slice::from_ref(bytes)),
            BulkFar::Tensor { map, coordinates } => (map, &**coordinates),
        };
        let bases =
            [Some(&self.shared), Some(far), self.mbarrier.as_ref()].into_iter().flatten().filter_map(|a| a.base);
        bases.chain(others.iter().copied()).chain(self.cta_mask)
    }
}

/// ldmatrix and stmatrix: each register holds eight rows of 16 bytes.
#[derive(Clone, Debug)]
pub struct MatrixMove {
    pub arrangement: Arrangement,
    /// `Shared` or `Generic`.
    pub space: Space,
    pub registers: Box<[Slot]>,
    pub address: Address,
}

/// `d = a b + c` on register fragments: mma.sync and wmma.mma.
#[derive(Clone, Debug)]
pub struct Mma {
    pub tile: Tile,
    pub kind: Kind,
    pub multiply_adds: u64,
    pub d: Box<[Slot]>,
    pub a: Box<[Slot]>,
    pub b: Box<[Slot]>,
    pub c: Box<[Slot]>,
}

/// Where wgmma takes A from.
#[derive(Clone, Debug)]
pub enum WgmmaA {
    Registers(Box<[Slot]>),
    /// A register with a matrix descriptor.
    Memory(Slot, Major),
}

/// One warp's share of wgmma.mma_async: 16 of 64 rows.
#[derive(Clone, Debug)]
pub struct Wgmma {
    pub tile: Tile,
    pub kind: Kind,
    pub multiply_adds: u64,
    /// n
    pub columns: usize,
    pub d: Box<[Slot]>,
    pub a: WgmmaA,
    /// A register with a matrix descriptor.
    pub b: Slot,
    pub b_major: Major,
    /// Whether D's old value is added.
    pub scale_d: Pred,
    /// The sign bits of A's registers, if the product is negated.
    pub flip: u64,
}

/// The registers of wgmmas that another instruction touches.
#[derive(Clone, Debug)]
pub struct Watch {
    pub reads: Box<[Slot]>,
    pub writes: Box<[Slot]>,
    /// The instruction only copies one register to another.
    pub copies: bool,
}

/// Whether a matrix lies in memory row by row or column by column.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatrixOrder {
    Rows,
    Columns,
}

/// One access of a fragment's load or store. The address of `access` is not used.
#[derive(Clone, Debug)]
pub struct FragmentPiece {
    pub access: Access,
    pub origin: Origin,
}

/// wmma.load and wmma.store.
#[derive(Clone, Debug)]
pub struct FragmentMove {
    pub fragment: Fragment,
    pub order: MatrixOrder,
    pub address: Address,
    /// In elements.
    pub stride: Slot,
    pub pieces: Box<[FragmentPiece]>,
    /// Puts the loaded pieces together, or takes the registers to be stored apart.
    pub parts: Box<[Instruction]>,
}

/// A parameter or result of a recursive call: offsets in local memory.
#[derive(Clone, Copy, Debug)]
pub struct ParamCopy {
    pub caller: u32,
    pub callee: u32,
    pub bytes: u32,
}

/// A function that is entered again, and what belongs to one activation of it.
#[derive(Clone, Debug)]
pub struct Recursion {
    /// The first instruction of its body.
    pub target: u32,
    pub slots: Range<Slot>,
    pub preds: Range<PredSlot>,
    pub locals: Range<u32>,
    pub arguments: Vec<ParamCopy>,
    pub results: Vec<ParamCopy>,
}

/// Every operation that the executor knows.
#[derive(Clone, Debug)]
pub enum Op {
    Nop,
    // Arithmetic, one lane at a time.
    Lanes {
        f: LaneFn,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Lop3 {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        table: u8,
        p: Option<(PredSlot, Option<Pred>, bool)>,
    },
    Insert {
        d: Slot,
        a: Slot,
        b: Slot,
        position: Slot,
        count: Slot,
        bits: u32,
    },
    Approx {
        op: ApproxOp,
        d: Slot,
        a: Slot,
        b: Slot,
    },
    Convert {
        conversion: Box<Conversion>,
        d: Slot,
        a: Slot,
    },
    /// `a` to the upper half, `b` to the lower.
    ConvertPair {
        conversion: Box<Conversion>,
        d: Slot,
        a: Slot,
        b: Slot,
        half_bits: u32,
    },
    /// Each half of `a` on its own.
    ConvertHalves {
        conversion: Box<Conversion>,
        d: Slot,
        a: Slot,
        from_bits: u32,
        to_bits: u32,
    },
    Carry {
        kind: CarryKind,
        bits: u32,
        carry_in: bool,
        carry_out: bool,
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
    },
    Compare {
        f: CompareFn,
        p: PredSlot,
        q: PredSlot,
        a: Slot,
        b: Slot,
        combine: Option<(BoolOp, Pred)>,
    },
    /// `set`: all ones or 1.0 where true.
    Set {
        f: CompareFn,
        d: Slot,
        a: Slot,
        b: Slot,
        one: u64,
        combine: Option<(BoolOp, Pred)>,
    },
    /// `setp` on the lower halves for `p`, on the upper halves for `q`.
    CompareHalves {
        f: CompareFn,
        p: PredSlot,
        q: PredSlot,
        a: Slot,
        b: Slot,
        combine: Option<(BoolOp, Pred)>,
    },
    /// `set` on each half: `one` where true.
    SetHalves {
        f: CompareFn,
        d: Slot,
        a: Slot,
        b: Slot,
        one: u16,
    },
    Select {
        d: Slot,
        a: Slot,
        b: Slot,
        p: Pred,
    },
    SelectBySign {
        d: Slot,
        a: Slot,
        b: Slot,
        c: Slot,
        float: bool,
    },
    /// Truth table indexed by `a << 1 | b`.
    Logic {
        table: u8,
        d: PredSlot,
        a: Pred,
        b: Pred,
    },
    Pack {
        d: Slot,
        parts: Box<[Slot]>,
        bits: u32,
    },
    Unpack {
        parts: Box<[Slot]>,
        a: Slot,
        bits: u32,
    },
    ActiveMask {
        d: Slot,
    },
    Clock {
        d: Slot,
    },
    // Control.
    Branch {
        target: u32,
    },
    BranchIndexed {
        index: Slot,
        targets: Box<[u32]>,
    },
    Exit,
    Trap,
    /// A call of a function from within itself.
    CallAgain(Box<Recursion>),
    /// The end of a function that calls itself and whose body begins at `start`: back to the call that entered it again, or to
    /// `end` if none did.
    Return {
        start: u32,
        end: u32,
    },
    /// The register points to a function, if to anything.
    CheckFunction {
        address: Slot,
    },
    Barrier(Box<Barrier>),
    WarpSync {
        mask: Slot,
    },
    ClusterArrive,
    ClusterWait,
    Fence,
    Yield,
    // Memory.
    Load(Box<Access>),
    Store(Box<Access>),
    Atomic(Box<Atomic>),
    MapShared {
        d: Slot,
        a: Slot,
        rank: Slot,
        generic: bool,
    },
    ClusterRank {
        d: Slot,
        a: Slot,
    },
    IsSpace {
        p: PredSlot,
        a: Slot,
        space: Space,
    },
    // Between lanes.
    Shuffle {
        mode: Shuffle,
        d: Slot,
        p: PredSlot,
        a: Slot,
        b: Slot,
        c: Slot,
        mask: Slot,
    },
    Vote {
        mode: Vote,
        d: Slot,
        dp: PredSlot,
        p: Pred,
        mask: Slot,
    },
    Match {
        all: bool,
        wide: bool,
        d: Slot,
        p: PredSlot,
        a: Slot,
        mask: Slot,
    },
    Redux {
        op: Redux,
        d: Slot,
        a: Slot,
        mask: Slot,
    },
    Elect {
        d: Slot,
        p: PredSlot,
        mask: Slot,
    },
    // Matrices.
    LoadMatrix(Box<MatrixMove>),
    StoreMatrix(Box<MatrixMove>),
    MoveMatrix {
        d: Slot,
        a: Slot,
    },
    Mma(Box<Mma>),
    LoadFragment(Box<FragmentMove>),
    StoreFragment(Box<FragmentMove>),
    WgmmaFence,
    WgmmaCommit,
    WgmmaWait {
        pending: u32,
    },
    Wgmma(Box<Wgmma>),
    // Asynchronous copies.
    CopyAsync {
        to: Address,
        from: Address,
        bytes: u32,
        from_bytes: Option<Slot>,
        ignore: Option<Pred>,
    },
    CopyCommit,
    CopyWait {
        pending: u32,
    },
    Mbarrier {
        op: Box<MbarrierOp>,
        address: Address,
    },
    Bulk(Box<Bulk>),
    BulkCommit,
    BulkWait {
        pending: u32,
        /// Only until the sources have been read.
        read: bool,
    },
    /// `fence.proxy.async`, of one or both kinds of memory.
    ProxyFence {
        shared: bool,
        global: bool,
    },
    /// `tensormap.replace`.
    ReplaceInMap {
        field: MapField,
        address: Address,
        space: Space,
        value: Slot,
    },
    /// `tensormap.cp_fenceproxy`: from shared to global memory.
    CopyMap {
        to: Address,
        from: Address,
    },
    // Calls into the host.
    Printf {
        format: Slot,
        arguments: Slot,
        d: Slot,
    },
    Assert {
        message: Slot,
        file: Slot,
        line: Slot,
    },
}

/// Bytes of shared memory beyond what a program declares, reserved for the system's software (PTX ISA, special register
/// `%reserved_smem_offset_cap`).
pub const RESERVED_SHARED_BYTES: u32 = 1024;

/// How `setp` combines its result with a third predicate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BoolOp {
    And,
    Or,
    Xor,
}

/// A value that is known when a warp starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    Tid(u8),
    Ntid(u8),
    Ctaid(u8),
    Nctaid(u8),
    LaneId,
    WarpId,
    NWarpId,
    SmId,
    NSmId,
    GridId,
    LaneMaskEq,
    LaneMaskLt,
    LaneMaskLe,
    LaneMaskGt,
    LaneMaskGe,
    ClusterId(u8),
    NClusterId(u8),
    ClusterCtaId(u8),
    ClusterNCtaId(u8),
    ClusterCtaRank,
    ClusterNCtaRank,
    DynamicSharedBytes,
    TotalSharedBytes,
    /// `%reserved_smem_offset_*`: where the part of shared memory that programs do not declare begins, plus this many bytes.
    ReservedSharedOffset(u32),
    ReservedSharedBytes,
    EnvReg(u8),
}

/// A kernel ready to run.
#[derive(Clone, Debug, Default)]
pub struct Program {
    pub instructions: Vec<Instruction>,
    /// One per instruction.
    pub places: Vec<Place>,
    /// One per instruction.
    pub classes: Vec<Class>,
    /// Whether some instruction is a bulk copy or a wgmma.
    pub uses_async_proxy: bool,
    /// Whether some instruction is `griddepcontrol.launch_dependents`, or `griddepcontrol.wait`.
    pub launches_dependents: bool,
    pub waits_for_dependencies: bool,
    /// One per instruction, or empty if no instruction is wgmma.
    pub watches: Vec<Option<Box<Watch>>>,
    pub slots: usize,
    pub preds: usize,
    pub constants: Vec<(Slot, u64)>,
    pub specials: Vec<(Slot, Special)>,
    pub static_shared_bytes: u32,
    pub local_bytes: u32,
}
