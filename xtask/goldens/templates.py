"""What Jinja2 renders for chat templates, in the environment that transformers documents.

Renders every template for ten inputs: the small ones in `--templates`, and the public ones that llama.cpp's source package
brings (`--public`, put there by `cargo xtask setup`). transformers runs a template in Jinja2's immutable sandbox with blocks
trimmed, loop controls, `{% generation %}`, `raise_exception`, `strftime_now` and a `tojson` that is `json.dumps`, and passes
`tools` and `documents` as None where there are none. The clock stands still.

Writes into `--out`:
  inputs.json    the inputs, by name
  own.json       per small template, what it renders for each input; null where Jinja2 refuses
  public.json    per public template, the first 16 hex digits of the SHA-256 of what it renders and its bytes, or null
"""
# goldens: --templates {root}/crates/jinja/tests/templates --public {root}/target/references/llama.cpp/models/templates --out {root}/crates/jinja/tests/golden

import argparse
import datetime
import hashlib
import json
import pathlib

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2024, 12, 31, 23, 59, 59, tzinfo=datetime.timezone.utc)
BOS, EOS = "<|bos|>", "<|eos|>"


class Generation(Extension):
    """`{% generation %}` marks what the model wrote; a prompt is the same without it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_same"), [], [], body).set_lineno(line)

    def _same(self, caller):
        return caller()


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def environment():
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = NOW.strftime
    return env


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def tool(name, description, properties, required):
    parameters = {"type": "object", "properties": properties, "required": required}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


TOOLS = [
    tool(
        "get_weather",
        "The weather in a city: \"now\" or <later>",
        {
            "city": {"type": "string", "description": "A city, as in Zürich"},
            "unit": {"type": "string", "enum": ["°C", "°F"], "default": "°C"},
            "days": {"type": ["integer", "null"], "minimum": 1, "maximum": 14.5},
        },
        ["city"],
    ),
    tool("add", "Adds numbers", {"values": {"type": "array", "items": {"type": "number"}}, "round": {"type": "boolean"}}, []),
]


def call(name, arguments, **more):
    return {"type": "function", "function": {"name": name, "arguments": arguments}, **more}


CALLS = [
    call("get_weather", {"city": "Zürich", "days": 2, "nested": {"a": [1, 2.5, None, True], "b": "x\ny"}}, id="call00001"),
    call("add", {"values": [1, 1e-7, 1e20], "round": False}, id="call00002"),
]

ODD = "a\r\nb\tc  \n\n <|im_start|>system\n[INST] </s> {{ x }} {% raw %} 'q' \"d\" \\ 日本語 👩‍👩‍👧 e\u0301 \u00a0\u200b "

INPUTS = {
    "one_turn": {"messages": [message("user", "Hi there")]},
    "system": {"messages": [message("system", "Be brief."), message("user", "Hi")]},
    "several_turns": {
        "messages": [
            message("system", "  You are kiln.\n"),
            message("user", "What is 2+2?"),
            message("assistant", "4"),
            message("user", " And 3+3? "),
            message("assistant", "<think>\nsix\n</think>\n\n6", name="calculator"),
            message("user", "Thanks!", name="Ann"),
        ]
    },
    "no_generation_prompt": {
        "messages": [message("user", "Hi"), message("assistant", "Hello.")],
        "add_generation_prompt": False,
        "enable_thinking": False,
    },
    "reasoning": {
        "messages": [
            message("user", "Why?"),
            message("assistant", "Because.", reasoning_content="Let me think.\nSo.", thinking="Hm."),
            message("user", "Really?"),
        ],
        "enable_thinking": True,
        "reasoning_effort": "high",
        "thinking": True,
    },
    "tools": {"messages": [message("system", "Use tools."), message("user", "Weather in Zürich?")], "tools": TOOLS},
    "tool_calls": {
        "messages": [message("user", "Weather?"), message("assistant", None, tool_calls=CALLS[:1])],
        "tools": TOOLS,
        "add_generation_prompt": False,
    },
    "tool_results": {
        "messages": [
            message("user", "Weather, and 1+1?"),
            message("assistant", "", tool_calls=CALLS, reasoning_content="Two calls."),
            message("tool", '{"temperature": 21.5, "sky": "<clear>"}', name="get_weather", tool_call_id="call00001"),
            message("tool", "2", name="add", tool_call_id="call00002"),
            message("assistant", "21.5 °C, and 2."),
            message("user", "Thanks"),
        ],
        "tools": TOOLS,
        "enable_thinking": False,
    },
    "odd": {"messages": [message("system", ""), message("user", ODD), message("assistant", ""), message("user", "")]},
    "parts": {
        "messages": [
            message("system", [{"type": "text", "text": "Be kind."}]),
            message("user", [{"type": "text", "text": "Look: "}, {"type": "image"}, {"type": "text", "text": "nice?"}]),
        ],
        "documents": [{"title": "T", "text": "D", "doc_id": 1}],
    },
}


def render(template, given):
    given = {"tools": None, "documents": None, "add_generation_prompt": True, **given}
    try:
        return template.render(bos_token=BOS, eos_token=EOS, **given)
    except Exception:
        return None


def all_inputs(env, path):
    source = path.read_bytes().decode()
    try:
        template = env.from_string(source)
    except Exception:
        return {name: None for name in INPUTS}
    return {name: render(template, given) for name, given in INPUTS.items()}


def digest(text):
    return None if text is None else [hashlib.sha256(text.encode()).hexdigest()[:16], len(text.encode())]


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        json.dump(value, file, ensure_ascii=False, indent=1)
        file.write("\n")


def write_rows(path, rows):
    """A line for each template."""
    lines = [f"{json.dumps(name)}: {json.dumps(row, separators=(',', ':'))}" for name, row in rows.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--templates", type=pathlib.Path, required=True)
    parser.add_argument("--public", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    env = environment()
    own = {path.name: all_inputs(env, path) for path in sorted(args.templates.glob("*.jinja"))}
    public = {
        path.name: [digest(text) for text in all_inputs(env, path).values()] for path in sorted(args.public.glob("*.jinja"))
    }
    write(args.out / "inputs.json", INPUTS)
    write(args.out / "own.json", own)
    write_rows(args.out / "public.json", public)
    for name, rows in [("small", [list(row.values()) for row in own.values()]), ("public", list(public.values()))]:
        refused = sum(value is None for row in rows for value in row)
        print(f"{name}: {len(rows)} templates, {sum(map(len, rows))} renderings, {refused} refused")


if __name__ == "__main__":
    main()
