//! PTX text: tokens, and a syntax tree with every name made unique within its function.

mod ast;
mod lexer;
mod parser;

pub use ast::{Call, Function, Instruction, Module, Operand, Statement, Variable, VariableSpace, type_bits};
pub use parser::{Problem, read};
