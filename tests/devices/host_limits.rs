//! What the host cannot give is a typed error with numbers, on every device that runs on it: memory, and threads.
use std::process::Command;

use crate::common::synthetic::TinyModel;
use crate::common::{cpus, limits_one_sequence, reference};
use kiln::device::reference::Mode;
use kiln::device::{DeviceChoice, DeviceError, Dimension, Limits, OpenDevice, Purpose, free_bytes};
use kiln::model::Program;

fn prepare_everywhere(limits: &Limits, check: impl Fn(&str, DeviceError)) {
    let (spec, tensors) = TinyModel::SMALLEST.build(1);
    for tested in cpus().into_iter().chain([reference(Mode::Int8)]) {
        match (tested.prepare)(&Program::of(&spec), &tensors, limits) {
            Err(error) => check(&tested.name, error),
            Ok(_) => panic!("{}: the host gave what it does not have", tested.name),
        }
    }
}

#[test]
fn caches_beyond_all_memory_are_refused_with_numbers() {
    let limits = Limits { num_blocks: u32::MAX, ..limits_one_sequence(32, 1) };
    prepare_everywhere(&limits, |name, error| {
        let DeviceError::OutOfMemory { purpose, asked_bytes, free_bytes, .. } = error else {
            panic!("{name}: {error}")
        };
        assert_eq!(purpose, Purpose::KvArena, "{name}");
        assert_eq!(purpose.grows_with(), [Dimension::Context, Dimension::Sequences]);
        assert!(
            free_bytes.is_some_and(|free| free < asked_bytes && free > 0),
            "{name}: {free_bytes:?} of {asked_bytes}"
        );
    });
}

#[test]
fn workspaces_and_tables_beyond_all_memory_are_refused() {
    for limits in [
        Limits { step_rows_max: 1 << 31, ..limits_one_sequence(32, 1) },
        Limits { logit_rows_max: u32::MAX, ..limits_one_sequence(32, 1) },
        Limits { context_tokens_max: u32::MAX, ..limits_one_sequence(32, 1) },
        Limits { slots_max: u32::MAX, ..limits_one_sequence(32, 1) },
    ] {
        let (spec, tensors) = TinyModel::SMALLEST.build(1);
        for tested in cpus() {
            let error = (tested.prepare)(&Program::of(&spec), &tensors, &limits).err();
            assert!(matches!(error, Some(DeviceError::OutOfMemory { .. })), "{}, {limits:?}: {error:?}", tested.name);
        }
    }
}

#[test]
fn what_is_free_is_room_for_sequences() {
    for choice in [DeviceChoice::Cpu, DeviceChoice::Reference] {
        let device = OpenDevice::open(choice).unwrap();
        assert_eq!(device.gpu_kind(), None);
        let (all, less) = (device.room_bytes(0).unwrap(), device.room_bytes(u64::MAX).unwrap());
        assert_eq!(all.is_some(), free_bytes().is_some());
        assert!(all.is_none_or(|bytes| bytes > 0) && less.is_none_or(|bytes| bytes == 0), "{all:?}, {less:?}");
    }
}

/// Set in the process that runs under a limit.
const CHILD: &str = "KILN_TEST_LIMITED";

/// Runs the test `name` of this binary again with an address space of so many KiB.
fn rerun_limited(name: &str, kib: u64) {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("ulimit -v {kib} && exec \"$0\" \"$@\"")]).arg(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("host_limits::{name}"), "--nocapture", "--test-threads=1"]).env(CHILD, "1");
    let output = command.output().unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && text.contains("1 passed"), "{name}: {}\n{text}", output.status);
}

#[cfg(target_os = "linux")]
#[test]
fn a_process_with_little_address_space_gets_errors() {
    if std::env::var_os(CHILD).is_none() {
        return rerun_limited("a_process_with_little_address_space_gets_errors", 1 << 20);
    }
    let free = free_bytes().unwrap();
    assert!(free <= 1 << 30, "{free} bytes are free in an address space of 1 GiB");
    // 1 GiB of cache: 4 KiB for each block.
    let limits = Limits { num_blocks: 1 << 18, ..limits_one_sequence(32, 1) };
    prepare_everywhere(&limits, |name, error| {
        let refused = matches!(&error, DeviceError::OutOfMemory { purpose: Purpose::KvArena, free_bytes: Some(_), .. });
        assert!(refused, "{name}: {error:?}");
    });
    let (spec, tensors) = TinyModel::SMALLEST.build(1);
    let limits = Limits { threads: 1024, ..limits_one_sequence(32, 1) };
    for tested in cpus() {
        let error = (tested.prepare)(&Program::of(&spec), &tensors, &limits).err();
        assert!(matches!(error, Some(DeviceError::Threads { asked: 1024, started: 1.., .. })), "{error:?}");
        // The next attempt, with threads that fit, is as if there had been none before.
        (tested.prepare)(&Program::of(&spec), &tensors, &limits_one_sequence(32, 1)).unwrap();
    }
}
