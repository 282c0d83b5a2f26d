//! The binary as its users meet it: output, files and exit codes.
#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// y[i] = a x[i] for i < n; with a planted bug, i <= n.
fn scale(target: &str, bug: bool) -> String {
    let outside = if bug { "gt" } else { "ge" };
    format!(
        ".version 8.5\n.target {target}\n.address_size 64\n
.visible .entry scale(.param .u64 x, .param .u64 y, .param .f32 a, .param .u32 n) {{
  .reg .f32 %f<4>; .reg .b32 %r<6>; .reg .b64 %rd<8>; .reg .pred %p<2>;
  ld.param.u64 %rd1, [x]; ld.param.u64 %rd2, [y]; ld.param.f32 %f3, [a]; ld.param.u32 %r2, [n];
  mov.u32 %r3, %ctaid.x; mov.u32 %r4, %ntid.x; mov.u32 %r5, %tid.x;
  mad.lo.s32 %r1, %r3, %r4, %r5;
  setp.{outside}.u32 %p1, %r1, %r2;
  @%p1 bra END;
  mul.wide.s32 %rd4, %r1, 4; add.s64 %rd5, %rd1, %rd4; add.s64 %rd7, %rd2, %rd4;
  ld.global.f32 %f1, [%rd5];
  mul.f32 %f2, %f1, %f3;
  st.global.f32 [%rd7], %f2;
END:
  ret;
}}
"
    )
}

/// A folder with a PTX file in it.
fn written(text: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("scale.ptx");
    std::fs::write(&path, text).unwrap();
    (folder, path)
}

fn sim(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sim")).args(arguments).output().unwrap()
}

fn run(file: &Path, arguments: &[&str]) -> Output {
    let mut all = vec!["run", file.to_str().unwrap()];
    all.extend_from_slice(arguments);
    sim(&all)
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

const ARGUMENTS: [&str; 10] =
    ["--block", "64", "--arg", "buffer:f32:50:iota", "--arg", "out:f32:50:show=3", "--arg", "f32:2", "--arg", "u32:50"];

#[test]
fn a_clean_run_shows_counters_and_results() {
    let (_folder, file) = written(&scale("sm_80", false));
    let output = run(&file, &ARGUMENTS);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let text = out(&output);
    assert!(text.contains("scale: grid 1×1×1, block 64×1×1, seed 0"), "{text}");
    assert!(text.contains("out:f32:50:show=3 = 0 2 4 …"), "{text}");
    // 50 floats are 7 sectors each way.
    let dram: Vec<&str> = text.lines().skip_while(|l| !l.starts_with("DRAM")).skip(1).take(3).collect();
    let numbers: Vec<&str> = dram.iter().filter_map(|l| l.split_whitespace().last()).collect();
    assert_eq!(numbers, ["224", "224", "448"], "{text}");
}

#[test]
fn a_finding_ends_with_1_and_shows_the_line() {
    let (_folder, file) = written(&scale("sm_80", true));
    let output = run(&file, &ARGUMENTS);
    assert_eq!(output.status.code(), Some(1), "{}", err(&output));
    let text = out(&output);
    assert!(text.contains("finding: OutOfBounds in scale"), "{text}");
    assert!(text.contains("thread (50,0,0)") && text.contains("argument 0 (buffer:f32:50:iota)"), "{text}");
    assert!(text.lines().any(|l| l.contains('>') && l.ends_with("ld.global.f32 %f1, [%rd5];")), "{text}");
}

#[test]
fn buffers_come_from_files_and_go_to_files() {
    let (folder, file) = written(&scale("sm_80", false));
    let (x, y) = (folder.path().join("x.bin"), folder.path().join("y.bin"));
    let values: Vec<u8> = [1.5f32, -2.0, 3.25].iter().flat_map(|v| v.to_le_bytes()).collect();
    std::fs::write(&x, values).unwrap();
    let from = format!("buffer:f32:3:file={}", x.display());
    let to = format!("out:f32:3:save={}", y.display());
    let output = run(&file, &["--block", "32", "--arg", &from, "--arg", &to, "--arg", "f32:-2", "--arg", "u32:3"]);
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let expected: Vec<u8> = [-3.0f32, 4.0, -6.5].iter().flat_map(|v| v.to_le_bytes()).collect();
    assert_eq!(std::fs::read(&y).unwrap(), expected);
    let long = format!("buffer:f32:4:file={}", x.display());
    let output = run(&file, &["--block", "32", "--arg", &long, "--arg", &to, "--arg", "f32:-2", "--arg", "u32:3"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("expected 16 bytes, found \"12 bytes\""), "{}", err(&output));
}

#[test]
fn many_seeds_are_summed_up() {
    let (_folder, file) = written(&scale("sm_80", false));
    let output = run(&file, &[&ARGUMENTS[..], &["--seeds", "5", "--grid", "3"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    assert!(out(&output).contains("5 of 5 schedules ran without a finding"), "{}", out(&output));
    let (_folder, file) = written(&scale("sm_80", true));
    let output = run(&file, &[&ARGUMENTS[..], &["--seeds", "5"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let text = out(&output);
    assert!(text.contains("with --seed 0 and 4 others of 5") && text.contains("0 of 5 schedules"), "{text}");
    assert_eq!(text.matches("finding:").count(), 1, "{text}");
}

#[test]
fn annotation_puts_counters_beside_lines() {
    let (_folder, file) = written(&scale("sm_80", false));
    let output = run(&file, &[&ARGUMENTS[..], &["--annotate=ptx"]].concat());
    let text = out(&output);
    let load = text.lines().find(|l| l.contains("ld.global.f32")).unwrap();
    // Two warps, 50 of 64 lanes, seven sectors.
    assert_eq!(load.split_whitespace().take(3).collect::<Vec<_>>(), ["2", "78%", "7/7"], "{text}");
}

#[test]
fn json_holds_counters_lines_and_findings() {
    let (_folder, file) = written(&scale("sm_80", false));
    let output = run(&file, &[&ARGUMENTS[..], &["--json", "--annotate=ptx", "--seeds", "2"]].concat());
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let runs = json["runs"].as_array().unwrap();
    assert_eq!(runs.len(), 2);
    assert_eq!(runs[0]["launch"]["counters"]["dram_read_bytes"], 224);
    assert_eq!(runs[0]["launch"], runs[1]["launch"]);
    assert_eq!(runs[0]["buffers"][0]["values"], serde_json::json!(["0", "2", "4"]));
    assert!(runs[0]["launch"]["lines"].as_array().unwrap().iter().any(|l| l["counters"]["global_load_sectors"] == 7));
    let (_folder, file) = written(&scale("sm_80", true));
    let output = run(&file, &[&ARGUMENTS[..], &["--json"]].concat());
    assert_eq!(output.status.code(), Some(1));
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["runs"][0]["finding"]["kind"], "OutOfBounds");
    assert_eq!(json["runs"][0]["finding"]["thread"], serde_json::json!([50, 0, 0]));
}

#[test]
fn checks_can_be_chosen() {
    let (_folder, file) = written(&scale("sm_80", false));
    let unwritten = ["--block", "64", "--arg", "buffer:f32:50:unwritten", "--arg", "out:f32:50"];
    let rest = ["--arg", "f32:2", "--arg", "u32:50", "--checks"];
    for (checks, code) in [("all", 1), ("uninitialised", 1), ("races", 0), ("none", 0), ("races,uninitialised", 1)] {
        let output = run(&file, &[&unwritten[..], &rest, &[checks]].concat());
        assert_eq!(output.status.code(), Some(code), "{checks}: {}", out(&output));
    }
}

#[test]
fn mistakes_end_with_2_and_say_what_was_expected_and_found() {
    let (folder, file) = written(&scale("sm_90a", false));
    let table: [(&[&str], &str); 7] = [
        (&["--entry", "other"], "no kernel other; it has scale"),
        (&["--arg", "u32:5"], "scale takes 4 arguments (8 bytes, 8 bytes, 4 bytes, 4 bytes), found 1"),
        (&["--arg", "u32:5", "--arg", "u64:1", "--arg", "f32:1", "--arg", "u32:1"], "has 8 bytes, found 4"),
        (&["--arg", "u33:5"], "u33:5: kind: expected a type, bytes, buffer or out, found \"u33\""),
        (&["--cc", "10.0"], "no PTX for compute capability 10.0; the image has sm_90a"),
        (&["--grid", "0"], "expected a number from 1"),
        (&["--cc", "7.0"], "expected one of 8.0, 8.9, 9.0, 10.0, 12.0"),
    ];
    for (arguments, message) in table {
        let output = run(&file, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", out(&output));
        assert!(err(&output).contains(message), "{arguments:?}: {}", err(&output));
    }
    let big = [&ARGUMENTS[2..], &["--block", "2000"]].concat();
    let output = run(&file, &big);
    assert!(err(&output).contains("2000 threads per CTA, the kernel allows 1024"), "{}", err(&output));
    let output = run(&folder.path().join("none.ptx"), &[]);
    assert!(err(&output).contains("reading") && err(&output).contains("none.ptx"), "{}", err(&output));
    let wrong = folder.path().join("wrong.ptx");
    std::fs::write(&wrong, scale("sm_80", false).replace("mul.f32", "multiply.f32")).unwrap();
    let output = run(&wrong, &ARGUMENTS);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("wrong.ptx:14:") && err(&output).contains("multiply"), "{}", err(&output));
}

/// A fatbin entry with PTX that is not compressed.
fn entry(arch: u32, ptx: &str) -> Vec<u8> {
    let bytes = ptx.len().next_multiple_of(8);
    let mut entry = vec![0; 64];
    entry[0..2].copy_from_slice(&1u16.to_le_bytes());
    entry[2..4].copy_from_slice(&0x101u16.to_le_bytes());
    entry[4..8].copy_from_slice(&64u32.to_le_bytes());
    entry[8..16].copy_from_slice(&(bytes as u64).to_le_bytes());
    entry[28..32].copy_from_slice(&arch.to_le_bytes());
    entry.extend_from_slice(ptx.as_bytes());
    entry.resize(64 + bytes, 0);
    entry
}

fn fatbin(entries: &[Vec<u8>]) -> Vec<u8> {
    let body = entries.concat();
    let mut out = 0xBA55_ED50u32.to_le_bytes().to_vec();
    out.extend([1, 0, 16, 0]);
    out.extend((body.len() as u64).to_le_bytes());
    out.extend(body);
    out
}

#[test]
fn fatbins_are_listed_and_run_wherever_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let image = fatbin(&[entry(80, &scale("sm_80", false)), entry(90, &scale("sm_90a", true))]);
    let plain = folder.path().join("kernels.fatbin");
    std::fs::write(&plain, &image).unwrap();
    // A program: an ELF header, something, the fatbin, something, another fatbin.
    let mut program = b"\x7fELF".to_vec();
    program.resize(4096, 1);
    program.extend(&image);
    program.resize(program.len().next_multiple_of(8) + 64, 0);
    program.extend(fatbin(&[entry(80, &scale("sm_80", false).replace("scale", "other"))]));
    let inside = folder.path().join("program");
    std::fs::write(&inside, &program).unwrap();

    let list = |file: &Path| out(&sim(&["list", file.to_str().unwrap()]));
    let text = list(&plain);
    assert!(text.contains("PTX for sm_80") && text.contains("PTX for sm_90"), "{text}");
    assert!(text.contains("scale (sm_90a)") && text.contains("parameter 2: 4 bytes at 16"), "{text}");
    assert!(list(&inside).contains("other (sm_80)"), "{}", list(&inside));

    // Only the PTX for compute capability 9.0 has the bug.
    for (cc, code) in [("9.0", 1), ("8.9", 0)] {
        let output = run(&plain, &[&ARGUMENTS[..], &["--cc", cc]].concat());
        assert_eq!(output.status.code(), Some(code), "{cc}: {}", err(&output));
        let output = run(&inside, &[&ARGUMENTS[..], &["--cc", cc, "--entry", "scale"]].concat());
        assert_eq!(output.status.code(), Some(code), "{cc}: {}", err(&output));
    }
    let output = run(&inside, &[&ARGUMENTS[..], &["--entry", "other"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", err(&output));
    let output = run(&inside, &ARGUMENTS);
    assert!(err(&output).contains("2 modules"), "{}", err(&output));
}

#[test]
fn a_report_is_summed_up_by_kernel() {
    use sim_exec::Counters;
    use sim_exec::report::{LaunchLine, LineCounters, ReportLine};
    let launch = |kernel: &str, footprint_bytes| {
        let counters = Counters {
            instructions: 1000,
            active_lanes: 16_000,
            global_loads: 10,
            global_load_sectors: 80,
            global_load_sectors_ideal: 40,
            dram_read_bytes: 4096,
            footprint_bytes,
            ..Counters::default()
        };
        let (grid, block, cluster) = ([4, 1, 1], [32, 1, 1], [1; 3]);
        ReportLine::Launch(Box::new(LaunchLine {
            kernel: kernel.into(),
            grid,
            block,
            cluster,
            dynamic_shared_bytes: 0,
            counters,
            lines: vec![LineCounters { file: Some("two.cu".into()), line: 2, counters }],
        }))
    };
    let copy = |bytes| ReportLine::Copy { direction: "host_to_device".into(), bytes };
    let lines = [
        ReportLine::Device { compute_capability: (9, 0), sm_count: 132, l2_bytes: 50 << 20 },
        copy(1000),
        launch("first", 8192),
        ReportLine::GraphLaunch { nodes: 2 },
        launch("first", 60 << 20),
        launch("second", 8192),
        copy(234),
    ];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.jsonl");
    let text: String = lines.iter().map(|l| serde_json::to_string(l).unwrap() + "\n").collect();
    std::fs::write(&file, &text).unwrap();

    let output = sim(&["report", file.to_str().unwrap()]);
    let shown = out(&output);
    let row = |name: &str| {
        let line = shown.lines().find(|l| l.ends_with(name)).unwrap();
        line.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(row("first"), ["2", "2,000", "50.0%", "2.00", "8,192+", "0", "0", "0", "first"], "{shown}");
    assert_eq!(row("second"), ["1", "1,000", "50.0%", "2.00", "4,096", "0", "0", "0", "second"], "{shown}");
    assert!(shown.contains("2 copies host to device, 1,234 bytes") && shown.contains("1 graph launches"), "{shown}");

    let json: serde_json::Value =
        serde_json::from_slice(&sim(&["report", file.to_str().unwrap(), "--json"]).stdout).unwrap();
    assert_eq!(json["kernels"]["first"]["counters"]["global_load_sectors"], 160);

    std::fs::write(folder.path().join("two.cu"), "one\ntwo\nthree\n").unwrap();
    let shown = out(&sim(&["report", file.to_str().unwrap(), "--annotate", "first"]));
    let line = shown.lines().find(|l| l.ends_with("| two")).unwrap();
    assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["2,000", "50%", "160/80", "2", "|", "two"], "{shown}");
    let output = sim(&["report", file.to_str().unwrap(), "--annotate", "third"]);
    assert!(err(&output).contains("no kernel third; it has first, second"), "{}", err(&output));

    std::fs::write(&file, text + "{\"event\":\"nonsense\"}\n").unwrap();
    let output = sim(&["report", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(2));
    assert!(err(&output).contains("report.jsonl:8: expected a line that KILN_SIM_REPORT wrote"), "{}", err(&output));
}
