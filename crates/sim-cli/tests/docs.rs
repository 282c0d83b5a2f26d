//! docs/simulator.md is true: its commands print what it shows, and its tables name what the code has.
//!
//! `KILN_UPDATE_DOCS=1 cargo test -p sim-cli --test docs` writes what the commands print, and the counters, into the page.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use sim_conformance::{Toolchain, workspace_root};
use sim_exec::Counters;

const PAGE: &str = "docs/simulator.md";

fn page() -> String {
    std::fs::read_to_string(workspace_root().join(PAGE)).unwrap()
}

/// Runs a command of the page in the workspace's folder: what it prints, errors after the rest, and its exit code. Files that the
/// commands make lie in `folder`.
fn execute(command: &str, folder: &Path) -> (String, i32) {
    let is_made = |word: &str| word.ends_with(".ptx") || word.ends_with(".jsonl");
    let place = |word: &str| if is_made(word) { folder.join(word).display().to_string() } else { word.to_owned() };
    let all: Vec<&str> = command.split_whitespace().collect();
    let (settings, words): (Vec<&str>, Vec<&str>) = all.iter().partition(|w| w.contains('=') && !w.contains(':'));
    let mut child = match words[0] {
        "nvcc" => {
            let source = words.iter().find(|w| w.ends_with(".cu")).unwrap();
            let arch = words[words.iter().position(|w| *w == "-arch").unwrap() + 1];
            let toolchain = Toolchain::find().unwrap_or_else(|e| panic!("{e}"));
            let ptx = toolchain.compile(&workspace_root().join(source), arch, &[]).unwrap_or_else(|e| panic!("{e}"));
            std::fs::write(place(words.last().unwrap()), ptx).unwrap();
            return (String::new(), 0);
        }
        "sim" => Command::new(env!("CARGO_BIN_EXE_sim")),
        "python3" => Command::new("python3"),
        other => panic!("{PAGE} runs {other}, which this test does not know"),
    };
    for (name, value) in settings.iter().filter_map(|s| s.split_once('=')) {
        let value = if name == "LD_LIBRARY_PATH" { libraries(folder) } else { place(value) };
        child.env(name, value);
    }
    let output = child.args(words[1..].iter().map(|w| place(w))).current_dir(workspace_root()).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    let here = format!("{}/", workspace_root().display());
    (text.replace(&here, ""), output.status.code().unwrap())
}

/// A folder with the simulated driver under the name that programs look for.
fn libraries(folder: &Path) -> String {
    let library = std::env::current_exe().unwrap().with_file_name("libkiln_simcuda.so");
    assert!(library.is_file(), "{} is not built", library.display());
    let libraries = folder.join("simulated");
    std::fs::create_dir_all(&libraries).unwrap();
    let link = libraries.join("libcuda.so.1");
    if !link.exists() {
        std::os::unix::fs::symlink(library, link).unwrap();
    }
    libraries.display().to_string()
}

/// The page with the output of every `console` block as it is now.
fn refreshed(page: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let mut out = String::new();
    let mut code = 0;
    let mut lines = page.lines();
    while let Some(line) = lines.next() {
        out += &format!("{line}\n");
        if line != "```console" {
            continue;
        }
        let block: Vec<&str> = lines.by_ref().take_while(|l| *l != "```").collect();
        let mut at = 0;
        while let Some(first) = block.get(at).and_then(|l| l.strip_prefix("$ ")) {
            let mut command = first.to_owned();
            out += &format!("{}\n", block[at]);
            at += 1;
            while command.ends_with('\\') {
                command.pop();
                command += block[at];
                out += &format!("{}\n", block[at]);
                at += 1;
            }
            if command == "echo $?" {
                out += &format!("{code}\n");
            } else {
                let (printed, exit) = execute(&command, folder.path());
                (out, code) = (out + &printed, exit);
            }
            at += block[at..].iter().take_while(|l| !l.starts_with("$ ")).count();
        }
        out += "```\n";
    }
    out
}

#[test]
fn the_page_shows_what_its_commands_print_and_every_counter() {
    let page = page();
    let now = with_counters(&refreshed(&page));
    if std::env::var_os("KILN_UPDATE_DOCS").is_some() {
        std::fs::write(workspace_root().join(PAGE), &now).unwrap();
    } else if let Some((old, new)) = page.lines().zip(now.lines()).find(|(old, new)| old != new) {
        panic!("{PAGE} is stale:\n  it shows {old}\n  now it is {new}");
    } else {
        assert_eq!(page.len(), now.len(), "{PAGE} is stale");
    }
}

/// The story that the page tells, whatever its words.
#[test]
fn the_planted_bug_is_found_at_its_line_and_the_fixed_kernels_pass() {
    let folder = tempfile::tempdir().unwrap();
    let source = "crates/sim-cli/examples/transpose.cu";
    execute(&format!("nvcc -ptx -lineinfo -arch sm_90 {source} -o transpose.ptx"), folder.path());
    let text = std::fs::read_to_string(workspace_root().join(source)).unwrap();
    let reading = text.lines().position(|l| l.contains("= tile[threadIdx.x]")).unwrap() + 1;
    let run = |entry: &str, flags: &str| {
        let arguments = "--arg buffer:f32:12288:iota --arg out:f32:12288 --arg i32:128 --arg i32:96";
        execute(
            &format!("sim run transpose.ptx --entry {entry} --grid 3,4 --block 32,8 {arguments} {flags}"),
            folder.path(),
        )
    };
    for seed in 0..20 {
        let (shown, code) = run("transpose_unordered", &format!("--seed {seed}"));
        assert_eq!(code, 1, "seed {seed}: {shown}");
        assert!(shown.contains("SharedRace in transpose_unordered"), "seed {seed}: {shown}");
        assert!(shown.contains(&format!("{source}:{reading}")), "seed {seed}: {shown}");
    }
    for (entry, replays) in [("transpose_one_bank", 31 * 384), ("transpose", 0)] {
        let (shown, code) = run(entry, "--seeds 20 --json");
        assert_eq!(code, 0, "{shown}");
        let json: serde_json::Value = serde_json::from_str(&shown).unwrap();
        for run in json["runs"].as_array().unwrap() {
            // Counters that are zero are left out.
            assert_eq!(run["launch"]["counters"]["shared_load_replays"].as_u64().unwrap_or(0), replays);
            assert_eq!(run["launch"]["counters"]["dram_read_bytes"], 4 * 12288);
            let expected: Vec<String> = (0..8).map(|i| (96 * i).to_string()).collect();
            assert_eq!(run["buffers"][0]["values"], serde_json::json!(expected));
        }
    }
}

/// The page with its table of counters as the code has it.
fn with_counters(page: &str) -> String {
    let header = "| Counter | Meaning |\n|---|---|\n";
    let (before, table) = page.split_once(header).unwrap();
    let after = table.split_once("\n\n").unwrap().1;
    let rows: Vec<String> = Counters::meanings().iter().map(|(name, text)| format!("| `{name}` | {text} |")).collect();
    format!("{before}{header}{}\n\n{after}", rows.join("\n"))
}

/// Names in back quotes of the first column of every table.
fn first_columns(page: &str) -> BTreeSet<&str> {
    page.lines().filter_map(|l| l.strip_prefix("| `")?.split('`').next()).collect()
}

#[test]
fn the_table_of_variables_is_complete() {
    let mut variables = BTreeSet::new();
    let settings = workspace_root().join("crates/sim-driver/src/core/settings.rs");
    let text = std::fs::read_to_string(settings).unwrap();
    for (at, _) in text.match_indices("KILN_SIM_") {
        variables.insert(text[at..].split(|c: char| c != '_' && !c.is_ascii_uppercase()).next().unwrap());
    }
    let page = page();
    let documented: BTreeSet<&str> = first_columns(&page).into_iter().filter(|n| n.starts_with("KILN_SIM_")).collect();
    assert_eq!(documented, variables);
}

#[test]
fn the_table_of_findings_is_complete() {
    let finding = std::fs::read_to_string(workspace_root().join("crates/sim-exec/src/finding.rs")).unwrap();
    let kinds = finding.split("pub enum FindingKind {").nth(1).unwrap().split('}').next().unwrap();
    let kinds: BTreeSet<&str> = kinds.lines().filter_map(|l| l.trim().strip_suffix(',')).collect();
    let page = page();
    let documented = first_columns(&page);
    let missing: Vec<_> = kinds.difference(&documented).collect();
    assert!(missing.is_empty() && kinds.len() > 10, "{missing:?}");
    // What no code reports is said to be so.
    let code = text_of(&workspace_root().join("crates/sim-exec/src"));
    for kind in kinds {
        let row = page.lines().find(|l| l.starts_with(&format!("| `{kind}`"))).unwrap();
        let checked = code.contains(&format!("FindingKind::{kind}"));
        assert_eq!(checked, !row.contains("it is not checked yet"), "{row}");
    }
}

/// All files of a folder, one after the other.
fn text_of(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| if p.is_dir() { text_of(&p) } else { std::fs::read_to_string(p).unwrap() }).collect()
}
