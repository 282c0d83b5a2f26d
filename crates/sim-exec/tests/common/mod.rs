//! Loads one PTX kernel and runs it on buffers.
#![allow(dead_code, clippy::unwrap_used)]

use sim_exec::tensor_map::TensorMap;
use sim_exec::{Gpu, GpuConfig, LaunchConfig, LaunchError, LaunchReport, LoadedModule};

/// What every test kernel starts with.
pub const HEADER: &str = ".version 8.5\n.target sm_90a\n.address_size 64\n";

/// A device with one kernel and the parameters of its next launch.
pub struct Bench {
    pub gpu: Gpu,
    pub module: LoadedModule,
    params: Vec<u8>,
}

impl Bench {
    pub fn new(ptx: &str) -> Self {
        Self::with(ptx, GpuConfig::default())
    }

    pub fn with(ptx: &str, config: GpuConfig) -> Self {
        let gpu = Gpu::new(config);
        let text = format!("{HEADER}{ptx}");
        let module = LoadedModule::load(&gpu, &text, "test.ptx").unwrap_or_else(|e| panic!("{e}"));
        Bench { gpu, module, params: Vec::new() }
    }

    /// A buffer of `words`, passed as the next parameter; returns its address.
    pub fn buffer(&mut self, words: &[u32]) -> u64 {
        let address = self.room(4 * words.len() as u64);
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        self.gpu.memory.write(address, &bytes).unwrap();
        address
    }

    /// An unwritten buffer, passed as the next parameter; returns its address.
    pub fn room(&mut self, bytes: u64) -> u64 {
        let address = self.gpu.memory.alloc(bytes, "buffer").unwrap();
        self.push(&address.to_le_bytes());
        address
    }

    /// A tensor map, passed as the next parameter.
    pub fn tensor_map(&mut self, map: &TensorMap) {
        self.push(&map.encode().map(u64::to_le_bytes).concat());
    }

    /// A number, passed as the next parameter.
    pub fn value(&mut self, value: u32) {
        self.push(&value.to_le_bytes());
    }

    fn push(&mut self, bytes: &[u8]) {
        self.params.resize(self.params.len().next_multiple_of(bytes.len()), 0);
        self.params.extend_from_slice(bytes);
    }

    pub fn launch(&self, config: LaunchConfig<'_>) -> Result<LaunchReport, LaunchError> {
        let kernel = self.module.kernels.values().next().unwrap();
        self.gpu.launch(kernel, &LaunchConfig { params: &self.params, ..config })
    }

    /// One CTA of `threads` threads.
    pub fn run(&self, threads: u32) -> Result<LaunchReport, LaunchError> {
        self.launch(LaunchConfig { block: [threads, 1, 1], ..LaunchConfig::default() })
    }

    pub fn words(&self, address: u64, count: usize) -> Vec<u32> {
        let mut bytes = vec![0; 4 * count];
        self.gpu.memory.read(address, &mut bytes).unwrap();
        bytes.chunks_exact(4).map(|c| u32::from_le_bytes(c.try_into().unwrap())).collect()
    }
}

/// The finding that ended a launch.
pub fn finding(result: Result<LaunchReport, LaunchError>) -> sim_exec::Finding {
    match result {
        Err(LaunchError::Finding(finding)) => *finding,
        Err(other) => panic!("expected a finding, got {other}"),
        Ok(report) => panic!("expected a finding, but the kernel passes: {:?}", report.counters),
    }
}
