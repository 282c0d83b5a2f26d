//! Filters for HTML. Chat templates have no use for them, but they are there.

use crate::error::Error;
use crate::eval::{Call, Interp};
use crate::text::{Origin, Text, TextBuf};
use crate::value::{Result, Value, View};

impl Interp<'_> {
    pub(super) fn html_filter(&self, name: &str, input: Value, call: Call) -> Result<Value> {
        if name == "urlize" {
            return Err(Error::runtime("urlize is not supported in chat templates"));
        }
        if name == "xmlattr" {
            return self.xmlattr(&input, call);
        }
        call.positional::<0>(name, 0)?;
        if name == "urlencode" {
            return self.urlencode(&input);
        }
        let text = self.text(&input)?;
        Ok(Value::Str(match name {
            "safe" => text.with_markup(true),
            "striptags" => self.striptags(&text)?,
            "forceescape" => self.escape(&text)?,
            _ => self.escaped(&text)?,
        }))
    }

    /// HTML's special characters as references, except in markup.
    pub(crate) fn escaped(&self, text: &Text) -> Result<Text> {
        if text.markup { Ok(text.clone()) } else { self.escape(text) }
    }

    fn escape(&self, text: &Text) -> Result<Text> {
        self.budget.pay(text.len() * 5)?;
        let mut out = TextBuf::default();
        for (char, origin) in text.chars() {
            match char {
                '&' => out.push("&amp;", origin),
                '<' => out.push("&lt;", origin),
                '>' => out.push("&gt;", origin),
                '\'' => out.push("&#39;", origin),
                '"' => out.push("&#34;", origin),
                _ => out.push_char(char, origin),
            }
        }
        Ok(out.finish().with_markup(true))
    }

    /// Without comments and tags, white space as single spaces, and references as what they stand for.
    fn striptags(&self, text: &Text) -> Result<Text> {
        self.budget.pay(text.len() * 4)?;
        let mut plain = text.as_str().to_owned();
        for (open, close) in [("<!--", "-->"), ("<", ">")] {
            let mut out = String::new();
            let mut rest = plain.as_str();
            while let Some(start) = rest.find(open) {
                let Some(end) = rest[start..].find(close) else { break };
                out.push_str(&rest[..start]);
                rest = &rest[start + end + close.len()..];
            }
            out.push_str(rest);
            plain = out;
        }
        let words: Vec<&str> = plain.split(crate::lexer::is_space).filter(|word| !word.is_empty()).collect();
        let plain = words.join(" ");
        if plain.contains('&') {
            let named = [("&lt;", "<"), ("&gt;", ">"), ("&#39;", "'"), ("&#34;", "\""), ("&quot;", "\"")];
            let mut out = plain;
            for (reference, char) in named {
                out = out.replace(reference, char);
            }
            let rest = out.replace("&amp;", "");
            if rest.contains('&') && rest.contains(';') {
                return Err(Error::runtime("striptags: only the references of escape are supported"));
            }
            return Ok(Text::new(out.replace("&amp;", "&"), text.origin()));
        }
        Ok(Text::new(plain, text.origin()))
    }

    fn urlencode(&self, input: &Value) -> Result<Value> {
        let pairs = match input {
            Value::Dict(dict) => self.items(&Value::View(View::Items, dict.clone()))?,
            Value::Str(_) => return self.quoted(input, "/").map(Value::Str),
            other if !self.is_iterable(other) => return self.quoted(other, "/").map(Value::Str),
            other => self.items(other)?,
        };
        let mut out = TextBuf::default();
        for (index, pair) in pairs.iter().enumerate() {
            let pair: Result<[Value; 2]> =
                self.items(pair)?.try_into().map_err(|_| Error::runtime("urlencode expects pairs"));
            let [key, value] = pair?;
            if index > 0 {
                out.push("&", Origin::Input);
            }
            out.push_text(&self.quoted(&key, "")?);
            out.push("=", Origin::Input);
            out.push_text(&self.quoted(&value, "")?);
        }
        Ok(Value::Str(out.finish()))
    }

    /// Bytes of a URL; in a query string a space is `+` and nothing else is safe.
    fn quoted(&self, value: &Value, safe: &str) -> Result<Text> {
        let text = self.text(value)?;
        self.budget.pay(text.len() * 3)?;
        let mut out = String::new();
        for byte in text.as_str().bytes() {
            let char = byte as char;
            if char.is_ascii_alphanumeric() || "_.-~".contains(char) || safe.contains(char) && byte.is_ascii() {
                out.push(char);
            } else if byte == b' ' && safe.is_empty() {
                out.push('+');
            } else {
                out.push_str(&format!("%{byte:02X}"));
            }
        }
        Ok(Text::new(out, text.origin()))
    }

    fn xmlattr(&self, input: &Value, call: Call) -> Result<Value> {
        let [autospace] = call.bind("xmlattr", ["autospace"], 0)?;
        let Value::Dict(dict) = input else { return Err(self.wrong_input("xmlattr", input)) };
        let mut out = TextBuf::default();
        for (key, value) in dict.pairs() {
            if matches!(value, Value::None | Value::Undefined(_)) {
                continue;
            }
            let Value::Str(key) = key else { return Err(self.wrong_input("xmlattr", key)) };
            let bad = |char: char| matches!(char, ' ' | '\t'..='\r' | '/' | '>' | '=');
            if key.as_str().contains(bad) {
                return Err(Error::runtime("Invalid character in attribute name"));
            }
            if out.len() > 0 || autospace.as_ref().is_none_or(Value::is_true) {
                out.push(" ", Origin::Own);
            }
            out.push_text(&self.escaped(key)?);
            out.push("=\"", Origin::Own);
            out.push_text(&self.escaped(&self.text(value)?)?);
            out.push("\"", Origin::Own);
        }
        Ok(Value::Str(out.finish()))
    }
}
