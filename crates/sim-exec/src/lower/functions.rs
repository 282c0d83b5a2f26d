//! Modules and functions: global variables, parameters, labels, and calls, which are inlined.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::control;
use super::modifiers::Modifiers;
use super::operands::{Binding, Builder, Scope};
use super::source::{Call, Function, Instruction, Module, Operand, Statement, Variable, VariableSpace};
use crate::counters::Class;
use crate::finding::Place;
use crate::gpu::{Gpu, Kernel, LoadError, LoadedModule, ParamSlot};
use crate::program::{self, Access, Address, Op, Pred, Space, Strength};

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
    let unsupported = |(line, message): Problem| LoadError::Unsupported { file: file.to_owned(), line, message };
    for v in &module.variables {
        for (offset, target, addend) in &v.pointers {
            let Some((to, _)) = globals.get(target) else {
                return Err(unsupported((0, format!("{} points to {target}, which is no variable", v.name))));
            };
            let (base, _) = globals[&v.name];
            gpu.memory.write(base + offset, &to.wrapping_add(*addend as u64).to_le_bytes())?;
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
    let mut lowering = Lowering {
        module,
        builder: Builder::new(globals),
        class: Class::Control,
        stack: Vec::new(),
        returns: Vec::new(),
    };
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
    Ok(Kernel {
        name: function.name.clone(),
        params,
        param_bytes: end as u32,
        static_shared_bytes: program.static_shared_bytes,
        local_bytes: program.local_bytes,
        registers: control::live_registers(&program),
        threads_max: function.threads_max.unwrap_or(1024),
        cluster: function.cluster,
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
    module: &'m Module,
    pub builder: Builder<'m>,
    /// Of the operations that are pushed next.
    class: Class,
    /// Functions being inlined, outermost first.
    stack: Vec<String>,
    /// Per function being inlined: its returns, to be patched to its end.
    returns: Vec<Vec<usize>>,
}

impl Lowering<'_> {
    /// Appends an operation.
    pub fn push(&mut self, op: Op, guard: Option<Pred>, line: u32, source: &Option<(String, u32)>) {
        self.builder.program.instructions.push(program::Instruction { op, guard });
        self.builder.program.classes.push(self.class);
        self.builder.program.places.push(Place { ptx_line: line, source: source.clone() });
    }

    fn body(&mut self, function: &Function) -> Result<(), Problem> {
        self.stack.push(function.name.clone());
        self.returns.push(Vec::new());
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
                Statement::Targets(..) => {}
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
        let end = self.builder.program.instructions.len() as u32;
        for at in self.returns.pop().unwrap_or_default() {
            self.builder.program.instructions[at].op = Op::Branch { target: end };
        }
        self.stack.pop();
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
            "ret" if self.stack.len() > 1 => {
                self.returns.last_mut().expect("a function is being lowered").push(here);
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

    fn call(&mut self, call: &Call) -> Result<(), Problem> {
        let fail = |message: String| (call.line, message);
        let guard = self.guard(&call.guard).map_err(fail)?;
        self.class = Class::Control;
        match call.function.as_str() {
            "vprintf" => return self.call_host(call, guard, 2).map_err(fail),
            "__assertfail" => return self.call_host(call, guard, 3).map_err(fail),
            _ => {}
        }
        let target = self.module.functions.iter().find(|f| f.name == call.function && f.has_body);
        let target = target.ok_or_else(|| fail(format!("function {} has no body here", call.function)))?;
        if self.stack.contains(&call.function) {
            return Err(fail(format!("{} calls itself: recursion is not supported", call.function)));
        }
        // A guarded call jumps over its inlined body.
        let skip = guard.map(|g| {
            let at = self.builder.program.instructions.len();
            self.push(Op::Nop, Some(Pred { slot: g.slot, negated: !g.negated }), call.line, &call.source);
            at
        });
        let mut inner = Scope::default();
        let mut copies_in = Vec::new();
        let mut copies_out = Vec::new();
        for (formals, actuals, copies) in
            [(&target.params, &call.arguments, &mut copies_in), (&target.returns, &call.returns, &mut copies_out)]
        {
            for (formal, actual) in formals.iter().zip(actuals) {
                match actual {
                    // Parameter variables are passed by sharing their storage: PTX forbids other uses while the call runs.
                    Operand::Name(name) if formal.space != VariableSpace::Register => {
                        let binding =
                            self.builder.binding(name).ok_or_else(|| fail(format!("{name} is not declared")))?;
                        inner.names.insert(formal.name.clone(), binding);
                    }
                    other => copies.push((formal, other.clone())),
                }
            }
        }
        let outer = std::mem::replace(&mut self.builder.scope, inner);
        for v in target.params.iter().chain(&target.returns).filter(|v| v.space == VariableSpace::Register) {
            self.builder.declare_one(v).map_err(fail)?;
        }
        self.copy_registers(&copies_in, &outer, true, call).map_err(fail)?;
        self.body(target)?;
        self.copy_registers(&copies_out, &outer, false, call).map_err(fail)?;
        self.builder.scope = outer;
        if let Some(at) = skip {
            let end = self.builder.program.instructions.len() as u32;
            self.builder.program.instructions[at].op = Op::Branch { target: end };
        }
        Ok(())
    }

    /// Moves register arguments between the caller's and the callee's names.
    fn copy_registers(
        &mut self,
        copies: &[(&Variable, Operand)],
        outer: &Scope,
        inwards: bool,
        call: &Call,
    ) -> Result<(), String> {
        self.class = Class::Move;
        for (formal, actual) in copies {
            let inner = self.builder.scope.clone();
            let callee = self.builder.source(&Operand::Name(formal.name.clone()), &formal.ty)?;
            self.builder.scope = outer.clone();
            let caller = self.builder.source(actual, &formal.ty)?;
            self.builder.scope = inner;
            let (d, a) = if inwards { (callee, caller) } else { (caller, callee) };
            self.push(control::copy(d, a), None, call.line, &call.source);
        }
        Ok(())
    }

    /// vprintf and __assertfail: the arguments are loaded from parameter variables.
    fn call_host(&mut self, call: &Call, guard: Option<Pred>, count: usize) -> Result<(), String> {
        let mut arguments = Vec::new();
        for (i, argument) in call.arguments.iter().take(count).enumerate() {
            let Operand::Name(name) = argument else { return Err("expected parameter variables".into()) };
            let Some(Binding::Local(at)) = self.builder.binding(name) else {
                return Err(format!("{name} is no parameter"));
            };
            let slot = self.builder.slot()?;
            let access = Access {
                space: Space::Local,
                width: if i == 2 { 4 } else { 8 },
                signed: false,
                strength: Strength::Weak,
                address: Address { base: None, offset: at.into(), wide: true },
                registers: [slot].into(),
                used_bytes: Access::ALL_USED,
            };
            self.push(Op::Load(Box::new(access)), guard, call.line, &call.source);
            arguments.push(slot);
        }
        let op = match arguments.as_slice() {
            [format, arguments] => Op::Printf { format: *format, arguments: *arguments, d: program::SINK },
            [message, file, line] => Op::Assert { message: *message, file: *file, line: *line },
            _ => return Err(format!("expected {count} arguments, found {}", call.arguments.len())),
        };
        let prints = matches!(op, Op::Printf { .. });
        self.push(op, guard, call.line, &call.source);
        if let (true, Some(Operand::Name(name))) = (prints, call.returns.first())
            && let Some(Binding::Local(at)) = self.builder.binding(name)
        {
            let access = Access {
                space: Space::Local,
                width: 4,
                signed: false,
                strength: Strength::Weak,
                address: Address { base: None, offset: at.into(), wide: true },
                registers: [self.builder.constant(1)?].into(),
                used_bytes: Access::ALL_USED,
            };
            self.push(Op::Store(Box::new(access)), guard, call.line, &call.source);
        }
        Ok(())
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
        let entry = self.stack.first();
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
        self.stack.push(function.name.clone());
        let uses = self.module.variables.iter().any(|v| v.dynamic);
        let base = if uses { self.dynamic_base() } else { 0 };
        self.stack.pop();
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
