//! Answers clients that predate the versions of the protocol with a clear error.

use serde_json::{Value, json};

/// Their requests.
const REQUESTS: [&str; 5] = ["inspect", "swap", "rollback", "link", "log"];

/// Returns the answer to such a client's request, in a form that it can read; None for other lines.
pub fn answer(line: &[u8]) -> Option<Value> {
    let name = match serde_json::from_slice(line).ok()? {
        Value::String(name) => name,
        Value::Object(fields) if fields.len() == 1 => fields.into_iter().next()?.0,
        _ => return None,
    };
    REQUESTS.contains(&&*name).then(|| {
        json!({ "error": {
            "code": "malformed",
            "message": "this `manatee serve` is newer than the command that asks: it speaks \
                        JSON-RPC 2.0. Use the `manatee` of the same release",
        } })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_former_requests_are_answered_in_the_former_way() {
        for line in [
            r#""rollback""#,
            r#"{"inspect":{}}"#,
            r#"{"swap":{"name":"a"}}"#,
        ] {
            let answer = answer(line.as_bytes()).unwrap();
            assert_eq!(answer["error"]["code"], "malformed");
        }
        for line in ["", "1", "[]", "{}", r#""hello""#, r#"{"id":1}"#, "{"] {
            assert_eq!(answer(line.as_bytes()), None, "{line}");
        }
    }
}
