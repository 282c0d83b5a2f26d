"""Ids that llama.cpp gives odd strings under every name of a pre-tokenizer for byte-pair models that it knows.

Writes into the folder `--out`:
  vocab_raw.json      a small vocabulary for the types that spell text as it is and not byte by byte
  pretokenizers.json  the strings; per name what it implies (`bos`, `add_bos`) and its recipe; per recipe the vocabulary
                      and, for each string, which of the string's distinct lists of ids it gives; and those lists
The names are read from the source `--source`, so that none is missing; names of one recipe gave equal ids for all strings.
The other vocabulary is that of tokens.py: its merges cross every border that a pre-tokenizer may draw.
"""
# goldens: --source {root}/target/references/llama_cpp_python-0.3.36.tar.gz --out {root}/tests/golden/tokens

import argparse
import ctypes
import json
import pathlib
import re
import tarfile
import tempfile

import llama_cpp
from tokens import BYTE, CONTROL, NORMAL, SENTENCES, SPECIAL, STRINGS, USER_DEFINED, bpe_vocab, learn, write_gguf

# llama.cpp stops the process on a second space under this name, unless `tokenizer.ggml.model` is another than gpt2.
UNUSABLE = {"whitespace"}
RAW = {"gemma4", "granite-embed-multi-311m", "sarvam-moe"}

EXTRA = [
    "abc1234 567", "abc12345def1234567", "\x01" + "1234", "\x01\x02" + "12", "12٣456", "1234٣٤٥٦", "１２３４５６７", "1,234 5678 x90", "x 12 3456", "0" * 100,
    "HelloWORLDfoo", "ABCdefGHI", "XMLHttpRequest", "日本ABC", "ABC日本", "éABC", "ÀÉB", "aB\u0301C", "M\u0301A", "\u0301A", "\u0301\u0301", " \u0301ABC b", "ABCé's", "ABC'S x", "DON'Tgo",
    "iPhone's iPHONE'S", "ДОМ дом Дом'S", "ÉCOLE École", "AAAaaaÉÉÉééé", "aÉa", "ÉaÉ", "\u0301x\u0301Y", "x\u0301\u0302y Z\u0301", "हिन्दीABC", "ABCहिन्दी", "ⅧA", "ʰA", "ǅa",
    "!abc", "#tag!x", "$abc $5", "_abc", "\"quoted\"", "(a)(b)", "a-b", "@a", "“abc", "¿abc?", "€abc", "+é", "!\u0301a", "!\u0301", "-ABC", "\tABC", "\u00a0ABC", "\u3000ABC", "\x01abc", "\x01\x02",
    "a/b/\n", "x!/\n/", "!//\r\n//x", "!\n\n \n x", "! \n", ".\n.\r\n.", "//", "/\n", "http://a/b/\n", "a!\n/b", "...\n\n\n   y", " \r\n\r x", "\r\r\n x",
    "中文English混合123", "한글ABCㄱㄴ", "ㄅㄆㄇabc", "、。〿︰﹏", "！？中文…“”", "ひらがなカタカナ漢字", "ｱｲｳ中", "⼀⼁一", "ไทยລາວខ្មែរ", "မြန်မာ", "가나다ᄀᄂ", "㐀㐁𠀀𠀁", "〇一二", "中's 文'S", "a中b", "中!文", " 中文", "  中文", "中  文", "\u3000中",
    " a b  c", "ab cd ef", "a  b", "é é", "e\u0301 e\u0301 x", "a b1 c", "a b\u0301 c!", "ab\ncd", "안녕 하세요 여러분",
    "a,b.c!d?e…f。g，h、i۔j،k", "a|b (c) d", " ,a", "a ,b", "।x", "\u3000a b", "(\u00a0)",
    "<sentinel:12>", "x<sentinel:3>y", "<sentinel:>", "IMGIMGABCZ", "aIMGIMGAZb", "IMGIMGABCDEZ", "IMGIMGJZ", "     x", "a\t\tb    c  d", "      ", "a,,b", "``x", "+=", "a+b=c",
    " " * 600 + "x", "x" + " " * 515, " " * 512, " " * 513 + "!", "\t" * 260 + "a", " " * 7 + "\n" + " " * 9 + "y", "\u00a0" * 70, "\u3000" * 5 + "x",
    "I'LL i'll I’LL 'ſ 'T 't", "'S'M'D", "kim'in Ali'ye", "'ll'", "''s",
    "a_b-c.d", "٪٫٬", "±×÷", "a\u200db", "\u200d\u200d", "👩\u200d🚀x", "\ue000a", "\U000f0000", "\u0378a", "a\u0378", "\u0378",
    "word" * 40, "Aa" * 40, "aA" * 40, "ÉA" * 30, "日A" * 30, "中、" * 20, "1a" * 30, "a1" * 30, "12a" * 20, "! " * 30, "\n!" * 20, "a\u0301" * 30,
    "\n\n\n\n", "a\n\n\nb", "\n a\n", "a\n b\n\n", "▁a b▁", "x\u0085y", "\u0085\u0085",
]
TEXTS = list(dict.fromkeys(STRINGS + EXTRA))


def raw_vocab():
    units = [list(text.replace(" ", "\u2581")) for text in [*TEXTS, *SENTENCES.splitlines()] if "\n" not in text and "\0" not in text]
    common = sorted({char for unit in units for char in unit if char.isprintable() and ord(char) < 0x1000})
    merges = learn(units, 700)
    first = [*SPECIAL, "<user>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces = dict.fromkeys([*common, "\u2581", *(a + b for a, b in merges), "\n", "\n\n", "\n\n\n"])
    pieces = [piece for piece in pieces if piece not in first]
    types = [CONTROL] * len(SPECIAL) + [USER_DEFINED] + [BYTE] * 256 + [NORMAL] * len(pieces)
    return {"tokens": [*first, *pieces], "token_type": types, "merges": [" ".join(pair) for pair in merges]}


def names_in(source):
    with tarfile.open(source) as archive:
        member = next(m for m in archive if m.name.endswith("/vendor/llama.cpp/src/llama-vocab.cpp"))
        text = archive.extractfile(member).read().decode()
    return list(dict.fromkeys(re.findall(r'tokenizer_pre == "([^"]+)"', text)))


def record(path):
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, path
    vocab = llama_cpp.llama_model_get_vocab(model)

    def ids(text):
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(vocab, raw, len(raw), room, len(room), False, False)
        assert count >= 0, text
        return tuple(room[:count])

    implied = {"bos": llama_cpp.llama_vocab_bos(vocab), "add_bos": bool(llama_cpp.llama_vocab_get_add_bos(vocab))}
    result = implied, tuple(ids(text) for text in TEXTS)
    llama_cpp.llama_model_free(model)
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, help="the source package of llama-cpp-python")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder to write into")
    args = parser.parse_args()
    # Messages of the library are not of interest here; a failure is noticed by its result.
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(quiet, None)
    vocabs = {"bpe": bpe_vocab(), "raw": raw_vocab()}
    (args.out / "vocab_raw.json").write_text(json.dumps(vocabs["raw"]) + "\n")
    names, recipes = {}, {}
    for name in names_in(args.source):
        if name in UNUSABLE:
            continue
        vocab = "raw" if name in RAW else "bpe"
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "vocab.gguf"
            # The default for BOS, token 11, is what a name may take away.
            write_gguf(path, vocabs[vocab], {"model": "gpt2", "pre": name, "eos_token_id": 0})
            implied, ids = record(path)
        recipe = recipes.setdefault((vocab, ids), len(recipes))
        names[name] = {"recipe": recipe, **implied}
    distinct = {vocab: [[] for _ in TEXTS] for vocab in vocabs}
    lines = []
    for vocab, all_ids in recipes:
        of = []
        for lists, ids in zip(distinct[vocab], all_ids):
            if ids not in lists:
                lists.append(ids)
            of.append(lists.index(ids))
        lines.append(json.dumps({"vocab": vocab, "of": of}, separators=(",", ":")))
    compact = {"separators": (",", ":")}
    parts = [
        '"strings":[\n' + ",\n".join(json.dumps(text) for text in TEXTS) + "\n]",
        '"names":{\n' + ",\n".join(f"{json.dumps(name)}:{json.dumps(value, **compact)}" for name, value in names.items()) + "\n}",
        '"recipes":[\n' + ",\n".join(lines) + "\n]",
        *(f'"ids_{vocab}":[\n' + ",\n".join(json.dumps(ids, **compact) for ids in lists) + "\n]" for vocab, lists in distinct.items()),
    ]
    (args.out / "pretokenizers.json").write_text("{" + ",\n".join(parts) + "}\n")
    print(f"{len(TEXTS)} strings, {len(names)} names, {len(recipes)} recipes")


if __name__ == "__main__":
    main()
