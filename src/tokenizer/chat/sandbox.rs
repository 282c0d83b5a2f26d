//! Runs a template so that it ends soon and stays small, whatever it says.
//!
//! minijinja counts instructions ("fuel") and limits recursion, which bounds loops. It does not bound what one
//! instruction does: `s + s` doubles a string, forty of them fill any memory, and comparing or printing a list that
//! holds itself twice, forty times over, takes for ever. So the compiled template is rewritten: instructions that read or
//! make values of unbounded size become calls of functions here, which do the same after paying for it by size from one
//! budget; filters, tests and methods pay in the same way, and those that can make more than they read are asked first
//! how much. What remains takes constant time, so time and memory are bounded by fuel and budget.

use super::budget::{self, Budget};
use crate::tokenizer::TokenizerError;
use minijinja::machinery::{
    CompiledTemplate, Instruction, Instructions, TemplateConfig, Vm, WhitespaceConfig, make_string_output,
};
use minijinja::syntax::SyntaxConfig;
use minijinja::{AutoEscape, Error, ErrorKind, Value};
use std::sync::Arc;

const SOURCE_BYTES_MAX: usize = 1 << 20;
/// What values may cost together, besides [`WORK_PER_INPUT_BYTE`].
const WORK_BYTES_MAX: u64 = 8 << 20;
/// Templates copy a message's text a few times: each concatenation reads and writes it.
const WORK_PER_INPUT_BYTE: u64 = 64;
/// Dropping a value takes stack by its depth, which fuel bounds; pages that are not touched cost nothing.
const STACK_BYTES: usize = 256 << 20;

/// Whether `source` is a template at all.
pub(super) fn check(source: &str) -> Result<(), TokenizerError> {
    if source.len() > SOURCE_BYTES_MAX {
        let found = format!("{} bytes", source.len());
        return Err(TokenizerError::invalid("chat template", format!("at most {SOURCE_BYTES_MAX} bytes"), found));
    }
    on_a_deep_stack(|| compile(source).map(drop))
}

/// The text that the template makes of `context`, which holds `input_bytes` of text.
pub(super) fn render(source: &str, context: Value, input_bytes: usize) -> Result<String, TokenizerError> {
    on_a_deep_stack(move || {
        let template = compile(source)?;
        let budget = Budget::new(WORK_BYTES_MAX.saturating_add(WORK_PER_INPUT_BYTE.saturating_mul(input_bytes as u64)));
        let env = budget::environment(&budget);
        let mut text = String::new();
        let mut output = make_string_output(&mut text);
        let vm = Vm::new(&env);
        vm.eval(&template.instructions, context, &template.blocks, &mut output, AutoEscape::None)?;
        Ok(text)
    })
}

/// Does all of `work` there, dropping its values and errors included.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, Error> + Send) -> Result<T, TokenizerError> {
    let work = move || work().map_err(|error| message(&error));
    let done = std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(STACK_BYTES);
        let worker = builder.spawn_scoped(scope, work).map_err(|error| format!("no thread to render it: {error}"))?;
        worker.join().unwrap_or_else(|_| Err("the template engine failed on it".to_owned()))
    });
    done.map_err(TokenizerError::Template)
}

/// The error and what caused it, in one line.
fn message(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(&format!(": {cause}"));
        source = cause.source();
    }
    text
}

fn compile(source: &str) -> Result<CompiledTemplate<'_>, Error> {
    let config = TemplateConfig {
        syntax_config: SyntaxConfig,
        ws_config: WhitespaceConfig { keep_trailing_newline: false, lstrip_blocks: true, trim_blocks: true },
        default_auto_escape: Arc::new(|_| AutoEscape::None),
    };
    let mut template = CompiledTemplate::new("chat template", source, &config)?;
    template.instructions = guarded(&template.instructions)?;
    for instructions in template.blocks.values_mut() {
        *instructions = guarded(instructions)?;
    }
    Ok(template)
}

/// The same program with calls in place of the instructions that must be paid for.
fn guarded<'s>(program: &Instructions<'s>) -> Result<Instructions<'s>, Error> {
    let all: Vec<&Instruction<'s>> = (0..program.len() as u32).filter_map(|at| program.get(at)).collect();
    // Where each instruction goes: `EmitRaw` becomes two.
    let mut places = Vec::with_capacity(all.len() + 1);
    let mut place = 0;
    for instruction in &all {
        places.push(place);
        place += 1 + u32::from(matches!(instruction, Instruction::EmitRaw(_)));
    }
    places.push(place);
    let to = |target: u32| places.get(target as usize).copied().unwrap_or(u32::MAX);
    let mut safe = Instructions::new(program.name(), program.source());
    for (at, instruction) in (0..).zip(all) {
        let line = program.get_line(at).unwrap_or(0).min(usize::from(u16::MAX)) as u16;
        let replacement = match instruction {
            // Through `Emit`, raw text is paid for as values are.
            Instruction::EmitRaw(raw) => {
                safe.add_with_line(Instruction::LoadConst(Value::from(*raw)), line);
                Instruction::Emit
            }
            Instruction::Iterate(target) => Instruction::Iterate(to(*target)),
            Instruction::Jump(target) => Instruction::Jump(to(*target)),
            Instruction::JumpIfFalse(target) => Instruction::JumpIfFalse(to(*target)),
            Instruction::JumpIfFalseOrPop(target) => Instruction::JumpIfFalseOrPop(to(*target)),
            Instruction::JumpIfTrueOrPop(target) => Instruction::JumpIfTrueOrPop(to(*target)),
            Instruction::BuildMacro(name, target, flags) => Instruction::BuildMacro(name, to(*target), *flags),
            // These have no bound that could be paid for in advance, and no template in use has them.
            Instruction::CompareAndPreserve(_) => return Err(refused("a chain of comparisons; join them with `and`")),
            Instruction::UnpackLists(_) => return Err(refused("a list in place of arguments (`*list`)")),
            Instruction::CallMethod("changed", _) => return Err(refused("loop.changed")),
            Instruction::BuildMap(pairs) if pairs * 2 > usize::from(u16::MAX) => {
                return Err(refused("so large a mapping"));
            }
            other => match call_for(other) {
                Some((name, arguments)) => Instruction::CallFunction(name, Some(arguments)),
                None => other.clone(),
            },
        };
        safe.add_with_line(replacement, line);
    }
    Ok(safe)
}

fn refused(what: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("kiln does not run {what}"))
}

/// The function that stands in for an instruction, and how many values it takes from the stack. No template can spell
/// these names.
fn call_for(instruction: &Instruction<'_>) -> Option<(&'static str, u16)> {
    Some(match instruction {
        Instruction::Add => ("$add", 2),
        Instruction::Mul => ("$mul", 2),
        Instruction::StringConcat => ("$concat", 2),
        Instruction::Eq => ("$eq", 2),
        Instruction::Ne => ("$ne", 2),
        Instruction::Lt => ("$lt", 2),
        Instruction::Lte => ("$lte", 2),
        Instruction::Gt => ("$gt", 2),
        Instruction::Gte => ("$gte", 2),
        Instruction::In => ("$in", 2),
        Instruction::GetItem => ("$item", 2),
        Instruction::Slice => ("$slice", 4),
        Instruction::BuildMap(pairs) => ("$map", (pairs * 2) as u16),
        _ => return None,
    })
}
