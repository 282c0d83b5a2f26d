//! PTX text: tokens, and a syntax tree with every name made unique within its function; and back.

mod ast;
mod lexer;
mod parser;
mod print;

pub use ast::{
    Call, Directive, Function, InlinedAt, Instruction, Linkage, Module, Operand, Pointer, Prototype, Section,
    Statement, Variable, VariableSpace, type_bits,
};
pub use parser::{Problem, read};
