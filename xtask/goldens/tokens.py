"""Ids that llama.cpp gives odd strings, with the default model and with small vocabularies of every kind kiln reads.

Writes into the folder `--out`:
  strings.json   the strings
  smollm2.json   their ids with the default model's vocabulary
  vocab_bpe.json, vocab_spm.json
                 two small vocabularies, learned here from the strings and a few sentences, without cutting them into
                 words first: so merges cross the borders that pre-tokenizers draw, and a border in the wrong place
                 shows in the ids
  <name>.json    a GGUF file's tokenizer metadata on top of such a vocabulary, and the ids it gives the strings
Per string, `plain` has the ids with neither BOS nor special tokens read from the text, `parsed` those with special
tokens read, `added` those with both; the latter two only where they differ from `plain`. `ends` lists the tokens that end a generation.
"""
# goldens: --model {model} --out {root}/tests/golden/tokens

import argparse
import collections
import ctypes
import json
import pathlib
import tempfile

import gguf
import llama_cpp

SENTENCES = """The quick brown fox jumps over the lazy dog. It's 12:45, and we've paid $1,234.56 for 3 of them!
def main(argc, argv):\n    if argc != 2:\n        return None\n\treturn argv[1]\n
She'd said "I'll go", they're late; HE'S HERE, WE'LL SEE, I'M NOT. 100% of 2024's 365 days.
日本語の文章です。 Привет, мир! שלום עולם مرحبا بالعالم สวัสดีชาวโลก 你好，世界！ Ωmega café naïve Zürich
""" * 2

FAMILY = "👨‍👩‍👧‍👦"
STRINGS = [
    "", " ", "  ", "   ", "\t", "\t\t", "\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r", "\n\r", "\v\f", " \n", "\n ",
    " \n \n ", "\t\n", "a\n", "a \n", "a  \n b", "a\n\n  b", "  a", "a  ", " a ", "a   b    c", "a\tb", "a\t\tb", "    x = 1",
    "Hello", " Hello", "Hello world", "Hello  world ", "Hello, y'all! How are you 😁 ?我想在apple工作1314151天～",
    "The quick brown fox jumps over the lazy dog.", "hello world", "HELLO WORLD", "hElLo", "foobar", " foobar", "foo_bar",
    "don't", "DON'T", "Don’t", "don`t", "I'm I'M i'm 'm 'M", "we've WE'VE we'Ve", "they're THEY'RE", "he'd HE'D", "it's IT'S 's 'S",
    "you'll YOU'LL you'Ll", "'", "''", "'s't're've'm'll'd", "'S'T'RE'VE'M'LL'D", "'ſ", "' s", "'x", "'re're", "'r", "a'", "rock'n'roll",
    "‘s’t’re", "ʼs", "O'Reilly's",
    "1", "12", "123", "1234", "12345", "123456", "1234567", "12345678", "1 2 3", " 1", "  12", " 1234", "3.14159", "1,234,567.89",
    "-1", "+1", "1e-5", "0x1F", "v1.2.3", "a1b2c3", "abc123", "123abc", "10:30", "2024-01-31", "１２３４", "١٢٣٤٥", "१२३", "½ ¼", "Ⅷ", "x²", "①②③",
    "一二三", "๑๒๓", "𝟘𝟙𝟚",
    "日本語", "日本語の文章です。", "你好，世界！", "こんにちは 世界", "カタカナ", "한국어 텍스트", "ﾊﾝｶｸ", "ｆｕｌｌ　ｗｉｄｔｈ", "𠮷野家", "漢字\n漢字",
    "Привет, мир!", "ПРИВЕТ", "Ελληνικά", "Ωmega", "ΣΊΣΥΦΟΣ", "İstanbul", "ıI", "straße STRASSE", "ǅ", "ʰʷ",
    "مرحبا بالعالم", "مَرْحَبًا", "שלום עולם", "שָׁלוֹם", "สวัสดีชาวโลก", "ภาษาไทย ๑", "हिन्दी में", "தமிழ்", "বাংলা", "ລາວ", "አማርኛ", "ᚠᚢᚦ", "𐍈𐌰", "ქართული",
    "café", "cafe\u0301", "e\u0301\u0302\u0303", "\u0301", " \u0301", "a\u0300b", "n\u0303", "Z\u0351\u036b\u0343a\u0335l\u0489g\u0321o", "A\u030a Å", "ﬁ ﬂ",
    "😀", "😀😀😀", " 😀", "😀 ", "a😀b", FAMILY, f"{FAMILY} family", "👍🏽", "👍🏽👍🏿", "🏳️‍🌈", "🇩🇪🇫🇷🇯🇵", "❤️", "1️⃣", "☺", "🧑‍🚀 in space", "\u200d", "\ufe0f",
    "\x00", "a\x00b", "\x00\x00", "\x01\x02\x03", "\x07bell", "\x1b[31mred\x1b[0m", "\x7f", "\x80\x81", "\x85", "a\x85b", "\ufeff", "\ufeffBOM", "\ufffd", "\ufffe\uffff",
    "\u00a0", "a\u00a0b", "\u00a0\u00a0a", " \u00a0 a", "\u1680a", "\u180ea", "\u2000\u2001a", "\u2009thin", "\u200b", "a\u200bb", "\u2028a", "a\u2029b", "\u202fa", "\u205fa",
    "\u3000", "\u3000\u3000a", "a \u3000", "\u202eRTL\u202c", "\u00ad", "\u2060",
    "!", "!!", "!!!", " !", "?!", "...", "…", "--", "—", "–", "!\n", "!\n\n", "!!\r\n x", " !\n", "!\n a", ".\t\n", "(a)", "[b]", "{c}", "<d>", "a.b", "a,b", "a;b", "\"q\"",
    "“q”", "«q»", "$5", "€5", "£ 5", "5%", "#tag", "@user", "a@b.com", "https://example.com/a?b=c&d=e#f", "C:\\dir\\file.txt", "a/b", "a|b", "a^b", "~a", "`code`", "```\ncode\n```",
    "a=b", "a==b", "a<=b", "a->b", "a::b", "a+b", "$+<=>^~|", "__init__", "snake_case_name", "camelCaseName", "¿Qué?", "¡Hola!", "§ 1", "™©®", "∑∫√", "→⇒", "\\n", "%s",
    "<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b", " <|im_end|> ", "<|im_end|><|im_end|>",
    "<|im_end", "<|im_start|im_end|>", "<s>", "</s>", "<s>a</s>", "<unk>", "a<unk>b", "<0x0A>", "<user>", "a <user> b", "<user><user>", "<|im_<user>end|>", "<user> <s> a",
    "<|im_start|><|im_start|>x", "\u2581", "a\u2581b", "\u2581\u2581a", "Ġ", "ĠĊ", "Ċ",
    "a" * 50, "A" * 33, "ab" * 40, "abc" * 21, " " * 50, " " * 17 + "x", "x" + " " * 18, "\n" * 33, "\t" * 20 + "y", "\r\n" * 12, "1" * 41, "12" * 30, "!" * 40, "!?" * 20,
    "." * 64, "-" * 80, "=" * 35 + "\n", "é" * 30, "日" * 40, "語文" * 20, "😀" * 20, "\u0301" * 25, "\u00a0" * 20, " a" * 30, " 1" * 25, "a " * 30, "a\n" * 20, "\n a" * 15,
    "the the the the", "ththththth", " the quick  brown\tfox\n\njumps", "def f(x):\n    return x + 1\n", "if (a && b) {\n\treturn a[0];\n}\n", "<html>\n  <body>Hi</body>\n</html>",
    '{"key": [1, 2.5, null, true], "ключ": "значение"}', "| a | b |\n|---|---|\n| 1 | 2 |", "- item\n  - sub\n", "x\u0000\u0001\u001f y", "mixed\r\nline\nends\rhere\n\r",
    "ünïcödé ÜNÏCÖDÉ", "naïve Zürich", "tab\there  two", "end with space ", "end with spaces   ", "end with newline\n", "end with newlines\n\n\n", "\n start", "   \n   \n   x",
    " \t \t x", "\u2003\u2003x \u2003", "a \u00a0b", "1 000 000", "1\u00a0000", "$1,000.00!", "100%!", "(555) 123-4567", "١٢٣ abc ४५६", "a１b", "x₁₂", "µm", "K", "ſ", "ß", "ŉ",
]


def bytes_to_text():
    """GPT-2's spelling of bytes as printable characters."""
    prints = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in prints)
    table = {byte: chr(byte) for byte in prints}
    table.update({byte: chr(0x100 + n) for n, byte in enumerate(others)})
    return table


def learn(units, count):
    """`count` merges of the most frequent adjacent pairs of the list of sequences `units` (ties: the smaller pair)."""
    merges = []
    for _ in range(count):
        pairs = collections.Counter(pair for unit in units for pair in zip(unit, unit[1:]))
        if not pairs:
            break
        pair = min(pairs, key=lambda p: (-pairs[p], p))
        merges.append(pair)
        for index, unit in enumerate(units):
            merged, at = [], 0
            while at < len(unit):
                if tuple(unit[at : at + 2]) == pair:
                    merged.append(unit[at] + unit[at + 1])
                    at += 2
                else:
                    merged.append(unit[at])
                    at += 1
            units[index] = merged
    return merges


SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6


def bpe_vocab():
    table = bytes_to_text()
    texts = [*STRINGS, *SENTENCES.splitlines(keepends=True)]
    units = [[table[byte] for byte in text.encode()] for text in texts]
    merges = learn(units, 900)
    # One byte is missing, to see what becomes of it, and whole words are tokens that no merges reach.
    tokens = [*SPECIAL, "<user>", *(table[byte] for byte in range(256) if byte != 0x07), *(a + b for a, b in merges)]
    tokens += [text for text in ["Ġfoobar", "HELLO", "camelCaseName", "12345678", "Ġ1234"] if text not in tokens]
    tokens = list(dict.fromkeys(tokens))
    types = [CONTROL] * len(SPECIAL) + [USER_DEFINED] + [NORMAL] * (len(tokens) - len(SPECIAL) - 1)
    return {"tokens": tokens, "token_type": types, "merges": [" ".join(pair) for pair in merges]}


def spm_vocab():
    texts = [*STRINGS, *SENTENCES.splitlines(keepends=True)]
    units = [list(text.replace(" ", "\u2581")) for text in texts]
    characters = collections.Counter(char for unit in units for char in unit)
    common = sorted((char for char in characters if characters[char] > 2 and char != "\0"), key=lambda c: (-characters[c], c))
    merges = learn(units, 700)
    pieces = list(dict.fromkeys([a + b for a, b in merges] + common))
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "<|im_start|>", "<|im_end|>", "<user>"]
    pieces = [piece for piece in pieces if "\0" not in piece and piece not in first]
    tokens = [*first, *pieces]
    types = [UNKNOWN, CONTROL, CONTROL, *[BYTE] * 256, CONTROL, CONTROL, USER_DEFINED, *[NORMAL] * len(pieces)]
    # Neighbours in rank share a score, so that ties must be broken.
    scores = [0.0] * len(first) + [-float(rank // 3) for rank in range(len(pieces))]
    return {"tokens": tokens, "token_type": types, "scores": scores}


VARIANTS = {
    "gpt-2": ("bpe", {"model": "gpt2", "pre": "gpt-2", "bos_token_id": 0, "eos_token_id": 0}),
    "smollm": ("bpe", {"model": "gpt2", "pre": "smollm", "bos_token_id": 1, "eos_token_id": 2, "add_bos_token": True}),
    "llama-bpe": ("bpe", {"model": "gpt2", "pre": "llama-bpe", "bos_token_id": 3, "eos_token_id": 4}),
    "qwen2": ("bpe", {"model": "gpt2", "pre": "qwen2", "eos_token_id": 2, "add_bos_token": False, "add_eos_token": True}),
    "default": ("bpe", {"model": "gpt2", "bos_token_id": 3, "eos_token_id": 4}),
    "llama": ("spm", {"model": "llama", "bos_token_id": 1, "eos_token_id": 2}),
    "llama-no-prefix": (
        "spm",
        {"model": "llama", "add_space_prefix": False, "add_bos_token": False, "add_eos_token": True, "remove_extra_whitespaces": True},
    ),
}


def write_gguf(path, vocab, metadata):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    for key, value in {**metadata, **vocab}.items():
        key = f"tokenizer.ggml.{key}"
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        else:
            writer.add_uint32(key, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def record(path):
    parameters = llama_cpp.llama_model_default_params()
    parameters.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
    assert model, path
    vocab = llama_cpp.llama_model_get_vocab(model)

    def ids(text, add_special, parse_special):
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(vocab, raw, len(raw), room, len(room), add_special, parse_special)
        assert count >= 0, text
        return list(room[:count])

    cases = []
    for text in STRINGS:
        plain, parsed, added = ids(text, False, False), ids(text, False, True), ids(text, True, True)
        case = {"plain": plain, "parsed": parsed, "added": added}
        # Most strings have no special tokens in them, and most variants add none.
        cases.append({key: ids for key, ids in case.items() if key == "plain" or ids != plain})
    size = llama_cpp.llama_vocab_n_tokens(vocab)
    ends = [id for id in range(size) if llama_cpp.llama_vocab_is_eog(vocab, id)]
    llama_cpp.llama_model_free(model)
    return {"ends": ends, "cases": cases}


def write(path, value):
    """JSON with one line per case, so that differences can be read."""
    cases = value.pop("cases", None) if isinstance(value, dict) else None
    text = json.dumps(value, ensure_ascii=True)
    if isinstance(value, list):
        text = "[\n" + ",\n".join(json.dumps(item) for item in value) + "\n]"
    if cases is not None:
        lines = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
        text = text[:-1] + ', "cases": [\n' + lines + "\n]}"
    path.write_text(text + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="the default model")
    parser.add_argument("--out", required=True, type=pathlib.Path, help="the folder to write into")
    args = parser.parse_args()
    assert len(STRINGS) == len(set(STRINGS)), [s for s, n in collections.Counter(STRINGS).items() if n > 1]
    args.out.mkdir(parents=True, exist_ok=True)
    # Messages of the library are not of interest here; a failure is noticed by its result.
    quiet = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda *_: None)
    llama_cpp.llama_log_set(quiet, None)
    vocabs = {"bpe": bpe_vocab(), "spm": spm_vocab()}
    write(args.out / "strings.json", STRINGS)
    write(args.out / "smollm2.json", record(args.model))
    for name, vocab in vocabs.items():
        write(args.out / f"vocab_{name}.json", vocab)
    for name, (vocab, metadata) in VARIANTS.items():
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "vocab.gguf"
            write_gguf(path, vocabs[vocab], metadata)
            write(args.out / f"{name}.json", {"vocab": vocab, "metadata": metadata, **record(path)})
    print(f"{len(STRINGS)} strings, {len(VARIANTS) + 1} tokenizers")


if __name__ == "__main__":
    main()
