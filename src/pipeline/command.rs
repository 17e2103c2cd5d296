//! The command of a program outside, with placeholders for what reflux fills in.

use crate::data::{did_you_mean, quoted};

/// A name that a command may have in braces, and what it stands for.
pub type Placeholder = (&'static str, &'static str);

/// What a command may and must hand over.
pub struct CommandRules {
    /// The names that it may have in braces.
    pub placeholders: &'static [Placeholder],
    /// Those that it must have.
    pub required: &'static [&'static str],
    /// A command, as it is written in a pipeline file.
    pub example: &'static str,
}

/// A part of an argument.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ArgumentPart {
    Text(String),
    /// One of [`CommandRules::placeholders`].
    Value(&'static str),
}

/// A program and its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CommandTemplate(Vec<Vec<ArgumentPart>>);

impl CommandTemplate {
    /// Parses the words of a command.
    ///
    /// # Errors
    /// A problem, and what to do about it.
    pub fn parse(words: &[String], rules: &CommandRules) -> Result<Self, (String, String)> {
        let command = Self(words.iter().map(|word| parts(word, rules.placeholders)).collect::<Result<_, _>>()?);
        if words.first().is_none_or(|program| program.trim().is_empty()) {
            return Err(("`command` names no program".into(), format!("write e.g. {}", rules.example)));
        }
        if let ([only], Some(_)) = (words, words[0].trim().find(char::is_whitespace)) {
            let list: Vec<String> = only.split_whitespace().map(|word| format!("{word:?}")).collect();
            let help = format!("write command = [{}]; no shell reads it", list.join(", "));
            return Err(("`command` is one word with blanks, and not a list of words".into(), help));
        }
        match rules.required.iter().find(|name| !command.has(name)) {
            Some(name) => {
                let about = rules.placeholders.iter().find(|(known, _)| known == name).map_or("", |known| known.1);
                Err((
                    format!("`command` does not hand over {{{name}}}"),
                    format!("add an argument with {{{name}}}: {about}"),
                ))
            }
            None => Ok(command),
        }
    }

    /// Whether a placeholder is in the command.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().flatten().any(|part| matches!(part, ArgumentPart::Value(value) if *value == name))
    }

    /// Returns the program, as written.
    pub fn program(&self) -> Option<&str> {
        match self.0.first()?.as_slice() {
            [ArgumentPart::Text(program)] => Some(program),
            _ => None,
        }
    }

    /// Returns the command with every placeholder replaced by its value.
    pub fn fill(&self, value: &dyn Fn(&str) -> String) -> Vec<String> {
        let filled = |part: &ArgumentPart| match part {
            ArgumentPart::Text(text) => text.clone(),
            ArgumentPart::Value(name) => value(name),
        };
        self.0.iter().map(|word| word.iter().map(filled).collect()).collect()
    }
}

impl std::fmt::Display for CommandTemplate {
    /// As it can be typed into a shell, with the placeholders.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words: Vec<String> = self.fill(&|name| format!("{{{name}}}")).iter().map(|word| shell_word(word)).collect();
        f.write_str(&words.join(" "))
    }
}

/// Quotes a word for the shell unless it is one as it is. Braces around a placeholder need no quotes to be read.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { quoted(word) }
}

/// Splits a word at its placeholders. `{{` and `}}` stand for a brace.
fn parts(word: &str, placeholders: &[Placeholder]) -> Result<Vec<ArgumentPart>, (String, String)> {
    let (mut parts, mut text, mut rest) = (Vec::new(), String::new(), word);
    while let Some(c) = rest.chars().next() {
        if let Some(after) = rest.strip_prefix("{{").or_else(|| rest.strip_prefix("}}")) {
            text.push(c);
            rest = after;
        } else if let Some(after) = rest.strip_prefix('{') {
            let Some((name, after)) = after.split_once('}') else {
                let help = "close it with `}`, or write `{{` for a brace";
                return Err((format!("`{word}` opens a brace and does not close it"), help.into()));
            };
            let Some((known, _)) = placeholders.iter().find(|(known, _)| *known == name) else {
                let names: Vec<&str> = placeholders.iter().map(|(name, _)| *name).collect();
                let help = format!("{}; a brace itself is `{{{{`", did_you_mean(name, "there are", &names));
                return Err((format!("`{{{name}}}` in `command` stands for nothing"), help));
            };
            if !text.is_empty() {
                parts.push(ArgumentPart::Text(std::mem::take(&mut text)));
            }
            parts.push(ArgumentPart::Value(known));
            rest = after;
        } else {
            text.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    if !text.is_empty() || parts.is_empty() {
        parts.push(ArgumentPart::Text(text));
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: CommandRules = CommandRules {
        placeholders: &[
            ("model", "directory of the model to start from"),
            ("pairs", "directory of the rows"),
            ("output", "directory to leave the model in"),
            ("seed", "the run's seed"),
            ("iteration", "iteration of the loop"),
        ],
        required: &["model", "pairs", "output"],
        example: "command = [\"train\", \"{model}\"]",
    };

    fn parse(words: &[&str]) -> Result<CommandTemplate, (String, String)> {
        CommandTemplate::parse(&words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>(), &RULES)
    }

    #[test]
    fn placeholders_are_filled_in_and_braces_stay() {
        let words = ["train", "--from={model}", "{pairs}", "{output}/x", "{{\"lr\": {seed}}}", "", "é{iteration}}"];
        let command = parse(&words).unwrap();
        let filled = command.fill(&|name| format!("<{name}>"));
        assert_eq!(
            filled,
            ["train", "--from=<model>", "<pairs>", "<output>/x", "{\"lr\": <seed>}", "", "é<iteration>}"]
        );
        assert_eq!(command.program(), Some("train"));
        assert!(command.has("seed") && !command.has("{seed"));
        assert_eq!(
            command.to_string(),
            "train --from={model} {pairs} {output}/x '{\"lr\": {seed}}' '' 'é{iteration}}'"
        );
    }

    #[test]
    fn what_is_wrong_with_a_command_is_said() {
        let all = ["{model}", "{pairs}", "{output}"];
        let refused = |words: &[&str]| {
            let (message, help) = parse(&[words, &all[..]].concat()).unwrap_err();
            format!("{message}\n{help}")
        };
        assert_eq!(
            refused(&["train", "{modle}"]),
            "`{modle}` in `command` stands for nothing\ndid you mean `model`? there are: model, pairs, output, seed, \
             iteration; a brace itself is `{{`"
        );
        assert_eq!(
            refused(&["train", "{model"]),
            "`{model` opens a brace and does not close it\nclose it with `}`, or write `{{` for a brace"
        );
        assert!(refused(&[" "]).starts_with("`command` names no program\n"));
        let (message, help) = parse(&["train", "{model}", "{output}"]).unwrap_err();
        assert_eq!(message, "`command` does not hand over {pairs}");
        assert_eq!(help, "add an argument with {pairs}: directory of the rows");
        assert!(parse(&[]).is_err());
        let (message, help) = parse(&["train {model}  {output}"]).unwrap_err();
        assert_eq!(message, "`command` is one word with blanks, and not a list of words");
        assert_eq!(help, "write command = [\"train\", \"{model}\", \"{output}\"]; no shell reads it");
    }
}
