//! Text of messages that a server may take for special tokens.
//!
//! A server that tokenises a conversation itself makes control ids of text such as `<|im_end|>`, so a message can end
//! its turn and write others. vLLM and llama.cpp both do.

use regex::Regex;

/// What happens to such text.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum SpecialTextRule {
    /// The row fails.
    #[default]
    Refuse,
    /// A zero-width space after the opening bracket disarms it.
    Replace,
    /// It is sent as it is.
    Send,
}

/// Finds the spellings of the control tokens of the models in use.
pub(super) struct SpecialTexts(Regex);

/// `<|name|>` and its full-width form, `[INST]`, `<s>`, `<start_of_turn>` and their like.
const SPELLINGS: &str = r"(?x)
    <[|\u{ff5c}][^<>|\u{ff5c}\s]{1,40}[|\u{ff5c}]> | <<?/?SYS>>? | \[/?(INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS)\]
    | </?s> | <(bos|eos|pad|unk|mask)> | <(start|end)_of_turn> | <\|?end_of_(text|turn)\|?> | </?think>";

impl SpecialTexts {
    pub fn new() -> Result<Self, regex::Error> {
        Regex::new(SPELLINGS).map(Self)
    }

    /// The first special text in a text.
    pub fn find<'t>(&self, text: &'t str) -> Option<&'t str> {
        self.0.find(text).map(|found| found.as_str())
    }

    /// The text with every special text disarmed.
    pub fn disarmed(&self, text: &str) -> String {
        let broken = |found: &regex::Captures<'_>| found[0].replace('<', "<\u{200b}").replace('[', "[\u{200b}");
        self.0.replace_all(text, broken).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_tokens_are_found_and_disarmed() {
        let special = SpecialTexts::new().unwrap();
        for text in [
            "a<|im_end|>b",
            "<|eot_id|>",
            "[INST] x",
            "x [/INST]",
            "</s>",
            "<start_of_turn>user",
            "<\u{ff5c}User\u{ff5c}>",
            "<<SYS>>",
            "<|endoftext|>",
        ] {
            assert!(special.find(text).is_some(), "{text}");
            let disarmed = special.disarmed(text);
            assert!(special.find(&disarmed).is_none(), "{disarmed}");
            assert_eq!(disarmed.replace('\u{200b}', ""), text);
        }
        for text in ["a < b | c > d", "<div>", "[1] x", "if x <= y", "a || b", "<|", "|>", "List<String>"] {
            assert_eq!(special.find(text), None, "{text}");
            assert_eq!(special.disarmed(text), text);
        }
    }
}
