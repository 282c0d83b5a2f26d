//! What lowering reads: functions with scoped names already made unique.

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

/// One instruction.
#[derive(Clone, Debug)]
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
}

/// An element of a body.
#[derive(Clone, Debug)]
pub enum Statement {
    Label(String),
    Instruction(Instruction),
    Call(Call),
    /// `.branchtargets`
    Targets(String, Vec<String>),
}

/// `call (returns), function, (arguments)`.
#[derive(Clone, Debug)]
pub struct Call {
    pub guard: Option<(String, bool)>,
    pub function: String,
    pub returns: Vec<Operand>,
    pub arguments: Vec<Operand>,
    pub line: u32,
    pub source: Option<(String, u32)>,
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

/// A declared variable or register.
#[derive(Clone, Debug)]
pub struct Variable {
    pub name: String,
    pub space: VariableSpace,
    /// PTX type without the dot.
    pub ty: String,
    pub bytes: u64,
    pub align: u64,
    /// Initial bytes, and places where the address of another variable (plus an addend) belongs.
    pub init: Vec<u8>,
    pub pointers: Vec<(u64, String, i64)>,
    /// `.extern .shared x[]`
    pub dynamic: bool,
}

/// A kernel or a device function.
#[derive(Clone, Debug, Default)]
pub struct Function {
    pub name: String,
    pub is_entry: bool,
    pub has_body: bool,
    pub params: Vec<Variable>,
    pub returns: Vec<Variable>,
    pub variables: Vec<Variable>,
    pub body: Vec<Statement>,
    pub threads_max: Option<u32>,
    pub cluster: Option<[u32; 3]>,
}

/// A PTX module.
#[derive(Clone, Debug, Default)]
pub struct Module {
    pub variables: Vec<Variable>,
    pub functions: Vec<Function>,
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
