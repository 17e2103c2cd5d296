//! [`Constraint`]: the form to which a server holds an answer.

use serde_json::{Value, json};

use crate::data::parse_json;

/// The kinds of constraints.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum ConstraintForm {
    /// One of several texts.
    Choice,
    /// A regular expression.
    Regex,
    /// A JSON schema.
    Json,
}

impl ConstraintForm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Choice, Self::Regex, Self::Json];

    /// The name in a pipeline file.
    pub fn name(self) -> &'static str {
        match self {
            Self::Choice => "choice",
            Self::Regex => "regex",
            Self::Json => "json",
        }
    }

    /// The form with this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|form| form.name() == name)
    }
}

/// The form to which a server holds an answer: tokens that leave it cannot be drawn.
#[derive(Clone, PartialEq, Debug)]
pub enum Constraint {
    /// The answer is one of these texts.
    Choice(Vec<String>),
    /// The answer is at most `reasons` characters of text, and then a line that is one of `endings`.
    Regex {
        /// Maximum number of characters before the last line.
        reasons: usize,
        /// The last lines that are possible.
        endings: Vec<String>,
    },
    /// The answer is a JSON object of a text `reasons` and one of `values`.
    Json {
        /// Maximum number of characters of the text.
        reasons: usize,
        /// Key of the value. It comes after `reasons`, also where keys are sorted.
        key: &'static str,
        /// The values that are possible.
        values: Vec<Value>,
    },
}

impl Constraint {
    /// Its kind.
    pub fn form(&self) -> ConstraintForm {
        match self {
            Self::Choice(_) => ConstraintForm::Choice,
            Self::Regex { .. } => ConstraintForm::Regex,
            Self::Json { .. } => ConstraintForm::Json,
        }
    }

    /// Whether an answer has the form.
    pub fn allows(&self, answer: &str) -> bool {
        match self {
            Self::Choice(texts) => texts.iter().any(|text| text == answer),
            Self::Regex { reasons, endings } => endings.iter().any(|ending| {
                let before = answer.strip_suffix(ending.as_str()).and_then(|before| before.strip_suffix('\n'));
                before.is_some_and(|before| before.chars().count() <= *reasons)
            }),
            Self::Json { key, values, .. } => {
                // An answer with a key twice says two things.
                let object = parse_json(answer.as_bytes()).unwrap_or_default();
                let keys = object.as_object().map_or(0, serde_json::Map::len);
                keys == 2 && object["reasons"].is_string() && values.contains(&object[*key])
            }
        }
    }

    /// The regular expression of the texts that it allows; of JSON, the form with one space after each colon and comma.
    pub(super) fn regex(&self) -> String {
        let any = |texts: &[String]| texts.iter().map(|text| escaped(text)).collect::<Vec<_>>().join("|");
        match self {
            Self::Choice(texts) => format!("({})", any(texts)),
            Self::Regex { reasons, endings } => format!("(.|\\n){{0,{reasons}}}\\n({})", any(endings)),
            Self::Json { reasons, key, values } => {
                let values: Vec<String> = values.iter().map(Value::to_string).collect();
                let text = r#"([^"\\\n\r\t]|\\["\\n])"#;
                format!(r#"\{{"reasons": "{text}{{0,{reasons}}}", "{key}": ({})\}}"#, any(&values))
            }
        }
    }

    /// The grammar of the texts that it allows, as llama.cpp writes grammars; none for JSON.
    pub(super) fn grammar(&self) -> Option<String> {
        let any = |texts: &[String]| texts.iter().map(|text| json!(text).to_string()).collect::<Vec<_>>().join(" | ");
        match self {
            Self::Choice(texts) => Some(format!("root ::= {}", any(texts))),
            Self::Regex { reasons, endings } => {
                Some(format!("root ::= [^\\x00]{{0,{reasons}}} \"\\n\" ({})", any(endings)))
            }
            Self::Json { .. } => None,
        }
    }

    /// The JSON schema; none for the other forms. OpenAI's own servers refuse a maximum length.
    pub(super) fn schema(&self, with_length: bool) -> Option<Value> {
        let Self::Json { reasons, key, values } = self else { return None };
        let mut text = json!({"type": "string"});
        if with_length {
            text["maxLength"] = json!(reasons);
        }
        Some(json!({
            "type": "object", "properties": {"reasons": text, *key: {"enum": values}}, "required": ["reasons", key],
            "additionalProperties": false,
        }))
    }
}

/// A text as a regular expression. Only characters with a meaning are escaped: engines differ in how they read others.
fn escaped(text: &str) -> String {
    let mut escaped = String::new();
    for c in text.chars() {
        if r"\.^$*+?()[]{}|".contains(c) {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(texts: &[&str]) -> Vec<String> {
        texts.iter().map(|text| (*text).to_owned()).collect()
    }

    #[test]
    fn what_is_allowed_is_what_the_expression_matches() {
        let choice = Constraint::Choice(texts(&["[[A]]", "Score: 1.5"]));
        let regex = Constraint::Regex { reasons: 5, endings: texts(&["[[A]]", "[[B]]"]) };
        for (constraint, answers) in [
            (&choice, &["[[A]]", "A", "Score: 1.5", "Score: 1x5", "[[A]]\n"][..]),
            (&regex, &["x\n[[A]]", "\n[[B]]", "[[A]]", "a\nbc\n[[A]]", "abcdef\n[[A]]", "x\n[[A]] ", "x\n[[C]]"][..]),
        ] {
            let expression = regex::Regex::new(&format!("^{}$", constraint.regex())).unwrap();
            for answer in answers {
                assert_eq!(constraint.allows(answer), expression.is_match(answer), "{answer:?}");
            }
        }
        assert_eq!(choice.grammar().unwrap(), r#"root ::= "[[A]]" | "Score: 1.5""#);
        assert_eq!(regex.grammar().unwrap(), r#"root ::= [^\x00]{0,5} "\n" ("[[A]]" | "[[B]]")"#);
        assert!(choice.schema(true).is_none() && regex.schema(true).is_none());
    }

    #[test]
    fn an_object_has_reasons_and_one_of_the_values() {
        let constraint = Constraint::Json { reasons: 9, key: "score", values: vec![json!(0), json!(1)] };
        assert!(constraint.allows(r#"{"reasons": "fair", "score": 1}"#));
        for other in [r#"{"reasons": "fair", "score": 2}"#, r#"{"score": 1}"#, "1", "", r#"{"reasons": 1, "score": 1}"#]
        {
            assert!(!constraint.allows(other), "{other}");
        }
        assert!(!constraint.allows(r#"{"reasons": "fair", "score": 1, "more": 2}"#));
        let schema = constraint.schema(true).unwrap();
        assert_eq!(
            schema["properties"],
            json!({"reasons": {"type": "string", "maxLength": 9}, "score": {"enum": [0, 1]}})
        );
        assert!(constraint.schema(false).unwrap()["properties"]["reasons"].get("maxLength").is_none());
        assert!(constraint.grammar().is_none());
        let expression = regex::Regex::new(&format!("^{}$", constraint.regex())).unwrap();
        for (answer, matches) in [
            (r#"{"reasons": "fair", "score": 1}"#, true),
            (r#"{"reasons": "", "score": 0}"#, true),
            (r#"{"reasons": "a \"b\" \n\\", "score": 0}"#, true),
            (r#"{"reasons": "a"b", "score": 0}"#, false),
            (r#"{"reasons": "fair", "score": 2}"#, false),
            (r#"{"reasons": "more than nine", "score": 1}"#, false),
            (r#"{"reasons": "\", "score": 1}"#, false),
        ] {
            assert_eq!(expression.is_match(answer), matches, "{answer}");
            assert!(!matches || constraint.allows(answer), "{answer}");
        }
    }

    #[test]
    fn forms_have_names() {
        for form in ConstraintForm::ALL {
            assert_eq!(ConstraintForm::named(form.name()), Some(form));
        }
        assert_eq!(ConstraintForm::named("free"), None);
    }
}
