//! docs/config.md has every key of the schema, with its default, and no other; its examples are right.

use super::mistakes::furnish;
use super::schema::{accepts, schema};
use super::support::{in_crate, loopwright, run};
use serde_json::Value as Json;
use std::collections::BTreeMap;
use std::fs;

fn text() -> String {
    fs::read_to_string(in_crate("docs/config.md")).expect("docs/config.md")
}

/// The keys that have no keys themselves, each with its default as the docs write it.
fn keys(schema: &Json, path: &str, is_required: bool, found: &mut BTreeMap<String, String>) {
    let item = &schema["items"];
    let named = &schema["additionalProperties"];
    let others = schema["anyOf"].as_array();
    let table = others
        .into_iter()
        .flatten()
        .find(|kind| kind["properties"].is_object());
    // What may be a table, or a word that stands for one, is documented as both.
    if let Some(table) = table {
        let mut word = schema.clone();
        word["anyOf"] = Json::Null;
        keys(&word, path, is_required, found);
        keys(table, path, false, found);
    } else if let Some(properties) = schema["properties"].as_object() {
        let required = schema["required"].as_array().cloned().unwrap_or_default();
        for (key, inner) in properties {
            let name = match path {
                "" => key.clone(),
                path => format!("{path}.{key}"),
            };
            let is_required = required.contains(&Json::from(key.as_str()));
            keys(inner, &name, is_required, found);
        }
    } else if item["properties"].is_object() {
        keys(item, path, false, found);
    } else if item["anyOf"].is_array()
        && [".servers", ".params"]
            .iter()
            .any(|end| path.ends_with(end))
    {
        keys(item, path, is_required, found);
    } else if named["properties"].is_object() {
        keys(named, &format!("{path}.NAME"), false, found);
    } else {
        let default = match schema.get("default") {
            _ if is_required => "required".to_string(),
            Some(default) => format!("`{default}`"),
            None => "–".to_string(),
        };
        found.insert(path.to_string(), default);
    }
}

#[test]
fn every_key_is_documented() {
    let mut wanted = BTreeMap::new();
    keys(schema(), "", false, &mut wanted);
    assert!(wanted.len() > 50, "{}", wanted.len());
    let text = text();
    let mut found = BTreeMap::new();
    let mut in_keys = false;
    for line in text.lines() {
        let cells: Vec<&str> = line
            .split(" | ")
            .map(|cell| cell.trim_matches(['|', ' ']))
            .collect();
        match cells[..] {
            ["key", "type", "default", "what"] => in_keys = true,
            [key, kind, default, what] if in_keys && key.starts_with('`') => {
                let key = key.trim_matches('`').to_string();
                assert!(!kind.is_empty() && what.len() > 3, "{line}");
                let again = found.insert(key, default.to_string());
                assert_eq!(again, None, "{line}: documented twice");
            }
            _ if !line.starts_with('|') => in_keys = false,
            _ => {}
        }
    }
    assert_eq!(found, wanted);
}

#[test]
fn every_section_has_an_example() {
    let text = text();
    for section in text.split("\n## ").skip(1) {
        let (title, rest) = section.split_once('\n').expect("a title");
        if title.starts_with("`[") {
            assert!(rest.contains("```toml\n"), "{title}");
        }
    }
    for action in ["respond", "redirect", "files", "channel", "proxy", "query"] {
        let part = text
            .split(&format!("\n### `{action}`\n"))
            .nth(1)
            .expect(action);
        let part = part.split("\n##").next().expect(action);
        assert!(part.contains("```toml\n"), "{action}");
    }
}

/// Each alone, beside a route, where what it names is there.
#[test]
fn every_example_is_right() {
    let folder = tempfile::tempdir().expect("a folder");
    furnish(folder.path());
    for (name, content) in [
        ("public/404.html", ""),
        ("pages/404.html", ""),
        ("pages/sorry.html", ""),
    ] {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(path, content).expect("a file");
    }
    let mut seen = 0;
    for file in ["docs/config.md", "README.md"] {
        let text = fs::read_to_string(in_crate(file)).expect(file);
        for example in text.split("```toml\n").skip(1) {
            let example = example.split("```").next().expect("an end");
            // A folder of the machine's.
            let mut config = example.replace("/var/log/loopwright/", "");
            if !config.contains("[[routes]]") {
                config += "\n[[routes]]\npath = \"/\"\nrespond = {}\n";
            }
            if config.contains("headers:security") && !config.contains("[headers.security]") {
                config += "\n[headers.security]\nx-frame-options = \"DENY\"\n";
            }
            accepts(example, &config);
            fs::write(folder.path().join("site.toml"), &config).expect("the config");
            let said = run(&mut loopwright(
                folder.path(),
                &["check", "-c", "site.toml"],
            ));
            assert_eq!(said.code, Some(0), "{file}: {}", said.err);
            seen += 1;
        }
    }
    assert!(seen >= 10, "{seen} examples");
}

/// The mistake that the docs show is what is printed.
#[test]
fn the_mistake_shown_is_the_one_printed() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = "[server]\nlisen = \"127.0.0.1:8080\"\n\n[[routes]]\npath = \"/\"\nrespond = {}\n";
    fs::write(folder.path().join("loopwright.toml"), config).expect("the config");
    let said = run(&mut loopwright(folder.path(), &["check"]));
    let shown = format!("```text\n{}```\n", said.err);
    assert!(text().contains(&shown), "{shown}");
}
