//! How text is cut into words before byte-pair merging: the regular expressions that `tokenizer.ggml.pre` names.
//!
//! They say what llama.cpp's and Hugging Face's expressions say, written so that a match never gives back what it took
//! (possessive repeats): long runs of one kind of character take linear time and no stack.
//!
//! Over all code points, words differ from llama.cpp's for letters that Unicode 16 added only (Todhri, Tulu-Tigalari,
//! Kirat Rai, Ol Onal, Egyptian Hieroglyphs Extended-A): its tables are older than the regex library's.

use super::TokenizerError;
use tokenizers::utils::SysRegex;

/// Spaces go with the word that follows them, except for the last of several; trailing spaces stay together.
macro_rules! spaces {
    () => {
        r"\s++\z|(?:\s(?=\s))++|\s"
    };
}

const GPT2: &str = concat!(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|", spaces!());

/// Llama 3 and Qwen 2 differ in how many digits make a word.
macro_rules! llama3 {
    ($digits:literal) => {
        concat!(
            r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}++|",
            $digits,
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*+|(?>[^\S\r\n]*+[\r\n]++)++|",
            spaces!()
        )
    };
}

/// A named way of cutting text: expressions applied one after another, each to the words that the one before left.
struct Recipe {
    names: &'static [&'static str],
    expressions: &'static [&'static str],
    /// A word that is a token is that token, whatever merging would make of it.
    whole_words: bool,
    add_bos: bool,
}

const RECIPES: [Recipe; 5] = [
    Recipe { names: &["gpt-2"], expressions: &[GPT2], whole_words: false, add_bos: false },
    Recipe { names: &["smollm"], expressions: &[r"\p{N}", GPT2], whole_words: false, add_bos: false },
    Recipe {
        names: &["llama-bpe", "llama3", "llama-v3"],
        expressions: &[llama3!(r"\p{N}{1,3}")],
        whole_words: true,
        add_bos: true,
    },
    Recipe {
        names: &["qwen2", "deepseek-r1-qwen"],
        expressions: &[llama3!(r"\p{N}")],
        whole_words: false,
        add_bos: false,
    },
    // llama.cpp's for files that name none.
    Recipe {
        names: &["default"],
        expressions: &[r"[\p{P}$+<=>^~|]++", GPT2, r"\p{N}++", "[0-9][0-9][0-9]"],
        whole_words: false,
        add_bos: false,
    },
];

/// Cuts text into words.
pub(super) struct PreTokenizer {
    expressions: Vec<SysRegex>,
    pub whole_words: bool,
    pub add_bos: bool,
}

impl PreTokenizer {
    /// The one that files call `name`.
    pub(super) fn named(name: &str) -> Result<PreTokenizer, TokenizerError> {
        let Some(recipe) = RECIPES.iter().find(|recipe| recipe.names.contains(&name)) else {
            let expected = RECIPES.iter().flat_map(|recipe| recipe.names).copied().collect::<Vec<_>>().join(", ");
            return Err(TokenizerError::UnknownPreTokenizer { expected, found: name.to_owned() });
        };
        let expressions = recipe.expressions.iter().map(|expression| {
            SysRegex::new(expression).map_err(|error| TokenizerError::invalid(*expression, "a valid expression", error))
        });
        Ok(PreTokenizer {
            expressions: expressions.collect::<Result<_, _>>()?,
            whole_words: recipe.whole_words,
            add_bos: recipe.add_bos,
        })
    }

    /// The words of `text`, in order; together they are the text.
    pub(super) fn words<'t>(&self, text: &'t str) -> Vec<&'t str> {
        let mut words = vec![text];
        for expression in &self.expressions {
            let mut cut = Vec::with_capacity(words.len());
            for word in words {
                let mut end = 0;
                for (from, to) in expression.find_iter(word) {
                    cut.extend([&word[end..from], &word[from..to]].into_iter().filter(|part| !part.is_empty()));
                    end = to;
                }
                cut.extend(Some(&word[end..]).filter(|part| !part.is_empty()));
            }
            words = cut;
        }
        words
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
        assert_eq!(
            words("default", text),
            ["I", "'", "LL", " pay", " ", "123", "45", " ", " dollars", "\n\n", " ok", " "]
        );
    }

    #[test]
    fn no_text_has_no_words_and_words_make_up_the_text() {
        for recipe in &RECIPES {
            assert_eq!(words(recipe.names[0], ""), [""; 0]);
            let text = "a\r\n \t\u{A0}\u{3000}b 1\u{0}é\u{301}\u{200D}👩‍👩‍👧 ١٢٣ 'S\u{2028}\n x";
            assert_eq!(words(recipe.names[0], text).concat(), text, "{:?}", recipe.names);
        }
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let Err(error) = PreTokenizer::named("tekken") else { panic!("accepted") };
        assert!(error.to_string().contains("qwen2") && error.to_string().contains("tekken"), "{error}");
    }
}
