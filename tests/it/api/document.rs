//! The document that describes the API: that it is a valid one, complete, and true of whatever is asked.

use std::collections::BTreeSet;

use awc::http::Method;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use super::contract::{DOCUMENT, resolved, validator};
use super::{Site, TOKEN, get, send};

/// Requests that are made of each operation.
const TRIES: usize = 60;

/// Operations, by path and method.
fn operations() -> Vec<(&'static str, Method, &'static Value)> {
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let mut found = Vec::new();
    for (path, item) in paths {
        for (key, operation) in item.as_object().expect("an object") {
            if key != "parameters" {
                let method = key.to_uppercase().parse().expect("a method");
                found.push((path.as_str(), method, operation));
            }
        }
    }
    found
}

/// Parameters of an operation: those of its path and its own.
fn parameters(path: &str, operation: &'static Value) -> Vec<&'static Value> {
    let lists = [&DOCUMENT["paths"][path]["parameters"], &operation["parameters"]];
    let all = lists.into_iter().filter_map(Value::as_array).flatten();
    all.map(resolved).collect()
}

#[actix::test]
async fn the_server_gives_the_document_to_whoever_has_the_token() {
    let site = Site::embedded(&[]).await;
    assert_eq!(
        get(site.first(), "/api/openapi.json").await.expect(200),
        *DOCUMENT
    );
}

/// What OpenAPI 3.1.0 asks for, as far as this document uses it.
#[test]
fn the_document_keeps_the_rules_of_openapi() {
    assert_eq!(DOCUMENT["openapi"], "3.1.0");
    for field in ["title", "version", "description"] {
        assert!(DOCUMENT["info"][field].is_string(), "info.{field}");
    }
    let schemas = DOCUMENT["components"]["schemas"].as_object().expect("schemas");
    for (name, schema) in schemas {
        jsonschema::draft202012::meta::validate(schema).unwrap_or_else(|error| panic!("{name}: {error}"));
        let _ = validator(&json!({"$ref": format!("#/components/schemas/{name}")}));
    }
    let tags: BTreeSet<_> = DOCUMENT["tags"]
        .as_array()
        .expect("tags")
        .iter()
        .map(|tag| &tag["name"])
        .map(Value::as_str)
        .collect();
    let mut names = BTreeSet::new();
    for (path, method, operation) in operations() {
        let what = format!("{method} {path}");
        let name = operation["operationId"].as_str().expect("an operationId");
        assert!(names.insert(name), "{name} is there twice");
        assert!(operation["summary"].is_string(), "{what}");
        assert!(tags.contains(&operation["tags"][0].as_str()), "{what}");
        let in_path: BTreeSet<_> = path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .collect();
        let parameters = parameters(path, operation);
        let declared: BTreeSet<_> = parameters
            .iter()
            .filter(|parameter| parameter["in"] == "path")
            .map(|parameter| {
                assert_eq!(parameter["required"], true, "{what}");
                parameter["name"].as_str().expect("a name")
            })
            .collect();
        assert_eq!(in_path, declared, "{what}");
        for parameter in parameters {
            jsonschema::draft202012::meta::validate(&parameter["schema"]).expect("a schema");
        }
        for (status, response) in operation["responses"].as_object().expect("responses") {
            let response = resolved(response);
            assert!(
                response["description"]
                    .as_str()
                    .is_some_and(|text| !text.is_empty()),
                "{what} {status}"
            );
            let content = &response["content"]["application/json"];
            let validator = validator(&content["schema"]);
            if let Some(example) = content.get("example") {
                assert!(validator.is_valid(example), "{what} {status}: {example}");
            }
        }
        for status in ["200", "401", "404"] {
            assert!(operation["responses"].get(status).is_some(), "{what} {status}");
        }
        if let Some(body) = operation.get("requestBody") {
            let content = &body["content"]["application/json"];
            assert!(
                validator(&content["schema"]).is_valid(&content["example"]),
                "{what}"
            );
        }
    }
    references_lead_somewhere(&DOCUMENT);
}

fn references_lead_somewhere(value: &Value) {
    match value {
        Value::Object(fields) => {
            let _ = resolved(value);
            fields.values().for_each(references_lead_somewhere);
        }
        Value::Array(values) => values.iter().for_each(references_lead_somewhere),
        _ => {}
    }
}

/// The yardstick itself: an answer that it should not take.
#[test]
fn a_schema_refuses_what_does_not_fit() {
    let of = |name: &str| validator(&json!({"$ref": format!("#/components/schemas/{name}")}));
    for (name, wrong) in [
        ("Sent", json!({"room": "r", "offset": 1})),
        ("Sent", json!({"offset": 1, "epoch": "e"})),
        ("Error", json!({"code": "made_up", "message": "x"})),
        ("PublishError", json!({"code": "unavailable", "message": "x"})),
        ("History", json!({"room": "r", "messages": [{"message": 1}]})),
        (
            "BatchResults",
            json!({"results": [{"room": "r", "code": "unavailable", "message": "x"}]}),
        ),
        ("Rooms", json!({"node": "n", "rooms": [{"room": "r"}]})),
    ] {
        assert!(!of(name).is_valid(&wrong), "{name} takes {wrong}");
    }
}

/// Texts that a program might send by mistake or on purpose.
fn odd_text() -> impl Strategy<Value = String> {
    prop_oneof![
        3 => "[a-z]{1,8}",
        1 => any::<String>(),
        1 => Just(String::new()),
        1 => "[/%.?#&+ \u{0}\u{7f}é🙂]{1,6}",
        1 => Just("x".repeat(300)),
        1 => "-?[0-9]{1,21}",
    ]
}

fn odd_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        odd_text().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((odd_text(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// Makes requests: half of what they are made of is as the document says, the other half is not.
struct Maker {
    runner: TestRunner,
}

impl Maker {
    fn new() -> Self {
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[7; 32]);
        Self {
            runner: TestRunner::new_with_rng(Config::default(), rng),
        }
    }

    fn any<T>(&mut self, strategy: &impl Strategy<Value = T>) -> T {
        strategy.new_tree(&mut self.runner).expect("a value").current()
    }

    fn chance(&mut self, of: u8) -> bool {
        self.any(&(0..of)) == 0
    }

    /// A value for this schema.
    fn value(&mut self, schema: &Value) -> Value {
        if self.chance(8) {
            return self.any(&odd_json());
        }
        let schema = resolved(schema);
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds[0].as_str(),
            kind => kind.as_str(),
        };
        match kind {
            Some("object") => {
                let mut fields = serde_json::Map::new();
                let required = schema["required"].as_array().cloned().unwrap_or_default();
                for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                    let is_required = required.contains(&json!(name));
                    if (is_required && !self.chance(12)) || self.chance(2) {
                        let value = self.value(schema);
                        fields.insert(name.clone(), value);
                    }
                }
                Value::Object(fields)
            }
            Some("array") => {
                let count = self.any(&(0_usize..6));
                (0..count).map(|_| self.value(&schema["items"])).collect()
            }
            Some("integer") => self.any(&(0_u64..20)).into(),
            Some("string") => self.any(&"[a-z]{1,8}").into(),
            _ => self.any(&odd_json()),
        }
    }

    /// A text for a parameter, percent-encoded, or damaged where that matters.
    fn parameter(&mut self, schema: &Value) -> String {
        let text = match self.value(schema) {
            Value::String(text) => text,
            other => other.to_string(),
        };
        let encoded = text.bytes().map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            other => format!("%{other:02X}"),
        });
        let mut encoded: String = encoded.collect();
        if self.chance(10) {
            encoded += ["%", "%F", "%FF", "%00", "+", "%2F", ";"][self.any(&(0_usize..7))];
        }
        encoded
    }

    fn target(&mut self, path: &str, parameters: &[&Value]) -> String {
        let (mut target, mut query) = (path.to_owned(), Vec::new());
        for parameter in parameters {
            let name = parameter["name"].as_str().expect("a name");
            if parameter["in"] == "path" {
                target = target.replace(&format!("{{{name}}}"), &self.parameter(&parameter["schema"]));
            } else if self.chance(2) {
                query.push(format!("{name}={}", self.parameter(&parameter["schema"])));
            }
        }
        if self.chance(4) {
            query.push(self.parameter(&json!({})));
        }
        if query.is_empty() {
            target
        } else {
            format!("{target}?{}", query.join("&"))
        }
    }

    fn body(&mut self, operation: &Value) -> Vec<u8> {
        let Some(body) = operation.get("requestBody") else {
            return if self.chance(4) {
                b"{}".to_vec()
            } else {
                Vec::new()
            };
        };
        let schema = &body["content"]["application/json"]["schema"];
        let mut bytes = self.value(schema).to_string().into_bytes();
        match self.any(&(0..12)) {
            0 => bytes.truncate(bytes.len() / 2),
            1 => bytes.push(self.any(&any::<u8>())),
            2 => {
                let at = self.any(&(0..bytes.len()));
                bytes[at] = self.any(&any::<u8>());
            }
            _ => {}
        }
        bytes
    }
}

#[actix::test]
async fn whatever_is_asked_the_answer_is_one_that_the_document_promises() {
    let mut maker = Maker::new();
    for site in [Site::embedded(&[]).await, Site::redis(&[]).await] {
        let (mut good, mut bad) = (BTreeSet::new(), BTreeSet::new());
        for (path, method, operation) in operations() {
            let parameters = parameters(path, operation);
            for _ in 0..TRIES {
                let target = maker.target(path, &parameters);
                let body = maker.body(operation);
                let method = if maker.chance(20) {
                    Method::PATCH
                } else {
                    method.clone()
                };
                let right = format!("Bearer {TOKEN}");
                let token = if maker.chance(20) { None } else { Some(&*right) };
                // Compares the answer with the document.
                let answer = send(site.first(), method, &target, token, body).await;
                assert!(answer.status < 500, "{target}: {}", answer.body);
                let list = if answer.status == 200 { &mut good } else { &mut bad };
                list.insert((path, answer.status));
            }
        }
        println!("{} kinds of good answers, {} of bad ones", good.len(), bad.len());
        let mut paths = DOCUMENT["paths"].as_object().expect("paths").keys();
        let unanswered = paths.find(|path| !good.contains(&(path.as_str(), 200)));
        assert_eq!(unanswered, None, "no request was good");
        for node in &site.nodes {
            assert!(!node.log().contains("panic"), "{}", node.log());
            assert_eq!(node.metric("roomcast_session_panics_total").await, 0);
        }
    }
}
