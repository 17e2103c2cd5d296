//! Stand-ins for the operators, with the same names and main keys, for this folder's tests.

use super::fields::Fields;
use super::kind::{NeedsModel, OperatorDef, Port, Shape, StepSpec};
use super::syntax::codes;
use crate::data::{Schema, named};

struct Stub {
    line: String,
    /// What each input may be; the last stands for all further ones.
    accepts: Vec<Vec<&'static Schema>>,
    gives: &'static Schema,
    streams: bool,
}

impl StepSpec for Stub {
    fn explain(&self) -> String {
        self.line.clone()
    }
    fn output(&self, inputs: &[Port<'_>]) -> Result<&'static Schema, Vec<String>> {
        let mut wrong = Vec::new();
        for (i, port) in inputs.iter().enumerate() {
            if let Some(accepted) = self.accepts.get(i).or(self.accepts.last()) {
                wrong.extend(port.expect(accepted).err());
            }
        }
        if wrong.is_empty() { Ok(self.gives) } else { Err(wrong) }
    }
    fn streams(&self) -> bool {
        self.streams
    }
}

fn stub(line: String, accepts: &[&[&'static Schema]], gives: &'static Schema) -> Box<dyn StepSpec> {
    Box::new(Stub { line, accepts: accepts.iter().map(|a| a.to_vec()).collect(), gives, streams: false })
}

fn sampling(f: &mut Fields<'_>) -> f64 {
    f.table("sampling", "how tokens are drawn", |f| {
        let temperature = f.float("temperature", "0 is greedy", Some(0.7), 0.0..=10.0);
        f.float("top_p", "nucleus", Some(0.9), 0.0..=1.0);
        f.count("max_tokens", "maximum number of new tokens", Some(256), 1..=65_536);
        temperature
    })
}

fn read(f: &mut Fields<'_>) -> Box<dyn StepSpec> {
    let dataset = f.text("dataset", "directory of Parquet files", None);
    f.mapping("columns", "new names of columns by their old ones");
    let schemas = [("ift", "pairs"), ("eft", "judged"), ("prompts", "prompts"), ("text", "text")];
    let gives = match f.choice("schema", "what the rows are", &schemas, Some("ift")) {
        "eft" => &named::EFT,
        "prompts" => &named::PROMPTS,
        "text" => &named::TEXT,
        _ => &named::IFT,
    };
    stub(format!("reads {dataset}"), &[], gives)
}
fn listworld(f: &mut Fields<'_>) -> Box<dyn StepSpec> {
    let rows = f.count("rows", "how many", Some(100), 1..=1_000_000);
    let data = f.choice("data", "which rows", &[("ift", "answered"), ("requests", "bare")], Some("ift"));
    stub(format!("makes {rows} rows"), &[], if data == "ift" { &named::IFT } else { &named::PROMPTS })
}
fn sft(f: &mut Fields<'_>) -> Box<dyn StepSpec> {
    let rate = f.float("learning_rate", "peak learning rate", Some(5.5e-6), 0.0..=1.0);
    f.optional_path("resume", "a checkpoint", crate::store::InputForm::Model);
    f.optional_table("lora", "low-rank adapters", |f| f.count("rank", "rank of the update", None, 1..=4096));
    stub(format!("learning rate {rate:?}"), &[&[&named::IFT, &named::EFT, &named::TEXT]], &named::MODELS)
}
fn synthesize(f: &mut Fields<'_>) -> Box<dyn StepSpec> {
    let per_iteration = f.count("per_iteration", "prompts an iteration", Some(512), 1..=10_000_000);
    sampling(f);
    stub(format!("{per_iteration} prompts an iteration"), &[&[&named::IFT, &named::PROMPTS]], &named::PROMPTS)
}
fn generate(f: &mut Fields<'_>) -> Box<dyn StepSpec> {
    let samples = f.count("samples", "answers a prompt", Some(4), 1..=1024);
    let temperature = sampling(f);
    stub(format!("{samples} answers a prompt at {temperature:?}"), &[&[&named::PROMPTS]], &named::RESPONSES)
}
fn judge(f: &mut Fields<'_>) -> Box<dyn StepSpec> {
    let rubric = f.text("rubric", "template", Some("additive-5"));
    if rubric.ends_with("no-prompt.jinja") {
        f.warn(&codes::NOT_SHOWN, "rubric", "it does not show the prompt", "");
    }
    let samples = f.count("samples", "judgements an answer", Some(3), 1..=64);
    stub(format!("{rubric}, {samples} times"), &[&[&named::RESPONSES]], &named::SCORES)
}
fn select(f: &mut Fields<'_>) -> Box<dyn StepSpec> {
    let options = [("best-worst", "the paper's"), ("best-random", "best against a random one")];
    let strategy = f.choice("strategy", "which pairs", &options, Some("best-worst"));
    stub(strategy.to_owned(), &[&[&named::SCORES]], &named::PAIRS)
}
fn dedup(_: &mut Fields<'_>) -> Box<dyn StepSpec> {
    stub(String::new(), &[&[&named::PROMPTS]], &named::PROMPTS)
}
fn dpo(f: &mut Fields<'_>) -> Box<dyn StepSpec> {
    let beta = f.float("beta", "strength of the reference", Some(0.1), 0.0..=100.0);
    f.float("learning_rate", "peak learning rate", Some(1e-6), 0.0..=1.0);
    f.step("replay", "rows of SFT mixed in");
    f.reference("reference", "the reference");
    let schedules = [("epochs", "when all are there"), ("streaming", "as they come")];
    let streams = f.choice("data_schedule", "when pairs are trained on", &schedules, Some("epochs")) == "streaming";
    let limit = f.ints("limit", "most pairs of each iteration", Some(&[0]), 0..=1 << 40);
    f.list_by_iteration("limit", limit.len());
    let accepts = vec![vec![&named::PAIRS], vec![&named::IFT, &named::EFT]];
    Box::new(Stub { line: format!("beta {beta:?}"), accepts, gives: &named::MODELS, streams })
}
fn oracle(_: &mut Fields<'_>) -> Box<dyn StepSpec> {
    stub("counts points".into(), &[&[&named::RESPONSES]], &named::SCORES)
}

macro_rules! kinds {
    ($($ident:ident $name:literal $parse:ident $shape:ident $model:ident $min:literal $max:expr;)*) => {
        $(static $ident: OperatorDef<dyn StepSpec> = OperatorDef {
            name: $name, about: "a stub", shape: Shape::$shape, model: NeedsModel::$model,
            min_inputs: $min, max_inputs: $max, example: "", parse: $parse,
        };)*
        pub static KINDS: &[&OperatorDef<dyn StepSpec>] = &[$(&$ident),*];
    };
}
kinds! {
    READ "read" read Source No 0 0;
    LISTWORLD "listworld" listworld Source No 0 0;
    SFT "sft" sft Train Yes 1 usize::MAX;
    SYNTHESIZE "synthesize" synthesize IterationSource Yes 1 2;
    GENERATE "generate" generate Map Yes 1 1;
    JUDGE "judge" judge Map Yes 1 1;
    SELECT "select" select Keyed No 1 1;
    DEDUP "dedup" dedup Keyed No 1 1;
    DPO "dpo" dpo Train Yes 1 1;
    ORACLE "oracle" oracle Map No 1 1;
}
