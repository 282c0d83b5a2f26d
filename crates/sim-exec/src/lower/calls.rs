//! Calls. A function is inlined where it is called; a call through a register tries every function that fits; a function that
//! calls itself is entered again, with the registers of the activation that waits put aside (`exec/calls.rs`).

use sim_ptx::{Call, Function, Operand, Statement, Variable, VariableSpace};

use super::control;
use super::functions::{Lowering, Problem};
use super::operands::{Binding, Scope};
use crate::counters::Class;
use crate::lanes::compare;
use crate::program::{self, Access, Address, Op, ParamCopy, Pred, PredSlot, Recursion, SINK, Slot, Space, Strength};

/// A function whose body is being lowered.
#[derive(Debug)]
pub struct Activation {
    pub function: String,
    /// Local memory of its parameters and results.
    params: Vec<u32>,
    results: Vec<u32>,
    /// First instruction, and the first registers, predicates and bytes of local memory that are its own.
    start: u32,
    slots: Slot,
    preds: PredSlot,
    locals: u32,
    /// Its returns and the calls that enter it again: patched when all of the body is known.
    pub returns: Vec<usize>,
    calls: Vec<usize>,
}

impl Lowering<'_> {
    pub fn call(&mut self, call: &Call) -> Result<(), Problem> {
        let fail = |message: String| (call.line, message);
        let guard = self.guard(&call.guard).map_err(fail)?;
        self.class = Class::Control;
        match call.function.as_str() {
            "vprintf" => return self.call_host(call, guard, 2).map_err(fail),
            "__assertfail" => return self.call_host(call, guard, 3).map_err(fail),
            _ => {}
        }
        // A guarded call jumps over its body.
        let skip = guard.map(|g| self.push_skip(Pred { slot: g.slot, negated: !g.negated }, call));
        match self.module.functions.iter().position(|f| f.name == call.function && f.has_body) {
            Some(target) => self.call_function(target, call)?,
            None => self.call_address(call)?,
        }
        skip.into_iter().for_each(|at| self.end_skip(at));
        Ok(())
    }

    /// A branch, to be patched by `end_skip`, that lanes take for which `pred` is true.
    fn push_skip(&mut self, pred: Pred, call: &Call) -> usize {
        let at = self.here();
        self.push(Op::Nop, Some(pred), call.line, &call.source);
        at
    }

    fn end_skip(&mut self, at: usize) {
        self.builder.program.instructions[at].op = Op::Branch { target: self.here() as u32 };
    }

    fn here(&self) -> usize {
        self.builder.program.instructions.len()
    }

    /// A call of whatever a register points to: of every function with as many parameters, guarded by its address.
    fn call_address(&mut self, call: &Call) -> Result<(), Problem> {
        let fail = |message: String| (call.line, message);
        let Some(Binding::Register { slot: address, .. }) = self.builder.binding(&call.function) else {
            return Err(fail(format!("function {} has no body here", call.function)));
        };
        let compare = compare::find("eq", false, "u64").expect("u64 can be compared");
        for (target, function) in self.module.functions.iter().enumerate() {
            let fits = function.params.len() == call.arguments.len()
                && function.returns.len() == call.returns.len()
                && self.is_address_taken(&function.name);
            let Some(Binding::Global(code)) = self.builder.binding(&function.name).filter(|_| fits) else { continue };
            let p = self.builder.pred_slot().map_err(fail)?;
            let b = self.builder.constant(code).map_err(fail)?;
            self.class = Class::Control;
            let op = Op::Compare { f: compare, p, q: SINK, a: address, b, combine: None };
            self.push(op, None, call.line, &call.source);
            let skip = self.push_skip(Pred { slot: p, negated: true }, call);
            // Lanes that were here have their function behind them.
            self.call_function(target, call)?;
            self.end_skip(skip);
        }
        self.class = Class::Control;
        self.push(Op::CheckFunction { address }, None, call.line, &call.source);
        Ok(())
    }

    fn is_address_taken(&self, function: &str) -> bool {
        let names = |o: &Operand| matches!(o, Operand::Name(name) if name == function);
        let mut statements = self.module.functions.iter().flat_map(|f| &f.body);
        self.module.variables.iter().any(|v| v.pointers.iter().any(|p| p.name == function))
            || statements.any(|s| matches!(s, Statement::Instruction(i) if i.operands.iter().any(names)))
    }

    fn call_function(&mut self, target: usize, call: &Call) -> Result<(), Problem> {
        let fail = |message: String| (call.line, message);
        let target = &self.module.functions[target];
        if let Some(depth) = self.active.iter().position(|a| a.function == target.name) {
            return self.call_again(depth, target, call).map_err(fail);
        }
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
        Ok(())
    }

    /// A call of a function that is being inlined already: its body is entered again, with its registers put aside.
    fn call_again(&mut self, depth: usize, target: &Function, call: &Call) -> Result<(), String> {
        let name = &target.name;
        let live =
            self.active[depth..].iter().filter_map(|a| self.module.functions.iter().find(|f| f.name == a.function));
        if live.clone().any(|f| f.variables.iter().any(|v| v.space == VariableSpace::Local)) {
            return Err(format!("{name} calls itself and has local variables: that is not supported"));
        }
        let storage = |operand: &Operand| match operand {
            Operand::Name(name) => match self.builder.binding(name) {
                Some(Binding::Local(at)) => Ok(at),
                _ => Err(format!("{name} is no parameter variable")),
            },
            other => Err(format!("expected a parameter variable, found {other:?}")),
        };
        let copies = |formals: &[Variable], places: &[u32], actuals: &[Operand]| -> Result<Vec<ParamCopy>, String> {
            let pairs = formals.iter().zip(places).zip(actuals);
            pairs
                .map(|((f, at), a)| Ok(ParamCopy { caller: storage(a)?, callee: *at, bytes: f.bytes as u32 }))
                .collect()
        };
        let activation = &self.active[depth];
        if activation.params.len() != target.params.len() || activation.results.len() != target.returns.len() {
            return Err(format!("{name} calls itself with parameters in registers: that is not supported"));
        }
        let again = Recursion {
            target: activation.start,
            slots: activation.slots..0,
            preds: activation.preds..0,
            locals: activation.locals..0,
            arguments: copies(&target.params, &activation.params, &call.arguments)?,
            results: copies(&target.returns, &activation.results, &call.returns)?,
        };
        let here = self.here();
        self.active[depth].calls.push(here);
        self.push(Op::CallAgain(Box::new(again)), None, call.line, &call.source);
        Ok(())
    }

    /// Starts lowering a function's body here.
    pub fn enter(&mut self, function: &Function) {
        let places = |formals: &[Variable]| {
            let local = |v: &Variable| match self.builder.binding(&v.name) {
                Some(Binding::Local(at)) => Some(at),
                _ => None,
            };
            formals.iter().filter_map(local).collect()
        };
        let activation = Activation {
            function: function.name.clone(),
            params: places(&function.params),
            results: places(&function.returns),
            start: self.here() as u32,
            slots: self.builder.program.slots as Slot,
            preds: self.builder.program.preds as PredSlot,
            locals: self.builder.program.local_bytes,
            returns: Vec::new(),
            calls: Vec::new(),
        };
        self.active.push(activation);
    }

    /// Ends a function's body: its returns lead here, or to where it was entered again from.
    pub fn leave(&mut self) {
        let activation = self.active.pop().expect("a function is being lowered");
        let mut returns = activation.returns;
        if !activation.calls.is_empty() {
            returns.push(self.here());
            self.class = Class::Control;
            self.push(Op::Nop, None, 0, &None);
        }
        let end = self.here() as u32;
        let program = &mut self.builder.program;
        for at in returns {
            program.instructions[at].op = match activation.calls.as_slice() {
                [] => Op::Branch { target: end },
                _ => Op::Return { start: activation.start, end },
            };
        }
        for at in activation.calls {
            let Op::CallAgain(again) = &mut program.instructions[at].op else {
                panic!("instruction {at} was lowered as a recursive call");
            };
            again.slots.end = program.slots as Slot;
            again.preds.end = program.preds as PredSlot;
            again.locals.end = program.local_bytes;
        }
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
