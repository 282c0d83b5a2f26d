//! Runs a template.

use crate::ast::{Body, Cond, Const, Expr, Frame, Load, Name, Names, Scoped, Stmt, StmtKind, Target};
use crate::budget::Budget;
use crate::clock::Instant;
use crate::error::Error;
use crate::print;
use crate::text::{Text, TextBuf};
use crate::value::{Dict, Function, Key, MacroValue, Object, Result, Value};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};

mod call;
mod compare;
mod lookup;
mod loops;
mod operators;

pub(crate) use call::Call;
pub(crate) use loops::LoopState;

/// A frame while the template runs.
pub(crate) struct Env {
    outer: Option<Rc<Env>>,
    slots: RefCell<Vec<(Name, Option<Value>)>>,
}

impl Env {
    fn find(&self, name: Name) -> Option<Option<Value>> {
        let mut env = self;
        loop {
            if let Some((_, value)) = env.slots.borrow().iter().find(|(other, _)| *other == name) {
                return Some(value.clone());
            }
            env = env.outer.as_deref()?;
        }
    }

    fn set(&self, name: Name, value: Value) {
        let mut slots = self.slots.borrow_mut();
        match slots.iter_mut().find(|(other, _)| *other == name) {
            Some(slot) => slot.1 = Some(value),
            None => slots.push((name, Some(value))),
        }
    }
}

/// What a statement asks of the loop around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

pub(crate) struct Interp<'t> {
    names: &'t Names,
    pub(crate) budget: Budget,
    pub(crate) now: Instant,
    input: HashMap<Name, Value>,
    /// What the outermost frame has assigned so far, which blocks see.
    top: RefCell<HashMap<Name, Value>>,
    root: RefCell<Option<Rc<Env>>>,
    out: RefCell<TextBuf>,
    /// What may hold itself; emptied at the end.
    cycles: RefCell<Vec<Cycle>>,
}

enum Cycle {
    Env(Weak<Env>),
    Object(Weak<Object>),
}

impl Drop for Interp<'_> {
    fn drop(&mut self) {
        for cycle in self.cycles.take() {
            match cycle {
                Cycle::Env(env) => drop(env.upgrade().map(|env| env.slots.take())),
                Cycle::Object(object) => {
                    if let Some(Object::Namespace(dict)) = object.upgrade().as_deref() {
                        drop(dict.take());
                    }
                }
            }
        }
    }
}

impl<'t> Interp<'t> {
    pub(crate) fn new(names: &'t Names, budget: Budget, now: Instant, variables: Vec<(&str, Value)>) -> Interp<'t> {
        let functions =
            Function::ALL.into_iter().map(|(name, function)| (name, Value::object(Object::Function(function))));
        let input = functions.chain(variables).filter_map(|(name, value)| Some((names.find(name)?, value))).collect();
        Interp {
            names,
            budget,
            now,
            input,
            top: RefCell::default(),
            root: RefCell::default(),
            out: RefCell::default(),
            cycles: RefCell::default(),
        }
    }

    /// Everything that the template prints.
    pub(crate) fn run(&self, template: &Scoped) -> Result<TextBuf> {
        let env = self.enter(&template.frame, None);
        *self.root.borrow_mut() = Some(Rc::clone(&env));
        self.cycles.borrow_mut().push(Cycle::Env(Rc::downgrade(&env)));
        self.exec(&template.body, &env)?;
        Ok(self.out.take())
    }

    fn resolve(&self, name: Name) -> Option<Value> {
        self.top.borrow().get(&name).or_else(|| self.input.get(&name)).cloned()
    }

    fn enter(&self, frame: &Frame, outer: Option<&Rc<Env>>) -> Rc<Env> {
        let first = |(name, load): &(Name, Load)| {
            let value = match load {
                Load::Parameter | Load::Undefined => None,
                Load::Resolve => self.resolve(*name),
                Load::Outer => outer.and_then(|outer| outer.find(*name)).flatten(),
            };
            (*name, value)
        };
        Rc::new(Env { outer: outer.cloned(), slots: RefCell::new(frame.iter().map(first).collect()) })
    }

    fn variable(&self, name: Name, env: &Env) -> Value {
        let value = env.find(name).unwrap_or_else(|| self.resolve(name));
        value.unwrap_or_else(|| Value::undefined(format!("'{}' is undefined", self.names.text(name))))
    }

    fn is_root(&self, env: &Rc<Env>) -> bool {
        self.root.borrow().as_ref().is_some_and(|root| Rc::ptr_eq(root, env))
    }

    fn set(&self, name: Name, value: Value, env: &Rc<Env>) {
        if self.is_root(env) {
            self.top.borrow_mut().insert(name, value.clone());
        }
        env.set(name, value);
    }

    /// What `run` prints, in place of printing it.
    fn capture(&self, run: impl FnOnce() -> Result<()>) -> Result<Text> {
        let before = self.out.take();
        let result = run();
        let text = std::mem::replace(&mut *self.out.borrow_mut(), before);
        result?;
        self.budget.pay(text.len())?;
        Ok(text.finish())
    }

    fn exec(&self, body: &Body, env: &Rc<Env>) -> Result<Flow> {
        for statement in body {
            let flow = self.statement(statement, env).map_err(|error| error.at(statement.line))?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&self, statement: &Stmt, env: &Rc<Env>) -> Result<Flow> {
        self.budget.step()?;
        match &statement.kind {
            StmtKind::Data(text) => {
                self.budget.pay(text.len())?;
                self.out.borrow_mut().push_text(text);
            }
            StmtKind::Output(expr) => self.print(&self.eval(expr, env)?)?,
            StmtKind::If(arms, other) => return self.deeper(|| self.arms(arms, other, env)),
            StmtKind::For(node) => return self.deeper(|| self.for_statement(node, env)),
            StmtKind::Set(target, value) => {
                self.check_namespaces(target, env)?;
                let value = self.eval(value, env)?;
                self.assign(target, value, env)?;
            }
            StmtKind::SetBlock(target, filter, inner) => {
                let inside = self.enter(&inner.frame, Some(env));
                let (text, flow) = self.captured_block(inner, &inside)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                let value = match filter {
                    Some(filter) => self.filter_of_text(filter, text, &inside)?,
                    None => Value::Str(text),
                };
                self.check_namespaces(target, env)?;
                self.assign(target, value, env)?;
            }
            StmtKind::Macro(node) => {
                let value = self.macro_value(node, env);
                if let Some(name) = node.name {
                    self.set(name, value, env);
                }
            }
            StmtKind::Call(call, node) => {
                let caller = self.macro_value(node, env);
                let value = self.call_with_caller(call, caller, env)?;
                self.print(&value)?;
            }
            StmtKind::FilterBlock(filter, inner) => {
                let inside = self.enter(&inner.frame, Some(env));
                let (text, flow) = self.captured_block(inner, &inside)?;
                if flow != Flow::Next {
                    return Ok(flow);
                }
                self.print(&self.filter_of_text(filter, text, &inside)?)?;
            }
            StmtKind::With(pairs, inner) => {
                let inside = self.enter(&inner.frame, Some(env));
                for (target, value) in pairs {
                    self.assign(target, self.eval(value, env)?, &inside)?;
                }
                return self.deeper(|| self.exec(&inner.body, &inside));
            }
            StmtKind::Scope(inner) => {
                let inside = self.enter(&inner.frame, Some(env));
                self.deeper(|| self.exec(&inner.body, &inside))?;
            }
            StmtKind::Block(inner) => {
                let inside = self.enter(&inner.frame, None);
                self.deeper(|| self.exec(&inner.body, &inside))?;
            }
            StmtKind::Break => return Ok(Flow::Break),
            StmtKind::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Next)
    }

    fn deeper<T>(&self, run: impl FnOnce() -> Result<T>) -> Result<T> {
        self.budget.enter()?;
        let result = run()?;
        self.budget.leave();
        Ok(result)
    }

    fn captured_block(&self, inner: &Scoped, inside: &Rc<Env>) -> Result<(Text, Flow)> {
        let mut flow = Flow::Next;
        let text = self.capture(|| {
            flow = self.deeper(|| self.exec(&inner.body, inside))?;
            Ok(())
        })?;
        Ok((text, flow))
    }

    fn print(&self, value: &Value) -> Result<()> {
        print::write_str(value, &mut self.out.borrow_mut(), &self.budget)
    }

    fn arms(&self, arms: &[(Expr, Body)], other: &Body, env: &Rc<Env>) -> Result<Flow> {
        for (test, body) in arms {
            if self.eval(test, env)?.is_true() {
                return self.exec(body, env);
            }
        }
        self.exec(other, env)
    }

    fn macro_value(&self, node: &std::sync::Arc<crate::ast::Macro>, env: &Rc<Env>) -> Value {
        // The frame holds the macro, and the macro its frame.
        self.cycles.borrow_mut().push(Cycle::Env(Rc::downgrade(env)));
        Value::object(Object::Macro(MacroValue { node: node.clone(), env: Rc::clone(env), name: node.name }))
    }

    pub(crate) fn namespace(&self, dict: Dict) -> Value {
        let object = Rc::new(Object::Namespace(RefCell::new(dict)));
        self.cycles.borrow_mut().push(Cycle::Object(Rc::downgrade(&object)));
        Value::Object(object)
    }

    fn check_namespaces(&self, target: &Target, env: &Rc<Env>) -> Result<()> {
        match target {
            Target::Name(_) => Ok(()),
            Target::Tuple(targets) => targets.iter().try_for_each(|target| self.check_namespaces(target, env)),
            Target::Attr(name, _) => match &self.variable(*name, env) {
                Value::Object(object) if matches!(**object, Object::Namespace(_)) => Ok(()),
                _ => Err(Error::runtime("cannot assign attribute on non-namespace object")),
            },
        }
    }

    fn assign(&self, target: &Target, value: Value, env: &Rc<Env>) -> Result<()> {
        match target {
            Target::Name(name) => {
                self.set(*name, value, env);
                Ok(())
            }
            Target::Attr(name, attr) => {
                let Value::Object(object) = self.variable(*name, env) else {
                    return Err(Error::runtime("cannot assign attribute on non-namespace object"));
                };
                let Object::Namespace(dict) = &*object else {
                    return Err(Error::runtime("cannot assign attribute on non-namespace object"));
                };
                dict.borrow_mut().insert(attr.clone(), value);
                Ok(())
            }
            Target::Tuple(targets) => {
                let items = self.items(&value)?;
                if items.len() != targets.len() {
                    let (expected, found) = (targets.len(), items.len());
                    return Err(Error::runtime(format!("cannot unpack {found} values into {expected} names")));
                }
                targets.iter().zip(items).try_for_each(|(target, item)| self.assign(target, item, env))
            }
        }
    }

    pub(crate) fn eval(&self, expr: &Expr, env: &Rc<Env>) -> Result<Value> {
        self.budget.step()?;
        match expr {
            Expr::Const(constant) => Ok(match constant {
                Const::None => Value::None,
                Const::Bool(value) => Value::Bool(*value),
                Const::Int(value) => Value::Int(*value),
                Const::Float(value) => Value::Float(*value),
                Const::Str(text) => Value::Str(text.clone()),
            }),
            Expr::Name(name) => Ok(self.variable(*name, env)),
            _ => self.deeper(|| self.eval_compound(expr, env)),
        }
    }

    fn eval_all(&self, exprs: &[Expr], env: &Rc<Env>) -> Result<Vec<Value>> {
        self.budget.pay_elements(exprs.len())?;
        exprs.iter().map(|expr| self.eval(expr, env)).collect()
    }

    fn eval_compound(&self, expr: &Expr, env: &Rc<Env>) -> Result<Value> {
        match expr {
            Expr::Const(_) | Expr::Name(_) => self.eval(expr, env),
            Expr::Tuple(items) => Ok(Value::tuple(self.eval_all(items, env)?)),
            Expr::List(items) => Ok(Value::list(self.eval_all(items, env)?)),
            Expr::Dict(pairs) => {
                self.budget.pay_elements(pairs.len())?;
                let mut dict = Dict::default();
                for (key, value) in pairs {
                    let key = Key::new(self.eval(key, env)?, &self.budget)?;
                    dict.0.insert(key, self.eval(value, env)?);
                }
                Ok(Value::dict(dict))
            }
            Expr::Neg(inner) => self.negate(&self.eval(inner, env)?),
            Expr::Pos(inner) => self.positive(&self.eval(inner, env)?),
            Expr::Not(inner) => Ok(Value::Bool(!self.eval(inner, env)?.is_true())),
            Expr::Binary(op, pair) => {
                let left = self.eval(&pair.0, env)?;
                let right = self.eval(&pair.1, env)?;
                self.binary(*op, &left, &right)
            }
            Expr::And(pair) => {
                let left = self.eval(&pair.0, env)?;
                if left.is_true() { self.eval(&pair.1, env) } else { Ok(left) }
            }
            Expr::Or(pair) => {
                let left = self.eval(&pair.0, env)?;
                if left.is_true() { Ok(left) } else { self.eval(&pair.1, env) }
            }
            Expr::Compare(first, rest) => {
                let mut left = self.eval(first, env)?;
                for (op, expr) in rest {
                    let right = self.eval(expr, env)?;
                    if !self.compare(*op, &left, &right)? {
                        return Ok(Value::Bool(false));
                    }
                    left = right;
                }
                Ok(Value::Bool(true))
            }
            Expr::Concat(parts) => {
                let mut out = TextBuf::default();
                for value in self.eval_all(parts, env)? {
                    print::write_str(&value, &mut out, &self.budget)?;
                }
                Ok(Value::Str(out.finish()))
            }
            Expr::Cond(cond) => self.conditional(cond, env),
            Expr::Attr(inner, name) => self.attribute(&self.eval(inner, env)?, name),
            Expr::Item(pair) => {
                let value = self.eval(&pair.0, env)?;
                let index = self.eval(&pair.1, env)?;
                self.item(&value, &index)
            }
            Expr::Slice(inner, parts) => {
                let value = self.eval(inner, env)?;
                let mut bounds = [Value::None, Value::None, Value::None];
                for (bound, part) in bounds.iter_mut().zip(parts.iter()) {
                    if let Some(part) = part {
                        *bound = self.eval(part, env)?;
                    }
                }
                self.slice(&value, &bounds)
            }
            Expr::Call(callee, args) => {
                let callee = self.eval(callee, env)?;
                let call = self.arguments(args, env)?;
                self.call(&callee, call)
            }
            Expr::Filter(input, applied) => {
                let input = match input {
                    Some(input) => self.eval(input, env)?,
                    None => return Err(Error::runtime("a filter without an input")),
                };
                let call = self.arguments(&applied.args, env)?;
                self.filter(&applied.name, input, call).map_err(|error| error.at(applied.line))
            }
            Expr::Test(input, applied) => {
                let input = self.eval(input, env)?;
                let call = self.arguments(&applied.args, env)?;
                let holds = self.test(&applied.name, input, call).map_err(|error| error.at(applied.line))?;
                Ok(Value::Bool(holds))
            }
        }
    }

    fn conditional(&self, cond: &Cond, env: &Rc<Env>) -> Result<Value> {
        if self.eval(&cond.test, env)?.is_true() {
            return self.eval(&cond.then, env);
        }
        match &cond.other {
            Some(other) => self.eval(other, env),
            None => {
                Ok(Value::undefined("the inline if-expression evaluated to false and no else section was defined."))
            }
        }
    }

    /// A chain of filters with a block's text as its input.
    fn filter_of_text(&self, filter: &Expr, text: Text, env: &Rc<Env>) -> Result<Value> {
        let Expr::Filter(input, applied) = filter else {
            return Err(Error::runtime("a filter block without a filter"));
        };
        let input = match input {
            Some(input) => self.filter_of_text(input, text, env)?,
            None => Value::Str(text),
        };
        let call = self.arguments(&applied.args, env)?;
        self.filter(&applied.name, input, call).map_err(|error| error.at(applied.line))
    }
}
