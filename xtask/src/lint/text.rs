//! Rules that a look at the lines decides.

use super::{Finding, SourceFile};

const LINES_MAX: usize = 900;

/// Where `unsafe` may be written, and what for. All other files deny it (`[workspace.lints]`).
/// An entry that ends in `/` covers a folder.
const UNSAFE_FILES: &[(&str, &str)] = &[
    ("src/weights/map.rs", "maps model files; handles the signal that a shrinking one raises"),
    ("src/device/cpu/simd/", "vector instructions"),
    ("src/device/cpu/linear.rs", "kernel: streams weights by pointer"),
    ("src/device/cpu/attend.rs", "kernel: streams the cache by pointer"),
    ("src/device/cpu/cache.rs", "kernel: loads and stores cells of the cache by pointer"),
    ("src/device/cpu/rows.rs", "kernel: rows by vectors"),
    ("src/device/cpu/panel.rs", "kernel: threads write columns of one panel"),
    ("src/device/cpu/kernels.rs", "kernels compiled for an instruction set and called by pointer"),
    ("src/device/cpu/pool.rs", "threads borrow a job from the caller's stack"),
    ("src/device/cpu/shared.rs", "buffers that threads write in disjoint parts"),
    ("src/device/cpu/step/", "says which part of those buffers is whose"),
    ("src/device/cpu/workspace.rs", "places partial states in those buffers"),
    ("src/device/cpu/checkpoints.rs", "reads and writes those buffers between steps"),
    ("src/device/cpu/mod.rs", "reads logits between steps"),
    ("src/device/cuda/driver.rs", "calls the CUDA driver"),
    ("src/device/cuda/nvtx.rs", "hands tables of functions to a profiling tool, and calls them"),
    ("crates/sim-driver/src/abi.rs", "reads and writes through the pointers that a C program gives"),
    ("crates/sim-driver/src/api/mod.rs", "exports C functions"),
    ("crates/sim-driver/src/host.rs", "host memory and host functions that a C program lends"),
    ("crates/sim-driver/tests/", "programs that call the driver"),
    ("crates/sim-exec/src/lanes/vector.rs", "loops compiled for an instruction set"),
    ("tests/weights_fuzz.rs", "counts allocations"),
];

/// Text that no file of a kind may hold. Written in two parts here, so that this file passes.
const FORBIDDEN: [(&str, &str, &str); 8] = [
    ("", concat!("/ro", "ot/"), "a path of one machine"),
    ("", concat!("/ho", "me/"), "a path of one machine"),
    ("", concat!("/Use", "rs/"), "a path of one machine"),
    ("", concat!("/tm", "p/w/"), "a path of one machine"),
    ("", concat!("/wo", "rk/"), "a path of one machine"),
    (".rs", concat!("#[ig", "nore"), "a test that is not run; fix it or remove it"),
    (".rs", concat!("todo", "!("), "a stub; finish it"),
    (".rs", concat!("unimplemented", "!("), "a stub; finish it, or return an error"),
];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = files.iter().flat_map(check_file).collect();
    findings.extend(unused_permissions(files, UNSAFE_FILES));
    findings.extend(tests_that_are_not_compiled(files));
    findings
}

fn check_file(file: &SourceFile) -> Vec<Finding> {
    let mut findings = Vec::new();
    let code = [".rs", ".py", ".cu", ".cuh", ".h"].iter().any(|extension| file.path.ends_with(extension));
    let lines = file.text.lines().count();
    if code && lines > LINES_MAX {
        let message = format!("{lines} lines; split it: at most {LINES_MAX}, better 600");
        findings.push(Finding { path: file.path.clone(), line: 0, message });
    }
    for (i, line) in file.text.lines().enumerate() {
        let mut report = |message: String| findings.push(Finding { path: file.path.clone(), line: i + 1, message });
        for (extension, needle, why) in FORBIDDEN {
            if file.path.ends_with(extension) && holds(line, needle) {
                report(format!("`{needle}`: {why}"));
            }
        }
        if allows_unsafe(&file.path, line) && !is_permitted(&file.path, UNSAFE_FILES) {
            report(
                "unsafe code outside the files named in xtask/src/lint/text.rs; name it there with its reason".into(),
            );
        }
    }
    findings
}

/// Whether `line` holds `needle` where it starts a path or a word: `see/home/` is neither.
fn holds(line: &str, needle: &str) -> bool {
    let starts_here = |(at, _): (usize, &str)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "_-.}".contains(c))
    };
    line.match_indices(needle).any(starts_here)
}

fn allows_unsafe(path: &str, line: &str) -> bool {
    path.ends_with(".rs") && line.trim_start().starts_with("#") && line.contains(concat!("allow(un", "safe_code"))
}

fn is_permitted(path: &str, permitted: &[(&str, &str)]) -> bool {
    permitted.iter().any(|(entry, _)| path == *entry || (entry.ends_with('/') && path.starts_with(entry)))
}

/// The list must not grow stale: a permission that nobody uses goes.
fn unused_permissions(files: &[SourceFile], permitted: &[(&str, &str)]) -> Vec<Finding> {
    let uses = |entry: &(&str, &str)| {
        let mut covered = files.iter().filter(|file| is_permitted(&file.path, std::slice::from_ref(entry)));
        covered.any(|file| file.text.lines().any(|line| allows_unsafe(&file.path, line)))
    };
    let unused = permitted.iter().filter(|entry| !uses(entry));
    let message = |(path, why): &(&str, &str)| Finding {
        path: (*path).to_owned(),
        line: 0,
        message: format!("named in xtask/src/lint/text.rs for unsafe code ({why}) but has none; remove the entry"),
    };
    unused.map(message).collect()
}

/// A test program that consists of several files has a line for each in its `main.rs`; the compiler does not miss one.
fn tests_that_are_not_compiled(files: &[SourceFile]) -> Vec<Finding> {
    let mains = files.iter().filter_map(|file| {
        let folder = file.path.strip_suffix("main.rs")?;
        (folder.starts_with("tests/") || folder.contains("/tests/")).then_some((folder, file))
    });
    let missing = mains.flat_map(|(folder, main)| {
        let modules = files.iter().filter_map(move |file| {
            let name = file.path.strip_prefix(folder)?.strip_suffix(".rs")?;
            let name = name.strip_suffix("/mod").unwrap_or(name);
            (name != "main" && !name.contains('/')).then_some((name, &file.path))
        });
        modules.filter(|(name, _)| !main.text.lines().any(|line| line == format!("mod {name};")))
    });
    let message = |(name, path): (&str, &String)| Finding {
        path: path.clone(),
        line: 0,
        message: format!("never compiled: main.rs beside it needs the line `mod {name};`"),
    };
    missing.map(message).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tests_that_main_does_not_name_are_found() {
        let file = |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
        let files = [
            file("tests/devices/main.rs", "mod a;\nmod b;\n"),
            file("tests/devices/a.rs", ""),
            file("tests/devices/b/mod.rs", "mod deeper;"),
            file("tests/devices/b/deeper.rs", ""),
            file("tests/devices/forgotten.rs", ""),
            file("tests/alone.rs", ""),
        ];
        let paths: Vec<String> = tests_that_are_not_compiled(&files).into_iter().map(|finding| finding.path).collect();
        assert_eq!(paths, ["tests/devices/forgotten.rs"]);
    }

    fn findings_in(path: &str, text: &str) -> Vec<String> {
        let file = SourceFile { path: path.to_owned(), text: text.to_owned() };
        check_file(&file).into_iter().map(|finding| format!("{}: {}", finding.line, finding.message)).collect()
    }

    #[test]
    fn files_may_be_900_lines_long() {
        assert!(findings_in("src/a.rs", &"//\n".repeat(900)).is_empty());
        assert_eq!(findings_in("src/a.rs", &"//\n".repeat(901)).len(), 1);
        assert!(findings_in("Cargo.lock", &"x\n".repeat(2000)).is_empty(), "only code is limited");
    }

    #[test]
    fn paths_of_one_machine_are_found_in_every_file() {
        let path = concat!("/ho", "me/someone/model.gguf");
        assert_eq!(findings_in("docs/a.md", &format!("fine\nsee {path}")).len(), 1);
        assert!(findings_in("docs/a.md", &format!("https://example.org{path}")).is_empty(), "part of an address");
    }

    #[test]
    fn tests_that_do_not_run_and_stubs_are_found_in_rust_only() {
        let text = concat!("#[ig", "nore]\nfn a() { todo", "!() }\n");
        assert_eq!(findings_in("src/a.rs", text).len(), 2);
        assert!(findings_in("docs/a.md", text).is_empty());
    }

    #[test]
    fn unsafe_needs_a_permission() {
        let text = concat!("#![allow(un", "safe_code)]\n");
        assert_eq!(findings_in("src/engine/mod.rs", text).len(), 1);
        assert!(is_permitted("src/a/b.rs", &[("src/a/", "")]) && is_permitted("src/a.rs", &[("src/a.rs", "")]));
        assert!(!is_permitted("src/ab.rs", &[("src/a/", "")]) && !is_permitted("src/a.rs.rs", &[("src/a.rs", "")]));
    }

    #[test]
    fn permissions_that_nobody_uses_are_found() {
        let text = concat!("#![allow(un", "safe_code)]\n").to_owned();
        let files = [SourceFile { path: "src/a.rs".to_owned(), text }];
        assert!(unused_permissions(&files, &[("src/a.rs", "maps files")]).is_empty());
        assert_eq!(unused_permissions(&files, &[("src/b.rs", "maps files")]).len(), 1);
    }
}
