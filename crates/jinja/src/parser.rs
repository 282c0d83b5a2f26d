//! Statements: a template's tokens as a tree.

use crate::ast::{Body, Expr, For, Macro, Name, Names, Scoped, Stmt, StmtKind, Target};
use crate::error::Error;
use crate::lexer::Token;
use crate::text::Text;
use std::collections::BTreeSet;
use std::sync::Arc;

mod expressions;

/// Tags and expressions inside one another. Python's own limits on recursion refuse earlier.
const DEPTH_MAX: u32 = 200;

pub(crate) struct Parser {
    tokens: Vec<(Token, u32)>,
    at: usize,
    depth: u32,
    /// Whether `break` has a loop to end: a loop's body and blocks in it, but not a macro's body.
    in_loop: bool,
    pub(crate) names: Names,
    /// Attributes and whole strings that expressions spell.
    pub(crate) fields: BTreeSet<String>,
    block_names: Vec<String>,
}

impl Parser {
    pub(crate) fn new(tokens: Vec<(Token, u32)>) -> Parser {
        let names = Names::default();
        Parser { tokens, at: 0, depth: 0, in_loop: false, names, fields: BTreeSet::new(), block_names: Vec::new() }
    }

    /// The whole template.
    pub(crate) fn template(&mut self) -> Result<Body, Error> {
        self.body(&[])
    }

    fn peek(&self) -> &Token {
        &self.tokens[self.at.min(self.tokens.len() - 1)].0
    }

    fn peek_second(&self) -> &Token {
        &self.tokens[(self.at + 1).min(self.tokens.len() - 1)].0
    }

    fn line(&self) -> u32 {
        self.tokens[self.at.min(self.tokens.len() - 1)].1
    }

    fn next(&mut self) -> Token {
        let at = self.at.min(self.tokens.len() - 1);
        self.at += 1;
        if matches!(self.tokens[at].0, Token::End) {
            return Token::End;
        }
        std::mem::replace(&mut self.tokens[at].0, Token::BlockEnd)
    }

    fn error<T>(&self, message: impl Into<String>) -> Result<T, Error> {
        Err(Error::syntax(message, self.line()))
    }

    fn unexpected<T>(&self, expected: &str) -> Result<T, Error> {
        self.error(format!("expected {expected}, found {}", describe(self.peek())))
    }

    fn is_op(&self, op: &str) -> bool {
        matches!(self.peek(), Token::Op(found) if *found == op)
    }

    fn is_name(&self, name: &str) -> bool {
        matches!(self.peek(), Token::Name(found) if found == name)
    }

    fn skip_op(&mut self, op: &str) -> bool {
        let found = self.is_op(op);
        self.at += usize::from(found);
        found
    }

    fn skip_name(&mut self, name: &str) -> bool {
        let found = self.is_name(name);
        self.at += usize::from(found);
        found
    }

    fn expect_op(&mut self, op: &str) -> Result<(), Error> {
        if self.skip_op(op) { Ok(()) } else { self.unexpected(&format!("'{op}'")) }
    }

    fn expect_token(&mut self, token: Token, name: &str) -> Result<(), Error> {
        if *self.peek() != token {
            return self.unexpected(name);
        }
        self.at += 1;
        Ok(())
    }

    fn expect_name(&mut self) -> Result<String, Error> {
        match self.peek() {
            Token::Name(name) => {
                let name = name.clone();
                self.at += 1;
                Ok(name)
            }
            _ => self.unexpected("a name"),
        }
    }

    fn deeper<T>(&mut self, parse: impl FnOnce(&mut Parser) -> Result<T, Error>) -> Result<T, Error> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return self.error("the template is nested too deeply");
        }
        let result = parse(self);
        self.depth -= 1;
        result
    }

    /// Statements up to one of the tags `ends`, at whose name it stops; without any, up to the end of the template.
    fn body(&mut self, ends: &[&str]) -> Result<Body, Error> {
        let mut body = Vec::new();
        loop {
            let line = self.line();
            match self.peek() {
                Token::Data(_) => {
                    if let Token::Data(text) = self.next() {
                        body.push(Stmt { line, kind: StmtKind::Data(Text::own(text)) });
                    }
                }
                Token::VariableBegin => {
                    self.at += 1;
                    let expr = self.tuple_expression(true, &[])?;
                    self.expect_token(Token::VariableEnd, "'}}'")?;
                    body.push(Stmt { line, kind: StmtKind::Output(expr) });
                }
                Token::BlockBegin => {
                    self.at += 1;
                    if ends.iter().any(|end| self.is_name(end)) {
                        return Ok(body);
                    }
                    self.deeper(|parser| parser.statement(ends, &mut body))?;
                    self.expect_token(Token::BlockEnd, "'%}'")?;
                }
                Token::End if ends.is_empty() => return Ok(body),
                Token::End => return self.error(format!("unexpected end of template, expected {}", ends.join(" or "))),
                _ => return self.unexpected("text or a tag"),
            }
        }
    }

    /// The rest of an opening tag, and statements up to one of `ends`.
    fn tag_and_body(&mut self, ends: &[&str]) -> Result<Body, Error> {
        self.skip_op(":");
        self.expect_token(Token::BlockEnd, "'%}'")?;
        self.body(ends)
    }

    /// Like [`Parser::tag_and_body`], and the name of the only end.
    fn whole_body(&mut self, end: &str) -> Result<Body, Error> {
        let body = self.tag_and_body(&[end])?;
        self.at += 1;
        Ok(body)
    }

    /// A body that becomes a function of its own, from which no `break` leads out.
    fn function_body(&mut self, end: &str) -> Result<Scoped, Error> {
        let in_loop = std::mem::replace(&mut self.in_loop, false);
        let body = self.whole_body(end)?;
        self.in_loop = in_loop;
        Ok(Scoped { body, frame: Vec::new() })
    }

    fn scoped_body(&mut self, end: &str) -> Result<Scoped, Error> {
        Ok(Scoped { body: self.whole_body(end)?, frame: Vec::new() })
    }

    fn statement(&mut self, ends: &[&str], body: &mut Body) -> Result<(), Error> {
        let line = self.line();
        let Token::Name(tag) = self.peek().clone() else { return self.unexpected("the name of a tag") };
        self.at += 1;
        let kind = match tag.as_str() {
            "if" => self.if_statement()?,
            "for" => self.for_statement()?,
            "set" => self.set_statement()?,
            "macro" => {
                let name = self.variable()?;
                let params = self.parameters()?;
                StmtKind::Macro(Arc::new(self.macro_of(Some(name), params, "endmacro")?))
            }
            "call" => self.call_statement()?,
            "filter" => {
                let filter = self.filters(None, true)?;
                StmtKind::FilterBlock(filter, self.scoped_body("endfilter")?)
            }
            "with" => self.with_statement()?,
            "generation" => StmtKind::Scope(self.function_body("endgeneration")?),
            "block" => self.block_statement()?,
            "print" => {
                while *self.peek() != Token::BlockEnd {
                    let expr = self.expression(true)?;
                    body.push(Stmt { line, kind: StmtKind::Output(expr) });
                    if *self.peek() != Token::BlockEnd {
                        self.expect_op(",")?;
                    }
                }
                return Ok(());
            }
            "break" | "continue" if !self.in_loop => return self.error(format!("'{tag}' outside loop")),
            "break" => StmtKind::Break,
            "continue" => StmtKind::Continue,
            "include" | "import" | "from" | "extends" => {
                return Err(Error::syntax(format!("{{% {tag} %}}: a chat template has no other templates"), line));
            }
            "autoescape" => return Err(Error::syntax("{% autoescape %} is not supported in chat templates", line)),
            _ => {
                let expected =
                    if ends.is_empty() { String::new() } else { format!(", expected {}", ends.join(" or ")) };
                return Err(Error::syntax(format!("unknown tag {tag:?}{expected}"), line));
            }
        };
        body.push(Stmt { line, kind });
        Ok(())
    }

    fn variable(&mut self) -> Result<Name, Error> {
        let name = self.expect_name()?;
        if is_constant(&name) {
            return self.error(format!("can't assign to {name:?}"));
        }
        Ok(self.names.intern(&name))
    }

    fn if_statement(&mut self) -> Result<StmtKind, Error> {
        let mut arms = Vec::new();
        loop {
            let test = self.tuple_expression(false, &[])?;
            let body = self.tag_and_body(&["elif", "else", "endif"])?;
            arms.push((test, body));
            if self.skip_name("elif") {
                continue;
            }
            let other = if self.skip_name("else") { self.whole_body("endif")? } else { Vec::new() };
            self.skip_name("endif");
            return Ok(StmtKind::If(arms, other));
        }
    }

    fn for_statement(&mut self) -> Result<StmtKind, Error> {
        let target = self.target(false, &["in"])?;
        if !self.skip_name("in") {
            return self.unexpected("'in'");
        }
        let iter = self.tuple_expression(false, &["recursive"])?;
        let test = if self.skip_name("if") { Some(self.expression(true)?) } else { None };
        let recursive = self.skip_name("recursive");
        let in_loop = std::mem::replace(&mut self.in_loop, true);
        let body = self.tag_and_body(&["endfor", "else"])?;
        // In a recursive loop all of it is a function.
        self.in_loop = in_loop && !recursive;
        let other = if self.skip_name("else") { self.whole_body("endfor")? } else { Vec::new() };
        self.in_loop = in_loop;
        self.skip_name("endfor");
        let scoped = |body| Scoped { frame: Vec::new(), body };
        let (body, other) = (scoped(body), scoped(other));
        Ok(StmtKind::For(Arc::new(For { target, iter, test, test_frame: Vec::new(), recursive, body, other })))
    }

    fn set_statement(&mut self) -> Result<StmtKind, Error> {
        let target = self.target(true, &[])?;
        if self.skip_op("=") {
            return Ok(StmtKind::Set(target, self.tuple_expression(true, &[])?));
        }
        let filter = if self.is_op("|") { Some(self.filters(None, false)?) } else { None };
        Ok(StmtKind::SetBlock(target, filter, self.scoped_body("endset")?))
    }

    fn with_statement(&mut self) -> Result<StmtKind, Error> {
        let mut pairs = Vec::new();
        while *self.peek() != Token::BlockEnd {
            if !pairs.is_empty() {
                self.expect_op(",")?;
            }
            let target = self.target(false, &[])?;
            self.expect_op("=")?;
            pairs.push((target, self.expression(true)?));
        }
        Ok(StmtKind::With(pairs, self.scoped_body("endwith")?))
    }

    fn block_statement(&mut self) -> Result<StmtKind, Error> {
        let name = self.expect_name()?;
        if self.block_names.contains(&name) {
            return self.error(format!("block {name:?} defined twice"));
        }
        self.block_names.push(name.clone());
        if self.skip_name("scoped") || self.skip_name("required") {
            return self.error("scoped and required blocks are not supported in chat templates");
        }
        let inner = self.function_body("endblock")?;
        self.skip_name(&name);
        Ok(StmtKind::Block(inner))
    }

    fn parameters(&mut self) -> Result<Vec<(Name, Option<Expr>)>, Error> {
        self.expect_op("(")?;
        let mut params: Vec<(Name, Option<Expr>)> = Vec::new();
        while !self.is_op(")") {
            if !params.is_empty() {
                self.expect_op(",")?;
            }
            let name = self.variable()?;
            if params.iter().any(|(other, _)| *other == name) {
                return self.error("a parameter appears twice");
            }
            let default = if self.skip_op("=") { Some(self.expression(true)?) } else { None };
            if default.is_none() && params.iter().any(|(_, default)| default.is_some()) {
                return self.error("non-default argument follows default argument");
            }
            params.push((name, default));
        }
        self.expect_op(")")?;
        Ok(params)
    }

    fn call_statement(&mut self) -> Result<StmtKind, Error> {
        let params = if self.is_op("(") { self.parameters()? } else { Vec::new() };
        let call = self.expression(true)?;
        if !matches!(call, Expr::Call(..)) {
            return self.error("expected a call");
        }
        Ok(StmtKind::Call(call, Arc::new(self.macro_of(None, params, "endcall")?)))
    }

    fn macro_of(&mut self, name: Option<Name>, params: Vec<(Name, Option<Expr>)>, end: &str) -> Result<Macro, Error> {
        let inner = self.function_body(end)?;
        Ok(Macro { name, params, reads_caller: false, reads_kwargs: false, reads_varargs: false, inner })
    }

    /// What is assigned to: a name, names, or with `attributes` an attribute of a namespace.
    fn target(&mut self, attributes: bool, ends: &[&str]) -> Result<Target, Error> {
        let mut targets = Vec::new();
        let mut is_tuple = false;
        loop {
            let at_end = matches!(self.peek(), Token::BlockEnd | Token::VariableEnd | Token::Op(")"));
            if at_end || ends.iter().any(|end| self.is_name(end)) {
                break;
            }
            targets.push(self.single_target(attributes)?);
            if !self.skip_op(",") {
                break;
            }
            is_tuple = true;
        }
        match targets.pop() {
            Some(only) if !is_tuple => Ok(only),
            Some(last) => {
                targets.push(last);
                Ok(Target::Tuple(targets))
            }
            None => self.unexpected("a name to assign to"),
        }
    }

    fn single_target(&mut self, attributes: bool) -> Result<Target, Error> {
        if let (Token::Name(_), Token::Op(".")) = (self.peek(), self.peek_second())
            && attributes
        {
            let name = self.variable()?;
            self.at += 1;
            return Ok(Target::Attr(name, Text::own(self.expect_name()?)));
        }
        if self.is_op("(") {
            let expr = self.deeper(Parser::primary)?;
            return as_target(expr).map_or_else(|| self.error("can't assign to this expression"), Ok);
        }
        Ok(Target::Name(self.variable()?))
    }
}

fn as_target(expr: Expr) -> Option<Target> {
    match expr {
        Expr::Name(name) => Some(Target::Name(name)),
        Expr::Tuple(items) => Some(Target::Tuple(items.into_iter().map(as_target).collect::<Option<_>>()?)),
        _ => None,
    }
}

fn is_constant(name: &str) -> bool {
    matches!(name, "true" | "false" | "none" | "True" | "False" | "None")
}

fn describe(token: &Token) -> String {
    match token {
        Token::Data(_) => "text".to_owned(),
        Token::VariableBegin => "'{{'".to_owned(),
        Token::VariableEnd => "'}}'".to_owned(),
        Token::BlockBegin => "'{%'".to_owned(),
        Token::BlockEnd => "'%}'".to_owned(),
        Token::Name(name) => format!("{name:?}"),
        Token::Str(_) => "a string".to_owned(),
        Token::Int(_) | Token::Float(_) => "a number".to_owned(),
        Token::Op(op) => format!("'{op}'"),
        Token::End => "the end of the template".to_owned(),
    }
}
