//! The protocol's JSON schema, generated from the types.

use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use crate::envelope::{Message, Request};
use crate::limits::PROTOCOL;
use crate::method::{
    Captured, Capturing, Counts, Greeting, LinkStatus, LogLevel, RateStatus, Subscribed, Swapped,
    Tree, Unsubscribed,
};
use crate::refusal::Code;

/// Returns the schema: `Request` and `Message` are the messages on the socket, one a line;
/// `x-methods` maps methods to their results, `x-errors` reasons to their numbers.
pub fn schema() -> Value {
    let mut generator = SchemaSettings::draft2020_12().into_generator();
    let request = generator.subschema_for::<Request>();
    let message = generator.subschema_for::<Message>();
    let methods = methods(&mut generator);
    let mut definitions = Value::Object(generator.take_definitions(true));
    let_params_be_left_out(&mut definitions);
    let errors: Map<_, _> = Code::ALL
        .iter()
        .map(|code| (code.to_string(), code.number().into()))
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The control protocol of manatee",
        "description": "Made from the types of host/control by its tests; see docs/control.md.",
        "x-protocol": PROTOCOL,
        "x-methods": methods,
        "x-errors": errors,
        "anyOf": [request, message],
        "$defs": definitions,
    })
}

/// Lists the result of each method.
fn methods(generator: &mut SchemaGenerator) -> Value {
    fn of<T: JsonSchema>(generator: &mut SchemaGenerator) -> Value {
        json!({ "result": generator.subschema_for::<T>() })
    }
    json!({
        "hello": of::<Greeting>(generator),
        "inspect": of::<Tree>(generator),
        "counters": of::<Counts>(generator),
        "swap": of::<Swapped>(generator),
        "rollback": of::<Swapped>(generator),
        "link": of::<LinkStatus>(generator),
        "rate": of::<RateStatus>(generator),
        "log": of::<LogLevel>(generator),
        "capture": of::<Capturing>(generator),
        "end_capture": of::<Captured>(generator),
        "subscribe": of::<Subscribed>(generator),
        "unsubscribe": of::<Unsubscribed>(generator),
    })
}

/// Makes params optional where none of them is required.
fn let_params_be_left_out(definitions: &mut Value) {
    let needs_params = |definitions: &Value, branch: &Value| {
        let reference = branch["properties"]["params"]["$ref"].as_str();
        let name = reference.and_then(|reference| reference.strip_prefix("#/$defs/"));
        name.is_some_and(|name| definitions[name].get("required").is_some())
    };
    let branches = definitions["Request"]["oneOf"].as_array().cloned();
    let mut branches = branches.unwrap_or_default();
    for branch in &mut branches {
        if !needs_params(definitions, branch) {
            branch["required"] = json!(["method"]);
        }
    }
    definitions["Request"]["oneOf"] = Value::Array(branches);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::envelope::Notice;
    use crate::method::Call;

    /// Names that the schema has for a method or an event.
    fn names(schema: &Value, definition: &str, tag: &str) -> Vec<String> {
        let branches = schema["$defs"][definition]["oneOf"].as_array().unwrap();
        let name = |branch: &Value| branch["properties"][tag]["const"].as_str().map(Into::into);
        branches.iter().filter_map(name).collect()
    }

    #[test]
    fn the_committed_schema_is_that_of_the_types() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/control.schema.json");
        let made = format!("{:#}\n", schema());
        if std::env::var_os("MANATEE_WRITE_SCHEMA").is_some() {
            std::fs::write(&path, &made).unwrap();
        }
        let committed = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(
            committed == made,
            "docs/control.schema.json is another: write it again by running this test with \
             MANATEE_WRITE_SCHEMA=1"
        );
    }

    #[test]
    fn lists_of_names_are_complete() {
        let schema = schema();
        assert_eq!(names(&schema, "Request", "method"), Call::METHODS);
        assert_eq!(names(&schema, "Notification", "method"), Notice::METHODS);
        let methods = schema["x-methods"].as_object().unwrap();
        assert_eq!(methods.len(), Call::METHODS.len());
        let codes = schema["$defs"]["Code"]["oneOf"].as_array().unwrap();
        assert_eq!(codes.len(), Code::ALL.len());
        let kinds = schema["$defs"]["EventKind"]["oneOf"].as_array().unwrap();
        assert_eq!(kinds.len(), crate::EventKind::ALL.len());
    }
}
