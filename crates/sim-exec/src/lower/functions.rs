//! Modules and functions: global variables, parameters, labels.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sim_ptx::{Function, Instruction, Module, Operand, Pointer, Statement, Variable, VariableSpace};

use super::calls::Activation;
use super::modifiers::Modifiers;
use super::operands::{Binding, Builder};
use super::registers;
use crate::counters::Class;
use crate::finding::Place;
use crate::gpu::{Directives, Gpu, Kernel, LoadError, LoadedModule, ParamSlot};
use crate::memory::CODE_WINDOW;
use crate::program::{self, Op, Pred, Space};

/// A problem at a PTX line.
pub type Problem = (u32, String);

/// Lowers a parsed module and places its variables in device memory.
pub fn load(gpu: &Gpu, module: &Module, file: &str) -> Result<LoadedModule, LoadError> {
    let mut globals = BTreeMap::new();
    let mut bindings = HashMap::new();
    for v in module.variables.iter().filter(|v| matches!(v.space, VariableSpace::Global | VariableSpace::Const)) {
        let bytes = v.bytes.max(1);
        let address = gpu.memory.alloc(bytes, &v.name)?;
        // Module variables without an initialiser are zero.
        let mut init = v.init.clone();
        init.resize(bytes as usize, 0);
        gpu.memory.write(address, &init)?;
        globals.insert(v.name.clone(), (address, bytes));
        bindings.insert(v.name.clone(), Binding::Global(address));
    }
    for (i, function) in module.functions.iter().enumerate().filter(|(_, f)| !f.is_entry && f.has_body) {
        bindings.insert(function.name.clone(), Binding::Global(CODE_WINDOW + 16 * i as u64));
    }
    let unsupported = |(line, message): Problem| LoadError::Unsupported { file: file.to_owned(), line, message };
    for v in &module.variables {
        for Pointer { at, name: target, addend, .. } in &v.pointers {
            let Some(Binding::Global(to)) = bindings.get(target) else {
                return Err(unsupported((
                    0,
                    format!("{} points to {target}, which is no variable or function", v.name),
                )));
            };
            let (base, _) = globals[&v.name];
            gpu.memory.write(base + at, &to.wrapping_add(*addend as u64).to_le_bytes())?;
        }
    }
    let mut kernels = BTreeMap::new();
    for function in module.functions.iter().filter(|f| f.is_entry) {
        let kernel = lower_kernel(module, function, &bindings).map_err(unsupported)?;
        kernels.insert(function.name.clone(), kernel);
    }
    Ok(LoadedModule { kernels, globals })
}

fn lower_kernel(module: &Module, function: &Function, globals: &HashMap<String, Binding>) -> Result<Kernel, Problem> {
    let mut lowering = Lowering { module, builder: Builder::new(globals), class: Class::Control, active: Vec::new() };
    let at_start = |message| (0, message);
    let mut params = Vec::new();
    let mut end = 0u64;
    for v in &function.params {
        let offset = end.next_multiple_of(v.align.max(1));
        lowering.builder.scope.names.insert(v.name.clone(), Binding::Param(offset as u32));
        params.push(ParamSlot { offset: offset as u32, bytes: v.bytes as u32 });
        end = offset + v.bytes;
    }
    for v in module.variables.iter().filter(|v| v.space == VariableSpace::Shared && !v.dynamic) {
        let offset = lowering.builder.shared(v);
        lowering.builder.scope.names.insert(v.name.clone(), Binding::Shared(offset));
    }
    lowering.body(function)?;
    let line = function.body.iter().rev().find_map(line_of).unwrap_or(0);
    lowering.class = Class::Control;
    lowering.push(Op::Exit, None, line, &None);
    let dynamic = lowering.place_dynamic_shared(function).map_err(at_start)?;
    let mut program = lowering.builder.program;
    program.static_shared_bytes = program.static_shared_bytes.max(dynamic);
    program.local_bytes = program.local_bytes.next_multiple_of(16);
    let registers = registers::compact(&mut program);
    program.watches = super::wgmma::watches(&program);
    program.uses_async_proxy = program.instructions.iter().any(|i| matches!(i.op, Op::Bulk(_) | Op::Wgmma(_)));
    Ok(Kernel {
        name: function.name.clone(),
        params,
        param_bytes: end as u32,
        static_shared_bytes: program.static_shared_bytes,
        local_bytes: program.local_bytes,
        registers,
        directives: Directives {
            block_required: function.block_required(),
            threads_max: function.threads_max(),
            registers_max: function.registers_max(),
            blocks_per_sm_min: function.blocks_per_sm_min(),
        },
        cluster: function.cluster(),
        program: Arc::new(program),
    })
}

fn line_of(statement: &Statement) -> Option<u32> {
    match statement {
        Statement::Instruction(i) => Some(i.line),
        Statement::Call(c) => Some(c.line),
        _ => None,
    }
}

/// A kernel being lowered.
pub struct Lowering<'m> {
    pub module: &'m Module,
    pub builder: Builder<'m>,
    /// Of the operations that are pushed next.
    pub class: Class,
    /// The kernel and the functions being inlined into it, outermost first.
    pub active: Vec<Activation>,
}

impl Lowering<'_> {
    /// Appends an operation.
    pub fn push(&mut self, op: Op, guard: Option<Pred>, line: u32, source: &Option<(String, u32)>) {
        self.builder.program.instructions.push(program::Instruction { op, guard });
        self.builder.program.classes.push(self.class);
        self.builder.program.places.push(Place { ptx_line: line, source: source.clone() });
    }

    pub fn body(&mut self, function: &Function) -> Result<(), Problem> {
        self.enter(function);
        self.builder.declare(function).map_err(|m| (0, m))?;
        self.declare_dynamic_shared().map_err(|m| (0, m))?;
        let mut tables: HashMap<&str, &[String]> = HashMap::new();
        for statement in &function.body {
            if let Statement::Targets(name, labels) = statement {
                tables.insert(name, labels);
            }
        }
        let mut branches: Vec<(usize, Vec<String>, u32)> = Vec::new();
        for statement in &function.body {
            match statement {
                Statement::Label(name) => {
                    let here = self.builder.program.instructions.len() as u32;
                    self.builder.scope.labels.insert(name.clone(), here);
                }
                Statement::Targets(..) | Statement::Prototype(_) => {}
                Statement::Call(call) => self.call(call)?,
                Statement::Instruction(i) => self.instruction(i, &tables, &mut branches).map_err(|m| (i.line, m))?,
            }
        }
        for (at, labels, line) in branches {
            let mut targets = Vec::new();
            for label in labels {
                let target =
                    self.builder.scope.labels.get(&label).ok_or_else(|| (line, format!("label {label} is missing")))?;
                targets.push(*target);
            }
            match &mut self.builder.program.instructions[at].op {
                Op::Branch { target } => *target = targets[0],
                Op::BranchIndexed { targets: table, .. } => *table = targets.into(),
                other => panic!("{other:?} has no targets"),
            }
        }
        self.leave();
        Ok(())
    }

    fn instruction<'s>(
        &mut self,
        i: &'s Instruction,
        tables: &HashMap<&str, &'s [String]>,
        branches: &mut Vec<(usize, Vec<String>, u32)>,
    ) -> Result<(), String> {
        let guard = self.guard(&i.guard)?;
        self.class = Class::of(&i.opcode, &i.modifiers);
        let here = self.builder.program.instructions.len();
        let op = match i.opcode.as_str() {
            "bra" => {
                let [Operand::Name(label)] = i.operands.as_slice() else { return Err("expected a label".into()) };
                branches.push((here, vec![label.clone()], i.line));
                Op::Branch { target: 0 }
            }
            "brx" => {
                let [index, Operand::Name(table)] = i.operands.as_slice() else {
                    return Err("expected a table".into());
                };
                let labels = tables.get(table.as_str()).ok_or_else(|| format!("table {table} is missing"))?;
                branches.push((here, labels.to_vec(), i.line));
                Op::BranchIndexed { index: self.builder.source(index, "u32")?, targets: Box::default() }
            }
            "ret" if self.active.len() > 1 => {
                self.active.last_mut().expect("a function is being lowered").returns.push(here);
                Op::Nop
            }
            "ret" | "exit" => Op::Exit,
            _ => {
                let modifiers: Vec<&str> = i.modifiers.iter().map(String::as_str).collect();
                let mut modifiers = Modifiers::new(modifiers);
                let op = super::control::lower(self, i, &mut modifiers).map_err(|m| format!("{}: {m}", spelled(i)))?;
                modifiers.finish().map_err(|m| format!("{}: {m}", spelled(i)))?;
                op
            }
        };
        if is_call_parameter(&op, &i.modifiers) {
            self.class = Class::Move;
        }
        self.push(op, guard, i.line, &i.source);
        Ok(())
    }

    pub fn guard(&mut self, guard: &Option<(String, bool)>) -> Result<Option<Pred>, String> {
        guard.as_ref().map(|(name, negated)| self.builder.named_pred(name, *negated)).transpose()
    }
}

/// Dynamic shared memory starts after the static variables, whose total is only known when all functions are inlined; a name
/// of it is bound to a register that is filled in at the end.
impl Lowering<'_> {
    fn declare_dynamic_shared(&mut self) -> Result<(), String> {
        for v in self.module.variables.iter().filter(|v| v.dynamic) {
            if !self.builder.scope.names.contains_key(&v.name) {
                let offset = self.dynamic_base();
                self.builder.scope.names.insert(v.name.clone(), Binding::Shared(offset));
            }
        }
        Ok(())
    }

    /// The sum of every function's static shared variables: an upper bound that does not depend on which are called.
    fn dynamic_base(&self) -> u32 {
        let entry = self.active.first().map(|a| &a.function);
        let of = |variables: &[Variable]| -> u64 {
            variables
                .iter()
                .filter(|v| v.space == VariableSpace::Shared && !v.dynamic)
                .fold(0, |at: u64, v| at.next_multiple_of(v.align.max(1)) + v.bytes)
        };
        let mut bytes = of(&self.module.variables);
        for f in self.module.functions.iter().filter(|f| !f.is_entry || Some(&f.name) == entry) {
            bytes = bytes.next_multiple_of(128) + of(&f.variables);
        }
        bytes.next_multiple_of(if bytes == 0 { 1 } else { 128 }) as u32
    }

    fn place_dynamic_shared(&mut self, function: &Function) -> Result<u32, String> {
        self.enter(function);
        let uses = self.module.variables.iter().any(|v| v.dynamic);
        let base = if uses { self.dynamic_base() } else { 0 };
        self.active.pop();
        Ok(base)
    }
}

/// Whether an operation accesses a parameter of a call, which lives in local memory here and in registers in machine code.
fn is_call_parameter(op: &Op, modifiers: &[String]) -> bool {
    let local = matches!(op, Op::Load(a) | Op::Store(a) if a.space == Space::Local);
    local && !modifiers.iter().any(|m| m == "local")
}

fn spelled(i: &Instruction) -> String {
    std::iter::once(&i.opcode).chain(&i.modifiers).map(String::as_str).collect::<Vec<_>>().join(".")
}
