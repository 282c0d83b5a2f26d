//! What profiling tools are told by the CUDA device, on the simulated GPU: NVTX ranges, by a tool that writes them down, and where the
//! part to look at starts and stops.
#![cfg(feature = "cuda")]

use crate::common;
use std::path::Path;
use std::process::Command;

use crate::common::simulated;
use crate::common::synthetic::TinyModel;
use kiln::device::{Batch, Choice, Device, InputToken, Profiler, SampleRow};
use kiln::ids::{BlockId, SlotId};
use kiln::model::Program;
use sim_exec::report::ReportLine;

const MODEL: TinyModel = TinyModel { num_layers: 2, ..TinyModel::SMALLEST };

/// In the child: a prompt of three tokens, and two decode steps, the second of which is what is looked at.
fn generate() {
    let (spec, tensors) = MODEL.build(5);
    let mut device = common::cuda().ready(&Program::of(&spec), &tensors, &common::limits_one_sequence(16, 1));
    let step = |device: &mut dyn Device, seq| {
        device.submit(&Batch { starts: Vec::new(), seqs: vec![seq] }).unwrap();
        device.sample(&[SampleRow::plain(0, SlotId(0), Choice::Greedy)]).unwrap();
        device.collect().unwrap();
    };
    let decode = |position| {
        let mut seq = common::rows_of(&[0], position, &[BlockId(0)], vec![0]);
        seq.tokens = vec![InputToken::LastSampled];
        seq
    };
    step(device.as_mut(), common::rows_of(&[1, 2, 3], 0, &[BlockId(0)], vec![2]));
    step(device.as_mut(), decode(3));
    device.profiler(Profiler::Start).unwrap();
    step(device.as_mut(), decode(4));
    device.profiler(Profiler::Stop).unwrap();
}

/// Compiles the tool into `folder`.
fn tool(folder: &Path) -> std::path::PathBuf {
    let library = folder.join("nvtx_tool.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/nvtx_tool.c");
    let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let status =
        Command::new(compiler).args(["-shared", "-fPIC", "-Wall", "-Werror", "-o"]).arg(&library).arg(source).status();
    assert!(status.unwrap().success(), "the tool compiles");
    library
}

#[test]
fn ranges_name_steps_layers_and_stages() {
    if simulated::is_child() {
        return generate();
    }
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (tool, ranges) = (tool(folder.path()), folder.path().join("ranges"));
    let settings = [("NVTX_INJECTION64_PATH", tool.to_str().unwrap()), ("KILN_TEST_RANGES", ranges.to_str().unwrap())];
    simulated::rerun_with("ranges_name_steps_layers_and_stages", &settings);
    let layer = |index: usize| {
        let stages = ["Qkv", "Attend", "OutProj", "GateUp", "Down"].map(|stage| format!("    {stage}\n"));
        format!("  layer {index}\n{}", stages.concat())
    };
    let kernels = format!("  Embed\n{}{}  Head\n  Sample\n", layer(0), layer(1));
    // The kernels of decode steps are queued when their graph is captured; the steps launch it.
    let expected = format!("capture of 1 rows\n{kernels}step 1: 3 rows\n{kernels}step 2: 1 rows\nstep 3: 1 rows\n");
    assert_eq!(std::fs::read_to_string(ranges).unwrap(), expected);
}

#[test]
fn a_tool_that_cannot_be_loaded_is_no_error() {
    if simulated::is_child() {
        return generate();
    }
    let name = "a_tool_that_cannot_be_loaded_is_no_error";
    simulated::rerun_with(name, &[("NVTX_INJECTION64_PATH", "no/such/tool.so")]);
    // A library, but no tool.
    let folder = simulated::library_folder();
    let library = folder.path().join("libcuda.so");
    simulated::rerun_with(name, &[("NVTX_INJECTION64_PATH", library.to_str().unwrap())]);
}

#[test]
fn the_profiler_sees_the_steps_between_start_and_stop() {
    if simulated::is_child() {
        return generate();
    }
    let report = tempfile::NamedTempFile::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let settings = [("KILN_SIM_REPORT", report.path().to_str().unwrap())];
    simulated::rerun_with("the_profiler_sees_the_steps_between_start_and_stop", &settings);
    let text = std::fs::read_to_string(report.path()).unwrap();
    let lines: Vec<ReportLine> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let at = |wanted| {
        let mut found = (0..lines.len()).filter(|&i| lines[i] == ReportLine::Profiler { is_on: wanted });
        (found.next().unwrap(), found.next())
    };
    let ((start, None), (stop, None)) = (at(true), at(false)) else { panic!("switched more than once: {lines:?}") };
    let embeds = |lines: &[ReportLine]| {
        lines.iter().filter(|l| matches!(l, ReportLine::Launch(l) if l.kernel == "kiln_embed")).count()
    };
    let per_part = [&lines[..start], &lines[start..stop], &lines[stop..]].map(embeds);
    assert_eq!(per_part, [2, 1, 0], "steps before, between and after");
}
