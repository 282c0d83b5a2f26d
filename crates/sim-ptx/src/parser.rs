//! PTX text to its syntax tree: recursive descent, with nested scopes resolved to unique names.

use std::collections::HashMap;

use crate::ast::{
    Call, Directive, Function, InlinedAt, Instruction, Linkage, Module, Operand, Pointer, Prototype, Section,
    Statement, Variable, VariableSpace, type_bits,
};
use crate::lexer::{Token, tokens};

/// A 1-based line of the text, and what was wrong there.
pub type Problem = (u32, String);
type Source = Option<(String, u32)>;

/// Reads a module.
///
/// # Errors
/// The line, and what was expected and found.
pub fn read(text: &str) -> Result<Module, Problem> {
    let tokens = tokens(text)?;
    // nvcc writes the names of files behind the code that uses them.
    let named = tokens.windows(3).filter(|w| w[0].text == ".file");
    let files = named.filter_map(|w| Some((w[1].text.parse().ok()?, w[2].text.trim_matches('"').to_owned()))).collect();
    // What tells a nested scope's names apart must be part of no name.
    let mut mark = "$".to_owned();
    while tokens.iter().any(|t| t.text.contains(&mark)) {
        mark.push('$');
    }
    let mut reader = Reader { tokens, at: 0, files, source: None, inlined_at: None, used_bytes: None, scopes: 0, mark };
    reader.module()
}

struct Reader {
    tokens: Vec<Token>,
    at: usize,
    files: HashMap<u32, String>,
    source: Source,
    inlined_at: Option<InlinedAt>,
    /// From the last `.pragma "used_bytes_mask"`: for the next instruction.
    used_bytes: Option<u32>,
    /// Scopes opened so far: the suffix of names in nested scopes, after a mark that no name of the text has.
    scopes: u32,
    mark: String,
}

/// Names that nested scopes gave new meanings, innermost last.
type Renames = Vec<HashMap<String, String>>;

fn renamed(scopes: &Renames, name: &str) -> String {
    scopes.iter().rev().find_map(|s| s.get(name)).cloned().unwrap_or_else(|| name.to_owned())
}

impl Reader {
    fn peek(&self) -> &str {
        self.tokens.get(self.at).map_or("", |t| &t.text)
    }

    fn line(&self) -> u32 {
        self.tokens.get(self.at.min(self.tokens.len().saturating_sub(1))).map_or(0, |t| t.line)
    }

    fn next(&mut self) -> Result<String, Problem> {
        let token = self.tokens.get(self.at).ok_or_else(|| (self.line(), "unexpected end of text".to_owned()))?;
        self.at += 1;
        Ok(token.text.clone())
    }

    fn eat(&mut self, text: &str) -> bool {
        let found = self.peek() == text;
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, text: &str) -> Result<(), Problem> {
        if self.eat(text) { Ok(()) } else { Err((self.line(), format!("expected `{text}`, found `{}`", self.peek()))) }
    }

    fn skip_to(&mut self, text: &str) -> Result<(), Problem> {
        while self.next()? != text {}
        Ok(())
    }

    fn number(&mut self) -> Result<u64, Problem> {
        let negative = self.eat("-");
        let line = self.line();
        let text = self.next()?;
        let value = integer(&text).ok_or_else(|| (line, format!("expected a number, found `{text}`")))?;
        Ok(if negative { value.wrapping_neg() } else { value })
    }

    fn module(&mut self) -> Result<Module, Problem> {
        let mut module = Module::default();
        let mut linkage = Linkage::Internal;
        while self.at < self.tokens.len() {
            let line = self.line();
            match self.next()?.as_str() {
                ".version" => module.version = self.next()?,
                ".address_size" => module.address_bits = Some(self.number()? as u32),
                ".target" => module.targets = self.names()?,
                ".file" => self.file()?,
                ".section" => module.sections.push(self.section()?),
                ".pragma" => self.skip_to(";")?,
                ".alias" => {
                    let alias = self.next()?;
                    self.expect(",")?;
                    module.aliases.push((alias, self.next()?));
                    self.expect(";")?;
                }
                ".visible" => linkage = Linkage::Visible,
                ".weak" => linkage = Linkage::Weak,
                ".extern" => linkage = Linkage::Extern,
                ".common" => linkage = Linkage::Common,
                space @ (".global" | ".const" | ".shared") => {
                    let dynamic_possible = space == ".shared";
                    let v = self.variable(space_of(space))?;
                    self.expect(";")?;
                    let linkage = std::mem::take(&mut linkage);
                    module.variables.push(Variable { dynamic: v.dynamic && dynamic_possible, linkage, ..v });
                }
                kind @ (".entry" | ".func") => {
                    let function = self.function(kind == ".entry")?;
                    module.functions.push(Function { linkage: std::mem::take(&mut linkage), ..function });
                }
                other => return Err((line, format!("expected a directive, found `{other}`"))),
            }
        }
        Ok(module)
    }

    /// Names with commas between them.
    fn names(&mut self) -> Result<Vec<String>, Problem> {
        let mut names = vec![self.next()?];
        while self.eat(",") {
            names.push(self.next()?);
        }
        Ok(names)
    }

    fn section(&mut self) -> Result<Section, Problem> {
        let name = self.next()?;
        self.expect("{")?;
        let mut tokens = Vec::new();
        while !self.eat("}") {
            tokens.push(self.next()?);
        }
        Ok(Section { name, tokens })
    }

    fn file(&mut self) -> Result<(), Problem> {
        self.number()?;
        self.next()?;
        while self.eat(",") {
            self.next()?;
        }
        Ok(())
    }

    /// A variable declaration after its space: `.align 4 .b8 name[3] = {…}`.
    fn variable(&mut self, space: VariableSpace) -> Result<Variable, Problem> {
        let (mut align, mut vector, mut ty, mut points) = (0, 1, String::new(), false);
        loop {
            let line = self.line();
            let token = self.next()?;
            match token.as_str() {
                // Behind `.ptr` it is that of what the parameter points to.
                ".align" if points => drop(self.number()?),
                ".align" => align = self.number()?,
                ".ptr" => points = true,
                ".v2" => vector = 2,
                ".v4" => vector = 4,
                ".v8" => vector = 8,
                ".global" | ".shared" | ".const" | ".local" | ".generic" | ".volatile" | ".managed" => {}
                ".attribute" => self.attribute()?,
                t if t.starts_with('.') => ty = t[1..].to_owned(),
                name => {
                    let bits = type_bits(&ty).ok_or_else(|| (line, format!("`.{ty}` is not a type")))?;
                    let element = u64::from(bits.max(8) / 8) * vector;
                    let (mut count, mut dynamic) = (1, false);
                    while self.eat("[") {
                        if self.eat("]") {
                            dynamic = true;
                        } else {
                            count *= self.number()?;
                            self.expect("]")?;
                        }
                    }
                    let bytes = if dynamic { 0 } else { element * count };
                    let align = if align == 0 { element } else { align };
                    if !is_name(name) {
                        return Err((line, format!("expected a name, found `{name}`")));
                    }
                    let (name, ty, linkage) = (name.to_owned(), ty.clone(), Linkage::Internal);
                    let (init, pointers) = (Vec::new(), Vec::new());
                    let mut v = Variable { name, linkage, space, ty, bytes, align, init, pointers, dynamic };
                    if self.eat("=") {
                        self.initialiser(&mut v, (element / vector) as usize)?;
                    }
                    v.bytes = v.bytes.max(v.init.len() as u64);
                    v.dynamic &= v.init.is_empty();
                    return Ok(v);
                }
            }
        }
    }

    /// `(…)`, which may hold more of them.
    fn attribute(&mut self) -> Result<(), Problem> {
        self.expect("(")?;
        let mut depth = 1;
        while depth > 0 {
            match self.next()?.as_str() {
                "(" => depth += 1,
                ")" => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    fn initialiser(&mut self, v: &mut Variable, element: usize) -> Result<(), Problem> {
        if self.eat("{") {
            while !self.eat("}") {
                self.initialiser(v, element)?;
                self.eat(",");
            }
            return Ok(());
        }
        let line = self.line();
        let is_generic = self.eat("generic");
        if is_generic {
            self.expect("(")?;
        }
        let operand = self.plain_operand(&Vec::new())?;
        if is_generic {
            self.expect(")")?;
        }
        let bits = match operand {
            // A byte of an address: `0xFF00(name)`.
            Operand::Integer(mask) if self.eat("(") => return self.masked(v, mask, element),
            Operand::Integer(bits) | Operand::Double(bits) => bits,
            Operand::Single(bits) => bits.into(),
            name => {
                let mut pointer = pointer(v, name, is_generic).map_err(|message| (line, message))?;
                if self.peek() == "+" {
                    pointer.addend += self.addend()?;
                }
                v.pointers.push(pointer);
                0
            }
        };
        v.init.extend_from_slice(&bits.to_le_bytes()[..element]);
        Ok(())
    }

    fn addend(&mut self) -> Result<i64, Problem> {
        self.expect("+")?;
        Ok(self.number()? as i64)
    }

    /// The rest of a masked byte of an address; the first stands for all eight.
    fn masked(&mut self, v: &mut Variable, mask: u64, element: usize) -> Result<(), Problem> {
        let line = self.line();
        let is_generic = self.eat("generic");
        if is_generic {
            self.expect("(")?;
        }
        let operand = self.plain_operand(&Vec::new())?;
        if is_generic {
            self.expect(")")?;
        }
        let addend = if self.peek() == "+" { self.addend()? } else { 0 };
        self.expect(")")?;
        if element != 1 {
            return Err((line, "expected bytes, of which each may be one of an address".to_owned()));
        }
        if mask == 0xff {
            let mut pointer = pointer(v, operand, is_generic).map_err(|message| (line, message))?;
            pointer.addend += addend;
            v.pointers.push(pointer);
        }
        v.init.push(0);
        Ok(())
    }

    fn params(&mut self) -> Result<Vec<Variable>, Problem> {
        let mut params = Vec::new();
        if !self.eat("(") {
            return Ok(params);
        }
        while !self.eat(")") {
            let line = self.line();
            let space = match self.next()?.as_str() {
                ".param" => VariableSpace::Param,
                ".reg" => VariableSpace::Register,
                other => return Err((line, format!("expected `.param`, found `{other}`"))),
            };
            params.push(self.variable(space)?);
            self.eat(",");
        }
        Ok(params)
    }

    fn function(&mut self, is_entry: bool) -> Result<Function, Problem> {
        let mut f = Function { is_entry, ..Function::default() };
        (self.source, self.inlined_at) = (None, None);
        if !is_entry {
            f.returns = self.params()?;
        }
        f.name = self.name()?;
        f.params = self.params()?;
        loop {
            let line = self.line();
            match self.next()?.as_str() {
                ";" => return Ok(f),
                "{" => break,
                ".pragma" => self.skip_to(";")?,
                ".attribute" => self.attribute()?,
                name if name.starts_with('.') => {
                    let numbers = self.numbers()?;
                    f.directives.push(Directive { name: name.to_owned(), numbers });
                }
                other => return Err((line, format!("expected a directive, `{{` or `;`, found `{other}`"))),
            }
        }
        f.has_body = true;
        let mut scopes = vec![HashMap::new()];
        let start = self.at;
        self.declare_labels(&mut scopes, start, false);
        while !scopes.is_empty() {
            self.statement(&mut f, &mut scopes)?;
        }
        Ok(f)
    }

    fn name(&mut self) -> Result<String, Problem> {
        let line = self.line();
        let name = self.next()?;
        if is_name(&name) { Ok(name) } else { Err((line, format!("expected a name, found `{name}`"))) }
    }

    /// Numbers with commas between them, if there are any.
    fn numbers(&mut self) -> Result<Vec<u32>, Problem> {
        let mut numbers = Vec::new();
        while integer(self.peek()).is_some() {
            numbers.push(self.number()? as u32);
            if !self.eat(",") {
                break;
            }
        }
        Ok(numbers)
    }

    /// Labels may be used before they are written: names of the labels of a scope are made on entry to it.
    fn declare_labels(&self, scopes: &mut Renames, start: usize, nested: bool) {
        let mut depth = 0;
        for i in start..self.tokens.len().saturating_sub(1) {
            match self.tokens[i].text.as_str() {
                "{" => depth += 1,
                "}" if depth == 0 => return,
                "}" => depth -= 1,
                name if depth == 0 && nested && self.tokens[i + 1].text == ":" => {
                    let unique = format!("{name}{}{}", self.mark, self.scopes);
                    if let Some(scope) = scopes.last_mut() {
                        scope.insert(name.to_owned(), unique);
                    }
                }
                _ => {}
            }
        }
    }

    fn statement(&mut self, f: &mut Function, scopes: &mut Renames) -> Result<(), Problem> {
        let line = self.line();
        let first = self.next()?;
        match first.as_str() {
            "{" => {
                self.scopes += 1;
                scopes.push(HashMap::new());
                self.declare_labels(scopes, self.at, true);
            }
            "}" => {
                scopes.pop();
            }
            ";" => {}
            ".loc" => self.location()?,
            ".pragma" => self.pragma()?,
            ".file" => self.file()?,
            ".reg" | ".local" | ".shared" | ".param" | ".const" | ".global" => self.declaration(&first, f, scopes)?,
            name if self.peek() == ":" => {
                self.at += 1;
                match self.peek() {
                    ".branchtargets" => {
                        self.at += 1;
                        let mut labels = Vec::new();
                        while !self.eat(";") {
                            let label = self.next()?;
                            labels.push(renamed(scopes, &label));
                            self.eat(",");
                        }
                        f.body.push(Statement::Targets(renamed(scopes, name), labels));
                    }
                    ".callprototype" => {
                        self.at += 1;
                        let prototype = self.prototype(renamed(scopes, name))?;
                        f.body.push(Statement::Prototype(prototype));
                    }
                    _ => f.body.push(Statement::Label(renamed(scopes, name))),
                }
            }
            _ => {
                self.at -= 1;
                let statement = self.instruction(line, scopes)?;
                f.body.push(statement);
            }
        }
        Ok(())
    }

    /// `(returns) _ (params) .noreturn;`
    fn prototype(&mut self, name: String) -> Result<Prototype, Problem> {
        let returns = self.params()?;
        self.expect("_")?;
        let params = self.params()?;
        self.skip_to(";")?;
        Ok(Prototype { name, params, returns })
    }

    fn pragma(&mut self) -> Result<(), Problem> {
        let text = self.next()?;
        if let Some(mask) = text.trim_matches('"').strip_prefix("used_bytes_mask") {
            self.used_bytes = integer(mask.trim()).and_then(|mask| u32::try_from(mask).ok());
        }
        self.skip_to(";")
    }

    fn location(&mut self) -> Result<(), Problem> {
        let (file, line) = (self.number()? as u32, self.number()? as u32);
        self.number()?;
        self.source = Some((self.file_name(file), line));
        let (mut function, mut place) = (None, None);
        while self.eat(",") {
            // function_name label+offset, inlined_at file line column
            let at = self.line();
            match self.next()?.as_str() {
                "function_name" => {
                    let label = self.next()?;
                    let offset = if self.eat("+") { self.number()? } else { 0 };
                    function = Some((label, offset));
                }
                "inlined_at" => {
                    place = Some((self.number()? as u32, self.number()? as u32));
                    self.number()?;
                }
                other => return Err((at, format!("expected `function_name` or `inlined_at`, found `{other}`"))),
            }
        }
        self.inlined_at = place.map(|(file, line)| InlinedAt { function, file: self.file_name(file), line });
        Ok(())
    }

    fn file_name(&self, number: u32) -> String {
        self.files.get(&number).cloned().unwrap_or_else(|| format!("file {number}"))
    }

    fn declaration(&mut self, directive: &str, f: &mut Function, scopes: &mut Renames) -> Result<(), Problem> {
        let space = space_of(directive);
        let first = self.variable(space)?;
        let mut names = vec![first.clone()];
        if self.eat("<") {
            let count = self.number()?;
            self.expect(">")?;
            names = (0..count).map(|i| Variable { name: format!("{}{i}", first.name), ..first.clone() }).collect();
        }
        while self.eat(",") {
            let name = self.next()?;
            if self.eat("<") {
                let count = self.number()?;
                self.expect(">")?;
                names.extend((0..count).map(|i| Variable { name: format!("{name}{i}"), ..first.clone() }));
            } else {
                names.push(Variable { name, ..first.clone() });
            }
        }
        self.expect(";")?;
        let nested = scopes.len() > 1;
        for mut v in names {
            if nested {
                let unique = format!("{}{}{}", v.name, self.mark, self.scopes);
                if let Some(scope) = scopes.last_mut() {
                    scope.insert(v.name, unique.clone());
                }
                v.name = unique;
            }
            f.variables.push(v);
        }
        Ok(())
    }

    fn instruction(&mut self, line: u32, scopes: &Renames) -> Result<Statement, Problem> {
        let guard = if self.eat("@") {
            let negated = self.eat("!");
            let name = self.next()?;
            Some((renamed(scopes, &name), negated))
        } else {
            None
        };
        let first = self.line();
        let mut spelled = self.next()?;
        if !spelled.starts_with(|c: char| c.is_ascii_alphabetic()) {
            return Err((first, format!("expected an instruction, found `{spelled}`")));
        }
        // Inline assembly may have spaces before modifiers.
        while self.peek().starts_with('.') {
            spelled += &self.next()?;
        }
        let mut parts = spelled.split('.');
        let opcode = parts.next().unwrap_or("").to_owned();
        let modifiers: Vec<String> = parts.map(str::to_owned).collect();
        let (source, inlined_at) = (self.source.clone(), self.inlined_at.clone());
        let used_bytes = self.used_bytes.take();
        if opcode == "call" {
            let call = self.call(scopes)?;
            let is_uniform = modifiers.iter().any(|m| m == "uni");
            return Ok(Statement::Call(Call { guard, is_uniform, line, source, inlined_at, ..call }));
        }
        let mut operands = Vec::new();
        while !self.eat(";") {
            operands.push(self.operand(scopes)?);
            if !self.eat(",") {
                self.expect(";")?;
                break;
            }
        }
        Ok(Statement::Instruction(Instruction {
            guard,
            opcode,
            modifiers,
            operands,
            used_bytes,
            line,
            source,
            inlined_at,
        }))
    }

    /// A call after its opcode, without what it shares with instructions.
    fn call(&mut self, scopes: &Renames) -> Result<Call, Problem> {
        let mut returns = Vec::new();
        if self.peek() == "(" {
            returns = self.list("(", ")", scopes)?;
            self.expect(",")?;
        }
        let function = renamed(scopes, &self.name()?);
        let (mut arguments, mut prototype) = (Vec::new(), None);
        while self.eat(",") {
            match self.peek() {
                "(" => arguments = self.list("(", ")", scopes)?,
                _ => prototype = Some(renamed(scopes, &self.name()?)),
            }
        }
        self.expect(";")?;
        Ok(Call {
            guard: None,
            is_uniform: false,
            function,
            returns,
            arguments,
            prototype,
            line: 0,
            source: None,
            inlined_at: None,
        })
    }

    fn list(&mut self, open: &str, close: &str, scopes: &Renames) -> Result<Vec<Operand>, Problem> {
        self.expect(open)?;
        let mut items = Vec::new();
        while !self.eat(close) {
            items.push(self.operand(scopes)?);
            self.eat(",");
        }
        Ok(items)
    }

    fn operand(&mut self, scopes: &Renames) -> Result<Operand, Problem> {
        match self.peek() {
            "{" => return Ok(Operand::Vector(self.list("{", "}", scopes)?)),
            "[" => return self.memory(scopes),
            "!" => {
                self.at += 1;
                let name = self.next()?;
                return Ok(Operand::Not(renamed(scopes, &name)));
            }
            _ => {}
        }
        let first = self.plain_operand(scopes)?;
        if self.eat("|") {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.operand(scopes)?)));
        }
        Ok(first)
    }

    fn memory(&mut self, scopes: &Renames) -> Result<Operand, Problem> {
        self.expect("[")?;
        let base = self.plain_operand(scopes)?;
        let (base, mut offset) = match base {
            Operand::NameOffset(name, offset) => (Operand::Name(name), offset),
            other => (other, 0),
        };
        if self.eat(",") {
            let coordinates = self.list("{", "}", scopes)?;
            self.expect("]")?;
            return Ok(Operand::Tensor(Box::new(base), coordinates));
        }
        while !self.eat("]") {
            let negative = !self.eat("+") && self.eat("-");
            let n = self.number()? as i64;
            offset += if negative { -n } else { n };
        }
        Ok(Operand::Memory(Box::new(base), offset))
    }

    /// A name (with an offset), a number or `_`.
    fn plain_operand(&mut self, scopes: &Renames) -> Result<Operand, Problem> {
        let line = self.line();
        let negative = self.eat("-");
        let token = self.next()?;
        let bits = |hex: &str| u64::from_str_radix(hex, 16).map_err(|e| (line, format!("`{token}`: {e}")));
        if token == "_" {
            return Ok(Operand::Sink);
        }
        if let Some(hex) = token.strip_prefix("0f").or_else(|| token.strip_prefix("0F")) {
            return Ok(Operand::Single(bits(hex)? as u32 ^ u32::from(negative) << 31));
        }
        if let Some(hex) = token.strip_prefix("0d").or_else(|| token.strip_prefix("0D")) {
            return Ok(Operand::Double(bits(hex)? ^ u64::from(negative) << 63));
        }
        if token.starts_with(|c: char| c.is_ascii_digit()) {
            if token.contains('.') {
                let value: f64 = token.parse().map_err(|_| (line, format!("expected a number, found `{token}`")))?;
                return Ok(Operand::Double((if negative { -value } else { value }).to_bits()));
            }
            let value = integer(&token).ok_or_else(|| (line, format!("expected a number, found `{token}`")))?;
            return Ok(Operand::Integer(if negative { value.wrapping_neg() } else { value }));
        }
        if !is_name(&token) {
            return Err((line, format!("expected an operand, found `{token}`")));
        }
        let name = renamed(scopes, &token);
        if self.peek() == "+" || self.peek() == "-" {
            let negative = self.next()? == "-";
            let offset = self.number()? as i64;
            return Ok(Operand::NameOffset(name, if negative { -offset } else { offset }));
        }
        Ok(Operand::Name(name))
    }
}

/// An address at the end of what is known of a variable's contents.
fn pointer(v: &Variable, operand: Operand, is_generic: bool) -> Result<Pointer, String> {
    let at = v.init.len() as u64;
    match operand {
        Operand::Name(name) => Ok(Pointer { at, name, addend: 0, is_generic }),
        Operand::NameOffset(name, addend) => Ok(Pointer { at, name, addend, is_generic }),
        other => Err(format!("expected an initial value, found {other:?}")),
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|c: char| c.is_ascii_alphabetic() || matches!(c, '%' | '_' | '$'))
}

fn space_of(directive: &str) -> VariableSpace {
    match directive {
        ".reg" => VariableSpace::Register,
        ".param" => VariableSpace::Param,
        ".local" => VariableSpace::Local,
        ".shared" => VariableSpace::Shared,
        ".const" => VariableSpace::Const,
        _ => VariableSpace::Global,
    }
}

fn integer(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches('U');
    let (radix, digits) = match digits.get(..2) {
        Some("0x" | "0X") => (16, &digits[2..]),
        Some("0b" | "0B") => (2, &digits[2..]),
        _ if digits.len() > 1 && digits.starts_with('0') => (8, &digits[1..]),
        _ => (10, digits),
    };
    u64::from_str_radix(digits, radix).ok()
}
