//! Every allocation, copy, launch and wait of the CUDA device fails once, on the simulated GPU, each in a process of its own: the error is
//! typed and names its operation, nothing panics, and no memory is left allocated, neither the device's nor pinned.
#![cfg(feature = "cuda")]

use std::path::Path;

use crate::common::simulated;
use crate::common::synthetic::TinyModel;
use kiln::device::cuda::CudaDevice;
use kiln::device::{DeviceError, KvCacheDType, Limits};
use kiln::engine::{Engine, EngineError, Request};
use kiln::ids::TokenId;
use kiln::model::Program;
use kiln::sampling::SamplingParams;
use sim_exec::report::ReportLine;

const MODEL: TinyModel = TinyModel::SMALLEST;

/// A prefill and two decode steps.
fn generate() -> Result<(), EngineError> {
    let (spec, tensors) = MODEL.build(5);
    let limits = Limits {
        slots_max: 1,
        context_tokens_max: 16,
        step_rows_max: 4,
        logit_rows_max: 1,
        block_tokens: 16,
        num_blocks: 1,
        kv_cache_dtype: KvCacheDType::F16,
        threads: 1,
    };
    let device = CudaDevice::prepare(&Program::of(&spec), &tensors, &limits, 0)?;
    let mut engine = Engine::new(Box::new(device), MODEL.vocab_size, Vec::new());
    let prompt_ids = (0..3).map(TokenId).collect();
    engine.add(Request::new(prompt_ids, SamplingParams::greedy(3), 1))?;
    while !engine.is_idle() {
        engine.step()?;
    }
    eprintln!("{DONE}");
    Ok(())
}

/// What a child says when all tokens are there, and what it says of an error.
const DONE: &str = "generated";
const TYPED: &str = "typed error: ";

/// In the child: the error has a type and an operation.
fn expect_typed(kind: &str) {
    if let Err(error) = generate() {
        let (EngineError::Device(device_error) | EngineError::Lost { source: device_error, .. }) = &error else {
            panic!("not of the device: {error:?}")
        };
        match (kind, device_error) {
            ("alloc", DeviceError::OutOfMemory { purpose, asked_bytes, .. }) => {
                assert!(*asked_bytes > 0 && !purpose.name().is_empty());
            }
            ("copy", DeviceError::Cuda { operation, .. }) => assert!(!operation.is_empty()),
            ("launch" | "sync", DeviceError::Lost { operation, .. }) => assert!(!operation.is_empty()),
            other => panic!("{other:?}"),
        }
        eprintln!("{TYPED}{error}");
    }
}

/// By the driver's account: memory of either kind was freed before its context ended. A lost context frees nothing on request, but it must
/// have ended, and then has taken everything with it.
fn expect_nothing_is_left(report: &Path, was_lost: bool) {
    let text = std::fs::read_to_string(report).unwrap();
    let lines: Vec<ReportLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert!(matches!(lines.last(), Some(ReportLine::ContextEnd { .. })), "the context has ended: {:?}", lines.last());
    for line in lines {
        if let ReportLine::ContextEnd { device_bytes, host_bytes } = line {
            assert!(
                was_lost || (device_bytes, host_bytes) == (0, 0),
                "{device_bytes} and {host_bytes} pinned are left"
            );
        }
    }
}

/// Fails the first, second, ... call of `kind`, until there are no more.
fn fail_each(name: &str, kind: &str, at_least: usize) {
    if simulated::is_child() {
        return expect_typed(kind);
    }
    let report = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    for n in 1.. {
        let fault = format!("{kind}:{n}");
        let settings = [("KILN_SIM_FAULT", fault.as_str()), ("KILN_SIM_REPORT", report.path().to_str().unwrap())];
        let text = simulated::rerun_with(name, &settings);
        expect_nothing_is_left(report.path(), matches!(kind, "launch" | "sync"));
        let Some(struck) = text.find("a fault on request") else {
            assert!(n > at_least, "only {} calls are made that {kind} counts", n - 1);
            assert!(text.contains(DONE));
            return;
        };
        // A wait that fails while the device closes is too late to matter.
        let was_done = text.find(DONE).is_some_and(|done| done < struck);
        assert!(was_done || text.contains(TYPED), "{kind}:{n} went unnoticed:\n{text}");
    }
}

#[test]
fn every_allocation_may_fail() {
    fail_each("every_allocation_may_fail", "alloc", 15);
}

#[test]
fn every_copy_may_fail() {
    fail_each("every_copy_may_fail", "copy", 15);
}

#[test]
fn every_launch_may_fail() {
    fail_each("every_launch_may_fail", "launch", 15);
}

#[test]
fn every_wait_may_fail() {
    fail_each("every_wait_may_fail", "sync", 5);
}
