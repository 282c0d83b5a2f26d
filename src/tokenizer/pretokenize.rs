//! How text is cut into words before byte-pair merging, as `tokenizer.ggml.pre` names it: steps applied one after another.
//!
//! The expressions of `recipes.rs` say what llama.cpp's and Hugging Face's say, written so that a match never gives back
//! what it took (possessive repeats): long runs of one kind of character take linear time and no stack.
//!
//! Over all code points, words differ from llama.cpp's for letters that Unicode 16 added only (Todhri, Tulu-Tigalari,
//! Kirat Rai, Ol Onal, Egyptian Hieroglyphs Extended-A): its tables are older than the regex library's.

use super::TokenizerError;
use super::recipes::{NAMES, Recipe, recipe_of};
use tokenizers::utils::SysRegex;

/// One pass over the words that the pass before left.
#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    /// Each match is a word, and so is the text between two matches.
    Match(&'static str),
    /// Runs of numbers in groups of three from the right. What precedes a run stays with its first group.
    ThreeFromTheRight,
    /// Runs of ASCII digits, cut wherever a multiple of three of them is left.
    Thousands,
    /// Words of nothing but spaces (no line ends) in pieces of 512, 256 and so on to 4, then of 2 and 1.
    SpacePieces,
}

/// How the pieces of a vocabulary spell text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pieces {
    /// Byte by byte, in GPT-2's characters.
    Bytes,
    /// As it is, with U+2581 for spaces; bytes that are no piece are tokens `<0xNN>`.
    Text,
}

/// Cuts text into words.
pub(super) struct PreTokenizer {
    passes: Vec<Pass>,
    pub recipe: &'static Recipe,
}

enum Pass {
    Match(SysRegex),
    Cut(fn(&str, &mut Vec<usize>)),
}

impl PreTokenizer {
    /// The one that files call `name`; an empty name is none, as in llama.cpp.
    pub(super) fn named(name: &str) -> Result<PreTokenizer, TokenizerError> {
        let Some(recipe) = recipe_of(if name.is_empty() { "default" } else { name }) else {
            let expected = NAMES.iter().flat_map(|(names, _)| *names).copied().collect::<Vec<_>>().join(", ");
            return Err(TokenizerError::UnknownPreTokenizer { expected, found: name.to_owned() });
        };
        let passes = recipe.steps.iter().map(|step| match step {
            Step::Match(expression) => SysRegex::new(expression)
                .map(Pass::Match)
                .map_err(|error| TokenizerError::invalid(*expression, "a valid expression", error)),
            Step::ThreeFromTheRight => Ok(Pass::Cut(three_from_the_right)),
            Step::Thousands => Ok(Pass::Cut(thousands)),
            Step::SpacePieces => Ok(Pass::Cut(space_pieces)),
        });
        Ok(PreTokenizer { passes: passes.collect::<Result<_, _>>()?, recipe })
    }

    /// The words of `text`, in order; together they are the text.
    pub(super) fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        let mut cuts = Vec::new();
        for pass in &self.passes {
            let mut next = Vec::with_capacity(words.len());
            for word in words {
                cuts.clear();
                match pass {
                    Pass::Match(expression) => {
                        cuts.extend(expression.find_iter(word).flat_map(|(from, to)| [from, to]))
                    }
                    Pass::Cut(cut) => cut(word, &mut cuts),
                }
                let mut start = 0;
                for end in cuts.iter().copied().chain([word.len()]) {
                    if end > start {
                        next.push(&word[start..end]);
                        start = end;
                    }
                }
            }
            words = next;
        }
        words
    }
}

/// Calls `run(first byte, its characters' byte offsets)` for each longest run of characters that are `wanted`.
fn runs(word: &str, wanted: impl Fn(char) -> bool, mut run: impl FnMut(&[usize], usize)) {
    let mut starts: Vec<usize> = Vec::new();
    for (at, char) in word.char_indices() {
        if wanted(char) {
            starts.push(at);
        } else if !starts.is_empty() {
            run(&starts, at);
            starts.clear();
        }
    }
    if !starts.is_empty() {
        run(&starts, word.len());
    }
}

fn three_from_the_right(word: &str, cuts: &mut Vec<usize>) {
    runs(word, char::is_numeric, |starts, end| {
        let first = starts.len() % 3;
        cuts.extend(starts.iter().skip(if first == 0 { 3 } else { first }).step_by(3));
        cuts.push(end);
    });
}

fn thousands(word: &str, cuts: &mut Vec<usize>) {
    let is_digit = |char: char| char.is_ascii_digit();
    runs(word, is_digit, |starts, _| cuts.extend(starts.iter().skip(starts.len() % 3).step_by(3)));
}

fn space_pieces(word: &str, cuts: &mut Vec<usize>) {
    if !word.chars().all(|char| char.is_whitespace() && !matches!(char, '\r' | '\n')) {
        return;
    }
    let starts: Vec<usize> = word.char_indices().map(|(at, _)| at).collect();
    let (mut at, mut piece) = (0, 512);
    while at < starts.len() {
        while piece > starts.len() - at {
            piece /= 2;
        }
        cuts.push(starts[at]);
        at += piece;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words<'t>(name: &str, text: &'t str) -> Vec<&'t str> {
        PreTokenizer::named(name).unwrap().words(text)
    }

    #[test]
    fn recipes_differ_in_digits_contractions_and_newlines() {
        let text = "I'LL pay 12345  dollars\n\n ok ";
        let gpt2 = ["I", "'", "LL", " pay", " 12345", " ", " dollars", "\n\n", " ok", " "];
        assert_eq!(words("gpt-2", text), gpt2);
        let smollm = ["I", "'", "LL", " pay", " ", "1", "2", "3", "4", "5", " ", " dollars", "\n\n", " ok", " "];
        assert_eq!(words("smollm", text), smollm);
        let llama = ["I", "'LL", " pay", " ", "123", "45", " ", " dollars", "\n\n", " ok", " "];
        assert_eq!(words("llama-bpe", text), llama);
        let qwen = ["I", "'LL", " pay", " ", "1", "2", "3", "4", "5", " ", " dollars", "\n\n", " ok", " "];
        assert_eq!(words("qwen2", text), qwen);
        let default = ["I", "'", "LL", " pay", " ", "123", "45", " ", " dollars", "\n\n", " ok", " "];
        assert_eq!(words("default", text), default);
        let afmoe = ["I", "'LL", " pay", " ", "12", "345", " ", " dollars", "\n\n", " ok", " "];
        assert_eq!(words("tiny_aya", text).concat(), afmoe.concat());
        assert_eq!(words("superbpe", "a1234567b456")[1..], ["1", "234", "567", "b", "456"]);
    }

    #[test]
    fn capitals_before_small_letters_begin_a_word() {
        assert_eq!(words("tekken", "HelloWORLDfoo日本ABC éABC"), ["Hello", "WORLDfoo日本", "ABC", " é", "ABC"]);
        assert_eq!(words("gpt-4o", "ABC's XMLHttpRequest"), ["ABC's", " XMLHttp", "Request"]);
    }

    #[test]
    fn no_text_has_no_words_and_words_make_up_the_text() {
        let text = "a\r\n \t\u{A0}\u{3000}b 1\u{0}é\u{301}\u{200D}👩‍👩‍👧 ١٢٣ 'S\u{2028}\n x1234";
        for name in NAMES.iter().map(|(names, _)| names[0]) {
            assert_eq!(words(name, ""), [""; 0]);
            assert_eq!(words(name, text).concat(), text, "{name}");
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let Err(error) = PreTokenizer::named("tek\u{1b}ken") else { panic!("accepted") };
        assert!(error.to_string().contains("qwen2") && error.to_string().contains("tek\\u{1b}ken"), "{error}");
    }
}
