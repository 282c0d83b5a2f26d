//! Which names live in which frame, decided before anything runs.
//!
//! Jinja2 decides this for whole frames: a name that a frame assigns anywhere is that frame's, and its first value is
//! what the frame around has under that name. A name that nothing assigns is the input's. An assignment inside a loop,
//! macro, call, filter or `with` block does not reach the frame around; one inside `if` does.

use crate::ast::{Args, Body, Expr, For, Frame, Load, Macro, Name, Names, Scoped, Stmt, StmtKind, Target};
use crate::error::Error;
use crate::{filters, tests};
use std::collections::BTreeSet;
use std::sync::Arc;

/// Fills in the frames of a template and returns the outermost.
pub(crate) fn resolve(body: &mut Body, names: &mut Names) -> Result<Scoped, Error> {
    let special = ["loop", "caller", "kwargs", "varargs"].map(|name| names.intern(name));
    let mut resolver = Resolver { special, inputs: BTreeSet::new() };
    let mut symbols = Symbols::default();
    symbols.read_body(body);
    resolver.body(body, &symbols, false)?;
    Ok(Scoped { frame: resolver.frame(symbols), body: std::mem::take(body) })
}

/// The names that a frame and the frames inside it read from the input.
pub(crate) fn inputs(root: &Scoped, names: &Names) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    inputs_of(root, &mut found);
    found.into_iter().map(|name: Name| names.text(name).to_string()).collect()
}

fn inputs_of(scoped: &Scoped, found: &mut BTreeSet<Name>) {
    fn frame(frame: &Frame, found: &mut BTreeSet<Name>) {
        found.extend(frame.iter().filter(|(_, load)| *load == Load::Resolve).map(|(name, _)| *name));
    }
    fn body(statements: &Body, found: &mut BTreeSet<Name>) {
        for statement in statements {
            match &statement.kind {
                StmtKind::If(arms, other) => {
                    arms.iter().for_each(|(_, arm)| body(arm, found));
                    body(other, found);
                }
                StmtKind::For(node) => {
                    frame(&node.test_frame, found);
                    inputs_of(&node.body, found);
                    inputs_of(&node.other, found);
                }
                StmtKind::Macro(node) | StmtKind::Call(_, node) => inputs_of(&node.inner, found),
                StmtKind::SetBlock(_, _, inner)
                | StmtKind::FilterBlock(_, inner)
                | StmtKind::With(_, inner)
                | StmtKind::Scope(inner)
                | StmtKind::Block(inner) => inputs_of(inner, found),
                _ => {}
            }
        }
    }
    frame(&scoped.frame, found);
    body(&scoped.body, found);
}

/// The names of a frame while it is being read.
#[derive(Clone, Default)]
struct Symbols<'o> {
    outer: Option<&'o Symbols<'o>>,
    loads: Frame,
    stores: BTreeSet<Name>,
}

impl<'o> Symbols<'o> {
    fn inside(outer: &'o Symbols<'o>) -> Symbols<'o> {
        Symbols { outer: Some(outer), ..Symbols::default() }
    }

    fn has(&self, name: Name) -> bool {
        self.loads.iter().any(|(other, _)| *other == name)
    }

    fn knows(&self, name: Name) -> bool {
        self.has(name) || self.outer.is_some_and(|outer| outer.knows(name))
    }

    fn outer_knows(&self, name: Name) -> bool {
        self.outer.is_some_and(|outer| outer.knows(name))
    }

    fn define(&mut self, name: Name, load: Load) {
        match self.loads.iter_mut().find(|(other, _)| *other == name) {
            Some(entry) => entry.1 = load,
            None => self.loads.push((name, load)),
        }
    }

    fn load(&mut self, name: Name) {
        if !self.knows(name) {
            self.define(name, Load::Resolve);
        }
    }

    fn store(&mut self, name: Name) {
        self.stores.insert(name);
        if !self.has(name) {
            let load = if self.outer_knows(name) { Load::Outer } else { Load::Undefined };
            self.define(name, load);
        }
    }

    fn parameter(&mut self, name: Name) {
        self.stores.insert(name);
        self.define(name, Load::Parameter);
    }

    fn read(&mut self, expr: &Expr) {
        names_of(expr, &mut |name| self.load(name));
    }

    fn target(&mut self, target: &Target, parameter: bool) {
        match target {
            Target::Name(name) if parameter => self.parameter(*name),
            Target::Name(name) => self.store(*name),
            Target::Attr(name, _) => self.load(*name),
            Target::Tuple(targets) => targets.iter().for_each(|target| self.target(target, parameter)),
        }
    }

    fn read_body(&mut self, body: &Body) {
        body.iter().for_each(|statement| self.read_statement(statement));
    }

    /// What a statement does to the frame that it stands in.
    fn read_statement(&mut self, statement: &Stmt) {
        match &statement.kind {
            StmtKind::Data(_) | StmtKind::Scope(_) | StmtKind::Block(_) | StmtKind::Break | StmtKind::Continue => {}
            StmtKind::Output(expr) | StmtKind::Call(expr, _) | StmtKind::FilterBlock(expr, _) => self.read(expr),
            StmtKind::If(arms, other) => self.read_arms(arms, other),
            StmtKind::For(node) => self.read(&node.iter),
            StmtKind::Set(target, value) => {
                self.read(value);
                self.target(target, false);
            }
            StmtKind::SetBlock(target, _, _) => self.target(target, false),
            StmtKind::Macro(node) => node.name.into_iter().for_each(|name| self.store(name)),
            StmtKind::With(pairs, _) => pairs.iter().for_each(|(_, value)| self.read(value)),
        }
    }

    /// Each arm on its own: what one stores, another may read as it was before.
    fn read_arms(&mut self, arms: &[(Expr, Body)], other: &Body) {
        let Some(((test, body), rest)) = arms.split_first() else { return };
        self.read(test);
        let branch = |read: &dyn Fn(&mut Symbols<'o>)| {
            let mut copy = self.clone();
            read(&mut copy);
            copy
        };
        let branches = [
            branch(&|copy| copy.read_body(body)),
            branch(&|copy| rest.iter().for_each(|arm| copy.read_arms(std::slice::from_ref(arm), &Vec::new()))),
            branch(&|copy| copy.read_body(other)),
        ];
        let stored: BTreeSet<Name> = branches
            .iter()
            .flat_map(|branch| &branch.stores)
            .copied()
            .filter(|name| !self.stores.contains(name))
            .collect();
        for branch in &branches {
            branch.loads.iter().for_each(|(name, load)| self.define(*name, *load));
            self.stores.extend(&branch.stores);
        }
        for name in stored {
            let load = if self.outer_knows(name) { Load::Outer } else { Load::Resolve };
            self.define(name, load);
        }
    }
}

struct Resolver {
    special: [Name; 4],
    inputs: BTreeSet<Name>,
}

impl Resolver {
    fn frame(&mut self, symbols: Symbols<'_>) -> Frame {
        let resolved = symbols.loads.iter().filter(|(_, load)| *load == Load::Resolve);
        self.inputs.extend(resolved.map(|(name, _)| *name));
        symbols.loads
    }

    /// The frames inside `body`. `soft` inside `if`, where an unknown filter fails only when it is used.
    fn body(&mut self, body: &mut Body, symbols: &Symbols<'_>, soft: bool) -> Result<(), Error> {
        body.iter_mut().try_for_each(|statement| {
            let line = statement.line;
            self.statement(statement, symbols, soft).map_err(|error| error.at(line))
        })
    }

    fn statement(&mut self, statement: &mut Stmt, symbols: &Symbols<'_>, soft: bool) -> Result<(), Error> {
        let line = statement.line;
        match &mut statement.kind {
            StmtKind::Data(_) | StmtKind::Break | StmtKind::Continue => Ok(()),
            StmtKind::Output(expr) | StmtKind::Set(_, expr) => check(expr, soft),
            StmtKind::If(arms, other) => {
                for (test, body) in arms {
                    check(test, true)?;
                    self.body(body, symbols, true)?;
                }
                self.body(other, symbols, true)
            }
            StmtKind::For(node) => self.for_loop(unique(node), symbols, soft).map_err(|error| error.at(line)),
            StmtKind::SetBlock(_, filter, inner) => {
                filter.iter().try_for_each(|filter| check(filter, false))?;
                self.scoped(inner, symbols, |inside, body| {
                    inside.read_body(body);
                    filter.iter().for_each(|filter| inside.read(filter));
                })
            }
            StmtKind::FilterBlock(filter, inner) => {
                check(filter, false)?;
                self.scoped(inner, symbols, |inside, body| {
                    inside.read_body(body);
                    inside.read(filter);
                })
            }
            StmtKind::Macro(node) => self.macro_frame(unique(node), symbols, line),
            StmtKind::Call(call, node) => {
                check(call, soft)?;
                self.macro_frame(unique(node), symbols, line)
            }
            StmtKind::With(pairs, inner) => {
                pairs.iter().try_for_each(|(_, value)| check(value, soft))?;
                self.scoped(inner, symbols, |inside, body| {
                    pairs.iter().for_each(|(target, _)| inside.target(target, true));
                    inside.read_body(body);
                })
            }
            StmtKind::Scope(inner) => self.scoped(inner, symbols, |inside, body| inside.read_body(body)),
            StmtKind::Block(inner) => {
                let root = Symbols::default();
                self.scoped(inner, &root, |inside, body| inside.read_body(body))
            }
        }
    }

    fn scoped(
        &mut self,
        inner: &mut Scoped,
        symbols: &Symbols<'_>,
        read: impl FnOnce(&mut Symbols<'_>, &Body),
    ) -> Result<(), Error> {
        let mut inside = Symbols::inside(symbols);
        read(&mut inside, &inner.body);
        self.body(&mut inner.body, &inside, false)?;
        inner.frame = self.frame(inside);
        Ok(())
    }

    fn for_loop(&mut self, node: &mut For, symbols: &Symbols<'_>, soft: bool) -> Result<(), Error> {
        let [loop_name, ..] = self.special;
        if stores_of(&node.target, &node.body.body, loop_name) || body_stores(&node.other.body, loop_name) {
            return Err(Error::runtime("Can't assign to special loop variable in for-loop target"));
        }
        check(&node.iter, soft)?;
        let mut test = Symbols::inside(symbols);
        test.target(&node.target, true);
        if let Some(expr) = &node.test {
            check(expr, false)?;
            test.read(expr);
        }
        node.test_frame = self.frame(test);
        let target = &node.target;
        self.scoped(&mut node.body, symbols, |inside, body| {
            inside.parameter(loop_name);
            inside.target(target, true);
            inside.read_body(body);
        })?;
        self.scoped(&mut node.other, symbols, |inside, body| inside.read_body(body))
    }

    fn macro_frame(&mut self, node: &mut Macro, symbols: &Symbols<'_>, line: u32) -> Result<(), Error> {
        let [_, caller, kwargs, varargs] = self.special;
        let has = |name: Name| node.params.iter().any(|(param, _)| *param == name);
        node.reads_caller = body_reads(&node.inner.body, caller);
        node.reads_kwargs = body_reads(&node.inner.body, kwargs) && !has(kwargs);
        node.reads_varargs = body_reads(&node.inner.body, varargs) && !has(varargs);
        if node.reads_caller && node.params.iter().any(|(name, default)| *name == caller && default.is_none()) {
            let message = "the special \"caller\" argument must be omitted or be given a default";
            return Err(Error::syntax(message, line));
        }
        let extra = [(caller, node.reads_caller), (kwargs, node.reads_kwargs), (varargs, node.reads_varargs)];
        let params = &node.params;
        params.iter().try_for_each(|(_, default)| default.iter().try_for_each(|default| check(default, false)))?;
        self.scoped(&mut node.inner, symbols, |inside, body| {
            params.iter().for_each(|(name, _)| inside.parameter(*name));
            extra.iter().filter(|(_, reads)| *reads).for_each(|(name, _)| inside.parameter(*name));
            params.iter().flat_map(|(_, default)| default).for_each(|default| inside.read(default));
            inside.read_body(body);
        })
    }
}

/// The tree is shared only once it is complete.
fn unique<T>(node: &mut Arc<T>) -> &mut T {
    Arc::get_mut(node).expect("nothing else holds a template that is being compiled")
}

/// Calls `found` for every name that an expression reads.
fn names_of(expr: &Expr, found: &mut dyn FnMut(Name)) {
    if let Expr::Name(name) = expr {
        found(*name);
    }
    children(expr, &mut |child| names_of(child, found));
}

fn children<'e>(expr: &'e Expr, visit: &mut dyn FnMut(&'e Expr)) {
    match expr {
        Expr::Const(_) | Expr::Name(_) => {}
        Expr::Tuple(items) | Expr::List(items) | Expr::Concat(items) => items.iter().for_each(visit),
        Expr::Dict(pairs) => pairs.iter().for_each(|(key, value)| {
            visit(key);
            visit(value);
        }),
        Expr::Neg(inner) | Expr::Pos(inner) | Expr::Not(inner) | Expr::Attr(inner, _) => visit(inner),
        Expr::Binary(_, pair) | Expr::And(pair) | Expr::Or(pair) | Expr::Item(pair) => {
            visit(&pair.0);
            visit(&pair.1);
        }
        Expr::Compare(first, rest) => {
            visit(first);
            rest.iter().for_each(|(_, expr)| visit(expr));
        }
        Expr::Cond(cond) => {
            visit(&cond.test);
            visit(&cond.then);
            cond.other.iter().for_each(visit);
        }
        Expr::Slice(inner, parts) => {
            visit(inner);
            parts.iter().flatten().for_each(visit);
        }
        Expr::Call(callee, args) => {
            visit(callee);
            children_of_args(args, visit);
        }
        Expr::Filter(input, applied) => {
            input.iter().for_each(|input| visit(input));
            children_of_args(&applied.args, visit);
        }
        Expr::Test(input, applied) => {
            visit(input);
            children_of_args(&applied.args, visit);
        }
    }
}

fn children_of_args<'e>(args: &'e Args, visit: &mut dyn FnMut(&'e Expr)) {
    args.positional.iter().for_each(&mut *visit);
    args.keyword.iter().for_each(|(_, value)| visit(value));
    args.all_positional.iter().chain(&args.all_keyword).for_each(visit);
}

/// Filters and tests that do not exist are errors, outside `if` without being used.
fn check(expr: &Expr, soft: bool) -> Result<(), Error> {
    if soft {
        return Ok(());
    }
    match expr {
        Expr::Cond(_) => return Ok(()),
        Expr::Filter(_, applied) if !filters::exists(&applied.name) => {
            return Err(Error::syntax(format!("No filter named {:?}.", applied.name), applied.line));
        }
        Expr::Test(_, applied) if !tests::exists(&applied.name) => {
            return Err(Error::syntax(format!("No test named {:?}.", applied.name), applied.line));
        }
        _ => {}
    }
    let mut result = Ok(());
    children(expr, &mut |child| {
        if result.is_ok() {
            result = check(child, false);
        }
    });
    result
}

/// Whether a body reads `name` before it assigns it, in itself or in what is nested in it.
fn body_reads(body: &Body, name: Name) -> bool {
    first_use(body, name) == Some(Use::Read)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Read,
    Stored,
}

fn first_use(body: &Body, name: Name) -> Option<Use> {
    body.iter().find_map(|statement| first_use_in(statement, name))
}

fn first_use_in(statement: &Stmt, name: Name) -> Option<Use> {
    let read = |expr: &Expr| {
        let mut found = false;
        names_of(expr, &mut |other| found |= other == name);
        found.then_some(Use::Read)
    };
    let store = |target: &Target| target_stores(target, name).then_some(Use::Stored);
    match &statement.kind {
        StmtKind::Data(_) | StmtKind::Break | StmtKind::Continue | StmtKind::Block(_) => None,
        StmtKind::Output(expr) => read(expr),
        StmtKind::If(arms, other) => arms
            .iter()
            .find_map(|(test, body)| read(test).or_else(|| first_use(body, name)))
            .or_else(|| first_use(other, name)),
        StmtKind::For(node) => read(&node.iter)
            .or_else(|| store(&node.target))
            .or_else(|| first_use(&node.body.body, name))
            .or_else(|| first_use(&node.other.body, name))
            .or_else(|| node.test.as_ref().and_then(read)),
        StmtKind::Set(target, value) => read(value).or_else(|| store(target)),
        StmtKind::SetBlock(target, filter, inner) => {
            store(target).or_else(|| filter.as_ref().and_then(read)).or_else(|| first_use(&inner.body, name))
        }
        StmtKind::Macro(node) => first_use_in_macro(node, name, &read),
        StmtKind::Call(call, node) => read(call).or_else(|| first_use_in_macro(node, name, &read)),
        StmtKind::FilterBlock(filter, inner) => first_use(&inner.body, name).or_else(|| read(filter)),
        StmtKind::With(pairs, inner) => pairs
            .iter()
            .find_map(|(target, value)| store(target).or_else(|| read(value)))
            .or_else(|| first_use(&inner.body, name)),
        StmtKind::Scope(inner) => first_use(&inner.body, name),
    }
}

fn first_use_in_macro(node: &Macro, name: Name, read: &dyn Fn(&Expr) -> Option<Use>) -> Option<Use> {
    let stored = node.params.iter().any(|(param, _)| *param == name).then_some(Use::Stored);
    stored
        .or_else(|| node.params.iter().find_map(|(_, default)| default.as_ref().and_then(read)))
        .or_else(|| first_use(&node.inner.body, name))
}

fn target_stores(target: &Target, name: Name) -> bool {
    match target {
        Target::Name(other) => *other == name,
        Target::Attr(..) => false,
        Target::Tuple(targets) => targets.iter().any(|target| target_stores(target, name)),
    }
}

fn stores_of(target: &Target, body: &Body, name: Name) -> bool {
    target_stores(target, name) || body_stores(body, name)
}

/// Whether anything in `body` assigns `name`.
fn body_stores(body: &Body, name: Name) -> bool {
    body.iter().any(|statement| match &statement.kind {
        StmtKind::Set(target, _) => target_stores(target, name),
        StmtKind::SetBlock(target, _, inner) => stores_of(target, &inner.body, name),
        StmtKind::If(arms, other) => arms.iter().any(|(_, body)| body_stores(body, name)) || body_stores(other, name),
        StmtKind::For(node) => stores_of(&node.target, &node.body.body, name) || body_stores(&node.other.body, name),
        StmtKind::Macro(node) | StmtKind::Call(_, node) => body_stores(&node.inner.body, name),
        StmtKind::FilterBlock(_, inner) | StmtKind::With(_, inner) | StmtKind::Scope(inner) => {
            body_stores(&inner.body, name)
        }
        _ => false,
    })
}
