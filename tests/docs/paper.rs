//! The table of docs/paper.md says what is: every key exists, with the default or the value in a pipeline file that it names;
//! and every number of the paper's pipeline file is in the table.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use reflux::operators;
use reflux::pipeline::{KeyDoc, SECTION_DOCS};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// A row of a table with the head `what | value | stated by`.
struct Row {
    line: usize,
    what: String,
    value: String,
    stated: String,
}

fn rows(text: &str) -> Vec<Row> {
    let mut all = Vec::new();
    let mut inside = false;
    for (i, line) in text.lines().enumerate() {
        let Some(cells) = line.strip_prefix('|').and_then(|l| l.trim_end().strip_suffix('|')) else {
            inside = false;
            continue;
        };
        let cells: Vec<&str> = cells.split('|').map(str::trim).collect();
        if cells[0] == "what" && cells[1] == "value" && cells[2] == "stated by" {
            inside = true;
        } else if inside && !cells[0].starts_with("---") {
            assert_eq!(cells.len(), 3, "line {}: a row has three cells: {line}", i + 1);
            let [what, value, stated] = [cells[0], cells[1], cells[2]].map(String::from);
            all.push(Row { line: i + 1, what, value, stated });
        }
    }
    all
}

/// What stands between backticks.
fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).collect()
}

fn literal(text: &str) -> toml::Value {
    let table: toml::Table = format!("v = {text}").parse().unwrap_or_else(|e| panic!("`{text}` is no TOML value: {e}"));
    table["v"].clone()
}

/// 5 and 5.0 are the same number.
fn number(value: toml::Value) -> toml::Value {
    match value {
        toml::Value::Integer(n) => toml::Value::Float(n as f64),
        toml::Value::Array(all) => toml::Value::Array(all.into_iter().map(number).collect()),
        other => other,
    }
}

fn find<'a>(keys: &'a [KeyDoc], path: &str) -> Option<&'a KeyDoc> {
    match path.split_once('.') {
        None => keys.iter().find(|k| k.key == path),
        Some((table, rest)) => find(&keys.iter().find(|k| k.key == table)?.nested, rest),
    }
}

/// The documented keys of a section.
fn section_keys(name: &str) -> Vec<KeyDoc> {
    let section = SECTION_DOCS.iter().find(|s| s.name == name).unwrap_or_else(|| panic!("no section `{name}`"));
    (section.keys)()
}

/// The default of `operator.key`, or of a key of `[health]`.
fn default_of(path: &str) -> Option<String> {
    let (owner, key) = path.split_once('.').unwrap_or_else(|| panic!("`{path}` is no operator.key"));
    let keys = match owner {
        "health" => section_keys("health"),
        _ => operators::ALL.iter().find(|k| k.name == owner).unwrap_or_else(|| panic!("no operator `{owner}`")).keys(),
    };
    find(&keys, key).unwrap_or_else(|| panic!("`{owner}` has no key `{key}`")).default.clone()
}

fn value_in(files: &mut BTreeMap<String, toml::Table>, file: &str, path: &str) -> toml::Value {
    let table = files
        .entry(file.to_owned())
        .or_insert_with(|| read(&format!("pipelines/{file}")).parse().unwrap_or_else(|e| panic!("{file}: {e}")));
    let mut at = toml::Value::Table(table.clone());
    for key in path.split('.') {
        at = at.get(key).unwrap_or_else(|| panic!("{file} has no `{path}`")).clone();
    }
    at
}

#[test]
fn every_key_of_the_table_has_the_value_it_names() {
    let text = read("docs/paper.md");
    let (mut defaults, mut stated, mut none) = (0, 0, 0);
    let mut files = BTreeMap::new();
    for Row { line, what, value, stated: by } in rows(&text) {
        let place = format!("docs/paper.md:{line} ({what})");
        if let Some(why) = by.strip_prefix("none:") {
            assert!(why.trim().len() > 10, "{place}: a reason");
            none += 1;
            continue;
        }
        let keys = quoted(&by);
        assert!(!keys.is_empty(), "{place}: a key in backticks, or `none:` and the reason");
        let values = quoted(&value);
        assert_eq!(values.len(), 1, "{place}: one value in backticks");
        for key in keys {
            let found = if let Some((file, path)) = key.split_once(": ") {
                stated += 1;
                value_in(&mut files, file, path)
            } else {
                defaults += 1;
                match default_of(key) {
                    Some(default) => literal(&default),
                    None => "not given".into(),
                }
            };
            let value = if values[0] == "not given" { "not given".into() } else { literal(values[0]) };
            assert_eq!(number(found), number(value), "{place}: `{key}`");
        }
    }
    assert!(
        defaults >= 50 && stated >= 50 && none >= 5,
        "{defaults} defaults, {stated} in files, {none} not taken over"
    );
}

#[test]
fn every_number_of_the_papers_pipeline_is_in_the_table() {
    let name = "paper-llama2-70b.toml";
    let by: String = rows(&read("docs/paper.md")).into_iter().map(|r| r.stated).collect();
    let traced: BTreeSet<&str> =
        quoted(&by).into_iter().filter_map(|k| k.strip_prefix(name)?.strip_prefix(": ")).collect();
    let text = read(&format!("pipelines/{name}"));
    let (mut section, mut looked_at) = (String::new(), 0);
    for line in text.lines() {
        let line = line.trim();
        if let Some(head) = line.strip_prefix('[') {
            section = head.trim_end_matches(']').to_owned();
            continue;
        }
        let Some((key, rest)) = line.split_once(" = ").filter(|_| !line.starts_with('#')) else { continue };
        // What the paper does not say is marked so.
        if rest.contains("# ours") {
            continue;
        }
        let value = literal(rest.split(" #").next().unwrap().trim());
        let numbers = match &value {
            toml::Value::Integer(_) | toml::Value::Float(_) => vec![format!("{section}.{key}")],
            toml::Value::Array(all) if all.iter().all(|v| !v.is_str()) => vec![format!("{section}.{key}")],
            // The lengths of answers are ours, too.
            toml::Value::Table(t) => {
                t.keys().filter(|k| *k != "max_tokens").map(|k| format!("{section}.{key}.{k}")).collect()
            }
            _ => vec![],
        };
        for path in numbers {
            looked_at += 1;
            assert!(traced.contains(path.as_str()), "{name}: `{path}` is not in the table of docs/paper.md");
        }
    }
    assert!(looked_at >= 40, "only {looked_at} numbers were looked at");
}

#[test]
fn the_test_can_tell_a_wrong_table() {
    let table = "| what | value | stated by |\n|---|---|---|\n| a | `16` | `sft.batch_size` |\n\n| x | y | z |\n|---|---|---|\n";
    let all = rows(table);
    assert_eq!((all.len(), all[0].line, all[0].value.as_str()), (1, 3, "`16`"));
    assert_eq!(default_of("synthesize.shots.seed").as_deref(), Some("6"));
    assert_ne!(number(literal("16")), number(literal("17")));
    assert_eq!(number(literal("5")), number(literal("5.0")));
    for wrong in ["sft.no_such_key", "no_such_operator.key", "synthesize.shots.none"] {
        assert!(std::panic::catch_unwind(|| default_of(wrong)).is_err(), "{wrong}");
    }
}
