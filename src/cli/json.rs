//! JSON as requests have it.

use serde_json::Value;

/// Reads one JSON value.
///
/// # Errors
/// What is wrong, and where.
pub fn parse(text: &str) -> Result<Value, String> {
    serde_json::from_str(text).map_err(|error| {
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message);
        format!("{message}, at column {}", error.column())
    })
}
