//! Constrained answers: how servers spell them.

use serde_json::{Map, Value, json};

use super::dialect::Dialect;
use crate::engine::constraint::Constraint;

/// How a constraint is written into a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Spelling {
    /// `structured_outputs` of vLLM.
    StructuredOutputs,
    /// `grammar` and `json_schema` of llama.cpp.
    Grammar,
    /// `regex` and `json_schema` of SGLang.
    Regex,
    /// `response_format` of OpenAI, which takes JSON schemas only.
    ResponseFormat,
}

impl Spelling {
    /// Those that a server of this maker may honour.
    pub fn of(dialect: Dialect) -> &'static [Self] {
        match dialect {
            Dialect::Reflux => &[],
            Dialect::Vllm => &[Self::StructuredOutputs, Self::Regex],
            Dialect::LlamaCpp => &[Self::Grammar],
            Dialect::Other => &[Self::ResponseFormat, Self::StructuredOutputs, Self::Grammar, Self::Regex],
        }
    }

    /// The fields of a request with this constraint; none if the constraint cannot be spelled so.
    pub fn fields(self, constraint: &Constraint) -> Option<Map<String, Value>> {
        let fields = match (self, constraint) {
            (Self::StructuredOutputs, Constraint::Choice(texts)) => json!({"structured_outputs": {"choice": texts}}),
            // A regular expression also for JSON: its schema would allow white space anywhere, and small models then
            // write nothing else.
            (Self::StructuredOutputs, _) => json!({"structured_outputs": {"regex": constraint.regex()}}),
            (Self::Grammar, Constraint::Json { .. }) => json!({"json_schema": constraint.schema(true)?}),
            (Self::Grammar, _) => json!({"grammar": constraint.grammar()?}),
            (Self::Regex, Constraint::Json { .. }) => json!({"json_schema": constraint.schema(true)?.to_string()}),
            (Self::Regex, _) => json!({"regex": constraint.regex()}),
            (Self::ResponseFormat, _) => {
                let schema = json!({"name": "judgement", "strict": true, "schema": constraint.schema(false)?});
                json!({"response_format": {"type": "json_schema", "json_schema": schema}})
            }
        };
        match fields {
            Value::Object(fields) => Some(fields),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::constraint::ConstraintForm;

    fn constraint(form: ConstraintForm) -> Constraint {
        let texts = || vec!["Total 7310".to_owned(), "Total 9164".to_owned()];
        match form {
            ConstraintForm::Choice => Constraint::Choice(texts()),
            ConstraintForm::Regex => Constraint::Regex { reasons: 24, endings: texts() },
            ConstraintForm::Json => Constraint::Json { reasons: 24, key: "total", values: vec![json!(7310)] },
        }
    }

    #[test]
    fn each_server_gets_its_own_fields() {
        let fields =
            |spelling: Spelling, form| spelling.fields(&constraint(form)).map(|f| Value::Object(f).to_string());
        let (choice, regex, object) = (ConstraintForm::Choice, ConstraintForm::Regex, ConstraintForm::Json);
        let got = fields(Spelling::StructuredOutputs, choice).unwrap();
        assert_eq!(got, r#"{"structured_outputs":{"choice":["Total 7310","Total 9164"]}}"#);
        let got = fields(Spelling::StructuredOutputs, regex).unwrap();
        assert_eq!(got, r#"{"structured_outputs":{"regex":"(.|\\n){0,24}\\n(Total 7310|Total 9164)"}}"#);
        assert!(fields(Spelling::StructuredOutputs, object).unwrap().contains(r#"{0,24}\", \"total\": (7310)"#));
        let got = fields(Spelling::Grammar, choice).unwrap();
        assert_eq!(got, r#"{"grammar":"root ::= \"Total 7310\" | \"Total 9164\""}"#);
        assert!(fields(Spelling::Grammar, object).unwrap().starts_with(r#"{"json_schema":{"#));
        assert!(fields(Spelling::Regex, object).unwrap().starts_with(r#"{"json_schema":"{"#));
        assert!(fields(Spelling::ResponseFormat, choice).is_none());
        assert!(!fields(Spelling::ResponseFormat, object).unwrap().contains("maxLength"));
    }
}
