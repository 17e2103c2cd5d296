//! Templates against what transformers makes of them: tests/goldens/templates, made by make.py there.

use reflux::jinja::{RenderOptions, Template, Value, Whitespace};
use serde_json::Value as Json;

fn settings() -> RenderOptions {
    let now = Some("2025-03-09T14:05:06".parse().unwrap());
    RenderOptions { work: 1_000_000, output: 1 << 20, strict: false, now }
}

fn render(template: &str, variables: &Json) -> Result<String, String> {
    let variables = variables.as_object().unwrap();
    let mut values = vec![("tools", Value::None), ("documents", Value::None)];
    for (name, json) in variables {
        values.push((name, Value::try_from(json).unwrap()));
    }
    let template = Template::parse(template, Whitespace::Trimmed).map_err(|e| e.to_string())?;
    template.render(&values, settings()).map_err(|e| e.to_string())
}

/// The golden file, or another one made by the same script (`make.py --all`).
fn cases() -> String {
    let path = std::env::var("REFLUX_TEMPLATES").unwrap_or_else(|_| "tests/goldens/templates/templates.jsonl".into());
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn templates_give_what_transformers_gives() {
    let mut template = String::new();
    let (mut count, mut wrong) = (0, Vec::new());
    for line in cases().lines() {
        let line: Json = serde_json::from_str(line).unwrap();
        if let Some(next) = line.get("template") {
            template = next.as_str().unwrap().to_string();
            continue;
        }
        count += 1;
        let got = render(&template, &line["variables"]);
        let same = match (line.get("want"), &got) {
            (Some(want), Ok(got)) => want.as_str() == Some(got),
            (None, Err(_)) => true,
            _ => false,
        };
        if !same {
            let want = line.get("want").unwrap_or(&line["error"]);
            let shown = if template.len() < 300 { &template } else { "" };
            wrong.push(format!("{}: {shown}\n   want {want}\n   got  {got:?}", line["name"]));
        }
    }
    assert!(count > 500, "only {count} cases");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}
