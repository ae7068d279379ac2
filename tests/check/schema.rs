//! `loopwright schema`: that it is a JSON Schema, and that it takes and refuses what the reader does.
//!
//! What there is of the language is checked here; a keyword this file does not know fails the test.

use super::mistakes;
use super::support::{in_crate, loopwright, run};
use regex_lite::Regex;
use serde_json::Value as Json;
use std::path::Path;
use std::sync::OnceLock;

pub(crate) fn schema() -> &'static Json {
    static SCHEMA: OnceLock<Json> = OnceLock::new();
    SCHEMA.get_or_init(|| {
        let said = run(&mut loopwright(Path::new("/"), &["schema"]));
        assert_eq!((said.code, said.err.as_str()), (Some(0), ""));
        serde_json::from_str(&said.out).expect("the schema is not JSON")
    })
}

fn read(config: &str) -> Option<Json> {
    // The one thing that the reader takes and this one does not.
    toml::from_str(config.trim_start_matches('\u{feff}')).ok()
}

/// Everything that is wrong with a value.
fn faults(schema: &Json, value: &Json, at: &str) -> Vec<String> {
    let rules = schema.as_object().expect("a schema is an object");
    let mut faults = Vec::new();
    let mut unless = |is_right: bool, rule: &str| {
        if !is_right {
            faults.push(format!("{at}: {rule} {}: {value}", rules[rule]));
        }
    };
    let number = value.as_i64();
    let mut inner: Vec<(&Json, &Json, String)> = Vec::new();
    for (rule, want) in rules {
        match rule.as_str() {
            "$schema" | "title" | "description" | "default" | "properties" => {}
            "type" => {
                // Whole numbers are numbers, too.
                let is_whole = type_of(value) == "integer" && want == "number";
                unless(type_of(value) == want || is_whole, rule);
            }
            "const" => unless(value == want, rule),
            "enum" => unless(want.as_array().expect(rule).contains(value), rule),
            "minimum" => unless(number.is_none_or(|n| n >= want.as_i64().expect(rule)), rule),
            "maximum" => unless(number.is_none_or(|n| n <= want.as_i64().expect(rule)), rule),
            "pattern" => {
                let pattern = Regex::new(want.as_str().expect(rule)).expect(rule);
                unless(
                    value.as_str().is_none_or(|text| pattern.is_match(text)),
                    rule,
                );
            }
            "anyOf" => {
                let kinds = want.as_array().expect(rule);
                let fits = |kind: &Json| self::faults(kind, value, at).is_empty();
                unless(kinds.iter().any(fits), rule);
            }
            "required" => {
                let keys = want.as_array().expect(rule);
                let has = |key: &Json| value.get(key.as_str().expect(rule)).is_some();
                unless(!value.is_object() || keys.iter().all(has), rule);
            }
            "items" => {
                for (n, item) in value.as_array().into_iter().flatten().enumerate() {
                    inner.push((want, item, format!("{at}[{n}]")));
                }
            }
            "additionalProperties" => {
                for (key, one) in value.as_object().into_iter().flatten() {
                    let known = rules.get("properties").and_then(|known| known.get(key));
                    match known {
                        Some(known) => inner.push((known, one, format!("{at}.{key}"))),
                        None if *want == Json::Bool(false) => unless(false, rule),
                        None => inner.push((want, one, format!("{at}.{key}"))),
                    }
                }
            }
            other => panic!("{at}: what is {other:?}?"),
        }
    }
    for (schema, value, at) in inner {
        faults.extend(self::faults(schema, value, &at));
    }
    faults
}

fn type_of(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(n) if n.is_i64() || n.is_u64() => "integer",
        Json::Number(_) => "number",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    }
}

/// A config that must be right by the schema.
pub(crate) fn accepts(name: &str, config: &str) {
    let value = read(config).unwrap_or_else(|| panic!("{name}: not TOML"));
    let faults = faults(schema(), &value, "");
    assert!(faults.is_empty(), "{name}: {faults:#?}");
}

#[test]
fn it_is_a_schema() {
    fn check(schema: &Json, at: &str) -> usize {
        let rules = schema.as_object().expect(at);
        let mut count = 1;
        if let Some(kind) = rules.get("type") {
            let kinds = ["object", "array", "string", "integer", "number", "boolean"];
            assert!(kinds.contains(&kind.as_str().expect(at)), "{at}: {kind}");
        }
        if let Some(default) = rules.get("default") {
            assert_eq!(faults(schema, default, at), Vec::<String>::new());
        }
        if let Some(pattern) = rules.get("pattern") {
            assert!(Regex::new(pattern.as_str().expect(at)).is_ok(), "{at}");
        }
        let properties = rules.get("properties").and_then(Json::as_object);
        for (key, inner) in properties.into_iter().flatten() {
            let at = format!("{at}.{key}");
            let text = inner["description"].as_str();
            assert!(text.is_some_and(|t| t.len() > 5), "{at}: no description");
            count += check(inner, &at);
        }
        for key in rules
            .get("required")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
        {
            let properties = properties.expect("required of what?");
            assert!(
                properties.contains_key(key.as_str().expect(at)),
                "{at}: {key}"
            );
        }
        for inner in rules
            .get("anyOf")
            .and_then(Json::as_array)
            .into_iter()
            .flatten()
        {
            count += check(inner, at);
        }
        let others = [rules.get("items"), rules.get("additionalProperties")];
        for inner in others
            .into_iter()
            .flatten()
            .filter(|inner| inner.is_object())
        {
            count += check(inner, at);
        }
        // Its keywords are all known: each is asked something.
        faults(schema, &Json::Null, at);
        count
    }
    let dialect = schema()["$schema"].as_str();
    assert_eq!(
        dialect,
        Some("https://json-schema.org/draft/2020-12/schema")
    );
    assert!(check(schema(), "schema") > 60);
}

/// Types and names are the schema's matter: what the reader says of them, an editor can say, too.
#[test]
fn it_refuses_wrong_types_and_unknown_keys() {
    let mut seen = 0;
    for (name, config) in mistakes::configs() {
        if !name.starts_with("type: ") && !name.starts_with("unknown: ") {
            continue;
        }
        let value = read(&config).unwrap_or_else(|| panic!("{name}: not TOML"));
        assert!(!faults(schema(), &value, "").is_empty(), "{name}: taken");
        seen += 1;
    }
    assert!(seen > 40, "{seen}");
}

#[test]
fn samples_are_right_by_it() {
    for sample in [
        "static",
        "spa",
        "redirects",
        "workers",
        "channel",
        "proxy",
        "database",
    ] {
        let path = in_crate(&format!("docs/samples/{sample}.toml"));
        accepts(sample, &std::fs::read_to_string(path).expect(sample));
    }
}
