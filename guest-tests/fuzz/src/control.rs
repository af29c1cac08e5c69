//! The control socket's requests, and patterns over the tree.

use std::sync::OnceLock;

use manatee_control::{Request, select};
use serde_json::Value;

use crate::direct_abi::{component, machine};

/// Reads a request, and selects what it asks for.
pub fn run(data: &[u8]) {
    static TREE: OnceLock<Value> = OnceLock::new();
    let tree = TREE.get_or_init(|| machine(component(true), true, true).device.inspect());
    if data.len() > manatee_control::MAX_REQUEST {
        return;
    }
    if let Ok(request) = serde_json::from_slice::<Request>(data) {
        let again = serde_json::to_vec(&request).expect("a request can be written");
        let again: Request = serde_json::from_slice(&again).expect("and read");
        assert_eq!(request, again);
        if let Request::Inspect(inspect) = request {
            let _ = select(tree, inspect.pattern.as_deref().unwrap_or("**"));
        }
    }
    if let Ok(pattern) = std::str::from_utf8(data) {
        let _ = select(tree, pattern);
    }
}
