//! Text to a tree, to text, to the same tree: for PTX as compilers write it, and for trees made up at random.

mod common;

use common::assert_round_trip;
use proptest::prelude::*;
use sim_ptx::{
    Call, Directive, Function, InlinedAt, Instruction, Linkage, Module, Operand, Pointer, Prototype, Section,
    Statement, Variable, VariableSpace, read, type_bits,
};

#[test]
fn forms_of_the_corpus_survive() {
    for (name, text) in common::CORPUS {
        assert_round_trip(name, text);
    }
}

fn name() -> impl Strategy<Value = String> {
    prop_oneof![
        "%[a-z]{1,2}[0-9]{1,2}",
        "[a-z][a-z0-9_]{0,6}",
        r"\$L__BB[0-9]_[0-9]",
        "_Z[0-9][a-zA-Z_]{1,8}",
        r"__x\$[0-9]"
    ]
    // Words with a meaning of their own in front of which no operand stands.
    .prop_filter("reserved", |n| !matches!(n.as_str(), "generic" | "call"))
}

fn leaf() -> impl Strategy<Value = Operand> {
    prop_oneof![
        4 => name().prop_map(Operand::Name),
        1 => (name(), prop_oneof![-5000i64..-1, 1i64..5000]).prop_map(|(n, o)| Operand::NameOffset(n, o)),
        2 => prop_oneof![any::<u64>(), 0u64..100, Just(u64::MAX), Just(1 << 63)].prop_map(Operand::Integer),
        1 => any::<u32>().prop_map(Operand::Single),
        1 => any::<u64>().prop_map(Operand::Double),
        1 => Just(Operand::Sink),
    ]
}

fn operand() -> impl Strategy<Value = Operand> {
    let base = || prop_oneof![name().prop_map(Operand::Name), (0u64..9999).prop_map(Operand::Integer)];
    prop_oneof![
        6 => leaf(),
        1 => name().prop_map(Operand::Not),
        2 => (base(), prop_oneof![Just(0i64), any::<i32>().prop_map(i64::from)])
            .prop_map(|(b, o)| Operand::Memory(Box::new(b), o)),
        1 => (base(), prop::collection::vec(leaf(), 1..6)).prop_map(|(b, c)| Operand::Tensor(Box::new(b), c)),
        2 => prop::collection::vec(leaf(), 1..9).prop_map(Operand::Vector),
        1 => (leaf(), leaf()).prop_map(|(a, b)| Operand::Pair(Box::new(a), Box::new(b))),
    ]
}

type Source = Option<(String, u32)>;

fn guard() -> impl Strategy<Value = Option<(String, bool)>> {
    prop::option::of((name(), any::<bool>()))
}

fn inlined_at() -> impl Strategy<Value = Option<InlinedAt>> {
    let function = prop::option::of((r"\$L__info[0-9]", prop_oneof![Just(0u64), 1u64..500]));
    prop::option::of((function, "[a-z/]{1,9}\\.cuh", 1u32..9999))
        .prop_map(|i| i.map(|(function, file, line)| InlinedAt { function, file, line }))
}

fn instruction(source: Source) -> impl Strategy<Value = Instruction> {
    let modifiers = prop::collection::vec("[a-z][a-z0-9]{0,6}(::[a-z0-9]{1,4})?", 0..5);
    let opcode = "[a-z][a-z0-9]{1,8}".prop_filter("a call", |o| o != "call");
    let operands = prop::collection::vec(operand(), 0..6);
    let inlined_at = inlined_at();
    (guard(), opcode, modifiers, operands, prop::option::of(1u32..), inlined_at).prop_map(
        move |(guard, opcode, modifiers, operands, used_bytes, inlined_at)| Instruction {
            guard,
            opcode,
            modifiers,
            operands,
            used_bytes,
            line: 0,
            source: source.clone(),
            inlined_at: inlined_at.filter(|_| source.is_some()),
        },
    )
}

fn call(source: Source) -> impl Strategy<Value = Call> {
    let operands = || prop::collection::vec(leaf(), 0..4);
    (guard(), any::<bool>(), name(), operands(), operands(), prop::option::of(name())).prop_map(
        move |(guard, is_uniform, function, returns, arguments, prototype)| Call {
            guard,
            is_uniform,
            function,
            returns,
            arguments,
            prototype,
            line: 0,
            source: source.clone(),
            inlined_at: None,
        },
    )
}

fn variable(space: VariableSpace) -> impl Strategy<Value = Variable> {
    let ty = prop::sample::select(vec!["b8", "u16", "s32", "f32", "b64", "f64", "b128"]);
    let count = prop_oneof![Just(1u64), 2u64..5];
    (name(), ty, count, 0u32..3).prop_map(move |(name, ty, count, shift)| {
        let element = u64::from(type_bits(ty).unwrap_or(8) / 8);
        let count = if space == VariableSpace::Register { [1, 2, 4][count as usize % 3] } else { count };
        // Vectors of registers are aligned like the whole.
        let align = if space == VariableSpace::Register { element * count } else { element << shift };
        Variable {
            name,
            linkage: Linkage::Internal,
            space,
            ty: ty.to_owned(),
            bytes: element * count,
            align,
            init: Vec::new(),
            pointers: Vec::new(),
            dynamic: false,
        }
    })
}

/// A variable of the module, perhaps with initial values and addresses among them.
fn global() -> impl Strategy<Value = Variable> {
    let linkage = prop::sample::select(vec![Linkage::Internal, Linkage::Visible, Linkage::Weak]);
    let space = prop::sample::select(vec![VariableSpace::Global, VariableSpace::Const, VariableSpace::Shared]);
    let contents =
        prop::option::of((prop::collection::vec(any::<u8>(), 64), prop::option::of((name(), 0i64..99, any::<bool>()))));
    (space.prop_flat_map(variable), linkage, contents).prop_map(|(v, linkage, contents)| {
        let has_contents = v.space != VariableSpace::Shared && v.ty != "b128";
        let Some((bytes, pointer)) = contents.filter(|_| has_contents) else { return Variable { linkage, ..v } };
        let mut init = bytes[..v.bytes as usize].to_vec();
        let holds_address = v.ty == "b64" || v.ty == "b8" && v.bytes >= 8;
        let pointer = pointer.filter(|_| holds_address);
        let pointer = pointer.map(|(name, addend, is_generic)| Pointer { at: 0, name, addend, is_generic });
        let pointers: Vec<_> = pointer.into_iter().collect();
        if !pointers.is_empty() {
            init[..8].fill(0);
        }
        Variable { linkage, init, pointers, ..v }
    })
}

fn statement(source: Source) -> impl Strategy<Value = Statement> {
    let label = || r"\$L[a-z]{1,4}[0-9]{1,3}";
    let params = || prop::collection::vec(variable(VariableSpace::Param), 0..3);
    let prototype = (r"proto[0-9]", params(), params());
    prop_oneof![
        6 => instruction(source.clone()).prop_map(Statement::Instruction),
        1 => call(source).prop_map(Statement::Call),
        1 => label().prop_map(Statement::Label),
        1 => (label(), prop::collection::vec(label(), 1..4)).prop_map(|(n, l)| Statement::Targets(n, l)),
        1 => prototype.prop_map(|(name, params, returns)| Statement::Prototype(Prototype { name, params, returns })),
    ]
}

/// Statements without a known source come first: none is forgotten within a function.
fn body() -> impl Strategy<Value = Vec<Statement>> {
    let sourceless = prop::collection::vec(statement(None), 0..3);
    let source = || ("[a-z/]{1,9}\\.cu", 1u32..9999).prop_map(Some);
    let sourced = prop::collection::vec(source().prop_flat_map(statement), 0..9);
    (sourceless, sourced).prop_map(|(a, b)| [a, b].concat())
}

fn function() -> impl Strategy<Value = Function> {
    let directive = (
        prop::sample::select(vec![".maxntid", ".reqntid", ".minnctapersm", ".maxnreg", ".noreturn"]),
        prop::collection::vec(1u32..2000, 0..4),
    );
    let directives = prop::collection::vec(directive, 0..3);
    let params = || prop::collection::vec(variable(VariableSpace::Param), 0..4);
    let spaces = vec![VariableSpace::Register, VariableSpace::Local, VariableSpace::Shared, VariableSpace::Param];
    let variables = prop::collection::vec(prop::sample::select(spaces).prop_flat_map(variable), 0..8);
    let shape = (any::<bool>(), prop::bool::weighted(0.8));
    (name(), shape, params(), params(), variables, body(), directives).prop_map(
        |(name, (is_entry, has_body), params, returns, variables, body, directives)| Function {
            name,
            linkage: if has_body { Linkage::Visible } else { Linkage::Extern },
            is_entry,
            has_body,
            params,
            returns: if is_entry { Vec::new() } else { returns },
            variables: if has_body { variables } else { Vec::new() },
            body: if has_body { body } else { Vec::new() },
            directives: directives
                .into_iter()
                .map(|(name, numbers)| Directive { name: name.to_owned(), numbers })
                .collect(),
        },
    )
}

fn module() -> impl Strategy<Value = Module> {
    let section = prop::collection::vec("[a-z0-9]{1,5}", 1..9);
    (prop::collection::vec(global(), 0..4), prop::collection::vec(function(), 0..4), prop::option::of(section))
        .prop_map(|(variables, functions, section)| Module {
            version: "8.7".into(),
            targets: vec!["sm_90a".into(), "debug".into()],
            address_bits: Some(64),
            variables,
            functions,
            sections: section.map(|tokens| Section { name: ".debug_str".into(), tokens }).into_iter().collect(),
            aliases: vec![("f".into(), "g".into())],
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn trees_survive_printing(module in module()) {
        let text = module.to_string();
        let again = read(&text).unwrap_or_else(|(line, message)| panic!("line {line}: {message}\n{text}"));
        prop_assert_eq!(again.without_lines(), module, "{}", text);
    }

    #[test]
    fn any_text_is_read_or_refused_with_a_line_that_it_has(text in r"[ -~\n]{0,80}") {
        if let Err((line, message)) = read(&text) {
            prop_assert!(line as usize <= text.matches('\n').count() + 1, "line {} of {:?}", line, text);
            prop_assert!(!message.is_empty());
        }
    }

    #[test]
    fn a_damaged_program_is_read_or_refused(at in 0usize..4000, with in "[ -~]{0,3}") {
        for (_, text) in common::CORPUS {
            let at = text.char_indices().map(|(i, _)| i).nth(at % text.chars().count()).unwrap_or(0);
            let next = text[at..].chars().next().map_or(at, |c| at + c.len_utf8());
            let _ = read(&format!("{}{with}{}", &text[..at], &text[next..]));
        }
    }
}
