"""What the trainers by TRL have in common: settings, rows, reports, and leaving the model. Written for TRL 1.16.

Exit code 0: the output holds the trained model. 2: the input cannot be used. Anything else: the training failed.
"""

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, NoReturn

BAD_INPUT = 2

# File beside the checkpoints with the numbers of the rows that were trained on.
SEEN = "rows_seen.json"


def refuse(why: str) -> NoReturn:
    """Ends with the exit code that says: do not start me again with this."""
    print(f"{Path(sys.argv[0]).name}: {why}", file=sys.stderr)
    sys.exit(BAD_INPUT)


def parser(description: str) -> argparse.ArgumentParser:
    """The arguments that every trainer has."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--model", type=Path, required=True, help="directory of the model to start from")
    made.add_argument("--output", type=Path, required=True, help="directory to leave the model in")
    made.add_argument("--metrics", type=Path, help="JSON lines to write, one per optimizer step")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of TRL, as JSON")
    return made


def read(directory: Path, columns: list[str], optional: list[str] = []) -> list[dict[str, Any]]:
    """Reads rows in the order of reflux: by iteration, by microbatch, by row."""
    import pyarrow.parquet as parquet

    rows: list[dict[str, Any]] = []
    for file in sorted(directory.glob("iteration=*/microbatch=*.parquet")):
        there = parquet.read_schema(file).names
        if missing := [column for column in columns if column not in there]:
            refuse(f"{file} lacks the columns {', '.join(missing)}: its rows are of another schema")
        wanted = columns + [column for column in optional if column in there]
        rows += parquet.read_table(file, columns=wanted, partitioning=None).to_pylist()
    if not rows:
        refuse(f"no rows below {directory}")
    return rows


def configure(kind: Callable[..., Any], args: argparse.Namespace, defaults: dict[str, Any], fixed: dict[str, Any]) -> Any:
    """Makes TRL's configuration: our defaults, the settings given, and what this trainer needs."""
    import torch

    given: dict[str, Any] = {}
    for setting in args.set:
        key, is_set, value = setting.partition("=")
        if not is_set:
            refuse(f"--set {setting}: KEY=VALUE is wanted")
        try:
            given[key] = json.loads(value)
        except json.JSONDecodeError:
            given[key] = value  # a word
    if taken := sorted(given.keys() & fixed.keys() | given.keys() & {"output_dir", "seed"}):
        refuse(f"--set: {', '.join(taken)} is not for you to set")
    common = {
        "per_device_train_batch_size": 2,
        "num_train_epochs": 1,
        "logging_steps": 1,
        "save_steps": 100,
        "save_total_limit": 1,
        "bf16": False,
        "gradient_checkpointing": False,
        "max_length": None,
        "model_init_kwargs": {"dtype": "float32"},
        "disable_tqdm": True,
        "report_to": [],
        "use_cpu": not torch.cuda.is_available(),
    }
    own = {"output_dir": str(args.output / "checkpoints"), "seed": args.seed, "remove_unused_columns": False}
    try:
        return kind(**{**common, **defaults, **given, **fixed, **own})
    except (TypeError, ValueError) as error:
        refuse(f"--set: {error}")


def with_row_numbers(collate: Callable[[list[dict[str, Any]]], dict[str, Any]]) -> Callable[..., dict[str, Any]]:
    """A collator that also passes on the number of each row, by which `reporting` counts them."""
    import torch

    def collate_all(batch: list[dict[str, Any]]) -> dict[str, Any]:
        return {**collate(batch), "row": torch.tensor([example["row"] for example in batch])}

    return collate_all


def reporting(base: type, metrics: Path | None) -> type:
    """A trainer that writes its metrics, and says which rows it has trained on."""
    import accelerate
    import torch
    import transformers
    import trl
    from accelerate.utils import gather_object

    versions = {module.__name__: module.__version__ for module in (accelerate, torch, transformers, trl)}

    class Reporting(base):  # type: ignore[misc, valid-type]
        def training_step(self, model: Any, inputs: dict[str, Any], *rest: Any, **named: Any) -> Any:
            numbers = inputs.pop("row").tolist()
            loss = super().training_step(model, inputs, *rest, **named)
            # Each process has its own rows; what was trained on is counted, not what was planned.
            self.rows_seen |= set(gather_object(numbers))
            return loss

        def log(self, logs: dict[str, float], *rest: Any, **named: Any) -> None:
            super().log(logs, *rest, **named)
            if metrics is None or not self.is_world_process_zero():
                return
            line: dict[str, Any] = {key: value for key, value in logs.items() if isinstance(value, (int, float))}
            line |= {"step": self.state.global_step, "world_size": self.accelerator.num_processes}
            line |= {"pairs": len(self.rows_seen), "versions": versions}
            with metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")
            # A start that goes on from a checkpoint goes on counting.
            Path(self.args.output_dir).mkdir(parents=True, exist_ok=True)
            (Path(self.args.output_dir) / SEEN).write_text(json.dumps(sorted(self.rows_seen)))

    return Reporting


def train(trainer: Any, tokenizer: Any, output: Path) -> None:
    """Trains, from the last checkpoint if an earlier start has left one, and leaves the model in `output`."""
    checkpoints = output / "checkpoints"
    # The state is written last: without it, the start was killed while it wrote the checkpoint.
    whole = [state.parent for state in checkpoints.glob("checkpoint-*/trainer_state.json")]
    last = max(whole, key=lambda checkpoint: int(checkpoint.name.partition("-")[2]), default=None)
    seen = checkpoints / SEEN
    trainer.rows_seen = set(json.loads(seen.read_text())) if last and seen.is_file() else set()
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    trainer.accelerator.wait_for_everyone()
    unfinished = output / "unfinished"
    trainer.save_model(str(unfinished))
    if trainer.is_world_process_zero():
        tokenizer.save_pretrained(unfinished)
        # The configuration comes last: with it, the model is complete.
        for file in sorted(unfinished.iterdir(), key=lambda file: file.name == "config.json"):
            os.replace(file, output / file.name)
        shutil.rmtree(unfinished)
    trainer.accelerator.wait_for_everyone()


def pad_token(tokenizer: Any) -> int:
    """Any token will do: it is masked."""
    return next(token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if token is not None)
