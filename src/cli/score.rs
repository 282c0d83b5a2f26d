//! `kiln score`: log-probabilities of given text.

use std::io::{BufRead, IsTerminal, Write};

use clap::Args;
use kiln::ids::TokenId;
use kiln::runtime::{Runtime, RuntimeOptions};
use kiln::text::json;
use serde::Serialize;
use serde_json::Value;

use super::args::{ContextArgs, DeviceArgs, ModelArgs};
use super::progress::{self, Busy, Shown};
use super::streams::{STDIN, text_of};
use super::{CliError, TEXT_WITH_BOS};

/// Give the log-probability of every token of given texts (teacher forcing)
///
/// Reads JSON lines from standard input, `{"text": "…"}` or `{"ids": [1, 2]}`, and writes a JSON line for each:
/// `{"ids", "logprobs", "top"}`, with the best tokens of every position as `[id, logprob]` pairs and null at position 0.
#[derive(Debug, Args)]
pub struct ScoreArgs {
    #[command(flatten)]
    model: ModelArgs,

    /// Report the N most likely tokens of every position
    #[arg(long = "top", default_value_t = 0, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=1000))]
    top: u32,

    #[command(flatten)]
    context: ContextArgs,

    #[command(flatten)]
    device: DeviceArgs,
}

/// What a line asks to be scored.
#[derive(Debug, PartialEq)]
enum Line {
    Text(String),
    Ids(Vec<TokenId>),
}

#[derive(Debug, Serialize)]
struct Scored {
    ids: Vec<TokenId>,
    logprobs: Vec<Option<f32>>,
    top: Vec<Option<Vec<(TokenId, f32)>>>,
}

/// Runs the command.
pub fn run(args: &ScoreArgs) -> Result<(), CliError> {
    let mut input = std::io::stdin().lock();
    if std::io::stdin().is_terminal() {
        return Err(CliError::usage(
            "nothing to score: give JSON lines on standard input, such as {\"text\": \"The sky is blue.\"}",
        ));
    }
    let options =
        RuntimeOptions { context_tokens: args.context.tokens(), logit_rows_max: 128, ..args.device.runtime_options() };
    let runtime = progress::open_runtime(&args.model.path()?, &options, Shown::Yes)?;
    // Lines on a terminal are progress enough.
    let busy = Busy::with("scoring line 1", Shown::unless(std::io::stdout().is_terminal()));
    let mut out = std::io::stdout().lock();
    let mut bytes = Vec::new();
    for number in 1u64.. {
        bytes.clear();
        let read = input.read_until(b'\n', &mut bytes);
        if read.map_err(|source| CliError::File { path: STDIN.to_owned(), source })? == 0 {
            break;
        }
        busy.say(|| format!("scoring line {number}"));
        let line = text_of(STDIN, number, std::mem::take(&mut bytes))?;
        if line.trim().is_empty() {
            continue;
        }
        let scored = parse(&line).and_then(|line| score(&runtime, line, args.top));
        let scored = scored.map_err(|error| error.at(format!("{STDIN} line {number}")))?;
        writeln!(out, "{}", serde_json::to_string(&scored)?)?;
        out.flush()?;
    }
    Ok(())
}

fn score(runtime: &Runtime, line: Line, top: u32) -> Result<Scored, CliError> {
    let ids = match line {
        Line::Text(text) => runtime.text().tokenizer().encode(&text, TEXT_WITH_BOS)?,
        Line::Ids(ids) => ids,
    };
    let scored = runtime.score(&ids, top)?;
    let logprobs = scored.iter().map(|s| s.as_ref().map(|s| s.logprob)).collect();
    let top = scored.into_iter().map(|s| s.map(|s| s.top)).collect();
    Ok(Scored { ids, logprobs, top })
}

fn parse(line: &str) -> Result<Line, CliError> {
    const EXPECTED: &str = "expected {\"text\": \"…\"} or {\"ids\": [1, 2]}";
    let wrong = |found: String| CliError::usage(format!("{EXPECTED}, found {found}"));
    let Value::Object(mut fields) = json::parse(line).map_err(|error| CliError::usage(format!("no JSON: {error}")))?
    else {
        return Err(wrong("JSON that is no object".to_owned()));
    };
    let (text, ids) = (fields.remove("text"), fields.remove("ids"));
    if let Some(name) = fields.keys().next() {
        return Err(wrong(format!("the field {name:?}")));
    }
    let id = |(index, id): (usize, &Value)| {
        let number = id.as_u64().and_then(|id| u32::try_from(id).ok());
        number.map(TokenId).ok_or_else(|| wrong(format!("{id} as ids[{index}]")))
    };
    match (text, ids) {
        (Some(Value::String(text)), None) => Ok(Line::Text(text)),
        (None, Some(Value::Array(ids))) => Ok(Line::Ids(ids.iter().enumerate().map(id).collect::<Result<_, _>>()?)),
        (Some(_), Some(_)) => Err(wrong("both".to_owned())),
        (None, None) => Err(wrong("neither".to_owned())),
        (Some(_), None) => Err(wrong("a text that is no string".to_owned())),
        (None, Some(_)) => Err(wrong("ids that are no array".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_text_or_ids() {
        assert_eq!(parse(r#"{"text": "a"}"#).unwrap(), Line::Text("a".to_owned()));
        assert_eq!(parse(r#"{"ids": [1, 2]}"#).unwrap(), Line::Ids(vec![TokenId(1), TokenId(2)]));
        for (line, words) in [
            ("{\"txt\": 1}", "found the field \"txt\""),
            ("{}", "found neither"),
            ("[1]", "no object"),
            ("{\"text\": 5}", "no string"),
            ("{\"ids\": 5}", "no array"),
            ("{\"ids\": [1, -2]}", "found -2 as ids[1]"),
            ("{\"ids\": [1], \"text\": \"a\"}", "found both"),
            ("{\"text\": ", "no JSON"),
        ] {
            let message = parse(line).unwrap_err().to_string();
            assert!(message.contains(words) && !message.contains("line 1"), "{line}: {message}");
        }
    }
}
