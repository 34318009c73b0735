//! The examples of `docs/api.md`: each is carried out, and answered with the fields that the page shows.

use std::collections::BTreeSet;

use awc::http::Method;
use serde_json::Value;

use super::{Site, call};
use crate::support::client::Client;

/// A block of code, and the language that it says it is in.
struct Block {
    language: String,
    text: String,
}

fn blocks(page: &str) -> Vec<Block> {
    let mut parts = page.split("\n```");
    parts.next();
    let mut found = Vec::new();
    while let (Some(block), Some(_)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').expect("a line with the language");
        found.push(Block {
            language: language.to_owned(),
            text: text.to_owned(),
        });
    }
    found
}

/// The words of a command, as a shell sees them.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for character in command.trim().chars() {
        match (character, quote) {
            (' ' | '\n', None) => words.extend(word.take()),
            ('"' | '\'', None) => {
                quote = Some(character);
                word.get_or_insert_default();
            }
            (end, Some(begin)) if end == begin => quote = None,
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    words
}

/// Method, target and body of a call of curl.
fn request(command: &str) -> (Method, String, String) {
    let words = words(command);
    assert_eq!(words[0], "curl");
    let after = |flag: &str| {
        let at = words.iter().position(|word| word == flag)?;
        Some(words[at + 1].clone())
    };
    assert_eq!(
        after("-H").as_deref(),
        Some("Authorization: Bearer $TOKEN"),
        "{command}"
    );
    let body = after("-d");
    let default = if body.is_some() { "POST" } else { "GET" };
    let method = after("-X").unwrap_or_else(|| default.to_owned());
    let target = words.iter().find_map(|word| word.strip_prefix("$ROOMCAST"));
    (
        method.parse().expect("a method"),
        target.expect("a target").to_owned(),
        body.unwrap_or_default(),
    )
}

/// The names of all fields, but for those of a message's own.
fn fields(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                found.insert(name.clone());
                fields(value, found);
            }
        }
        Value::Array(values) => values.iter().for_each(|value| fields(value, found)),
        _ => {}
    }
}

#[actix::test]
async fn every_example_is_answered_as_the_page_says() {
    let page = include_str!("../../../docs/api.md");
    let site = Site::embedded(&[]).await;
    let mut ann = Client::connect(
        &format!("{}/ws?user=ann", site.first().ws_url()),
        &["roomcast.v1"],
    )
    .await;
    assert_eq!(ann.json().await["type"], "welcome");
    for room in ["lobby", "the next room"] {
        ann.subscribe(room).await;
    }
    let blocks = blocks(page);
    let mut tried = 0;
    for (index, block) in blocks.iter().enumerate() {
        if block.language != "sh" || !block.text.starts_with("curl") {
            continue;
        }
        let (method, target, body) = request(&block.text);
        let answer = call(site.first(), method, &target, body).await.expect(200);
        let shown = blocks.get(index + 1).filter(|next| next.language == "json");
        if let Some(shown) = shown {
            let shown: Value = serde_json::from_str(&shown.text).expect("JSON");
            let (mut expected, mut found) = (BTreeSet::new(), BTreeSet::new());
            fields(&shown, &mut expected);
            fields(&answer, &mut found);
            assert_eq!(found, expected, "{target}: {answer}");
        }
        tried += 1;
    }
    assert!(tried >= 8, "{tried} examples");
}

#[test]
fn the_page_lists_what_the_document_has() {
    let page = include_str!("../../../docs/api.md");
    let paths = super::contract::DOCUMENT["paths"].as_object().expect("paths");
    for (path, operations) in paths {
        for method in operations
            .as_object()
            .expect("operations")
            .keys()
            .filter(|key| *key != "parameters")
        {
            let row = format!("`{} {path}`", method.to_uppercase());
            assert!(page.contains(&row), "docs/api.md does not know {row}");
        }
    }
    let codes = &super::contract::DOCUMENT["components"]["schemas"]["Error"]["properties"]["code"]["enum"];
    for code in codes.as_array().expect("codes") {
        let code = code.as_str().expect("a text");
        assert!(
            page.contains(&format!("| `{code}` |")),
            "docs/api.md does not know {code}"
        );
    }
}
