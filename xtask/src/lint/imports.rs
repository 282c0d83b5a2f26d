//! Import directions: which folder of `src/` may name which (ARCHITECTURE.md draws them).

use super::{Finding, SourceFile};

/// What every module may name.
const EVERYWHERE: [&str; 1] = ["ids"];

/// For each module of `src/`, the modules that it may name. The longest entry that fits a file counts.
const MAY_NAME: &[(&str, &[&str])] = &[
    ("ids", &[]),
    ("weights", &[]),
    ("model", &["weights"]),
    ("tokenizer", &["weights"]),
    ("kv", &[]),
    ("sampling", &["device"]),
    ("device", &["weights", "model"]),
    ("engine", &["weights", "model", "kv", "sampling", "device"]),
    ("engine/scheduler", &["kv", "sampling"]),
    ("text", &["weights", "tokenizer", "sampling", "device"]),
    ("runtime", &["weights", "model", "tokenizer", "kv", "sampling", "device", "engine", "text"]),
    ("cli", &["weights", "model", "tokenizer", "kv", "sampling", "device", "engine", "runtime", "text"]),
];

pub fn check(files: &[SourceFile]) -> Vec<Finding> {
    let rust = files.iter().filter_map(|file| Some((module_of(&file.path)?, file)));
    let mut findings = Vec::new();
    for (module, file) in rust {
        let Some((owner, allowed)) = rule_for(&module) else {
            let message = "a module without import directions: add it to xtask/src/lint/imports.rs".to_owned();
            findings.push(Finding { path: file.path.clone(), line: 0, message });
            continue;
        };
        let own = owner.split('/').next().unwrap_or(owner);
        for (line, named) in named_modules(&file.text) {
            let fine = named == own || allowed.contains(&named.as_str()) || EVERYWHERE.contains(&named.as_str());
            if !fine {
                let message = format!("`{owner}` must not name `{named}` (allowed: {})", allowed.join(", "));
                findings.push(Finding { path: file.path.clone(), line, message });
            }
        }
    }
    findings
}

/// `src/engine/scheduler.rs` → `engine/scheduler`; None for files outside `src/` and for the two crate roots.
fn module_of(path: &str) -> Option<String> {
    let module = path.strip_prefix("src/")?.strip_suffix(".rs")?;
    let module = module.strip_suffix("/mod").unwrap_or(module);
    (module != "lib" && module != "main").then(|| module.to_owned())
}

fn rule_for(module: &str) -> Option<(&'static str, &'static [&'static str])> {
    let covers = |owner: &str| module.strip_prefix(owner).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    let fitting = MAY_NAME.iter().filter(|(owner, _)| covers(owner));
    fitting.max_by_key(|(owner, _)| owner.len()).copied()
}

/// The top-level modules named by `crate::a`, `kiln::a` and `crate::{a::…, b}`, with their lines. Comments do not count
/// (links in documentation may point anywhere).
fn named_modules(text: &str) -> Vec<(usize, String)> {
    let code: String = text.lines().map(|line| format!("{}\n", without_comment(line))).collect();
    let mut named = Vec::new();
    for root in ["crate::", "kiln::"] {
        for (at, _) in code.match_indices(root) {
            if code[..at].chars().next_back().is_some_and(is_ident) || code[..at].ends_with('$') {
                continue;
            }
            let line = code[..at].matches('\n').count() + 1;
            named.extend(top_level_names(&code[at + root.len()..]).into_iter().map(|name| (line, name)));
        }
    }
    named.sort();
    named
}

fn without_comment(line: &str) -> &str {
    line.split_once("//").map_or(line, |(code, _)| code)
}

fn is_ident(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// `a::b` → a; `{a::{x, y}, b as c}` → a, b. Names in capitals are items of the crate's root, not modules.
fn top_level_names(path: &str) -> Vec<String> {
    let Some(group) = path.strip_prefix('{') else {
        return Vec::from_iter(leading_module(path));
    };
    let mut depth = 1;
    let mut starts = vec![0];
    for (i, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 1 => starts.push(i + 1),
            _ => {}
        }
        if depth == 0 {
            return starts
                .iter()
                .filter(|&&start| start <= i)
                .filter_map(|&start| leading_module(&group[start..i]))
                .collect();
        }
    }
    Vec::new()
}

fn leading_module(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|&c| is_ident(c)).collect();
    name.chars().next().is_some_and(|c| c.is_lowercase()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(path: &str, text: &str) -> Vec<String> {
        let files = [SourceFile { path: path.to_owned(), text: text.to_owned() }];
        check(&files).into_iter().map(|finding| format!("{}: {}", finding.line, finding.message)).collect()
    }

    #[test]
    fn directions_of_the_design_hold() {
        let cases = [
            ("src/device/cpu/pool.rs", "use crate::sampling::SamplingParams;", false),
            ("src/device/cpu/pool.rs", "use crate::tokenizer::Tokenizer;", false),
            ("src/device/mod.rs", "use crate::engine::Engine;", false),
            ("src/device/mod.rs", "use crate::model::Program;", true),
            ("src/device/reference/mod.rs", "use crate::device::cpu::Pool;", true),
            ("src/kv/mod.rs", "use crate::device::Device;", false),
            ("src/engine/scheduler.rs", "use crate::device::Device;", false),
            ("src/engine/scheduler/mod.rs", "use crate::device::Device;", false),
            ("src/engine/schedulers.rs", "use crate::device::Device;", true),
            ("src/model/spec.rs", "use crate::weights::DType;", true),
            ("src/model/spec.rs", "use crate::device::Batch;", false),
            ("src/weights/gguf.rs", "use crate::model::ModelSpec;", false),
            ("src/weights/gguf.rs", "use crate::ids::TokenId;", true),
            ("src/cli/run.rs", "use kiln::runtime::Runtime;", true),
            ("src/engine/mod.rs", "use kiln::cli::Args;", false),
            ("tests/golden.rs", "use kiln::anything::At;", true),
        ];
        for (path, text, fine) in cases {
            assert_eq!(messages(path, text).is_empty(), fine, "{path}: {text}");
        }
    }

    #[test]
    fn every_form_of_naming_is_seen() {
        let text = "use crate::{model::{Program, stage::Stage}, engine::Engine};\nfn a() { crate::cli::main() }\n";
        let expected = [(1, "engine"), (1, "model"), (2, "cli")].map(|(line, name)| (line, name.to_owned()));
        assert_eq!(named_modules(text), expected);
        assert_eq!(named_modules("use crate::{\n    engine::Engine,\n    weights::{A, B},\n};").len(), 2);
        assert_eq!(
            named_modules("// crate::engine::x\n/// [`crate::engine`]\nuse crate::ID_MAX;\nmycrate::engine::x"),
            []
        );
    }

    #[test]
    fn a_new_module_needs_a_rule() {
        assert_eq!(messages("src/novelty/mod.rs", "").len(), 1);
        assert!(messages("src/lib.rs", "pub mod novelty;").is_empty());
    }
}
