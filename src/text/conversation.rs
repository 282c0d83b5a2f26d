//! A conversation as chat templates want it, whatever dialect it came in.
//!
//! What templates fail on or drop is made good before they see it: `developer` is `system`, content is text and never null,
//! arguments of calls are objects, results carry their function's name, and a system message after the first is folded into the
//! user's turn beside it, in place, so that the prompt before it stays what it was.

use serde_json::{Map, Value, json};

use super::Refusal;
use super::json::{parse, shown};

/// All that a chat template is given.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Conversation {
    /// Objects with a `role`, and the other fields in the client's order.
    pub messages: Vec<Map<String, Value>>,
    /// As the client sent them: their order is part of the prompt.
    pub tools: Option<Value>,
    pub documents: Option<Value>,
    /// Further variables of the template.
    pub variables: Map<String, Value>,
    /// The prompt ends before the beginning of an answer.
    pub omits_generation_prompt: bool,
}

impl Conversation {
    /// One user's message, after a system message if there is one.
    pub fn of_user(system: Option<&str>, text: &str) -> Conversation {
        let message = |role: &str, content: &str| {
            Map::from_iter([("role".to_owned(), json!(role)), ("content".to_owned(), json!(content))])
        };
        let system = system.map(|content| message("system", content));
        Conversation {
            messages: system.into_iter().chain([message("user", text)]).collect(),
            ..Conversation::default()
        }
    }

    /// Makes good what templates fail on. `reasoning_name` is what the template calls past reasoning.
    ///
    /// # Errors
    /// Arguments of a call that are no JSON object, by the message's path.
    pub fn normalise(&mut self, reasoning_name: Option<&str>) -> Result<(), Refusal> {
        let mut called: Map<String, Value> = Map::new();
        for (at, message) in self.messages.iter_mut().enumerate() {
            let path = format!("messages[{at}]");
            if message.get("role") == Some(&json!("developer")) {
                message.insert("role".to_owned(), json!("system"));
            }
            if message.get("content").is_none_or(Value::is_null) {
                message.insert("content".to_owned(), json!(""));
            }
            rename_reasoning(message, reasoning_name);
            let role = message.get("role").and_then(Value::as_str).unwrap_or_default();
            if role == "tool" && !message.contains_key("name") {
                let id = message.get("tool_call_id").and_then(Value::as_str).unwrap_or_default();
                if let Some(name) = called.get(id) {
                    message.insert("name".to_owned(), name.clone());
                }
            }
            if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
                for (i, call) in calls.iter_mut().enumerate() {
                    read_arguments(call, &format!("{path}.tool_calls[{i}].function.arguments"))?;
                    if let (Some(Value::String(id)), Some(name)) = (call.get("id"), call.pointer("/function/name")) {
                        called.insert(id.clone(), name.clone());
                    }
                }
            }
        }
        self.fold_system_messages();
        Ok(())
    }

    /// A system message behind the first turn becomes part of the user's turn that follows or precedes it.
    fn fold_system_messages(&mut self) {
        let is = |message: &Map<String, Value>, role: &str| message.get("role") == Some(&json!(role));
        let start = self.messages.iter().position(|message| !is(message, "system")).unwrap_or(self.messages.len());
        let mut folded: Vec<Map<String, Value>> = self.messages.drain(..start).collect();
        // Of neighbouring system messages at the start, templates show only the first.
        while folded.len() > 1 {
            let second = folded.remove(1);
            join(&mut folded[0], &second);
        }
        let mut came_from_system = false;
        for mut message in std::mem::take(&mut self.messages) {
            let is_system = is(&message, "system");
            if is_system {
                message.insert("role".to_owned(), json!("user"));
            }
            match folded.last_mut() {
                Some(last) if (is_system || came_from_system) && is(last, "user") && is(&message, "user") => {
                    join(last, &message);
                }
                _ => folded.push(message),
            }
            came_from_system = is_system;
        }
        self.messages = folded;
    }
}

/// Puts the text of `next` behind that of `message`.
fn join(message: &mut Map<String, Value>, next: &Map<String, Value>) {
    let text =
        |message: &Map<String, Value>| message.get("content").and_then(Value::as_str).unwrap_or_default().to_owned();
    let (before, after) = (text(message), text(next));
    let between = if before.is_empty() || after.is_empty() { "" } else { "\n\n" };
    message.insert("content".to_owned(), json!(format!("{before}{between}{after}")));
}

/// Past reasoning comes under two names and goes to the template under the one that it reads.
fn rename_reasoning(message: &mut Map<String, Value>, reasoning_name: Option<&str>) {
    let names = ["reasoning_content", "reasoning"];
    let Some(reasoning) = names.iter().find_map(|name| message.get(*name).filter(|text| !text.is_null()).cloned())
    else {
        return;
    };
    let Some(name) = reasoning_name else { return };
    names.iter().filter(|other| **other != name).for_each(|other| drop(message.shift_remove(*other)));
    message.insert(name.to_owned(), reasoning);
}

/// Arguments are a string on the wire and an object for templates.
fn read_arguments(call: &mut Value, path: &str) -> Result<(), Refusal> {
    let Some(arguments) = call.pointer_mut("/function/arguments") else { return Ok(()) };
    let refuse = |found: &Value| {
        let message = format!("{path}: expected a JSON object, or a string that holds one, found {}", shown(found));
        Err(Refusal::bad_request(path.to_owned(), message))
    };
    match arguments {
        Value::Object(_) => Ok(()),
        Value::String(text) if text.trim().is_empty() => {
            *arguments = json!({});
            Ok(())
        }
        Value::String(text) => match parse(text) {
            Ok(object @ Value::Object(_)) => {
                *arguments = object;
                Ok(())
            }
            _ => refuse(arguments),
        },
        _ => refuse(arguments),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(messages: Value) -> Conversation {
        let object = |message: &Value| message.as_object().cloned().unwrap_or_default();
        let messages = messages.as_array().map(|messages| messages.iter().map(object).collect());
        Conversation { messages: messages.unwrap_or_default(), ..Conversation::default() }
    }

    fn normalised(messages: Value, reasoning_name: Option<&str>) -> Result<Value, String> {
        let mut conversation = conversation(messages);
        conversation.normalise(reasoning_name).map_err(|refusal| refusal.message)?;
        Ok(Value::Array(conversation.messages.into_iter().map(Value::Object).collect()))
    }

    #[test]
    fn roles_and_content_are_what_templates_know() {
        let given = json!([{"role": "developer", "content": "Be brief."}, {"role": "assistant", "content": null}]);
        let want = json!([{"role": "system", "content": "Be brief."}, {"role": "assistant", "content": ""}]);
        assert_eq!(normalised(given, None), Ok(want));
    }

    #[test]
    fn arguments_become_objects_and_results_carry_names() {
        let call = |arguments: Value| json!({"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f", "arguments": arguments}}]});
        let result = json!({"role": "tool", "tool_call_id": "c1", "content": "7"});
        let got = normalised(json!([call(json!("{\"b\": 1, \"a\": 2}")), result]), None);
        let got = got.unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(got[0]["tool_calls"][0]["function"]["arguments"].to_string(), r#"{"b":1,"a":2}"#);
        assert_eq!((&got[0]["content"], &got[1]["name"]), (&json!(""), &json!("f")));
        for wrong in [json!("{"), json!("[1]"), json!(3), json!("{\"a\":1,\"a\":2}")] {
            let error = normalised(json!([{"role": "user", "content": "x"}, call(wrong.clone())]), None);
            assert!(error.is_err_and(|e| e.starts_with("messages[1].tool_calls[0].function.arguments: ")), "{wrong}");
        }
    }

    #[test]
    fn later_system_messages_are_folded_in_place() {
        let message = |role: &str, content: &str| json!({"role": role, "content": content});
        let given = json!([
            message("system", "S"),
            message("system", "T"),
            message("user", "1"),
            message("system", "now"),
            message("assistant", "2"),
            message("system", "then"),
            message("user", "3"),
            message("user", "4")
        ]);
        let want = json!([
            message("system", "S\n\nT"),
            message("user", "1\n\nnow"),
            message("assistant", "2"),
            message("user", "then\n\n3"),
            message("user", "4")
        ]);
        assert_eq!(normalised(given, None), Ok(want));
    }

    #[test]
    fn reasoning_has_the_name_that_the_template_reads() {
        let given = json!([{"role": "assistant", "content": "x", "reasoning": "why"}]);
        for (name, want) in [
            (Some("reasoning_content"), json!([{"role": "assistant", "content": "x", "reasoning_content": "why"}])),
            (Some("thinking"), json!([{"role": "assistant", "content": "x", "thinking": "why"}])),
            (None, given.clone()),
        ] {
            assert_eq!(normalised(given.clone(), name), Ok(want));
        }
    }
}
