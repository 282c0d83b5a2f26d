//! Expressions, from the loosest binding to the tightest.

use super::{Parser, is_constant};
use crate::ast::{Applied, Args, BinaryOp, CompareOp, Cond, Const, Expr};
use crate::error::Error;
use crate::lexer::Token;
use crate::text::Text;

/// Operators of one chain (`a + b + …`), each of which makes the tree deeper. Python refuses longer ones.
const CHAIN_MAX: u32 = 180;

/// Counts the links of a chain.
struct Chain(u32);

impl Chain {
    fn link(&mut self, parser: &Parser) -> Result<(), Error> {
        self.0 += 1;
        if self.0 > CHAIN_MAX { parser.error("an expression has too many operators in a row") } else { Ok(()) }
    }
}

type Parse = fn(&mut Parser) -> Result<Expr, Error>;

impl Parser {
    /// An expression, or several with commas between them, which make a tuple.
    pub(super) fn tuple_expression(&mut self, conditional: bool, ends: &[&str]) -> Result<Expr, Error> {
        match self.tuple_items(conditional, ends)? {
            (mut items, false) => match items.pop() {
                Some(only) => Ok(only),
                None => self.unexpected("an expression"),
            },
            (items, true) => Ok(Expr::Tuple(items)),
        }
    }

    fn tuple_items(&mut self, conditional: bool, ends: &[&str]) -> Result<(Vec<Expr>, bool), Error> {
        let mut items = Vec::new();
        loop {
            let at_end = matches!(self.peek(), Token::BlockEnd | Token::VariableEnd | Token::Op(")"));
            if at_end || ends.iter().any(|end| self.is_name(end)) {
                let is_tuple = !items.is_empty();
                return Ok((items, is_tuple));
            }
            items.push(self.expression(conditional)?);
            if !self.is_op(",") {
                let is_tuple = items.len() > 1;
                return Ok((items, is_tuple));
            }
            self.at += 1;
        }
    }

    pub(super) fn expression(&mut self, conditional: bool) -> Result<Expr, Error> {
        self.deeper(if conditional { Parser::conditional } else { Parser::or })
    }

    fn conditional(&mut self) -> Result<Expr, Error> {
        let mut expr = self.or()?;
        let mut chain = Chain(0);
        while self.skip_name("if") {
            chain.link(self)?;
            let test = self.or()?;
            let other = if self.skip_name("else") { Some(self.deeper(Parser::conditional)?) } else { None };
            expr = Expr::Cond(Box::new(Cond { test, then: expr, other }));
        }
        Ok(expr)
    }

    fn or(&mut self) -> Result<Expr, Error> {
        let mut left = self.and()?;
        let mut chain = Chain(0);
        while self.skip_name("or") {
            chain.link(self)?;
            left = Expr::Or(Box::new((left, self.and()?)));
        }
        Ok(left)
    }

    fn and(&mut self) -> Result<Expr, Error> {
        let mut left = self.not()?;
        let mut chain = Chain(0);
        while self.skip_name("and") {
            chain.link(self)?;
            left = Expr::And(Box::new((left, self.not()?)));
        }
        Ok(left)
    }

    fn not(&mut self) -> Result<Expr, Error> {
        if self.skip_name("not") {
            return Ok(Expr::Not(Box::new(self.deeper(Parser::not)?)));
        }
        self.compare()
    }

    fn compare(&mut self) -> Result<Expr, Error> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let op = match (self.peek(), self.peek_second()) {
                (Token::Op("=="), _) => CompareOp::Eq,
                (Token::Op("!="), _) => CompareOp::Ne,
                (Token::Op("<"), _) => CompareOp::Lt,
                (Token::Op("<="), _) => CompareOp::Le,
                (Token::Op(">"), _) => CompareOp::Gt,
                (Token::Op(">="), _) => CompareOp::Ge,
                (Token::Name(name), _) if name == "in" => CompareOp::In,
                (Token::Name(name), Token::Name(second)) if name == "not" && second == "in" => CompareOp::NotIn,
                _ => break,
            };
            self.at += if op == CompareOp::NotIn { 2 } else { 1 };
            rest.push((op, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    /// Operators that bind to the left, with operands that `operand` parses.
    fn binary(&mut self, ops: &[(&str, BinaryOp)], operand: Parse) -> Result<Expr, Error> {
        let mut left = operand(self)?;
        let mut chain = Chain(0);
        while let Some((_, op)) = ops.iter().find(|(op, _)| self.is_op(op)) {
            chain.link(self)?;
            self.at += 1;
            left = Expr::Binary(*op, Box::new((left, operand(self)?)));
        }
        Ok(left)
    }

    fn sum(&mut self) -> Result<Expr, Error> {
        self.binary(&[("+", BinaryOp::Add), ("-", BinaryOp::Sub)], Parser::concat)
    }

    fn concat(&mut self) -> Result<Expr, Error> {
        let first = self.product()?;
        if !self.is_op("~") {
            return Ok(first);
        }
        let mut parts = vec![first];
        while self.skip_op("~") {
            parts.push(self.product()?);
        }
        Ok(Expr::Concat(parts))
    }

    fn product(&mut self) -> Result<Expr, Error> {
        let ops = [("*", BinaryOp::Mul), ("/", BinaryOp::Div), ("//", BinaryOp::FloorDiv), ("%", BinaryOp::Mod)];
        self.binary(&ops, Parser::power)
    }

    fn power(&mut self) -> Result<Expr, Error> {
        self.binary(&[("**", BinaryOp::Pow)], Parser::unary)
    }

    fn unary(&mut self) -> Result<Expr, Error> {
        let expr = self.signed()?;
        self.filters_and_tests(expr)
    }

    fn signed(&mut self) -> Result<Expr, Error> {
        let expr = if self.skip_op("-") {
            Expr::Neg(Box::new(self.deeper(Parser::signed)?))
        } else if self.skip_op("+") {
            Expr::Pos(Box::new(self.deeper(Parser::signed)?))
        } else {
            self.primary()?
        };
        self.postfix(expr)
    }

    pub(super) fn primary(&mut self) -> Result<Expr, Error> {
        match self.peek() {
            Token::Name(name) => {
                let expr = match name.as_str() {
                    "true" | "True" => Expr::Const(Const::Bool(true)),
                    "false" | "False" => Expr::Const(Const::Bool(false)),
                    name if is_constant(name) => Expr::Const(Const::None),
                    name => {
                        let name = name.to_owned();
                        Expr::Name(self.names.intern(&name))
                    }
                };
                self.at += 1;
                Ok(expr)
            }
            Token::Str(_) => {
                let mut text = String::new();
                while let Token::Str(part) = self.peek() {
                    text.push_str(part);
                    self.at += 1;
                }
                self.fields.insert(text.clone());
                Ok(Expr::Const(Const::Str(Text::own(text))))
            }
            Token::Int(value) => {
                let value = *value;
                self.at += 1;
                Ok(Expr::Const(Const::Int(value)))
            }
            Token::Float(value) => {
                let value = *value;
                self.at += 1;
                Ok(Expr::Const(Const::Float(value)))
            }
            Token::Op("(") => {
                self.at += 1;
                let (mut items, is_tuple) = self.tuple_items(true, &[])?;
                self.expect_op(")")?;
                match items.pop() {
                    Some(only) if !is_tuple => Ok(only),
                    last => {
                        items.extend(last);
                        Ok(Expr::Tuple(items))
                    }
                }
            }
            Token::Op("[") => {
                self.at += 1;
                let mut items = Vec::new();
                while !self.is_op("]") {
                    items.push(self.expression(true)?);
                    if !self.is_op("]") {
                        self.expect_op(",")?;
                    }
                }
                self.at += 1;
                Ok(Expr::List(items))
            }
            Token::Op("{") => self.dict(),
            _ => self.unexpected("an expression"),
        }
    }

    fn dict(&mut self) -> Result<Expr, Error> {
        self.at += 1;
        let mut items = Vec::new();
        while !self.is_op("}") {
            let key = self.expression(true)?;
            self.expect_op(":")?;
            items.push((key, self.expression(true)?));
            if !self.is_op("}") {
                self.expect_op(",")?;
            }
        }
        self.at += 1;
        Ok(Expr::Dict(items))
    }

    fn postfix(&mut self, mut expr: Expr) -> Result<Expr, Error> {
        let mut chain = Chain(0);
        loop {
            expr = match self.peek() {
                Token::Op(".") => self.attribute(expr)?,
                Token::Op("[") => self.subscript(expr)?,
                Token::Op("(") => Expr::Call(Box::new(expr), Box::new(self.args()?)),
                _ => return Ok(expr),
            };
            chain.link(self)?;
        }
    }

    fn filters_and_tests(&mut self, mut expr: Expr) -> Result<Expr, Error> {
        let mut chain = Chain(0);
        loop {
            chain.link(self)?;
            expr = match self.peek() {
                Token::Op("|") => self.filters(Some(expr), false)?,
                Token::Name(name) if name == "is" => self.test(expr)?,
                Token::Op("(") => Expr::Call(Box::new(expr), Box::new(self.args()?)),
                _ => return Ok(expr),
            };
        }
    }

    fn attribute(&mut self, expr: Expr) -> Result<Expr, Error> {
        self.at += 1;
        match self.next() {
            Token::Name(name) => {
                self.fields.insert(name.clone());
                Ok(Expr::Attr(Box::new(expr), Text::own(name)))
            }
            Token::Int(index) => Ok(Expr::Item(Box::new((expr, Expr::Const(Const::Int(index)))))),
            _ => self.error("expected a name or a number behind '.'"),
        }
    }

    fn subscript(&mut self, expr: Expr) -> Result<Expr, Error> {
        self.at += 1;
        let mut items = Vec::new();
        let mut slice = None;
        while !self.is_op("]") {
            if !items.is_empty() {
                self.expect_op(",")?;
            }
            let start = if self.is_op(":") { None } else { Some(self.expression(true)?) };
            if self.is_op(":") {
                slice = Some(self.slice(start)?);
                if items.is_empty() && self.is_op("]") {
                    break;
                }
                return self.error("a slice among several subscripts");
            }
            items.extend(start);
        }
        self.expect_op("]")?;
        if let Some(slice) = slice {
            return Ok(Expr::Slice(Box::new(expr), Box::new(slice)));
        }
        let index = match items.pop() {
            Some(only) if items.is_empty() => only,
            last => {
                items.extend(last);
                Expr::Tuple(items)
            }
        };
        Ok(Expr::Item(Box::new((expr, index))))
    }

    fn slice(&mut self, start: Option<Expr>) -> Result<[Option<Expr>; 3], Error> {
        self.at += 1;
        let at_end = |parser: &Parser| parser.is_op("]") || parser.is_op(",");
        let stop = if self.is_op(":") || at_end(self) { None } else { Some(self.expression(true)?) };
        let step = if self.skip_op(":") && !at_end(self) { Some(self.expression(true)?) } else { None };
        Ok([start, stop, step])
    }

    fn args(&mut self) -> Result<Args, Error> {
        self.expect_op("(")?;
        let mut args = Args::default();
        let wrong = "invalid syntax for function call expression";
        while !self.is_op(")") {
            let no_keyword = args.all_keyword.is_none();
            if self.skip_op("*") {
                if args.all_positional.is_some() || !no_keyword {
                    return self.error(wrong);
                }
                args.all_positional = Some(self.expression(true)?);
            } else if self.skip_op("**") {
                if !no_keyword {
                    return self.error(wrong);
                }
                args.all_keyword = Some(self.expression(true)?);
            } else if let (Token::Name(name), Token::Op("=")) = (self.peek(), self.peek_second()) {
                let name = Text::own(name.as_str());
                if !no_keyword || args.keyword.iter().any(|(other, _)| other.as_str() == name.as_str()) {
                    return self.error(wrong);
                }
                self.at += 2;
                args.keyword.push((name, self.expression(true)?));
            } else {
                if args.all_positional.is_some() || !no_keyword || !args.keyword.is_empty() {
                    return self.error(wrong);
                }
                args.positional.push(self.expression(true)?);
            }
            if !self.is_op(")") {
                self.expect_op(",")?;
            }
        }
        self.at += 1;
        Ok(args)
    }

    /// A chain of filters; `inline` where the first one stands without `|`.
    pub(super) fn filters(&mut self, mut input: Option<Expr>, inline: bool) -> Result<Expr, Error> {
        let mut chain = Chain(0);
        let mut inline = inline;
        loop {
            chain.link(self)?;
            if !inline && !self.skip_op("|") {
                return input.map_or_else(|| self.unexpected("a filter"), Ok);
            }
            inline = false;
            let line = self.line();
            let name = self.dotted_name()?;
            let args = if self.is_op("(") { self.args()? } else { Args::default() };
            input = Some(Expr::Filter(input.map(Box::new), Box::new(Applied { name, args, line })));
        }
    }

    fn dotted_name(&mut self) -> Result<String, Error> {
        let mut name = self.expect_name()?;
        while self.skip_op(".") {
            name.push('.');
            name.push_str(&self.expect_name()?);
        }
        Ok(name)
    }

    fn test(&mut self, expr: Expr) -> Result<Expr, Error> {
        self.at += 1;
        let negated = self.skip_name("not");
        let line = self.line();
        let name = self.dotted_name()?;
        let args = match self.peek() {
            Token::Op("(") => self.args()?,
            Token::Name(name) if name == "is" => return self.error("You cannot chain multiple tests with is"),
            Token::Name(name) if matches!(name.as_str(), "else" | "or" | "and") => Args::default(),
            Token::Name(_) | Token::Str(_) | Token::Int(_) | Token::Float(_) | Token::Op("[" | "{") => {
                let arg = self.deeper(Parser::primary)?;
                Args { positional: vec![self.postfix(arg)?], ..Args::default() }
            }
            _ => Args::default(),
        };
        let test = Expr::Test(Box::new(expr), Box::new(Applied { name, args, line }));
        Ok(if negated { Expr::Not(Box::new(test)) } else { test })
    }
}
