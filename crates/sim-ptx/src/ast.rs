//! The syntax tree: functions with scoped names already made unique, so that nested scopes are gone.

/// An operand.
#[derive(Clone, Debug, PartialEq)]
pub enum Operand {
    /// A register, special register, variable or label, by unique name.
    Name(String),
    /// `name + offset` of a variable.
    NameOffset(String, i64),
    /// `!p`
    Not(String),
    Integer(u64),
    /// Bits of `0f…`.
    Single(u32),
    /// Bits of `0d…`.
    Double(u64),
    /// `[base + offset]`
    Memory(Box<Operand>, i64),
    /// `[base, {coordinates}]`
    Tensor(Box<Operand>, Vec<Operand>),
    Vector(Vec<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    Sink,
}

/// The call of a function whose body stands in its place, as `.loc … inlined_at` has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InlinedAt {
    /// The label of the function's name in the section `.debug_str`, and an offset from it.
    pub function: Option<(String, u64)>,
    pub file: String,
    pub line: u32,
}

/// One instruction.
#[derive(Clone, Debug, PartialEq)]
pub struct Instruction {
    pub guard: Option<(String, bool)>,
    pub opcode: String,
    pub modifiers: Vec<String>,
    pub operands: Vec<Operand>,
    /// `.pragma "used_bytes_mask"` before a load: the bytes that the program uses.
    pub used_bytes: Option<u32>,
    pub line: u32,
    /// File name and line, from 1, of the CUDA source, if the text says so.
    pub source: Option<(String, u32)>,
    pub inlined_at: Option<InlinedAt>,
}

/// An element of a body.
#[derive(Clone, Debug, PartialEq)]
pub enum Statement {
    Label(String),
    Instruction(Instruction),
    Call(Call),
    /// `.callprototype`
    Prototype(Prototype),
    /// `.branchtargets`
    Targets(String, Vec<String>),
}

/// `call (returns), function, (arguments), prototype`.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub guard: Option<(String, bool)>,
    /// `.uni`: all lanes call, or none.
    pub is_uniform: bool,
    pub function: String,
    pub returns: Vec<Operand>,
    pub arguments: Vec<Operand>,
    /// The prototype or the list of targets of a call through a register.
    pub prototype: Option<String>,
    pub line: u32,
    pub source: Option<(String, u32)>,
    pub inlined_at: Option<InlinedAt>,
}

/// What functions that a register may hold take and return.
#[derive(Clone, Debug, PartialEq)]
pub struct Prototype {
    pub name: String,
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
}

/// Who sees a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Linkage {
    #[default]
    Internal,
    Visible,
    Weak,
    Extern,
    Common,
}

/// Where a variable lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VariableSpace {
    Register,
    Param,
    Local,
    Shared,
    Global,
    Const,
}

/// An address of a variable or function among initial values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pointer {
    /// Byte of the variable that it starts at.
    pub at: u64,
    pub name: String,
    pub addend: i64,
    /// `generic(name)`: a generic address, and not one in the name's own space.
    pub is_generic: bool,
}

/// A declared variable or register. Vectors and arrays of arrays are arrays here.
#[derive(Clone, Debug, PartialEq)]
pub struct Variable {
    pub name: String,
    pub linkage: Linkage,
    pub space: VariableSpace,
    /// PTX type without the dot.
    pub ty: String,
    pub bytes: u64,
    pub align: u64,
    /// Initial bytes, and the addresses among them, whose bytes here are 0.
    pub init: Vec<u8>,
    pub pointers: Vec<Pointer>,
    /// `.extern .shared x[]`
    pub dynamic: bool,
}

/// A performance directive between a function's parameters and its body, such as `.maxntid 128, 1, 1`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directive {
    /// With the dot.
    pub name: String,
    pub numbers: Vec<u32>,
}

/// A kernel or a device function.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Function {
    pub name: String,
    pub linkage: Linkage,
    pub is_entry: bool,
    pub has_body: bool,
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
    pub variables: Vec<Variable>,
    pub body: Vec<Statement>,
    pub directives: Vec<Directive>,
}

impl Function {
    /// Threads per CTA that `.maxntid` or `.reqntid` allow.
    pub fn threads_max(&self) -> Option<u32> {
        self.numbers(".maxntid").or(self.numbers(".reqntid")).map(|n| n.iter().product())
    }

    /// `.reqntid`: the only block that may be launched.
    pub fn block_required(&self) -> Option<[u32; 3]> {
        self.numbers(".reqntid").map(triple)
    }

    /// `.reqnctapercluster`: CTAs of its clusters.
    pub fn cluster(&self) -> Option<[u32; 3]> {
        self.numbers(".reqnctapercluster").map(triple)
    }

    /// `.maxnreg`: registers per thread.
    pub fn registers_max(&self) -> Option<u32> {
        self.numbers(".maxnreg").and_then(|n| n.first().copied())
    }

    /// `.minnctapersm`: CTAs that shall fit on an SM.
    pub fn blocks_per_sm_min(&self) -> Option<u32> {
        self.numbers(".minnctapersm").and_then(|n| n.first().copied())
    }

    fn numbers(&self, name: &str) -> Option<&[u32]> {
        self.directives.iter().find(|d| d.name == name).map(|d| d.numbers.as_slice())
    }
}

fn triple(numbers: &[u32]) -> [u32; 3] {
    std::array::from_fn(|i| numbers.get(i).copied().unwrap_or(1))
}

/// A section with debugging information, as its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    pub name: String,
    pub tokens: Vec<String>,
}

/// A PTX module.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Module {
    /// Of the ISA, such as `8.7`.
    pub version: String,
    /// Such as `sm_90a`, with options.
    pub targets: Vec<String>,
    pub address_bits: Option<u32>,
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
    pub sections: Vec<Section>,
    /// `.alias`: names and the functions that they stand for.
    pub aliases: Vec<(String, String)>,
}

impl Module {
    /// The module with all line numbers of its text 0: for comparisons, as they are the text's and not the program's.
    pub fn without_lines(mut self) -> Self {
        for statement in self.functions.iter_mut().flat_map(|f| &mut f.body) {
            match statement {
                Statement::Instruction(i) => i.line = 0,
                Statement::Call(c) => c.line = 0,
                Statement::Label(_) | Statement::Targets(..) | Statement::Prototype(_) => {}
            }
        }
        self
    }
}

/// Bits of a register type.
pub fn type_bits(ty: &str) -> Option<u32> {
    Some(match ty {
        "pred" => 1,
        "b8" | "u8" | "s8" | "e4m3" | "e5m2" => 8,
        "b16" | "u16" | "s16" | "f16" | "bf16" | "e4m3x2" | "e5m2x2" => 16,
        "b32" | "u32" | "s32" | "f32" | "f16x2" | "bf16x2" | "tf32" | "u16x2" | "s16x2" => 32,
        "b64" | "u64" | "s64" | "f64" => 64,
        "b128" => 128,
        _ => return None,
    })
}
