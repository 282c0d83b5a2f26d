//! A parsed template.

use crate::text::Text;
use std::sync::Arc;

/// A variable's name: its place in [`Names`].
pub(crate) type Name = u32;

/// Every name that a template uses for variables.
#[derive(Debug, Default)]
pub(crate) struct Names(indexmap::IndexSet<Arc<str>>);

impl Names {
    pub(crate) fn intern(&mut self, name: &str) -> Name {
        match self.0.get_index_of(name) {
            Some(at) => at as Name,
            None => self.0.insert_full(name.into()).0 as Name,
        }
    }

    pub(crate) fn text(&self, name: Name) -> &Arc<str> {
        &self.0[name as usize]
    }

    pub(crate) fn find(&self, name: &str) -> Option<Name> {
        self.0.get_index_of(name).map(|at| at as Name)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Const {
    None,
    Bool(bool),
    Int(i128),
    Float(f64),
    Str(Text),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum BinaryOp {
    Add,
    Sub,
    Mul,
    Div,
    FloorDiv,
    Mod,
    Pow,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompareOp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    NotIn,
}

#[derive(Debug)]
pub(crate) enum Expr {
    Const(Const),
    Name(Name),
    Tuple(Vec<Expr>),
    List(Vec<Expr>),
    Dict(Vec<(Expr, Expr)>),
    Neg(Box<Expr>),
    Pos(Box<Expr>),
    Not(Box<Expr>),
    Binary(BinaryOp, Box<(Expr, Expr)>),
    And(Box<(Expr, Expr)>),
    Or(Box<(Expr, Expr)>),
    Compare(Box<Expr>, Vec<(CompareOp, Expr)>),
    Concat(Vec<Expr>),
    Cond(Box<Cond>),
    Attr(Box<Expr>, Text),
    Item(Box<(Expr, Expr)>),
    Slice(Box<Expr>, Box<[Option<Expr>; 3]>),
    Call(Box<Expr>, Box<Args>),
    /// Without an input in filter blocks and `set` blocks, where the block's text is the input.
    Filter(Option<Box<Expr>>, Box<Applied>),
    Test(Box<Expr>, Box<Applied>),
}

#[derive(Debug)]
pub(crate) struct Cond {
    pub(crate) test: Expr,
    pub(crate) then: Expr,
    pub(crate) other: Option<Expr>,
}

/// A filter or test by name, with its further arguments.
#[derive(Debug)]
pub(crate) struct Applied {
    pub(crate) name: String,
    pub(crate) args: Args,
    pub(crate) line: u32,
}

#[derive(Debug, Default)]
pub(crate) struct Args {
    pub(crate) positional: Vec<Expr>,
    pub(crate) keyword: Vec<(Text, Expr)>,
    pub(crate) all_positional: Option<Expr>,
    pub(crate) all_keyword: Option<Expr>,
}

#[derive(Debug)]
pub(crate) enum Target {
    Name(Name),
    /// An attribute of a namespace.
    Attr(Name, Text),
    Tuple(Vec<Target>),
}

/// Where a name of a frame gets its first value from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// It is set before anything reads it.
    Parameter,
    /// From the template's input.
    Resolve,
    /// From the frame around.
    Outer,
    Undefined,
}

/// The names that live in a frame.
pub(crate) type Frame = Vec<(Name, Load)>;

#[derive(Debug)]
pub(crate) struct Stmt {
    pub(crate) line: u32,
    pub(crate) kind: StmtKind,
}

pub(crate) type Body = Vec<Stmt>;

#[derive(Debug)]
pub(crate) enum StmtKind {
    Data(Text),
    Output(Expr),
    If(Vec<(Expr, Body)>, Body),
    For(Arc<For>),
    Set(Target, Expr),
    SetBlock(Target, Option<Expr>, Scoped),
    Macro(Arc<Macro>),
    Call(Expr, Arc<Macro>),
    FilterBlock(Expr, Scoped),
    With(Vec<(Target, Expr)>, Scoped),
    Scope(Scoped),
    /// `block`, which sees what the outermost frame has assigned so far.
    Block(Scoped),
    Break,
    Continue,
}

/// Statements with a frame of their own.
#[derive(Debug, Default)]
pub(crate) struct Scoped {
    pub(crate) frame: Frame,
    pub(crate) body: Body,
}

#[derive(Debug)]
pub(crate) struct For {
    pub(crate) target: Target,
    pub(crate) iter: Expr,
    pub(crate) test: Option<Expr>,
    pub(crate) test_frame: Frame,
    pub(crate) recursive: bool,
    pub(crate) body: Scoped,
    pub(crate) other: Scoped,
}

#[derive(Debug)]
pub(crate) struct Macro {
    /// None for what a call block passes as `caller`.
    pub(crate) name: Option<Name>,
    pub(crate) params: Vec<(Name, Option<Expr>)>,
    pub(crate) reads_caller: bool,
    pub(crate) reads_kwargs: bool,
    pub(crate) reads_varargs: bool,
    pub(crate) inner: Scoped,
}
