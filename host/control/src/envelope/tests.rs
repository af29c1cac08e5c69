//! Lines that are requests, and lines that are not.

use super::*;
use crate::method::Inspect;

fn refusal(line: &str) -> (Option<Id>, Code, String) {
    let (id, refusal) = Request::read(line.as_bytes()).unwrap_err();
    (id, refusal.code, refusal.message)
}

#[test]
fn requests_are_read_as_they_are_written() {
    for id in [
        Id::Number(-1),
        Id::Number(MAX_NUMBER as i64),
        Id::Text("x".repeat(MAX_ID)),
    ] {
        let request = Request {
            jsonrpc: JsonRpc::V2,
            id,
            call: Call::Inspect(Inspect {
                pattern: Some("ports/*".into()),
            }),
        };
        let line = serde_json::to_vec(&request).unwrap();
        assert_eq!(Request::read(&line), Ok(request));
    }
    let bare = Request::read(br#"{"jsonrpc":"2.0","id":1,"method":"rollback"}"#);
    assert!(matches!(bare.unwrap().call, Call::Rollback(_)));
}

#[test]
fn what_is_no_request_is_refused_by_name() {
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"link","params":{}"#,
        "[".repeat(60_000)
    );
    use Code::{InvalidParams, InvalidRequest, MethodNotFound, ParseError};
    for (line, code, word) in [
        ("", ParseError, "no JSON"),
        ("{", ParseError, "no JSON"),
        ("\u{1}", ParseError, "no JSON"),
        (&deep, ParseError, "recursion limit"),
        ("[]", InvalidRequest, "batches"),
        (r#"[{"jsonrpc":"2.0"}]"#, InvalidRequest, "batches"),
        ("1", InvalidRequest, "object"),
        ("{}", InvalidRequest, "jsonrpc"),
        (
            r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"link"}"#,
            InvalidRequest,
            "duplicate field `id`",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"log","more":1}"#,
            InvalidRequest,
            "unknown field `more`",
        ),
        (
            r#"{"jsonrpc":"1.0","id":1,"method":"log"}"#,
            InvalidRequest,
            "jsonrpc",
        ),
        (
            r#"{"jsonrpc":2.0,"id":1,"method":"log"}"#,
            InvalidRequest,
            "jsonrpc",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":7}"#,
            InvalidRequest,
            "method",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"explode"}"#,
            MethodNotFound,
            "explode",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"inspect","params":[]}"#,
            InvalidParams,
            "by name",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"inspect","params":{"patern":1}}"#,
            InvalidParams,
            "patern",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"swap"}"#,
            InvalidParams,
            "name",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"link","params":{"port":-1}}"#,
            InvalidParams,
            "-1",
        ),
        (
            r#"{"jsonrpc":"2.0","id":1,"method":"link","params":{"port":0,"set":"sideways"}}"#,
            InvalidParams,
            "sideways",
        ),
    ] {
        let (_, found, message) = refusal(line);
        assert_eq!(found, code, "{line}: {message}");
        assert!(message.contains(word), "{line}: {message}");
        assert!(message.len() < 1000, "{message}");
    }
}

#[test]
fn ids_of_odd_types_are_refused_and_others_come_back() {
    let long = format!("{:?}", "x".repeat(MAX_ID + 1));
    for id in [
        "null",
        "1.5",
        "1e3",
        "true",
        "[]",
        "{}",
        "9007199254740992",
        "99999999999999999999",
        &long,
    ] {
        let line = format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"rollback"}}"#);
        let (told, code, message) = refusal(&line);
        assert_eq!((told, code), (None, Code::InvalidRequest), "{id}");
        assert!(message.contains("`id`"), "{message}");
    }
    let (_, code, message) = refusal(r#"{"jsonrpc":"2.0","method":"rollback"}"#);
    assert_eq!(code, Code::InvalidRequest);
    assert!(message.contains("nothing was done"), "{message}");
    let (told, ..) = refusal(r#"{"jsonrpc":"2.0","id":"a","method":"explode"}"#);
    assert_eq!(told, Some(Id::Text("a".into())));
    let (told, ..) = refusal(r#"{"id":7,"method":"log"}"#);
    assert_eq!(told, Some(Id::Number(7)));
}
