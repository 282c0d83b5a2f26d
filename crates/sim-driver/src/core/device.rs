//! Device descriptions: limits by compute capability, from the CUDA C++ Programming Guide's table of technical specifications and
//! the data sheets of a typical device of each kind.

use sim_exec::Gpu;
use sim_exec::memory::DeviceMemory;

use super::settings::Settings;
use super::table::Handle;
use crate::code::{Code, Res, refuse};

/// Device addresses of one device are distinct from those of the next by this much.
const DEVICE_SPAN_BYTES: u64 = 1 << 41;

/// What a compute capability has, and a typical device of it.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub compute_capability: (u32, u32),
    pub sm_count: u32,
    pub threads_per_sm: u32,
    pub blocks_per_sm: u32,
    pub shared_bytes_per_sm: u32,
    pub shared_bytes_per_block_optin: u32,
    pub l2_bytes: i32,
    pub clock_khz: i32,
    pub memory_clock_khz: i32,
    pub memory_bus_bits: i32,
}

/// Shared memory that a kernel may use without asking.
pub const SHARED_BYTES_DEFAULT: u32 = 48 << 10;
/// Shared memory per block that the system keeps.
pub const SHARED_BYTES_RESERVED: u32 = 1 << 10;
pub const REGISTERS_PER_SM: u32 = 64 << 10;
pub const THREADS_PER_BLOCK_MAX: u32 = 1024;
pub const BLOCK_DIM_MAX: [u32; 3] = [1024, 1024, 64];
pub const GRID_DIM_MAX: [u32; 3] = [i32::MAX as u32, 65535, 65535];

impl Limits {
    fn of(settings: &Settings) -> Self {
        let of = |sm_count, threads_per_sm, blocks_per_sm, shared_kib: u32, clocks: (i32, i32, i32)| Limits {
            compute_capability: settings.compute_capability,
            sm_count: settings.sm_count.unwrap_or(sm_count),
            threads_per_sm,
            blocks_per_sm,
            shared_bytes_per_sm: shared_kib << 10,
            shared_bytes_per_block_optin: (shared_kib << 10) - SHARED_BYTES_RESERVED,
            l2_bytes: sim_exec::l2_bytes(settings.compute_capability) as i32,
            clock_khz: clocks.0,
            memory_clock_khz: clocks.1,
            memory_bus_bits: clocks.2,
        };
        match settings.compute_capability {
            (8, 0) => of(108, 2048, 32, 164, (1_410_000, 1_215_000, 5120)),
            (8, _) => of(128, 1536, 24, 100, (2_520_000, 10_501_000, 384)),
            (9, _) => of(132, 2048, 32, 228, (1_980_000, 2_619_000, 5120)),
            (10, _) => of(148, 2048, 32, 228, (1_965_000, 3_996_000, 8192)),
            _ => of(170, 1536, 24, 100, (2_407_000, 14_001_000, 512)),
        }
    }

    pub fn has_clusters(&self) -> bool {
        self.compute_capability.0 >= 9
    }
}

/// One device.
#[derive(Debug)]
pub struct Device {
    pub ordinal: usize,
    pub limits: Limits,
    pub gpu: Gpu,
    /// The handle of the primary context, which stays the same while it comes and goes.
    pub primary: Handle,
    pub primary_retained: u32,
    pub primary_flags: u32,
    pub default_pool: Handle,
    pub current_pool: Handle,
}

impl Device {
    pub fn new(ordinal: usize, settings: &Settings, primary: Handle, pool: Handle) -> Self {
        let limits = Limits::of(settings);
        let defaults = sim_exec::GpuConfig::default();
        let config = sim_exec::GpuConfig {
            compute_capability: settings.compute_capability,
            sm_count: limits.sm_count,
            vram_bytes: settings.vram_bytes,
            workers: settings.workers.unwrap_or(defaults.workers),
            checks: settings.checks,
            arithmetic: settings.arithmetic,
            ..defaults
        };
        let mut gpu = Gpu::new(config);
        gpu.memory = DeviceMemory::starting_at(settings.vram_bytes, (1 + ordinal as u64) * DEVICE_SPAN_BYTES);
        Device {
            ordinal,
            limits,
            gpu,
            primary,
            primary_retained: 0,
            primary_flags: 0,
            default_pool: pool,
            current_pool: pool,
        }
    }

    pub fn name(&self) -> String {
        let (major, minor) = self.limits.compute_capability;
        format!("Simulated GPU sm_{major}{minor}")
    }

    /// 16 bytes that tell devices apart.
    pub fn uuid(&self) -> [u8; 16] {
        let mut uuid = *b"kiln simulated\0\0";
        uuid[14] = self.limits.compute_capability.0 as u8;
        uuid[15] = self.ordinal as u8;
        uuid
    }

    /// A `CUdevice_attribute` by its number in `cuda.h`. Zero for features that are not there.
    pub fn attribute(&self, attribute: i32) -> Res<i32> {
        let l = &self.limits;
        let (major, minor) = l.compute_capability;
        Ok(match attribute {
            1 => THREADS_PER_BLOCK_MAX as i32,
            2..=4 => BLOCK_DIM_MAX[attribute as usize - 2] as i32,
            5..=7 => GRID_DIM_MAX[attribute as usize - 5] as i32,
            8 => SHARED_BYTES_DEFAULT as i32,
            // Constant memory.
            9 => 64 << 10,
            10 => 32,
            // Pitch of 2D copies.
            11 => i32::MAX,
            12 | 82 => REGISTERS_PER_SM as i32,
            13 => l.clock_khz,
            // Alignment of textures.
            14 => 512,
            16 => l.sm_count as i32,
            33 => self.ordinal as i32 + 1,
            36 => l.memory_clock_khz,
            37 => l.memory_bus_bits,
            38 => l.l2_bytes,
            39 => l.threads_per_sm as i32,
            // Copy engines.
            40 => 2,
            75 => major as i32,
            76 => minor as i32,
            81 => l.shared_bytes_per_sm as i32,
            97 => l.shared_bytes_per_block_optin as i32,
            106 => l.blocks_per_sm as i32,
            111 => SHARED_BYTES_RESERVED as i32,
            120 | 127 => l.has_clusters().into(),
            // Ratio of single to double precision.
            87 => {
                if matches!((major, minor), (8, 0) | (9, 0) | (10, 0)) {
                    2
                } else {
                    64
                }
            }
            // NUMA nodes: none.
            131 | 134 => -1,
            // Overlap, mapped host memory, concurrent kernels, unified addresses, stream priorities, L1 for global and local, managed
            // memory, preemption, registered host pointers, cooperative launches, host registration, pools, function pointers.
            15 | 19 | 31 | 41 | 78 | 79 | 80 | 83 | 90 | 91 | 95 | 99 | 115 | 129 => 1,
            known if (1..148).contains(&known) => 0,
            _ => return refuse(Code::InvalidValue, format!("{attribute} is no device attribute")),
        })
    }
}
