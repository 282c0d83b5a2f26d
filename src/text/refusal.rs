//! Why a request is not answered, before any dialect puts it into words of its own.

/// An error as clients get it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// HTTP's status code.
    pub status: u16,
    pub message: String,
    /// The path of the field at fault.
    pub param: Option<String>,
    /// What a program can tell it by.
    pub code: Option<&'static str>,
}

impl Refusal {
    /// A request that is not right: the field at fault, and why.
    pub fn bad_request(param: impl Into<Option<String>>, message: impl Into<String>) -> Refusal {
        Refusal { status: 400, message: message.into(), param: param.into(), code: None }
    }
}
