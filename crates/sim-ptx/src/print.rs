//! The syntax tree as PTX text. Reading it again gives the same tree but for line numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter, Write};

use crate::ast::{
    Call, Function, InlinedAt, Instruction, Linkage, Module, Operand, Pointer, Prototype, Statement, Variable,
    VariableSpace, type_bits,
};

/// Numbers of the files that `.loc` names.
type Files<'m> = BTreeMap<&'m str, usize>;

impl Display for Module {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        writeln!(out, ".version {}\n.target {}", self.version, self.targets.join(", "))?;
        if let Some(bits) = self.address_bits {
            writeln!(out, ".address_size {bits}")?;
        }
        let files = files(self);
        for (name, number) in &files {
            writeln!(out, ".file {number} \"{name}\"")?;
        }
        // Variables may hold addresses of functions, which are declared before them.
        let declared = self.functions.iter().take_while(|f| !f.has_body).count();
        self.functions[..declared].iter().try_for_each(|f| function(out, f, &files))?;
        self.variables.iter().try_for_each(|v| writeln!(out, "{v};"))?;
        self.functions[declared..].iter().try_for_each(|f| function(out, f, &files))?;
        for (alias, function) in &self.aliases {
            writeln!(out, ".alias {alias}, {function};")?;
        }
        for section in &self.sections {
            write!(out, ".section {} {{", section.name)?;
            for token in &section.tokens {
                let space = if token == "," {
                    ""
                } else if token.starts_with('.') {
                    "\n"
                } else {
                    " "
                };
                write!(out, "{space}{token}")?;
            }
            out.write_str("\n}\n")?;
        }
        Ok(())
    }
}

fn files(module: &Module) -> Files<'_> {
    let statements = module.functions.iter().flat_map(|f| &f.body);
    let mut files = Files::new();
    for (source, inlined_at) in statements.filter_map(place) {
        let names = source.iter().map(|s| s.0.as_str()).chain(inlined_at.iter().map(|i| i.file.as_str()));
        for name in names {
            let next = files.len() + 1;
            files.entry(name).or_insert(next);
        }
    }
    files
}

/// Where a statement comes from.
type Place<'m> = (&'m Option<(String, u32)>, &'m Option<InlinedAt>);

fn place(statement: &Statement) -> Option<Place<'_>> {
    match statement {
        Statement::Instruction(i) => Some((&i.source, &i.inlined_at)),
        Statement::Call(c) => Some((&c.source, &c.inlined_at)),
        Statement::Label(_) | Statement::Targets(..) | Statement::Prototype(_) => None,
    }
}

impl Linkage {
    fn text(self) -> &'static str {
        match self {
            Linkage::Internal => "",
            Linkage::Visible => ".visible ",
            Linkage::Weak => ".weak ",
            Linkage::Extern => ".extern ",
            Linkage::Common => ".common ",
        }
    }
}

impl VariableSpace {
    fn text(self) -> &'static str {
        match self {
            VariableSpace::Register => ".reg",
            VariableSpace::Param => ".param",
            VariableSpace::Local => ".local",
            VariableSpace::Shared => ".shared",
            VariableSpace::Global => ".global",
            VariableSpace::Const => ".const",
        }
    }
}

impl Variable {
    /// Bytes of an element of its type.
    fn element_bytes(&self) -> u64 {
        u64::from(type_bits(&self.ty).unwrap_or(8).max(8) / 8)
    }

    /// Everything before the name.
    fn declaration(&self) -> String {
        let mut out = format!("{}{}", self.linkage.text(), self.space.text());
        let count = self.bytes / self.element_bytes();
        if self.space == VariableSpace::Register {
            if count > 1 {
                let _ = write!(out, " .v{count}");
            }
        } else if self.align != self.element_bytes() {
            let _ = write!(out, " .align {}", self.align);
        }
        let _ = write!(out, " .{}", self.ty);
        out
    }

    fn initial_value(&self) -> String {
        let (width, mut at, mut parts) = (self.element_bytes() as usize, 0, Vec::new());
        while at < self.init.len() {
            let pointer = self.pointers.iter().find(|p| p.at == at as u64);
            match pointer {
                Some(p) if width == 1 => parts.extend((0..8).map(|i| format!("{:#x}({p})", 0xffu64 << (8 * i)))),
                Some(p) => parts.push(p.to_string()),
                None => {
                    let mut raw = [0; 8];
                    let bytes = &self.init[at..self.init.len().min(at + width).min(at + 8)];
                    raw[..bytes.len()].copy_from_slice(bytes);
                    let bits = u64::from_le_bytes(raw);
                    parts.push(match self.ty.as_str() {
                        "f32" => format!("0f{bits:08X}"),
                        "f64" => format!("0d{bits:016X}"),
                        _ => bits.to_string(),
                    });
                }
            }
            at += if pointer.is_some() { 8 } else { width };
        }
        parts.join(", ")
    }
}

impl Display for Pointer {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self.is_generic {
            true => write!(out, "generic({})", self.name)?,
            false => out.write_str(&self.name)?,
        }
        if self.addend == 0 { Ok(()) } else { write!(out, "+{}", self.addend) }
    }
}

impl Display for Variable {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{} {}", self.declaration(), self.name)?;
        let count = self.bytes / self.element_bytes();
        let is_scalar = count == 1 && !self.dynamic;
        if self.dynamic || self.bytes == 0 {
            out.write_str("[]")?;
        } else if !is_scalar && self.space != VariableSpace::Register {
            write!(out, "[{count}]")?;
        }
        match (self.init.is_empty(), is_scalar) {
            (true, _) => Ok(()),
            (false, true) => write!(out, " = {}", self.initial_value()),
            (false, false) => write!(out, " = {{{}}}", self.initial_value()),
        }
    }
}

fn list<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// A function up to its body.
fn header(out: &mut Formatter<'_>, f: &Function) -> fmt::Result {
    out.write_str(f.linkage.text())?;
    out.write_str(if f.is_entry { ".entry " } else { ".func " })?;
    if !f.returns.is_empty() {
        write!(out, "({}) ", list(&f.returns))?;
    }
    write!(out, "{}({})", f.name, list(&f.params))?;
    for directive in &f.directives {
        write!(out, "\n{} {}", directive.name, list(&directive.numbers))?;
    }
    Ok(())
}

fn function(out: &mut Formatter<'_>, f: &Function, files: &Files<'_>) -> fmt::Result {
    header(out, f)?;
    if !f.has_body {
        return out.write_str(";\n");
    }
    out.write_str("\n{\n")?;
    let mut rest = f.variables.as_slice();
    while let Some(first) = rest.first() {
        // Registers of a type share a line.
        let alike = |v: &Variable| v.space == VariableSpace::Register && v.declaration() == first.declaration();
        let count = rest.iter().take_while(|v| alike(v)).count().max(1);
        write!(out, "\t{first}")?;
        rest[1..count].iter().try_for_each(|v| write!(out, ", {}", v.name))?;
        out.write_str(";\n")?;
        rest = &rest[count..];
    }
    let (mut here, mut named): (Place<'_>, _) = ((&None, &None), BTreeSet::new());
    for statement in &f.body {
        if let Some(next) = place(statement).filter(|next| *next != here) {
            location(out, next, files, &mut named)?;
            here = next;
        }
        writeln!(out, "{statement}")?;
    }
    out.write_str("}\n")
}

/// A `.loc`. The place that code was inlined at must have had one of its own: `named` are those that had.
fn location<'m>(
    out: &mut Formatter<'_>,
    (source, inlined_at): Place<'m>,
    files: &Files<'_>,
    named: &mut BTreeSet<(&'m str, u32)>,
) -> fmt::Result {
    let Some((file, line)) = source else { return Ok(()) };
    if let Some(inlined) = inlined_at
        && named.insert((&inlined.file, inlined.line))
    {
        writeln!(out, "\t.loc {} {} 0", files[inlined.file.as_str()], inlined.line)?;
    }
    write!(out, "\t.loc {} {line} 0", files[file.as_str()])?;
    match inlined_at {
        None => {
            named.insert((file, *line));
        }
        Some(InlinedAt { function, file, line }) => {
            match function {
                Some((label, 0)) => write!(out, ", function_name {label}")?,
                Some((label, offset)) => write!(out, ", function_name {label}+{offset}")?,
                None => {}
            }
            write!(out, ", inlined_at {} {line} 0", files[file.as_str()])?;
        }
    }
    out.write_str("\n")
}

impl Display for Statement {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Statement::Label(name) => write!(out, "{name}:"),
            Statement::Instruction(i) => write!(out, "{i}"),
            Statement::Call(c) => write!(out, "{c}"),
            Statement::Prototype(p) => write!(out, "{p}"),
            Statement::Targets(name, labels) => write!(out, "{name}: .branchtargets {};", labels.join(", ")),
        }
    }
}

fn guard(out: &mut Formatter<'_>, guard: Option<&(String, bool)>) -> fmt::Result {
    out.write_str("\t")?;
    match guard {
        Some((name, negated)) => write!(out, "@{}{name} ", if *negated { "!" } else { "" }),
        None => Ok(()),
    }
}

impl Display for Instruction {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        if let Some(mask) = self.used_bytes {
            writeln!(out, "\t.pragma \"used_bytes_mask {mask:#x}\";")?;
        }
        guard(out, self.guard.as_ref())?;
        out.write_str(&self.opcode)?;
        self.modifiers.iter().try_for_each(|m| write!(out, ".{m}"))?;
        if !self.operands.is_empty() {
            write!(out, " {}", list(&self.operands))?;
        }
        out.write_str(";")
    }
}

impl Display for Call {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        guard(out, self.guard.as_ref())?;
        out.write_str(if self.is_uniform { "call.uni " } else { "call " })?;
        if !self.returns.is_empty() {
            write!(out, "({}), ", list(&self.returns))?;
        }
        out.write_str(&self.function)?;
        if !self.arguments.is_empty() || self.prototype.is_some() {
            write!(out, ", ({})", list(&self.arguments))?;
        }
        if let Some(prototype) = &self.prototype {
            write!(out, ", {prototype}")?;
        }
        out.write_str(";")
    }
}

impl Display for Prototype {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(out, "{}: .callprototype ", self.name)?;
        if !self.returns.is_empty() {
            write!(out, "({}) ", list(&self.returns))?;
        }
        write!(out, "_ ({});", list(&self.params))
    }
}

impl Display for Operand {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Operand::Name(name) => out.write_str(name),
            Operand::NameOffset(name, offset) => write!(out, "{name}+{offset}"),
            Operand::Not(name) => write!(out, "!{name}"),
            Operand::Integer(bits) => write!(out, "{}", *bits as i64),
            Operand::Single(bits) => write!(out, "0f{bits:08X}"),
            Operand::Double(bits) => write!(out, "0d{bits:016X}"),
            Operand::Memory(base, 0) => write!(out, "[{base}]"),
            Operand::Memory(base, offset) => write!(out, "[{base}+{offset}]"),
            Operand::Tensor(base, coordinates) => write!(out, "[{base}, {{{}}}]", list(coordinates)),
            Operand::Vector(parts) => write!(out, "{{{}}}", list(parts)),
            Operand::Pair(a, b) => write!(out, "{a}|{b}"),
            Operand::Sink => out.write_str("_"),
        }
    }
}
