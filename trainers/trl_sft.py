"""SFT by TRL as a training step of reflux (`op = "train"`).

    command = ["accelerate", "launch", "trainers/trl_sft.py", "--model", "{model}", "--rows", "{pairs}",
               "--output", "{output}", "--metrics", "{metrics}", "--seed", "{seed}", "--set", "learning_rate=5.5e-6"]

It trains on rows of `ift`. As in reflux, the loss is on the answer's tokens and on the token that ends its turn.
"""

from pathlib import Path
from typing import Any

import reflux_trl
from reflux_trl import refuse

IGNORED = -100


def example(number: int, row: dict[str, Any], tokenizer: Any) -> dict[str, Any]:
    """Renders a row with the chat template. What follows the token that ends the answer's turn is not learnt."""
    prompt = row.get("prompt_messages") or [{"role": "user", "content": row["prompt"]}]
    answered = [*prompt, {"role": "assistant", "content": row["response"]}]
    before = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    ids = tokenizer.apply_chat_template(answered, return_dict=False)
    if ids[: len(before)] != before:
        refuse(f"row {number + 1}: the chat template renders the prompt otherwise when it has an answer")
    while ids and ids[-1] != tokenizer.eos_token_id:
        ids.pop()
    if len(ids) <= len(before):
        refuse(f"row {number + 1}: the chat template does not end an answer with {tokenizer.eos_token}")
    return {"row": number, "input_ids": ids, "labels": [IGNORED] * len(before) + ids[len(before) :]}


def main() -> None:
    parser = reflux_trl.parser(__doc__ or "")
    parser.add_argument("--rows", type=Path, required=True, help="directory of Parquet with rows of `ift`")
    args = parser.parse_args()
    rows = reflux_trl.read(args.rows, ["prompt", "response"], ["prompt_messages", "judgement"])
    if "judgement" in rows[0]:
        refuse("judged rows need reflux's rubric: train on them with op = \"sft\"")

    # Slow to import, so only after the input was looked at.
    import datasets
    import transformers
    import trl
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    # The rows are tokenised and labelled here, not by TRL.
    fixed = {"dataset_kwargs": {"skip_prepare_dataset": True}}
    config = reflux_trl.configure(trl.SFTConfig, args, {"learning_rate": 5.5e-6}, fixed)
    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    made = [example(number, row, tokenizer) for number, row in enumerate(rows)]
    trainer = reflux_trl.reporting(trl.SFTTrainer, args.metrics)(
        model=str(args.model),
        args=config,
        train_dataset=datasets.Dataset.from_list(made),
        data_collator=reflux_trl.with_row_numbers(DataCollatorForLanguageModeling(reflux_trl.pad_token(tokenizer))),
        processing_class=tokenizer,
    )
    reflux_trl.train(trainer, tokenizer, args.output)


if __name__ == "__main__":
    main()
