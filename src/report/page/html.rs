//! The HTML file around a snapshot.

use base64::Engine as _;
use maud::{DOCTYPE, PreEscaped, html as markup};
use sha2::{Digest as _, Sha256};

use super::sections;
use super::snapshot::Snapshot;
use crate::data::one_line;

/// Charts. `vendor/README.md` has versions and licences.
const LIBRARIES: [&str; 2] = [include_str!("vendor/d3.min.js"), include_str!("vendor/plot.umd.min.js")];
/// What all sections use, before the sections' own scripts.
const BASE: [&str; 2] = [include_str!("assets/page.js"), include_str!("assets/charts.js")];
const STYLE: &str = include_str!("assets/page.css");
/// Draws the snapshot of the page, after the sections' scripts.
const START: &str = "reflux.start();\n";

/// Returns a self-contained HTML file that draws the snapshot. It loads nothing, and runs no script but its own.
pub fn html(snapshot: &Snapshot) -> String {
    let script = script();
    let policy = policy(&script);
    let data = embedded(&snapshot.json().to_string());
    let name = one_line(snapshot.name()).into_owned();
    markup! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta http-equiv="Content-Security-Policy" content=(policy);
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="referrer" content="no-referrer";
                meta name="color-scheme" content="light dark";
                title { (name) " · reflux" }
                // A style sheet cannot run; it is ours, without a character that ends the element.
                style { (PreEscaped(STYLE)) }
            }
            body {
                a .skip href="#main" { "Skip to the content" }
                header #top { h1 { (name) } p #facts {} }
                nav aria-label="Sections" {
                    ol { @for s in sections::ALL { li { a href={ "#" (s.name) } { (s.title) } } } }
                }
                main #main tabindex="-1" {
                    noscript { p { "The charts need JavaScript. The figures are in summary.json." } }
                    @for s in sections::ALL {
                        section id=(s.name) aria-labelledby={ "title-" (s.name) } {
                            h2 id={ "title-" (s.name) } { (s.title) }
                            div .body {}
                        }
                    }
                }
                script type="application/json" id="snapshot" { (PreEscaped(data)) }
                script { (PreEscaped(script)) }
            }
        }
    }
    .into_string()
}

/// All scripts as one, so that one hash permits them.
fn script() -> String {
    let own = BASE.into_iter().chain(sections::ALL.iter().map(|s| s.script)).chain([START]);
    LIBRARIES.into_iter().chain(own).flat_map(|text| [text, "\n"]).collect()
}

/// The content security policy: nothing is loaded, and only the page's own script runs.
fn policy(script: &str) -> String {
    let hash = base64::engine::general_purpose::STANDARD.encode(Sha256::digest(script));
    // The charts set styles of their own; a style cannot run or, under this policy, load anything.
    format!(
        "default-src 'none'; script-src 'sha256-{hash}'; style-src 'unsafe-inline'; base-uri 'none'; \
         form-action 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    )
}

/// Escapes JSON for a script element: no character of it can end the element or begin a comment. Within JSON's
/// strings, the escapes mean the same characters.
fn embedded(json: &str) -> String {
    let mut text = String::with_capacity(json.len() + 64);
    for c in json.chars() {
        match c {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_json_cannot_end_its_element_and_keeps_its_meaning() {
        let value = serde_json::json!({ "</script><!--": "<script>&\u{2028}\u{2029}]]>" });
        let text = embedded(&value.to_string());
        assert!(!text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']), "{text}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
    }

    /// Text in a script element ends at the first `</script`, and a comment in it hides that.
    #[test]
    fn our_own_scripts_and_styles_stay_in_their_elements() {
        let script = script().to_lowercase();
        assert!(!script.contains("</script") && !script.contains("<!--"));
        assert!(!STYLE.contains('<'));
        let own: String = BASE.into_iter().chain(sections::ALL.iter().map(|s| s.script)).collect();
        for word in ["innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "Function(", ".html("] {
            assert!(!own.contains(word), "the page's scripts use {word}");
        }
    }

    #[test]
    fn every_section_has_a_script_that_draws_it() {
        for section in sections::ALL {
            let call = format!("reflux.section(\"{}\"", section.name);
            assert!(section.script.contains(&call), "{}", section.name);
        }
    }
}
