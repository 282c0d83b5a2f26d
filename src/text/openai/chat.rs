//! A chat request's conversation, to the ids of its prompt.

use serde_json::{Map, Value, json};

use crate::ids::TokenId;
use crate::text::{Conversation, Refusal, TextModel};

use super::fields::{Fields, read, unexpected};

/// Reads all fields about the conversation; hints that the template cannot honour join `ignored`.
pub fn prompt(fields: &mut Fields, model: &TextModel, ignored: &mut Vec<String>) -> Result<Vec<TokenId>, Refusal> {
    let messages: Vec<Value> = fields.require("messages")?;
    if messages.is_empty() {
        return Err(Refusal::bad_request("messages".to_owned(), "messages: expected at least one, found none"));
    }
    let messages =
        messages.into_iter().enumerate().map(|(i, message)| read_message(&format!("messages[{i}]"), message, ignored));
    let mut conversation = Conversation {
        messages: messages.collect::<Result<_, _>>()?,
        omits_generation_prompt: !fields.take_or("add_generation_prompt", true)?,
        ..Conversation::default()
    };
    let refused = |param: &str, error: String| Refusal::bad_request(param.to_owned(), format!("{param}: {error}"));
    let template = model.chat_template().map_err(|error| refused("messages", error.to_string()))?;
    conversation.normalise(template.reasoning_name())?;
    conversation.variables = fields.take_or("chat_template_kwargs", Map::new())?;
    for name in ["messages", "tools", "documents", "add_generation_prompt"] {
        if conversation.variables.contains_key(name) {
            let path = format!("chat_template_kwargs.{name}");
            return Err(Refusal::bad_request(path.clone(), format!("{path}: has a field of its own in the body")));
        }
    }
    for (name, value) in &conversation.variables {
        // A variable that the template never reads is named, not refused: clients send one set to all models.
        if !template.reads(name) && !value.is_null() {
            ignored.push(format!("chat_template_kwargs.{name}"));
        }
    }
    if let Some(effort) = fields.take::<String>("reasoning_effort")? {
        let mut is_met = false;
        for (name, value) in [("reasoning_effort", json!(effort)), ("enable_thinking", json!(effort != "none"))] {
            if template.reads(name) {
                conversation.variables.entry(name).or_insert(value);
                is_met = true;
            }
        }
        if !is_met {
            ignored.push("reasoning_effort".to_owned());
        }
    }
    if fields.take::<Value>("verbosity")?.is_some() {
        ignored.push("verbosity".to_owned());
    }
    for name in ["tools", "documents"] {
        let Some(list) = fields.take::<Vec<Value>>(name)?.filter(|list| !list.is_empty()) else { continue };
        if !template.reads(name) {
            return Err(refused(name, format!("the model's chat template does not read {name}")));
        }
        let list = Some(Value::Array(list));
        if name == "tools" { conversation.tools = list } else { conversation.documents = list }
    }
    take_tool_choice(fields, conversation.tools.is_some(), ignored)?;
    model.chat_prompt(template, &conversation).map_err(|error| refused("messages", error.to_string()))
}

/// Calls stay text of the answer: kiln does not part them from it, and forces none.
fn take_tool_choice(fields: &mut Fields, has_tools: bool, ignored: &mut Vec<String>) -> Result<(), Refusal> {
    match fields.take::<Value>("tool_choice")? {
        Some(choice) if choice == json!("none") => {}
        Some(choice) if choice == json!("auto") => ignored.extend(has_tools.then(|| "tool_choice".to_owned())),
        Some(found) => return Err(unexpected("tool_choice", "\"none\" or \"auto\"", &found)),
        None => ignored.extend(has_tools.then(|| "tool_choice".to_owned())),
    }
    if let Some(false) = fields.take::<bool>("parallel_tool_calls")?
        && has_tools
    {
        ignored.push("parallel_tool_calls".to_owned());
    }
    Ok(())
}

/// One message: its fields checked, in the client's order, content made text.
fn read_message(path: &str, message: Value, ignored: &mut Vec<String>) -> Result<Map<String, Value>, Refusal> {
    let order: Vec<String> = message.as_object().map(|object| object.keys().cloned().collect()).unwrap_or_default();
    let mut fields = Fields::of(path, message)?;
    let mut values = Map::new();
    values.insert("role".to_owned(), Value::String(fields.require("role")?));
    ignored.extend(fields.take_harmless(|name| name == "cache_control"));
    fields.take_neutral(&[
        ("refusal", &[json!("")]),
        ("audio", &[]),
        ("function_call", &[]),
        ("annotations", &[json!([])]),
    ])?;
    let content = match fields.take::<Value>("content")? {
        Some(content) => content_text(&fields.path("content"), content, ignored)?,
        None => String::new(),
    };
    values.insert("content".to_owned(), Value::String(content));
    for name in ["name", "tool_call_id", "reasoning_content", "reasoning"] {
        if let Some(text) = fields.take::<String>(name)? {
            values.insert(name.to_owned(), Value::String(text));
        }
    }
    if let Some(calls) = fields.take::<Vec<Value>>("tool_calls")?.filter(|calls| !calls.is_empty()) {
        let path = fields.path("tool_calls");
        let calls = calls.into_iter().enumerate().map(|(i, call)| read_call(&format!("{path}[{i}]"), call));
        values.insert("tool_calls".to_owned(), Value::Array(calls.collect::<Result<_, _>>()?));
    }
    fields.finish()?;
    let mut ordered = Map::new();
    for name in order {
        ordered.extend(values.shift_remove_entry(&name));
    }
    ordered.extend(values);
    Ok(ordered)
}

/// Text, or parts of text joined.
fn content_text(path: &str, content: Value, ignored: &mut Vec<String>) -> Result<String, Refusal> {
    let parts = match content {
        Value::String(text) => return Ok(text),
        Value::Array(parts) => parts,
        found => return Err(unexpected(path, "a string or parts of text", &found)),
    };
    let mut text = String::new();
    for (i, part) in parts.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        let mut fields = Fields::of(&path, part)?;
        let kind: String = fields.require("type")?;
        if !["text", "input_text", "output_text"].contains(&kind.as_str()) {
            return Err(unexpected(&fields.path("type"), "\"text\"", &json!(kind)));
        }
        text.push_str(&fields.require::<String>("text")?);
        ignored.extend(fields.take_harmless(|name| name == "cache_control"));
        fields.take_neutral(&[("annotations", &[json!([])]), ("logprobs", &[json!([])])])?;
        fields.finish()?;
    }
    Ok(text)
}

/// A call of an earlier turn. Its arguments are read when the conversation is normalised.
fn read_call(path: &str, call: Value) -> Result<Value, Refusal> {
    let mut fields = Fields::of(path, call.clone())?;
    let kind = fields.take_or("type", "function".to_owned())?;
    if kind != "function" {
        return Err(unexpected(&fields.path("type"), "\"function\"", &json!(kind)));
    }
    fields.take::<String>("id")?;
    fields.take::<u32>("index")?;
    let function: Value = fields.require("function")?;
    let mut function = Fields::of(&fields.path("function"), function)?;
    function.require::<String>("name")?;
    function.take::<Value>("arguments")?;
    function.finish()?;
    fields.finish()?;
    read::<Value>(path, &call)
}
