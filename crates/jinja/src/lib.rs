//! Chat templates in Jinja2, rendered as Hugging Face's transformers render them.
//!
//! transformers runs a model's chat template in Jinja2's immutable sandbox, with blocks trimmed, loop controls,
//! `{% generation %}`, `raise_exception`, `strftime_now` and a `tojson` without HTML escapes. This crate is that
//! environment in Rust, with two things added:
//!
//! - **Every byte of the output knows who wrote it.** Text that the template spells ([`Rendered::own`]) may hold control
//!   tokens; text that comes from its input may not. The origin goes through slices, filters, methods and concatenation.
//! - **It ends.** A template is a program that a stranger wrote. Steps, bytes and depth are bounded by the size of the
//!   input, so that a hostile one is an error within a moment.
//!
//! ```
//! use jinja::{Instant, Template, Variable};
//!
//! let template = Template::compile("{{ bos }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}{% endfor %}")?;
//! let messages = serde_json::json!([{"role": "user", "content": " Hi <b> "}]);
//! let variables = [("bos", Variable::Own("<s>")), ("messages", Variable::Input(&messages))];
//! let rendered = template.render(&variables, Instant::from_unix_seconds(0))?;
//! assert_eq!(rendered.text, "<s><user>Hi <b>");
//! assert_eq!(rendered.own, [0..4, 8..9]);
//! # Ok::<(), jinja::Error>(())
//! ```

mod ast;
mod budget;
mod clock;
mod error;
mod eval;
mod filters;
mod format;
mod json;
mod lexer;
mod methods;
mod numbers;
mod parser;
mod print;
mod scope;
mod tests;
mod text;
mod unicode;
mod value;

pub use clock::Instant;
pub use error::{Error, ErrorKind};

use budget::Budget;
use std::collections::BTreeSet;
use std::ops::Range;
use text::{Origin, Text};
use value::Value;

/// The longest source.
pub const SOURCE_BYTES_MAX: usize = 1 << 20;

/// Values inside one another take stack when they are dropped; pages that are not touched cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// A compiled template.
#[derive(Debug)]
pub struct Template {
    names: ast::Names,
    root: ast::Scoped,
    reads: BTreeSet<String>,
    fields: BTreeSet<String>,
}

/// A value that a template is given.
#[derive(Clone, Copy, Debug)]
pub enum Variable<'v> {
    /// Input: nothing in it counts as the template's.
    Input(&'v serde_json::Value),
    /// A list of objects, input as well.
    Objects(&'v [serde_json::Map<String, serde_json::Value>]),
    /// A string that the caller vouches for as if the template had spelled it.
    Own(&'v str),
}

/// What a template made of its input.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// The bytes of `text` that the template spelled: sorted, disjoint and not adjacent.
    pub own: Vec<Range<usize>>,
}

impl Template {
    /// Compiles a template.
    ///
    /// # Errors
    /// A source that Jinja2 refuses to compile, that is longer than [`SOURCE_BYTES_MAX`], or that needs other templates.
    pub fn compile(source: &str) -> Result<Template, Error> {
        if source.len() > SOURCE_BYTES_MAX {
            let found = source.len();
            return Err(Error::limit(format!("its source has {found} bytes, and may have {SOURCE_BYTES_MAX}")));
        }
        on_a_deep_stack(|| {
            let mut parser = parser::Parser::new(lexer::tokens(source)?);
            let mut body = parser.template()?;
            let root = scope::resolve(&mut body, &mut parser.names)?;
            let reads = scope::inputs(&root, &parser.names);
            Ok(Template { names: parser.names, root, reads, fields: parser.fields })
        })
    }

    /// The variables that the template reads from outside, its functions among them.
    pub fn reads(&self) -> &BTreeSet<String> {
        &self.reads
    }

    /// Whether the template may read a field of that name of some value: as an attribute, or spelled as a string.
    pub fn reads_field(&self, name: &str) -> bool {
        self.fields.contains(name)
    }

    /// Renders the template. A variable that is not given is undefined.
    ///
    /// # Errors
    /// What the template refuses, what Jinja2 would fail on, and what exceeds a limit.
    pub fn render(&self, variables: &[(&str, Variable<'_>)], now: Instant) -> Result<Rendered, Error> {
        on_a_deep_stack(|| {
            let (mut values, mut bytes) = (0, 0);
            for (_, variable) in variables {
                match variable {
                    Variable::Input(json) => measure(json, &mut values, &mut bytes),
                    Variable::Objects(list) => {
                        list.iter().for_each(|object| measure_object(object, &mut values, &mut bytes));
                    }
                    Variable::Own(text) => bytes += text.len() as u64,
                }
            }
            let value_of = |variable: &Variable<'_>| match variable {
                Variable::Input(json) => Value::from_json(json),
                Variable::Objects(list) => Value::list(list.iter().map(Value::from_object).collect()),
                Variable::Own(text) => Value::Str(Text::new(*text, Origin::Own)),
            };
            let variables = variables.iter().map(|(name, variable)| (*name, value_of(variable))).collect();
            let interp = eval::Interp::new(&self.names, Budget::new(values, bytes), now, variables);
            let (text, own) = interp.run(&self.root)?.into_parts();
            Ok(Rendered { text, own })
        })
    }
}

/// Counts values and bytes of text.
fn measure(json: &serde_json::Value, values: &mut u64, bytes: &mut u64) {
    *values += 1;
    match json {
        serde_json::Value::String(text) => *bytes += text.len() as u64,
        serde_json::Value::Array(items) => items.iter().for_each(|item| measure(item, values, bytes)),
        serde_json::Value::Object(entries) => measure_object(entries, values, bytes),
        _ => {}
    }
}

fn measure_object(entries: &serde_json::Map<String, serde_json::Value>, values: &mut u64, bytes: &mut u64) {
    *values += 1;
    for (key, value) in entries {
        *bytes += key.len() as u64;
        measure(value, values, bytes);
    }
}

/// Does all of `work` there, dropping its values included.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, Error> {
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("template".to_owned()).stack_size(STACK_BYTES);
        let worker = builder
            .spawn_scoped(scope, work)
            .map_err(|error| Error::runtime(format!("no thread to render it: {error}")))?;
        worker.join().unwrap_or_else(|_| Err(Error::runtime("the template engine failed on it")))
    })
}
