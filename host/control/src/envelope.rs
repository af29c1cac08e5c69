//! The messages around requests, answers and notifications: JSON-RPC 2.0.
//!
//! It is narrower in three ways, each with an error of its own: no batches, no requests without
//! an id, and parameters by name only.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::event::Stamped;
use crate::method::{Call, Stage};
use crate::refusal::{Code, Refusal};

/// The longest textual id, in bytes.
pub const MAX_ID: usize = 128;
/// The largest numeric id: the largest that every JSON library represents exactly.
const MAX_NUMBER: u64 = (1 << 53) - 1;

/// `"2.0"`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum JsonRpc {
    /// The only version.
    #[default]
    #[serde(rename = "2.0")]
    V2,
}

/// A request's id, repeated in its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Id {
    /// A whole number between -(2^53 - 1) and 2^53 - 1.
    Number(
        #[schemars(range(min = -9_007_199_254_740_991_i64, max = 9_007_199_254_740_991_i64))] i64,
    ),
    /// A text of at most 128 bytes.
    Text(#[schemars(length(max = 128))] String),
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Request {
    /// The version of JSON-RPC.
    pub jsonrpc: JsonRpc,
    /// Its id, repeated in the answer.
    pub id: Id,
    /// The method with its parameters.
    #[serde(flatten)]
    pub call: Call,
}

/// The fields of a request, before they are checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    jsonrpc: Value,
    id: Option<Value>,
    method: Value,
    params: Option<Value>,
}

impl Request {
    /// Parses a line.
    ///
    /// # Errors
    ///
    /// Why it is no valid request, with its id if it has one.
    pub fn read(line: &[u8]) -> Result<Self, (Option<Id>, Refusal)> {
        let fields: Fields = match serde_json::from_slice(line) {
            Ok(fields) => fields,
            Err(error) => return Err(explain(line, &error)),
        };
        let id = fields.id.as_ref().and_then(id_of);
        let refuse = |code, text: String| Err((id.clone(), Refusal::new(code, text)));
        let invalid = |text: &str| refuse(Code::InvalidRequest, text.to_owned());
        if fields.jsonrpc != "2.0" {
            return invalid("`jsonrpc` has to be \"2.0\"");
        }
        let Some(id) = &id else {
            return invalid(
                "a request has an `id`: a whole number of at most 2^53 - 1, or a text of at most \
                 128 bytes; nothing was done",
            );
        };
        let Value::String(method) = fields.method else {
            return invalid("`method` has to be a text");
        };
        if !Call::is_method(&method) {
            let known = Call::METHODS.join(", ");
            let method = shorten(&method);
            let text = format!("there is no method `{method}`: there are {known}");
            return refuse(Code::MethodNotFound, text);
        }
        let params = match fields.params {
            None => Value::Object(serde_json::Map::new()),
            Some(params @ Value::Object(_)) => params,
            Some(_) => {
                let text = format!("the params of `{method}` go by name: give an object");
                return refuse(Code::InvalidParams, text);
            }
        };
        let call = serde_json::json!({ "method": method, "params": params });
        match serde_json::from_value(call) {
            Ok(call) => Ok(Self {
                jsonrpc: JsonRpc::V2,
                id: id.clone(),
                call,
            }),
            Err(error) => {
                let error = shorten(&error.to_string());
                let text = format!("the params of `{method}` are wrong: {error}");
                refuse(Code::InvalidParams, text)
            }
        }
    }
}

/// Explains why a line lacks the fields of a request.
fn explain(line: &[u8], error: &serde_json::Error) -> (Option<Id>, Refusal) {
    let value = serde_json::from_slice::<Value>(line);
    let (id, code, text) = match value {
        Err(error) => {
            let text = format!("no JSON: {error}");
            (None, Code::ParseError, text)
        }
        Ok(Value::Array(_)) => {
            let text = "batches are not answered: send one request a line".to_owned();
            (None, Code::InvalidRequest, text)
        }
        Ok(Value::Object(fields)) => {
            let id = fields.get("id").and_then(id_of);
            let error = shorten(&error.to_string());
            let text = format!(
                "no request: {error}; it has the fields `jsonrpc`, `id`, `method` and `params`"
            );
            (id, Code::InvalidRequest, text)
        }
        Ok(_) => {
            let text = "no request: a request is an object".to_owned();
            (None, Code::InvalidRequest, text)
        }
    };
    (id, Refusal::new(code, text))
}

/// Returns an id, if the value is a valid one.
fn id_of(value: &Value) -> Option<Id> {
    match value {
        Value::Number(number) => {
            let number = number.as_i64()?;
            (number.unsigned_abs() <= MAX_NUMBER).then_some(Id::Number(number))
        }
        Value::String(text) => (text.len() <= MAX_ID).then(|| Id::Text(text.clone())),
        _ => None,
    }
}

/// Truncates text of a client so that it fits into a message.
fn shorten(text: &str) -> String {
    manatee_common::ration::clean(text.as_bytes(), 256)
}

/// A message of the server.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Message {
    /// The answer to a request.
    Answer(Answer),
    /// The refusal of a request.
    Failure(Failure),
    /// A message that answers no request.
    Notification(Notification),
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Answer {
    /// The version of JSON-RPC.
    pub jsonrpc: JsonRpc,
    /// The request's id.
    pub id: Id,
    /// The result: see `x-methods`.
    pub result: Value,
}

/// The refusal of a request, or of a line that is none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Failure {
    /// The version of JSON-RPC.
    pub jsonrpc: JsonRpc,
    /// The request's id; null if it has none that can be read.
    pub id: Option<Id>,
    /// What went wrong.
    pub error: ErrorObject,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorObject {
    /// The number of the reason: see `x-errors`.
    pub code: i32,
    /// For people.
    pub message: String,
    /// For programs.
    pub data: ErrorData,
}

/// What went wrong, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ErrorData {
    /// The name of the reason.
    pub reason: Code,
}

/// A message that answers no request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Notification {
    /// The version of JSON-RPC.
    pub jsonrpc: JsonRpc,
    /// What it is about.
    #[serde(flatten)]
    pub notice: Notice,
}

/// The content of a notification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "method", content = "params", rename_all = "snake_case")]
pub enum Notice {
    /// The stage of a request that is not answered yet.
    Progress(Progress),
    /// Something happened.
    Event(Told),
    /// Events were lost, right before those that follow: the subscriber reads too slowly.
    Lost(Lost),
}

impl Notice {
    /// The names of all notifications.
    pub const METHODS: [&str; 3] = ["progress", "event", "lost"];
}

/// [`Notice::Progress`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Progress {
    /// The request's id.
    pub id: Id,
    /// The stage that began.
    pub stage: Stage,
}

/// [`Notice::Event`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Told {
    /// The subscription.
    pub subscription: u64,
    /// The event.
    #[serde(flatten)]
    pub event: Stamped,
}

/// [`Notice::Lost`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Lost {
    /// The subscription.
    pub subscription: u64,
    /// How many events were lost.
    pub events: u64,
}

impl Message {
    /// Creates an answer.
    pub fn answer(id: Id, result: Value) -> Self {
        Self::Answer(Answer {
            jsonrpc: JsonRpc::V2,
            id,
            result,
        })
    }

    /// Creates a refusal.
    pub fn refusal(id: Option<Id>, refusal: Refusal) -> Self {
        let Refusal { code, message } = refusal;
        Self::Failure(Failure {
            jsonrpc: JsonRpc::V2,
            id,
            error: ErrorObject {
                code: code.number(),
                message,
                data: ErrorData { reason: code },
            },
        })
    }

    /// Creates a notification.
    pub fn notification(notice: Notice) -> Self {
        Self::Notification(Notification {
            jsonrpc: JsonRpc::V2,
            notice,
        })
    }
}

#[cfg(test)]
mod tests;
