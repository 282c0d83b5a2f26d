//! Renderings beside those that Jinja2 gave: `cargo xtask goldens templates` records them.

use jinja::{Instant, Rendered, Template, Variable};
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};
use std::path::{Path, PathBuf};

/// The last second of 2024, at which the recorded clock stands.
const NOW: u64 = 1_735_689_599;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn golden(name: &str) -> Map<String, Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    match serde_json::from_str(&text) {
        Ok(Value::Object(entries)) => entries,
        other => panic!("{}: expected an object, found {other:?}", path.display()),
    }
}

fn source(folder: &Path, name: &str) -> String {
    let path = folder.join(name);
    let bytes = std::fs::read(&path)
        .unwrap_or_else(|error| panic!("{}: {error}; type `cargo xtask setup`, which fetches it", path.display()));
    String::from_utf8(bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// None where the template or the input is refused.
fn render(source: &str, input: &Map<String, Value>) -> Option<Rendered> {
    let (none, yes) = (Value::Null, Value::Bool(true));
    let mut variables = vec![
        ("tools", Variable::Input(&none)),
        ("documents", Variable::Input(&none)),
        ("add_generation_prompt", Variable::Input(&yes)),
    ];
    variables.extend(input.iter().map(|(name, value)| (name.as_str(), Variable::Input(value))));
    variables.extend([("bos_token", Variable::Own("<|bos|>")), ("eos_token", Variable::Own("<|eos|>"))]);
    Template::compile(source).ok()?.render(&variables, Instant::from_unix_seconds(NOW)).ok()
}

/// How many renderings are equal, refused by both, and different.
#[derive(Default, Debug, PartialEq)]
struct Counts {
    templates: usize,
    equal: usize,
    refused: usize,
    different: Vec<String>,
}

impl Counts {
    fn add(&mut self, name: &str, input: &str, expected: Option<&str>, found: Option<&str>) {
        match (expected, found) {
            (Some(expected), Some(found)) if expected == found => self.equal += 1,
            (None, None) => self.refused += 1,
            _ => self.different.push(format!("{name}, {input}: expected {expected:?}, found {found:?}")),
        }
    }

    fn row(&self, name: &str) -> String {
        let (templates, equal, refused, different) = (self.templates, self.equal, self.refused, self.different.len());
        format!("| {name} | {templates} | {equal} | {refused} | {different} |")
    }
}

fn check(counts: &Counts, row_name: &str) {
    assert!(counts.different.is_empty(), "{}", counts.different.join("\n"));
    let page = root().join("docs/chat-templates.md");
    let text = std::fs::read_to_string(&page).unwrap_or_else(|error| panic!("{}: {error}", page.display()));
    let row = counts.row(row_name);
    assert!(text.lines().any(|line| line == row), "{}: expected the row\n{row}", page.display());
}

/// The ranges ascend, do not touch, and lie on characters.
fn assert_ranges(rendered: &Rendered) {
    let mut end = None;
    for range in &rendered.own {
        assert!(end.is_none_or(|end| end < range.start) && range.start < range.end, "{:?}", rendered.own);
        assert!(rendered.text.get(range.clone()).is_some(), "{range:?}");
        end = Some(range.end);
    }
}

#[test]
fn small_templates_render_as_in_jinja2() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates");
    let (inputs, expected) = (golden("inputs.json"), golden("own.json"));
    let files = std::fs::read_dir(&folder).map_or(0, Iterator::count);
    assert_eq!(files, expected.len(), "every template of {} is recorded", folder.display());
    let mut counts = Counts { templates: expected.len(), ..Counts::default() };
    for (name, renderings) in &expected {
        let source = source(&folder, name);
        for (input, given) in &inputs {
            let rendered = render(&source, given.as_object().unwrap_or(&Map::new()));
            rendered.iter().for_each(assert_ranges);
            let found = rendered.as_ref().map(|rendered| rendered.text.as_str());
            counts.add(name, input, renderings[input].as_str(), found);
        }
    }
    assert!(counts.equal > 300, "{counts:?}");
    check(&counts, "small ones of ours, a kind each");
}

#[test]
fn public_templates_render_as_in_jinja2() {
    let folder = root().join("target/references/llama.cpp/models/templates");
    let (inputs, expected) = (golden("inputs.json"), golden("public.json"));
    let mut counts = Counts { templates: expected.len(), ..Counts::default() };
    for (name, digests) in &expected {
        let source = source(&folder, name);
        for (at, (input, given)) in inputs.iter().enumerate() {
            let rendered = render(&source, given.as_object().unwrap_or(&Map::new()));
            rendered.iter().for_each(assert_ranges);
            let found = rendered.map(|rendered| digest(&rendered.text));
            let expected =
                digests[at].as_array().map(|digest| format!("{} {}", digest[0].as_str().unwrap_or(""), digest[1]));
            counts.add(name, input, expected.as_deref(), found.as_deref());
        }
    }
    assert!(counts.equal > 500, "{counts:?}");
    check(&counts, "public ones in llama.cpp's source");
}

fn digest(text: &str) -> String {
    let hash = Sha256::digest(text.as_bytes());
    let hex: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("{hex} {}", text.len())
}

/// Splices pieces of all small templates together at random: whatever comes of it ends, soon, without a panic.
#[test]
fn mangled_templates_end_without_a_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/templates");
    let sources: Vec<Vec<char>> =
        golden("own.json").keys().map(|name| source(&folder, name).chars().collect()).collect();
    let inputs = golden("inputs.json");
    let empty = Map::new();
    let given = inputs["tool_results"].as_object().unwrap_or(&empty);
    let mut state = 0x2545_F491_4F6C_DD1Du64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 16) as usize % below.max(1)
    };
    let mut rendered = 0;
    for _ in 0..4000 {
        let mut mangled = sources[random(sources.len())].clone();
        for _ in 0..=random(3) {
            let other = &sources[random(sources.len())];
            let from = random(other.len());
            let piece = &other[from..(from + random(40)).min(other.len())];
            let at = random(mangled.len());
            let end = (at + random(12)).min(mangled.len());
            mangled.splice(at..end, piece.iter().copied());
        }
        let mangled: String = mangled.into_iter().collect();
        let start = std::time::Instant::now();
        let variables: Vec<_> = given.iter().map(|(name, value)| (name.as_str(), Variable::Input(value))).collect();
        let result = Template::compile(&mangled)
            .and_then(|template| template.render(&variables, Instant::from_unix_seconds(NOW)));
        match result {
            Ok(_) => rendered += 1,
            // A panic ends the engine's thread.
            Err(error) => assert!(!error.message().contains("the template engine failed"), "{mangled}"),
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(5), "{mangled}");
    }
    assert!(rendered > 50, "{rendered}");
}
