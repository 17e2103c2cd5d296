"""DPO by TRL as a training step of reflux (`op = "train"`).

    command = ["accelerate", "launch", "trainers/trl_dpo.py", "--model", "{model}", "--pairs", "{pairs}",
               "--reference", "{reference}", "--output", "{output}", "--metrics", "{metrics}", "--seed", "{seed}",
               "--set", "beta=0.1", "--set", "learning_rate=1e-6"]

It trains on the token ids that reflux sampled, and on the reference's log-probabilities that reflux hands over.
"""

from pathlib import Path
from typing import Any

import reflux_trl
from reflux_trl import refuse

IDS = ["chosen_id", "rejected_id"]
TOKENS = {"prompt_ids": "prompt_tokens", "chosen_ids": "chosen_tokens", "rejected_ids": "rejected_tokens"}


def examples(pairs: Path, reference: Path | None) -> list[dict[str, Any]]:
    """Makes TRL's examples: token ids as sampled, and the reference's summed log-probabilities if they are given."""
    known: dict[tuple[str, str], tuple[float, float]] = {}
    if reference is not None:
        for row in reflux_trl.read(reference, [*IDS, "chosen_logprob", "rejected_logprob"]):
            known[row["chosen_id"], row["rejected_id"]] = row["chosen_logprob"], row["rejected_logprob"]
    made = []
    for number, row in enumerate(reflux_trl.read(pairs, [*IDS, *TOKENS.values()])):
        pair = row["chosen_id"], row["rejected_id"]
        example: dict[str, Any] = {"row": number} | {ours: row[theirs] for ours, theirs in TOKENS.items()}
        if not all(example[column] for column in TOKENS):
            refuse(f"the pair {'>'.join(pair)} has no token ids")
        if reference is not None:
            if pair not in known:
                continue  # reflux has said why; the number of pairs in the metrics says that it is missing
            example["ref_chosen_logps"], example["ref_rejected_logps"] = known[pair]
        made.append(example)
    if not made:
        refuse("no pair has a reference")
    return made


def main() -> None:
    parser = reflux_trl.parser(__doc__ or "")
    parser.add_argument("--pairs", type=Path, required=True, help="directory of Parquet with rows of `pairs`")
    parser.add_argument("--reference", type=Path, help="directory of Parquet with rows of `reference`")
    args = parser.parse_args()
    made = examples(args.pairs, args.reference)

    # Slow to import, so only after the input was looked at.
    import datasets
    import transformers
    import trl
    from trl.trainer.dpo_trainer import DataCollatorForPreference

    class Trainer(reflux_trl.reporting(trl.DPOTrainer, args.metrics)):  # type: ignore[misc]
        """By itself, TRL tokenises the texts anew and computes the reference whatever the columns."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

        def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
            return dataset if args.reference else super()._precompute_ref_logps(dataset, name, batch_size)

        def compute_ref_log_probs(self, model: Any, inputs: dict[str, Any]) -> Any:
            return super().compute_ref_log_probs(model, {key: inputs[key] for key in inputs if key != "row"})

    config = reflux_trl.configure(
        trl.DPOConfig, args, {"beta": 0.1, "learning_rate": 1e-6}, {"precompute_ref_log_probs": True}
    )
    transformers.set_seed(args.seed)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    trainer = Trainer(
        model=str(args.model),
        args=config,
        train_dataset=datasets.Dataset.from_list(made),
        data_collator=reflux_trl.with_row_numbers(
            DataCollatorForPreference(reflux_trl.pad_token(tokenizer), config.max_length)
        ),
        processing_class=tokenizer,
    )
    reflux_trl.train(trainer, tokenizer, args.output)


if __name__ == "__main__":
    main()
