//! Incremental text against the text as a whole.

use kiln::ids::TokenId;
use kiln::tokenizer::{Detokenizer, Pushed, SpecialText, StopText, TextStream, Tokenizer, TokenizerError};
use kiln::weights::{MetaArray, MetaValue, Metadata};
use proptest::prelude::*;

/// Tokens 0..=255 are single bytes; then a control token, and texts of several characters.
fn tokenizer() -> Tokenizer {
    let texts = ["<|end|>", "ab", "aba", "é", "日本", "aab ", "b\u{FFFD}"];
    let tokens = (0..=255u8).map(|byte| format!("<0x{byte:02X}>")).chain(texts.map(str::to_owned));
    let mut types = vec![6; 256];
    types.extend([3, 1, 1, 1, 1, 1, 1]);
    let pairs = [
        ("tokenizer.ggml.model", MetaValue::from("llama")),
        ("tokenizer.ggml.tokens", MetaValue::Array(MetaArray::String(tokens.collect()))),
        ("tokenizer.ggml.token_type", MetaValue::Array(MetaArray::I32(types))),
        ("tokenizer.ggml.add_bos_token", MetaValue::from(false)),
    ];
    Tokenizer::from_metadata(&Metadata::from_pairs(pairs).unwrap()).unwrap()
}

const END: TokenId = TokenId(256);

/// Ids that often make characters of several bytes, break them, and repeat few letters.
fn ids() -> impl Strategy<Value = Vec<TokenId>> {
    let id = prop_oneof![
        6 => prop::sample::select(b"ab \n".to_vec()).prop_map(u32::from),
        3 => prop::sample::select("é日👩\u{200D}".as_bytes().to_vec()).prop_map(u32::from),
        2 => 0..256u32,
        3 => 256..263u32,
    ];
    prop::collection::vec(id.prop_map(TokenId), 0..40)
}

fn special() -> impl Strategy<Value = SpecialText> {
    prop::sample::select(vec![SpecialText::Keep, SpecialText::Skip])
}

/// Token by token: the text of all tokens so far, without a character that is still incomplete.
fn texts(tokenizer: &Tokenizer, ids: &[TokenId], special: SpecialText) -> Vec<String> {
    let whole = |count: usize| {
        let mut bytes = Vec::new();
        for &id in &ids[..count] {
            if special == SpecialText::Keep || !tokenizer.is_special(id) {
                bytes.extend_from_slice(tokenizer.token_bytes(id).unwrap());
            }
        }
        // An incomplete character would be replaced only because the bytes end here.
        let cut = (0..=3.min(bytes.len())).find(|&cut| {
            let tail = &bytes[bytes.len() - cut..];
            cut > 0 && std::str::from_utf8(tail).is_err_and(|e| e.valid_up_to() == 0 && e.error_len().is_none())
        });
        bytes.truncate(bytes.len() - cut.unwrap_or(0));
        String::from_utf8_lossy(&bytes).into_owned()
    };
    (1..=ids.len()).map(whole).collect()
}

/// Token by token: the text in which stop strings are looked for, its special tokens spelled out, and which bytes of it
/// belong to special tokens that are not shown, by the token's place.
fn spelled(tokenizer: &Tokenizer, ids: &[TokenId], special: SpecialText) -> (Vec<usize>, Vec<(u8, Option<usize>)>) {
    let (mut ends, mut bytes) = (Vec::new(), Vec::new());
    let mut shown_before = 0;
    for (place, (id, shown)) in ids.iter().zip(texts(tokenizer, ids, special)).enumerate() {
        if special == SpecialText::Skip && tokenizer.is_special(*id) {
            bytes.extend(tokenizer.token_bytes(*id).unwrap().iter().map(|&byte| (byte, Some(place))));
        } else {
            bytes.extend(shown.as_bytes()[shown_before..].iter().map(|&byte| (byte, None)));
            shown_before = shown.len();
        }
        ends.push(bytes.len());
    }
    (ends, bytes)
}

fn shown(bytes: &[(u8, Option<usize>)]) -> String {
    let shown = bytes.iter().filter(|(_, hidden)| hidden.is_none()).map(|(byte, _)| *byte);
    String::from_utf8(shown.collect()).unwrap()
}

/// The same answer as [`TextStream`]'s, found by looking at whole texts: what is shown in the end, and the stop string.
fn oracle(
    (ends, bytes): &(Vec<usize>, Vec<(u8, Option<usize>)>),
    whole: &str,
    stops: &[String],
    stop_text: StopText,
    min_tokens: u32,
) -> (String, Option<usize>) {
    let text: Vec<u8> = bytes.iter().map(|(byte, _)| *byte).collect();
    for end in 1..=text.len() {
        let token = 1 + ends.iter().position(|&so_far| so_far >= end).unwrap();
        let cuts_hidden =
            |at: usize| at > 0 && at < text.len() && bytes[at].1.is_some() && bytes[at - 1].1 == bytes[at].1;
        let matching = (0..stops.len()).filter(|&index| {
            text[..end].ends_with(stops[index].as_bytes())
                && !cuts_hidden(end)
                && !cuts_hidden(end - stops[index].len())
        });
        let longest = matching.max_by_key(|&index| (stops[index].len(), std::cmp::Reverse(index)));
        if let Some(index) = longest.filter(|_| token >= min_tokens as usize) {
            let stop = if stop_text == StopText::Include { stops[index].as_str() } else { "" };
            return (shown(&bytes[..end - stops[index].len()]) + stop, Some(index));
        }
    }
    (whole.to_owned(), None)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pushed_text_is_the_decoded_text(ids in ids(), special in special()) {
        let tokenizer = tokenizer();
        let mut detokenizer = Detokenizer::new(&tokenizer, special);
        let mut text = String::new();
        for (&id, expected) in ids.iter().zip(texts(&tokenizer, &ids, special)) {
            text.push_str(&detokenizer.push(id));
            prop_assert_eq!(&text, &expected);
        }
        text.push_str(&detokenizer.finish());
        prop_assert_eq!(text, tokenizer.decode(&ids, special));
    }

    #[test]
    fn a_stream_stops_where_the_whole_text_has_its_first_complete_stop_string(
        ids in ids(),
        special in special(),
        stops in prop::collection::vec("[ab é\u{FFFD}]{1,4}|aab|abab|日本|[ab日]?<\\|end\\|>[ab<]?|end|>", 0..4),
        include in any::<bool>(),
        min_tokens in 0..12u32,
    ) {
        let tokenizer = tokenizer();
        let stop_text = if include { StopText::Include } else { StopText::Exclude };
        let mut stream = TextStream::new(&tokenizer, stops.clone(), stop_text, special, min_tokens).unwrap();
        let (mut text, mut stopped) = (String::new(), None);
        let all = texts(&tokenizer, &ids, special);
        for (&id, so_far) in ids.iter().zip(&all) {
            let pushed = stream.push(id);
            text.push_str(&pushed.text);
            stopped = pushed.stopped;
            if stopped.is_some() {
                break;
            }
            // No more is held back than what may become a stop string.
            prop_assert!(so_far.starts_with(&text));
            let held = &so_far[text.len()..];
            // With hidden tokens in between, parts of a stop string are held.
            let may_become = |stop: &String| stop.starts_with(held) || stop.contains('<') || stop.contains('>') || stop.contains("end");
            prop_assert!(held.is_empty() || stops.iter().any(may_become), "{held:?}");
        }
        text.push_str(&stream.finish());
        let whole = tokenizer.decode(&ids, special);
        let expected = oracle(&spelled(&tokenizer, &ids, special), &whole, &stops, stop_text, min_tokens);
        prop_assert_eq!((text, stopped), expected);
    }
}

fn push_all(stream: &mut TextStream, text: &str) -> Vec<Pushed> {
    text.bytes().map(|byte| stream.push(TokenId(byte.into()))).collect()
}

#[test]
fn a_stop_string_across_tokens_is_held_back_and_dropped() {
    let mut stream =
        TextStream::new(&tokenizer(), vec!["ab\n".into()], StopText::Exclude, SpecialText::Skip, 0).unwrap();
    let texts: Vec<_> =
        push_all(&mut stream, "xaab\n").into_iter().map(|pushed| (pushed.text, pushed.stopped)).collect();
    let expected = [("x", None), ("", None), ("a", None), ("", None), ("", Some(0))];
    assert_eq!(texts, expected.map(|(text, stopped)| (text.to_owned(), stopped)));
    assert_eq!(stream.push(TokenId(97)), Pushed { text: String::new(), stopped: Some(0) });
    assert_eq!(stream.finish(), "");
}

#[test]
fn a_stop_string_completed_before_min_tokens_is_plain_text() {
    let stop = vec!["ab".to_owned()];
    let mut stream = TextStream::new(&tokenizer(), stop, StopText::Exclude, SpecialText::Skip, 3).unwrap();
    let pushed = push_all(&mut stream, "abab");
    let texts: Vec<_> = pushed.iter().map(|pushed| pushed.text.as_str()).collect();
    assert_eq!(texts, ["", "ab", "", ""]);
    assert_eq!(pushed[3].stopped, Some(0));
}

#[test]
fn held_text_comes_out_at_the_end() {
    let stop = vec!["abc".to_owned()];
    let mut stream = TextStream::new(&tokenizer(), stop, StopText::Exclude, SpecialText::Skip, 0).unwrap();
    push_all(&mut stream, "ab");
    stream.push(TokenId(0xE6));
    assert_eq!(stream.finish(), "ab\u{FFFD}");
}

#[test]
fn special_tokens_are_shown_when_asked_for() {
    for (special, expected) in [(SpecialText::Keep, "<|end|>"), (SpecialText::Skip, "")] {
        let mut stream = TextStream::new(&tokenizer(), vec![], StopText::Exclude, special, 0).unwrap();
        assert_eq!(stream.push(END).text, expected);
    }
}

#[test]
fn an_empty_stop_string_is_refused() {
    let stop = vec!["a".to_owned(), String::new()];
    let error = TextStream::new(&tokenizer(), stop, StopText::Exclude, SpecialText::Skip, 0).unwrap_err();
    assert!(matches!(error, TokenizerError::EmptyStop { index: 1 }), "{error}");
}

#[test]
fn a_stop_string_may_be_a_special_token_that_is_not_shown() {
    for (special, stop_text, expected) in [
        (SpecialText::Skip, StopText::Exclude, "xa"),
        (SpecialText::Keep, StopText::Exclude, "xa"),
        (SpecialText::Skip, StopText::Include, "xa<|end|>"),
    ] {
        let mut stream = TextStream::new(&tokenizer(), vec!["<|end|>".into()], stop_text, special, 0).unwrap();
        let mut text: String = push_all(&mut stream, "xa").into_iter().map(|pushed| pushed.text).collect();
        let last = stream.push(END);
        text.push_str(&last.text);
        assert_eq!((text.as_str(), last.stopped), (expected, Some(0)), "{special:?} {stop_text:?}");
    }
}

#[test]
fn a_stop_string_may_span_text_and_a_hidden_token_and_is_never_a_part_of_one() {
    let stream = |stop: &str, min_tokens| {
        let stop = vec![stop.to_owned()];
        TextStream::new(&tokenizer(), stop, StopText::Exclude, SpecialText::Skip, min_tokens).unwrap()
    };
    let mut spanning = stream("b<|end|>a", 0);
    assert_eq!(push_all(&mut spanning, "ab")[0].text, "a");
    assert_eq!(spanning.push(END), Pushed::default());
    assert_eq!(push_all(&mut spanning, "a")[0], Pushed { text: String::new(), stopped: Some(0) });

    let mut unfinished = stream("b<|end|>a", 0);
    push_all(&mut unfinished, "ab");
    unfinished.push(END);
    assert_eq!(push_all(&mut unfinished, "x")[0].text, "bx");

    let mut part = stream("end", 0);
    assert_eq!(part.push(END), Pushed::default());
    assert_eq!(part.finish(), "");

    let mut early = stream("<|end|>", 2);
    assert_eq!(early.push(END).stopped, None);
    assert_eq!(early.push(END).stopped, Some(0));
}
