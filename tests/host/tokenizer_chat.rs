//! Chat templates: what they render, and how hostile ones end.

use kiln::tokenizer::{ChatTemplate, EncodeOptions, GenerationPrompt, Message, SpecialText, Tokenizer, TokenizerError};
use kiln::weights::{GgufFile, MetaArray, MetaValue, Metadata};
use std::path::Path;
use std::time::{Duration, Instant};

fn metadata(template: Option<&str>) -> Metadata {
    let tokens = ["<unk>", "<s>", "</s>"].into_iter().map(str::to_owned);
    let tokens = tokens.chain((0..=255u8).map(|byte| format!("<0x{byte:02X}>")));
    let types = [2, 3, 3].into_iter().chain([6; 256]).collect();
    let mut pairs = vec![
        ("tokenizer.ggml.model", MetaValue::from("llama")),
        ("tokenizer.ggml.tokens", MetaValue::Array(MetaArray::String(tokens.collect()))),
        ("tokenizer.ggml.token_type", MetaValue::Array(MetaArray::I32(types))),
    ];
    pairs.extend(template.map(|template| ("tokenizer.chat_template", MetaValue::from(template))));
    Metadata::from_pairs(pairs).unwrap()
}

fn template(source: &str) -> Result<ChatTemplate, TokenizerError> {
    let metadata = metadata(Some(source));
    ChatTemplate::from_metadata(&metadata, &Tokenizer::from_metadata(&metadata).unwrap())
}

fn conversation() -> Vec<Message> {
    vec![
        Message::new("system", "Be brief."),
        Message::new("user", " Hi <b>\"there\"</b> "),
        Message::new("assistant", "Yes?"),
        Message::new("user", "日本"),
    ]
}

fn render(source: &str) -> Result<String, TokenizerError> {
    template(source)?.render(&conversation(), GenerationPrompt::Add)
}

#[test]
fn the_default_model_has_its_prompt_with_and_without_a_system_message() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("weights/SmolLM2-135M-Instruct-Q4_1.gguf");
    assert!(path.exists(), "{} is missing: run cargo xtask test", path.display());
    let file = GgufFile::open(&path).unwrap();
    let tokenizer = Tokenizer::from_metadata(file.metadata()).unwrap();
    let template = ChatTemplate::from_metadata(file.metadata(), &tokenizer).unwrap();
    let user = [Message::new("user", "Why is the sky blue?")];
    let system = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n";
    let question = "<|im_start|>user\nWhy is the sky blue?<|im_end|>\n";
    let prompt = template.render(&user, GenerationPrompt::Add).unwrap();
    assert_eq!(prompt, format!("{system}{question}<|im_start|>assistant\n"));
    assert_eq!(template.render(&user, GenerationPrompt::Omit).unwrap(), format!("{system}{question}"));
    let own = [Message::new("system", "Be brief."), user[0].clone()];
    let expected = format!("<|im_start|>system\nBe brief.<|im_end|>\n{question}");
    assert_eq!(template.render(&own, GenerationPrompt::Omit).unwrap(), expected);
    let ids = tokenizer.encode(&prompt, EncodeOptions::PROMPT).unwrap();
    assert_eq!(ids.iter().filter(|&&id| tokenizer.is_special(id)).count(), 5);
    assert_eq!(tokenizer.decode(&ids, SpecialText::Keep), prompt);
}

/// Expected texts are what Jinja2 3.1 renders with `trim_blocks` and `lstrip_blocks`.
#[test]
fn templates_render_as_in_transformers() {
    for (source, expected) in [
        (
            "{{ bos_token }}\n{%- for m in messages %}\n    {%- if m['role'] == 'user' %}\n        {{- '[INST] ' + m.content.strip() + ' [/INST]' }}\n    {%- elif m.role == 'assistant' %}\n        {{- ' ' ~ m.content ~ eos_token }}\n    {%- endif %}\n{%- endfor %}",
            "<s>[INST] Hi <b>\"there\"</b> [/INST] Yes?</s>[INST] 日本 [/INST]",
        ),
        ("{% if true %}\nA\n    {% endif %}\nB\n", "A\nB"),
        ("{{ messages[0] | tojson }}", r#"{"role": "system", "content": "Be brief."}"#),
        ("{{ [1, 'a&b', none, true, 1.5] | tojson }}", r#"[1, "a&b", null, true, 1.5]"#),
        ("{{ {'a': [1, 2]} | tojson(indent=2) }}", "{\n  \"a\": [\n    1,\n    2\n  ]\n}"),
        (
            "{%- set ns = namespace(n=0) %}{% for m in messages[1:] %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
            "3",
        ),
        ("{{ messages[-1]['content'] }}{{ messages | length }}{{ loop is defined }}", "日本4False"),
        (
            "{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ loop.index0 }}{{ m.role[0] }}{% endfor %}",
            "0s1u2a",
        ),
        (
            "{% macro say(m, end='.') %}{{ m.role | upper }}{{ end }}{% endmacro %}{{ say(messages[0]) }}{{ say(messages[1], end='!') }}",
            "SYSTEM.USER!",
        ),
        (
            "{{ 'a,b,c'.split(',')[1] }}{{ 'abc'.replace('b', '-') }}{{ 'abc' | replace('c', '+') }}{{ 'x' in 'xyz' }}{{ 'ab' * 2 }}",
            "ba-cab+Trueabab",
        ),
        (
            "{{ 'a' if messages[0].role != 'user' and 3 > 2 else 'b' }}{{ {'k': 'v'}['k'] }}{{ {'k': 1}.get('z', 'd') }}",
            "avd",
        ),
        (
            "{% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}{{ v }}{% endfor %}{{ ['x', 'y'] | join(', ') }}{{ 'abc'[::-1] }}",
            "b1a2x, ycba",
        ),
        ("{{ messages | selectattr('role', 'equalto', 'user') | map(attribute='content') | list | last }}", "日本"),
        ("{{ messages[0].nothing }}{{ messages[0].nothing is defined }}{{ nothing | default('d') }}", "Falsed"),
        ("{% if add_generation_prompt %}<|a|>{% endif %}{{ 7 // 2 }}{{ 7 % 4 }}{{ 2 + 3 }}", "<|a|>335"),
    ] {
        let rendered = render(source).unwrap().replace("true", "True").replace("false", "False");
        assert_eq!(rendered, expected.replace("true", "True"), "{source}");
    }
}

#[test]
fn a_template_sees_the_time_and_can_refuse() {
    assert!(render("{{ strftime_now('%Y-%m-%d') }}").unwrap().starts_with("20"));
    let error = render("{{ raise_exception('roles must alternate') }}").unwrap_err();
    assert!(error.to_string().contains("roles must alternate"), "{error}");
}

#[test]
fn a_missing_or_broken_template_is_an_error() {
    let without = metadata(None);
    let error = ChatTemplate::from_metadata(&without, &Tokenizer::from_metadata(&without).unwrap()).unwrap_err();
    assert!(matches!(error, TokenizerError::NoChatTemplate { .. }), "{error}");
    for source in ["{% for m in messages %}", "{{ 1 +", "{% nonsense %}", "{{ a < b < c }}", "{{ f(*messages) }}"] {
        let error = template(source).map(|_| "accepted").unwrap_err();
        assert!(matches!(error, TokenizerError::Template(_)), "{source}: {error}");
    }
}

#[test]
fn a_long_conversation_is_no_bomb() {
    let source = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content.strip() + '<|im_end|>' + '\n' }}{% endfor %}";
    let template = template(source).unwrap();
    let one = vec![Message::new("user", "x".repeat(4 << 20))];
    assert!(template.render(&one, GenerationPrompt::Add).unwrap().len() > 4 << 20);
    let many = vec![Message::new("user", "Hello"); 2000];
    assert_eq!(template.render(&many, GenerationPrompt::Add).unwrap().len(), 2000 * 33);
}

/// Doubles `s` (or what `start` makes it) forty times with `step`, then does `last`.
fn doubling(start: &str, step: &str, last: &str) -> String {
    format!(
        "{{% set ns = namespace(s={start}) %}}{{% for i in range(40) %}}{{% set ns.s = {step} %}}{{% endfor %}}{last}"
    )
}

#[test]
fn a_template_bomb_is_an_error_within_100_ms() {
    let half_mib = "{% set s = 'x' * 500000 %}";
    let nested_loops = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}";
    let raw = format!("{{% for a in range(90000) %}}{}{{% endfor %}}", "x".repeat(100_000));
    let parentheses = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
    let ifs = "{% if 1 %}".repeat(50_000);
    let lists = format!("{{{{ {}{} }}}}", "[".repeat(100_000), "]".repeat(100_000));
    let bombs = [
        nested_loops.to_owned(),
        raw,
        parentheses,
        ifs,
        lists,
        "x".repeat(2 << 20),
        "{{ 'x' * 10**9 }}".to_owned(),
        "{{ 10**9 * 'x' }}".to_owned(),
        "{{ ([0] * 10**9) | list }}".to_owned(),
        "{{ range(10**9) | list }}".to_owned(),
        "{{ range(10**18) }}".to_owned(),
        doubling("'x'", "ns.s + ns.s", ""),
        doubling("'x'", "ns.s ~ ns.s", ""),
        doubling("'x'", "[ns.s, ns.s] | join", ""),
        doubling("'x'", "''.join([ns.s, ns.s])", ""),
        doubling("'x'", "ns.s | replace('x', 'xx')", ""),
        doubling("'x'", "ns.s.replace('x', 'xx')", ""),
        doubling("'x'", "'{}{}'.format(ns.s, ns.s)", ""),
        doubling("'x'", "'%s%s' | format(ns.s, ns.s)", ""),
        doubling("'x'", "(ns.s, ns.s) | string", ""),
        doubling("'x'", "[ns.s, ns.s] | tojson", ""),
        doubling("[1]", "ns.s + ns.s", "{{ ns.s | list }}"),
        doubling("[1]", "[ns.s, ns.s]", "{{ ns.s }}"),
        doubling("[1]", "[ns.s, ns.s]", "{{ ns.s | tojson }}"),
        doubling("[1]", "[ns.s, ns.s]", "{{ ns.s | string }}"),
        doubling("[1]", "[ns.s, ns.s]", "{{ ns.s ~ '' }}"),
        doubling("[1]", "[ns.s, ns.s]", "{{ [ns.s] | sort }}"),
        doubling("[1]", "[ns.s, ns.s]", "{{ ns.s | join }}"),
        doubling("namespace(a=[1], b=[1])", "namespace(a=[ns.s.a, ns.s.a], b=[ns.s.b, ns.s.b])", "{{ ns.s.a == ns.s.b }}"),
        doubling("namespace(a=[1], b=[1])", "namespace(a=[ns.s.a, ns.s.a], b=[ns.s.b, ns.s.b])", "{{ ns.s.a is eq(ns.s.b) }}"),
        doubling("namespace(a=[1], b=[1])", "namespace(a=[ns.s.a, ns.s.a], b=[ns.s.b, ns.s.b])", "{{ {ns.s.a: 1, ns.s.b: 2} }}"),
        doubling("namespace(a=[1], b=[1])", "namespace(a=[ns.s.a, ns.s.a], b=[ns.s.b, ns.s.b])", "{{ ns.s.a in [ns.s.b] }}"),
        format!("{half_mib}{{{{ s | replace('', s) }}}}"),
        format!("{half_mib}{{{{ s.replace('', s) }}}}"),
        format!("{half_mib}{{{{ s | join(s) }}}}"),
        format!("{half_mib}{{{{ s.join(s) }}}}"),
        format!("{half_mib}{{{{ s.join(range(99999)) }}}}"),
        format!("{half_mib}{{{{ s | list }}}}"),
        format!("{half_mib}{{{{ s.split('x') }}}}"),
        format!("{half_mib}{{{{ s | split('x') | list }}}}"),
        format!("{half_mib}{{% for i in range(9999) %}}{{{{ s[1:] | length }}}}{{% endfor %}}"),
        format!("{half_mib}{{% for i in range(9999) %}}{{% set t = s[::-1] %}}{{% endfor %}}"),
        format!("{half_mib}{{% for i in range(9999) %}}{{% if s == s ~ 'y' %}}{{% endif %}}{{% endfor %}}"),
        format!("{half_mib}{{% for i in range(9999) %}}{{% set t = s | upper %}}{{% endfor %}}"),
        format!("{half_mib}{{% for i in range(9999) %}}{{% set t = s.strip() %}}{{% endfor %}}"),
        format!("{half_mib}{{% for i in range(9999) %}}{{% if 'y' in s %}}{{% endif %}}{{% endfor %}}"),
        format!("{half_mib}{{% for i in range(9999) %}}{{% set t %}}{{{{ s }}}}{{% endset %}}{{% endfor %}}"),
        format!("{half_mib}{{% for i in range(9999) %}}{{{{ s }}}}{{% endfor %}}"),
        "{{ 'abc'.count('') }}".to_owned(),
        "{{ '%1000000000d' | format(1) }}".to_owned(),
        "{{ '%*d' | format(1000000000, 1) }}".to_owned(),
        "{{ '{:1000000000}'.format(1) }}".to_owned(),
        "{{ '{:{}}'.format(1, 1000000000) }}".to_owned(),
        "{{ '{:.{}f}'.format(1.5, 1000000000) }}".to_owned(),
        "{{ '\n\n' | indent(1000000000) }}".to_owned(),
        "{{ [1] | batch(1000000000, 0) | list }}".to_owned(),
        "{{ [1] | slice(1000000000) | list }}".to_owned(),
        "{{ [[1]] | tojson(indent=1000000000) }}".to_owned(),
        "{% macro f(n) %}{{ f(n + 1) }}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}".to_owned(),
        "{% macro f(s) %}{{ f(s ~ s) }}{% endmacro %}{{ f('xxxxxxxx') }}".to_owned(),
        "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}".to_owned(),
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + [i] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}".to_owned(),
        "{% set ns = namespace(d={}) %}{% for i in range(99999) %}{% set ns.d = dict(ns.d, **{'k' ~ i: i}) %}{% endfor %}".to_owned(),
    ];
    for bomb in bombs {
        let shown = bomb.chars().take(150).collect::<String>();
        // The fastest of three: other work on the machine is not the template's.
        let took = (0..3).map(|_| {
            let start = Instant::now();
            assert!(render(&bomb).is_err(), "rendered: {shown}");
            start.elapsed()
        });
        let took = took.min().unwrap();
        println!("{took:?} {shown}");
        assert!(took < Duration::from_millis(100), "{took:?}: {shown}");
    }
}
