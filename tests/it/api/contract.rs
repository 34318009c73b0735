//! The API's document as a yardstick: whether an answer is one that it promises.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::LazyLock;

use awc::http::Method;
use jsonschema::Validator;
use serde_json::{Value, json};

use super::Answer;

/// What the server gives to whoever asks for it, which a test makes sure of.
pub(super) static DOCUMENT: LazyLock<Value> = LazyLock::new(|| {
    let text = include_str!("../../../src/http/api/openapi.json");
    serde_json::from_str(text).expect("JSON")
});

/// What stands at a reference, if this is one.
pub(super) fn resolved(value: &Value) -> &Value {
    match value["$ref"].as_str() {
        Some(reference) => {
            let pointer = reference
                .strip_prefix('#')
                .expect("a reference into the document");
            let target = DOCUMENT.pointer(pointer);
            target.unwrap_or_else(|| panic!("{reference} leads nowhere"))
        }
        None => value,
    }
}

/// Compiles a schema of the document.
pub(super) fn validator(schema: &Value) -> Rc<Validator> {
    thread_local! {
        static COMPILED: RefCell<HashMap<String, Rc<Validator>>> = RefCell::default();
    }
    let compile = || {
        let whole = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "components": DOCUMENT["components"],
            "allOf": [schema],
        });
        let validator = jsonschema::validator_for(&whole);
        Rc::new(validator.unwrap_or_else(|error| panic!("{schema}: {error}")))
    };
    COMPILED.with_borrow_mut(|compiled| compiled.entry(schema.to_string()).or_insert_with(compile).clone())
}

/// The operation of a request, if the document has one.
fn operation(method: &Method, target: &str) -> Option<&'static Value> {
    let path = target.split('?').next().unwrap_or(target);
    let paths = DOCUMENT["paths"].as_object().expect("paths");
    let fits = |template: &str| {
        let (wanted, given) = (template.split('/'), path.split('/'));
        wanted.clone().count() == given.clone().count()
            && wanted
                .zip(given)
                .all(|(wanted, given)| wanted.starts_with('{') || wanted == given)
    };
    let (_, operations) = paths.iter().find(|(template, _)| fits(template))?;
    operations.get(method.as_str().to_lowercase())
}

/// Checks that the document promises this answer.
pub(super) fn check(method: &Method, target: &str, answer: &Answer) {
    let what = || format!("{method} {target} was answered {} {}", answer.status, answer.body);
    assert_eq!(
        answer.header("content-type"),
        Some("application/json"),
        "{}",
        what()
    );
    let status = answer.status.to_string();
    let Some(operation) = operation(method, target) else {
        assert!(matches!(answer.status, 401 | 404 | 405), "{}", what());
        let error = json!({"$ref": "#/components/schemas/Error"});
        assert!(validator(&error).is_valid(&answer.body), "{}", what());
        assert_eq!(
            answer.header("allow").is_some(),
            answer.status == 405,
            "{}",
            what()
        );
        return;
    };
    let response = operation["responses"].get(&status);
    let response = resolved(response.unwrap_or_else(|| panic!("{}, which is not documented", what())));
    let schema = &response["content"]["application/json"]["schema"];
    if let Err(error) = validator(schema).validate(&answer.body) {
        panic!("{}, against the document: {error}", what());
    }
    for (name, header) in response["headers"].as_object().into_iter().flatten() {
        let value = answer
            .header(name)
            .unwrap_or_else(|| panic!("{} without {name}", what()));
        assert!(
            validator(&header["schema"]).is_valid(&json!(value)),
            "{name}: {value}"
        );
    }
}
