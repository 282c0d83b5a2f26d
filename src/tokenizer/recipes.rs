//! The recipes of the known pre-tokenizers: which names files give them, what they do, and what they imply.
//!
//! Facts of the formats, as llama.cpp reads them. `docs/tokenizers.md` lists them with the strings they were compared on.

use super::pretokenize::{Pieces, Step};
use super::vocab::AddBos;

/// A way of cutting text, and what follows from it.
#[derive(Debug)]
pub(super) struct Recipe {
    pub steps: &'static [Step],
    pub pieces: Pieces,
    /// A word that is a token is that token, whatever merging would make of it.
    pub whole_words: WholeWords,
    /// Whether BOS is added where the file does not say.
    pub add_bos: AddBos,
    /// Token 11 is BOS where the file names none.
    pub default_bos: bool,
}

/// Which words are tokens without merging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WholeWords {
    None,
    All,
    /// Runs of line ends.
    LineEnds,
}

/// Spaces go with the word that follows them, except for the last of several; trailing spaces stay together.
macro_rules! spaces {
    () => {
        r"\s++\z|(?:\s(?=\s))++|\s"
    };
}

/// Spaces up to the last line end among them are a word.
macro_rules! line_ends {
    () => {
        r"(?>[^\S\r\n]*+[\r\n]++)++"
    };
}

macro_rules! contractions {
    () => {
        r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]"
    };
}

const GPT2: Step = Step::Match(concat!(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|", spaces!()));

/// Llama 3 and Qwen 2 differ in how many digits make a word.
macro_rules! llama3 {
    ($digits:literal) => {
        concat!(contractions!(), "|", without_contractions!($digits))
    };
}

macro_rules! without_contractions {
    ($digits:literal) => {
        concat!(r"[^\r\n\p{L}\p{N}]?\p{L}++|", $digits, r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|", line_ends!(), "|", spaces!())
    };
}

/// What follows words of letters in tekken, GPT-4o and their like.
macro_rules! after_letters {
    ($digits:literal) => {
        concat!("|", $digits, r"| ?[^\s\p{L}\p{N}]++[\r\n/]*+|", line_ends!(), "|", spaces!())
    };
}

/// Capitals and then small letters are a word; letters that are not ASCII count as both. Where no small letter follows the
/// capitals, the word ends at the last letter that is not ASCII, if there is one. `$other`: the letters that are not ASCII.
macro_rules! cased {
    ($other:literal, $ending:expr) => {
        concat!(
            r"[^\r\n\p{L}\p{N}]?(?:[A-Z",
            $other,
            r"]*+[a-z][a-z",
            $other,
            r"]*+|(?:[A-Z]*+[",
            $other,
            r"]++)++)",
            $ending,
            r"|[^\r\n\p{L}\p{N}]?[A-Z]++",
            $ending
        )
    };
}

macro_rules! optional_contraction {
    () => {
        concat!("(?:", contractions!(), ")?+")
    };
}

macro_rules! letters_and_marks {
    ($digits:literal) => {
        concat!(r"[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]++", optional_contraction!(), after_letters!($digits))
    };
}

/// DeepSeek 3's: an ASCII punctuation mark goes with the ASCII letters after it.
macro_rules! deepseek3 {
    ($rest:expr) => {
        concat!(
            "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]++",
            r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]++",
            $rest
        )
    };
}

const LLAMA3: Step = Step::Match(llama3!(r"\p{N}{1,3}"));
const QWEN2: Step = Step::Match(llama3!(r"\p{N}"));
const NUMBER: Step = Step::Match(r"\p{N}");
const NUMBERS: Step = Step::Match(r"\p{N}++");
const THREE_NUMBERS: Step = Step::Match(r"\p{N}{1,3}");
const THREE_DIGITS: Step = Step::Match("[0-9][0-9][0-9]");
const LINES: Step = Step::Match(r"[^\n]++|\n++");
const LINE_END: Step = Step::Match(r"[\r\n]");
const HAN_AND_KANA: Step = Step::Match("[一-龥぀-ゟ゠-ヿ]++");
/// As DeepSeek's files have it; the ranges are wide, and spaces within them do not count.
const WIDE_CJK: Step = Step::Match(r"[[一-龥ࠀ-一가-\x{D7FF}]&&\S]++");
const DEEPSEEK3: Step = Step::Match(deepseek3!(concat!(r"| ?[\p{P}\p{S}]++[\r\n]*+|", line_ends!(), "|", spaces!())));
const NOT_PUNCTUATION: Step = Step::Match(r" ?+[^(\s|.,!?…。，、।۔،)]++");

const PLAIN: Recipe = Recipe {
    steps: &[GPT2],
    pieces: Pieces::Bytes,
    whole_words: WholeWords::None,
    add_bos: AddBos::No,
    default_bos: true,
};

const fn plain(steps: &'static [Step]) -> Recipe {
    Recipe { steps, ..PLAIN }
}

const fn whole(steps: &'static [Step]) -> Recipe {
    Recipe { steps, whole_words: WholeWords::All, ..PLAIN }
}

/// Names and the recipe they share.
pub(super) const NAMES: &[(&[&str], Recipe)] = &[
    (
        &[
            "gpt-2",
            "phi-2",
            "jina-es",
            "jina-de",
            "gigachat",
            "jina-v2-es",
            "jina-v2-de",
            "a.x-4.0",
            "mellum",
            "modern-bert",
            "jina-v1-en",
            "jina-v2-code",
            "roberta-bpe",
            "exaone4",
            "mpt",
            "olmo",
            "jais",
            "trillion",
            "granite-docling",
        ],
        PLAIN,
    ),
    (
        &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b", "mellum2"],
        plain(&[NUMBER, GPT2]),
    ),
    // llama.cpp's for files that name none.
    (&["default"], plain(&[Step::Match(r"[\p{P}$+<=>^~|]++"), GPT2, NUMBERS, THREE_DIGITS])),
    (&["falcon"], plain(&[Step::Match(r"[\p{P}$+<=>^~|`]++"), GPT2, THREE_DIGITS])),
    (
        &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "jina-v5-nano"],
        Recipe { add_bos: AddBos::Yes, ..whole(&[LLAMA3]) },
    ),
    (&["dbrx", "smaug-bpe"], plain(&[LLAMA3])),
    (&["chatglm-bpe"], Recipe { default_bos: false, ..plain(&[LLAMA3]) }),
    (&["glm4", "glm5"], Recipe { default_bos: false, ..whole(&[LLAMA3]) }),
    (&["jais-2"], plain(&[LLAMA3, Step::SpacePieces])),
    (
        &[
            "qwen2",
            "deepseek-r1-qwen",
            "kormo",
            "f2llmv2",
            "megrez",
            "stablelm2",
            "hunyuan",
            "solar-open",
            "grok-2",
            "bailingmoe",
            "bailingmoe2",
            "llada-moe",
        ],
        plain(&[QWEN2]),
    ),
    (
        &["qwen35"],
        plain(&[Step::Match(concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]++|\p{N}| ?[^\s\p{L}\p{M}\p{N}]++[\r\n]*+|",
            line_ends!(),
            "|",
            spaces!()
        ))]),
    ),
    (&["ufakzeka"], plain(&[Step::Match(without_contractions!(r"\p{N}"))])),
    (&["laguna"], plain(&[LINES, QWEN2])),
    (&["minicpm5"], whole(&[THREE_NUMBERS, Step::Match(llama3!(r"\p{N}++"))])),
    (
        &["seed-coder"],
        plain(&[Step::Match(concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?\p{L}++|\p{N}| ?[^\s\p{L}\p{N}]++|",
            line_ends!(),
            "|",
            spaces!()
        ))]),
    ),
    (
        &["exaone-moe"],
        plain(&[Step::Match(concat!(
            contractions!(),
            r"|[^\r\n\p{L}\p{N}]?+\p{L}\p{M}*+(?> ?\p{L}\p{M}*+)*+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n/]?+|",
            line_ends!(),
            "|",
            spaces!()
        ))]),
    ),
    (
        &["deepseek-llm"],
        plain(&[
            LINE_END,
            Step::Match(concat!(
                r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-\x{1F7D}ᾀ-ᾴᾶ-ᾼ\x{1FBE}ῂ-ῄῆ-ῌῐ-\x{1FD3}ῖ-\x{1FDB}ῠ-Ῥ",
                r"ῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤ\x{2126}ℨ\x{212A}-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]++"
            )),
            Step::Match(r"\s?[!-/:-~！-／：-～‘-‟、-。]++"),
            Step::Match(r"(?<!\s)\s++\z"),
            WIDE_CJK,
            NUMBERS,
        ]),
    ),
    (&["deepseek-coder"], plain(&[LINE_END, Step::Match(r"\s?\p{L}++"), Step::Match(r"\s?\p{P}++"), WIDE_CJK, NUMBER])),
    (&["deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"], plain(&[THREE_NUMBERS, HAN_AND_KANA, DEEPSEEK3])),
    (
        &["spark2_5"],
        plain(&[
            THREE_NUMBERS,
            HAN_AND_KANA,
            Step::Match(deepseek3!(concat!(r"| ?[\p{P}\p{S}]++|[\r\n]|", spaces!()))),
            NUMBER,
        ]),
    ),
    (
        &["afmoe"],
        plain(&[
            Step::ThreeFromTheRight,
            Step::Match(
                r"[一-鿿㐀-䶿豈-\x{FAFF}\x{3040}-ゟ゠-ヿ･-ﾟ⼀-\x{2FDF}เ-\x{E7F}\x{E80}-\x{EFF}ក-\x{17FF}က-႟ꩠ-ꩿꧠ-\x{A9FF}가-\x{D7AF}ᄀ-ᇿ]++",
            ),
            DEEPSEEK3,
        ]),
    ),
    (
        &["youtu"],
        whole(&[
            Step::Match("[가-힣ㄱ-ㆎ]++|[！…“”‘’—：；，、-〿︰-﹏]++|[ㄅ-ㄯ]++|[一-龥぀-ゟ゠-ヿ]++"),
            Step::Match(letters_and_marks!(r"\p{N}")),
        ]),
    ),
    (&["tiny_aya", "cohere2moe"], plain(&[Step::ThreeFromTheRight, Step::Match(letters_and_marks!(r"\p{N}{1,3}"))])),
    (
        &["tekken"],
        Recipe {
            add_bos: AddBos::Yes,
            ..whole(&[Step::Match(concat!(cased!(r"[\p{L}&&[^A-Za-z]]", ""), after_letters!(r"\p{N}")))])
        },
    ),
    (
        &["gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"],
        plain(&[Step::Match(concat!(
            cased!(r"[\p{L}&&[^A-Za-z]]", optional_contraction!()),
            after_letters!(r"\p{N}{1,3}")
        ))]),
    ),
    (
        &["granite-embed-multi-97m"],
        whole(&[Step::Match(concat!(
            cased!(r"[[\p{L}\p{M}]&&[^A-Za-z]]", optional_contraction!()),
            after_letters!(r"\p{N}{1,3}")
        ))]),
    ),
    (
        &["kimi-k2"],
        plain(&[Step::Match(concat!(
            r"[㐀-䶿一-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}\x{2F800}-\x{2FA1F}]++",
            r"|[^\r\n\p{L}\p{N}]?+[\p{L}&&[^㐀-䶿一-\x{9FFF}\x{F900}-\x{FAFF}\x{20000}-\x{2A6DF}\x{2A700}-\x{2EBEF}\x{2F800}-\x{2FA1F}]]++",
            optional_contraction!(),
            r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*+|",
            line_ends!(),
            "|",
            spaces!()
        ))]),
    ),
    (&["poro-chat", "bloom", "gpt3-finnish"], plain(&[NOT_PUNCTUATION])),
    (&["viking"], plain(&[NOT_PUNCTUATION, NUMBER])),
    (
        &["chameleon"],
        Recipe {
            add_bos: AddBos::Yes,
            ..plain(&[
                Step::Match("<sentinel:[0-9]++>"),
                Step::Match("IMGIMG[A-I]{1,4}Z"),
                Step::Match(r"[\t\n]|    |  "),
                NUMBER,
                Step::Match(r"[\p{P}!-/:-@\[-`{-~]"),
                GPT2,
            ])
        },
    ),
    (&["superbpe"], plain(&[NUMBERS, Step::Thousands])),
    (
        &["gemma4", "granite-embed-multi-311m"],
        Recipe { pieces: Pieces::Text, whole_words: WholeWords::LineEnds, add_bos: AddBos::Always, ..plain(&[LINES]) },
    ),
    (&["sarvam-moe"], Recipe { pieces: Pieces::Text, ..plain(&[LINES]) }),
];

/// The recipe that files call `name`.
pub(super) fn recipe_of(name: &str) -> Option<&'static Recipe> {
    NAMES.iter().find(|(names, _)| names.contains(&name)).map(|(_, recipe)| recipe)
}
