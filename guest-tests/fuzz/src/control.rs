//! The control socket's requests, and patterns over the tree.

use std::sync::OnceLock;

use manatee_control::envelope::{Message, Request};
use manatee_control::{Call, Code, MAX_REQUEST, may_match, select};
use serde_json::Value;

use crate::direct_abi::{component, machine};

/// Decodes a request, and selects the parts of the tree that it names.
pub fn run(data: &[u8]) {
    static TREE: OnceLock<Value> = OnceLock::new();
    let tree = TREE.get_or_init(|| machine(component(true), true, true).device.inspect());
    if data.len() > MAX_REQUEST {
        return;
    }
    match Request::read(data) {
        Ok(request) => {
            let again = serde_json::to_vec(&request).expect("a request can be written");
            assert_eq!(Request::read(&again), Ok(request.clone()));
            if let Call::Inspect(inspect) = request.call {
                find(tree, inspect.pattern.as_deref().unwrap_or("**"));
            }
        }
        Err((id, refusal)) => {
            assert!(refusal.message.len() < 1000, "{refusal}");
            assert_ne!(refusal.code, Code::Failed);
            let message = Message::refusal(id, refusal);
            let text = serde_json::to_vec(&message).expect("a refusal can be written");
            let again: Message = serde_json::from_slice(&text).expect("and read");
            assert_eq!(again, message);
        }
    }
    if let Ok(pattern) = std::str::from_utf8(data) {
        find(tree, pattern);
    }
}

/// Selects parts of the tree. A part that a pattern may not match must not be found.
fn find(tree: &Value, pattern: &str) {
    let Ok(Value::Object(found)) = select(tree, pattern) else {
        return;
    };
    for name in found.keys() {
        assert!(may_match(pattern, name), "{pattern} finds {name}");
    }
}
