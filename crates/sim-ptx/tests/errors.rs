//! What is no PTX is refused with the line, what was expected there, and what was found.

use sim_ptx::read;

const HEAD: &str = ".version 8.7\n.target sm_90\n.address_size 64\n";

/// Text after [`HEAD`], the line of the whole that the error names, and what it says.
const CASES: &[(&str, u32, &str)] = &[
    ("entry k() { ret; }", 4, "expected a directive, found `entry`"),
    (".entry k( { ret; }", 4, "expected `.param`, found `{`"),
    (".entry k(.param .u65 a) { ret; }", 4, "`.u65` is not a type"),
    (".entry k(.param .u64 7) { ret; }", 4, "expected a name, found `7`"),
    (".entry 7() { ret; }", 4, "expected a name, found `7`"),
    (".entry k()\nmaxntid 3\n{ ret; }", 5, "expected a directive, `{` or `;`, found `maxntid`"),
    (".entry k() {\n ret\n}", 6, "expected an operand, found `}`"),
    (".entry k() {\n ret;\n", 5, "unexpected end of text"),
    (".entry k() {\n add.u32 %r1, %r2 %r3;\n}", 5, "expected `;`, found `%r3`"),
    (".entry k() {\n add.u32 %r1, , %r3;\n}", 5, "expected an operand, found `,`"),
    (".entry k() {\n\n ld.global.u32 %r1, [%rd1;\n}", 6, "expected a number, found `;`"),
    (".entry k() {\n ld.global.u32 %r1, [%rd1+x];\n}", 5, "expected a number, found `x`"),
    (".entry k() {\n mov.u32 %r1, 12x;\n}", 5, "expected a number, found `12x`"),
    (".entry k() {\n mov.f32 %f1, 0fXYZ;\n}", 5, "`0fXYZ`: invalid digit found in string"),
    (".entry k() {\n mov.b64 {%r1, %r2, %rd1;\n}", 5, "expected an operand, found `;`"),
    (".entry k() {\n 5 %r1;\n}", 5, "expected an instruction, found `5`"),
    (".entry k() {\n .reg .b32 %r<x>;\n}", 5, "expected a number, found `x`"),
    (".entry k() {\n .reg .b32 %r<4;\n}", 5, "expected `>`, found `;`"),
    (".entry k() {\n .reg .b32 %r1\n ret;\n}", 6, "expected `;`, found `ret`"),
    (".entry k() {\n .loc one 2 3\n}", 5, "expected a number, found `one`"),
    (".entry k() {\n .loc 1 2 3, inlined 1 2 3\n}", 5, "expected `function_name` or `inlined_at`, found `inlined`"),
    (".entry k() {\n call (r), 5;\n}", 5, "expected a name, found `5`"),
    (".entry k() {\n p: .callprototype x;\n}", 5, "expected `_`, found `x`"),
    (".global .u32 x = {1, };\n.global .u32 y = [1];", 5, "expected an operand, found `[`"),
    (".global .u32 x[two];", 4, "expected a number, found `two`"),
    (".global .u32 x = 0xFF(y);", 4, "expected bytes, of which each may be one of an address"),
    (".global .u32 x", 4, "expected `;`, found ``"),
    (".alias a b;", 4, "expected `,`, found `b`"),
    ("/* no end", 4, "comment without end"),
    (".file 1 \"no end", 4, "string without end"),
];

#[test]
fn each_mistake_is_named_with_its_line() {
    for (text, line, expected) in CASES {
        let found = read(&format!("{HEAD}{text}")).map(|_| ());
        let Err((at, message)) = found else { panic!("{text:?} was read") };
        assert!(
            at == *line && message.contains(expected),
            "{text:?}: line {at}: {message}; expected {line}: {expected}"
        );
    }
}
