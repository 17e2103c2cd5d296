//! The words by which the grammar interprets what a judge says about a score. They are small closed lists:
//! an unknown word makes a judgement uncertain instead of a wrong score.

pub(super) const NUMBER_WORDS: [&str; 11] =
    ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"];

pub(super) const UNITS: [&str; 13] =
    ["point", "points", "pt", "pts", "p", "star", "stars", "mark", "marks", "分", "点", "점", "балла"];

/// Words before a number that do not change it.
pub(super) const FILLERS: [&str; 14] = [
    "a",
    "an",
    "only",
    "just",
    "exactly",
    "text",
    "boxed",
    "mathbf",
    "therefore",
    "thus",
    "hence",
    "then",
    "simply",
    "clearly",
];

/// Words before a number that make it a bound or a guess.
pub(super) const VAGUE: [&str; 20] = [
    "about",
    "around",
    "approximately",
    "roughly",
    "maybe",
    "perhaps",
    "probably",
    "nearly",
    "almost",
    "between",
    "at",
    "up",
    "less",
    "more",
    "above",
    "below",
    "over",
    "under",
    "possibly",
    "either",
];

/// Lower-case words that may follow a score without changing it. Any other word changes its meaning: "3
/// sentences".
/// else: "3 sentences".
pub(super) const FOLLOWERS: [&str; 63] = [
    "because",
    "as",
    "since",
    "seems",
    "for",
    "due",
    "given",
    "and",
    "on",
    "the",
    "this",
    "it",
    "its",
    "i",
    "with",
    "while",
    "although",
    "though",
    "but",
    "which",
    "that",
    "is",
    "based",
    "overall",
    "in",
    "considering",
    "reflecting",
    "here",
    "so",
    "however",
    "excellent",
    "good",
    "great",
    "very",
    "fair",
    "poor",
    "weak",
    "strong",
    "bad",
    "perfect",
    "mostly",
    "partially",
    "fully",
    "relevant",
    "useful",
    "helpful",
    "clear",
    "total",
    "awarded",
    "given",
    "to",
    "by",
    "at",
    "there",
    "they",
    "my",
    "thus",
    "therefore",
    "all",
    "after",
    "reason",
    "reasoning",
    "explanation",
];

/// Words after a value that subtract it: "2 points deducted".
pub(super) const DEDUCTIONS: [&str; 9] =
    ["deducted", "deduction", "off", "lost", "removed", "short", "missing", "less", "lower"];

/// Words that leave a range open: "3 and up".
pub(super) const OPEN_ENDED: [&str; 8] = ["up", "above", "more", "over", "higher", "below", "down", "under"];

/// Words that correct an earlier statement.
pub(super) const CORRECTIONS: [&str; 29] = [
    "no",
    "wait",
    "actually",
    "rather",
    "correction",
    "corrected",
    "revised",
    "changed",
    "sorry",
    "hmm",
    "instead",
    "or",
    "vs",
    "make",
    "maybe",
    "perhaps",
    "possibly",
    "raised",
    "lowered",
    "reduced",
    "increased",
    "adjusted",
    "updated",
    "not",
    "edit",
    "oops",
    "update",
    "revision",
    "hold",
];

/// Corrections of several words.
pub(super) const CORRECTING: [&[&str]; 8] = [
    &["on", "reflection"],
    &["on", "second"],
    &["let", "me", "reconsider"],
    &["let", "me", "revise"],
    &["let", "me", "correct"],
    &["let", "me", "change"],
    &["scratch", "that"],
    &["i", "change"],
];

/// HTML tags that may surround a score.
pub(super) const TAGS: [&str; 14] =
    ["b", "strong", "em", "i", "p", "br", "span", "u", "h1", "h2", "h3", "h4", "td", "li"];

/// Words for a score, in the languages in which judges answer.
pub(super) const SCORE: [&str; 10] = [
    "score",
    "rating",
    "grade",
    "puntuación",
    "puntaje",
    "calificación",
    "bewertung",
    "punktzahl",
    "pontuação",
    "оценка",
];

/// Words for a score in scripts without spaces, where preceding words are attached.
pub(super) const SCORE_ENDINGS: [&str; 6] = ["得分", "评分", "总分", "分数", "スコア", "점수"];

/// Words that mean a score only at the start of a line: "Total: 4/5".
pub(super) const LINE_ONLY: [&str; 5] = ["total", "overall", "points", "verdict", "final"];

/// Verbs of a judge ("I give it a score of 4") and of an answer ("it deserves a score of 4").
pub(super) const JUDGING: [&str; 14] = [
    "rate",
    "give",
    "giving",
    "award",
    "awarding",
    "assign",
    "assigning",
    "say",
    "think",
    "settle",
    "go",
    "score",
    "grade",
    "believe",
];

pub(super) const DESERVING: [&str; 11] =
    ["earns", "gets", "receives", "deserves", "merits", "scores", "scored", "warrants", "gives", "given", "assigned"];

/// Predicates of a score that is given to an answer: "a score of 4 is appropriate".
pub(super) const FITTING: [&str; 8] =
    ["appropriate", "fair", "justified", "warranted", "fitting", "reasonable", "right", "accurate"];

pub(super) const FINAL: [&str; 8] =
    ["final", "total", "overall", "ultimate", "combined", "sum", "resulting", "definitive"];

/// Neutral words before "score".
pub(super) const PLAIN: [&str; 22] = [
    "the",
    "my",
    "a",
    "an",
    "our",
    "this",
    "its",
    "your",
    "judge's",
    "assigned",
    "given",
    "so",
    "thus",
    "therefore",
    "hence",
    "and",
    "with",
    "is",
    "numeric",
    "numerical",
    "i",
    "answer",
];

/// Criteria that stand for the whole answer: a lone "quality score: 4" is the score, a lone "passing score:
/// 4" is not.
pub(super) const WHOLE_CRITERIA: [&str; 14] = [
    "quality",
    "response",
    "answer",
    "helpfulness",
    "evaluation",
    "assessment",
    "judge",
    "judgement",
    "judgment",
    "usefulness",
    "reward",
    "preference",
    "point",
    "result",
];

/// The first word between "score" and its value: "score for this response: 4". Other words change the
/// meaning: "score gap".
pub(super) const AFTER_SCORE: [&str; 20] = [
    "for",
    "given",
    "awarded",
    "assigned",
    "i",
    "that",
    "total",
    "to",
    "on",
    "this",
    "by",
    "in",
    "earned",
    "received",
    "achieved",
    "here",
    "overall",
    "value",
    "the",
    "breakdown",
];

/// Neutral labels before "Score:" on its line.
pub(super) const PLAIN_LABELS: [&str; 14] = [
    "evaluation",
    "judgement",
    "judgment",
    "verdict",
    "conclusion",
    "result",
    "assessment",
    "summary",
    "answer",
    "decision",
    "final",
    "overall",
    "total",
    "grading",
];

/// Words in sentences about a score that the answer does not have.
pub(super) const NOT_ITS_OWN: [&str; 60] = [
    "maximum",
    "max",
    "highest",
    "perfect",
    "full",
    "possible",
    "best",
    "minimum",
    "min",
    "lowest",
    "top",
    "worst",
    "average",
    "mean",
    "median",
    "threshold",
    "baseline",
    "expected",
    "required",
    "if",
    "unless",
    "could",
    "might",
    "may",
    "than",
    "higher",
    "lower",
    "another",
    "different",
    "any",
    "each",
    "every",
    "whether",
    "why",
    "needed",
    "need",
    "needs",
    "require",
    "requires",
    "between",
    "from",
    "instead",
    "should",
    "rubric",
    "responses",
    "answers",
    "when",
    "hesitate",
    "doubt",
    "want",
    "wish",
    "refuse",
    "tempted",
    "almost",
    "had",
    "itself",
    "own",
    "according",
    "anything",
    "like",
];

/// Words that negate their clause.
pub(super) const NEGATIONS: [&str; 11] =
    ["cannot", "can't", "not", "n't", "isn't", "wasn't", "doesn't", "don't", "won't", "wouldn't", "never"];

/// Words about a score that the judge has since reconsidered.
pub(super) const EARLIER: [&str; 8] =
    ["previous", "earlier", "initial", "initially", "original", "first", "tentative", "preliminary"];

/// Words after a value that make the sentence hypothetical.
pub(super) const HYPOTHETICAL: [&str; 22] = [
    "would",
    "could",
    "might",
    "requires",
    "require",
    "needs",
    "need",
    "means",
    "indicates",
    "represents",
    "denotes",
    "if",
    "when",
    "unless",
    "seems",
    "feels",
    "may",
    "isn't",
    "should",
    "corresponds",
    "implies",
    "can",
];

/// Speakers and verbs that introduce a quotation.
pub(super) const SPEAKERS: [&str; 18] = [
    "response",
    "answer",
    "assistant",
    "user",
    "student",
    "candidate",
    "text",
    "it",
    "they",
    "author",
    "model",
    "prompt",
    "line",
    "sentence",
    "instruction",
    "instructions",
    "you",
    "system",
];

pub(super) const SPEECH: [&str; 45] = [
    "says",
    "said",
    "saying",
    "say",
    "states",
    "stated",
    "stating",
    "reads",
    "reading",
    "ends",
    "ending",
    "claims",
    "claimed",
    "claiming",
    "contains",
    "containing",
    "includes",
    "including",
    "writes",
    "wrote",
    "written",
    "write",
    "quotes",
    "quoting",
    "mentions",
    "asks",
    "demands",
    "tells",
    "instructs",
    "requests",
    "insists",
    "asserts",
    "inserts",
    "adds",
    "appends",
    "concludes",
    "outputs",
    "output",
    "begins",
    "starts",
    "wants",
    "following",
    "puts",
    "tries",
    "own",
];

/// Words of a line that introduces an example: "Use this format:".
pub(super) const EXAMPLES: [&str; 9] =
    ["format", "example", "instance", "template", "form", "conclude", "pattern", "instructions", "criteria"];
