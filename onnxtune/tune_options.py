"""The options of `onnxtune tune`, which are called what the arguments of `onnxtune.tune` are."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import Any

DATA = "rows: a .csv, .parquet or .npz file, or a folder of .parquet files"

# Options that go to `onnxtune.tune` as they are.
PASSED = (
    "metrics", "loss", "target_transform", "sample_weight", "class_weight", "sampling", "noise",
    "augment", "order", "routing", "temperature", "max_size", "companion",
    "only_numbers", "init", "freeze",
    "epochs", "batch_size", "lr", "clip", "precision", "patience", "on_epoch", "checkpoint",
    "resume", "device", "threads", "seed",
)  # fmt: skip


def add_tune_options(command: argparse.ArgumentParser) -> None:
    """Add them to the parser of the command."""
    command.usage = "%(prog)s model --data FILE --target COLUMN -o FILE [options]"
    command.add_argument("model", help="an ONNX file")
    _add_data(command.add_argument_group("data"))
    _add_what(command.add_argument_group("what is tuned"))
    _add_how(command.add_argument_group("training"))
    _add_results(command.add_argument_group("results"))


def _add_data(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--data", required=True, help=DATA)
    add("--target", required=True, help="the column to predict")
    add("--valid", default="0.2", help="a share of the rows (default: 0.2; of up to 1,000 rows "
        "every fifth in turn), a file of rows, 'last' for the last fifth, or a column whose groups "
        "are kept whole")  # fmt: skip
    add("--test", metavar="FILE", help="a file of rows to report on; nothing is chosen by it")
    add("--sample-weight", metavar="COLUMN", help="how much each row counts")
    add("--class-weight", nargs="+", type=_class_weight, action=_ClassWeight, metavar="WEIGHT",
        help="balanced, or LABEL=WEIGHT ...")  # fmt: skip
    add("--sampling", choices=["over", "under"],
        help="draw rows of rarer classes again, or leave out those of others")  # fmt: skip
    add("--noise", type=float, default=0.0,
        help="added to float inputs in training, in standard deviations (default: 0)")  # fmt: skip
    add("--augment", type=_imported, metavar="MODULE:NAME",
        help="a function that changes the training rows of each epoch")  # fmt: skip
    add("--order", type=_order, default="shuffle", metavar="ORDER",
        help="shuffle (default), given, or a function MODULE:NAME (a curriculum)")  # fmt: skip


def _add_what(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--loss", type=_loss, default="auto", help="log, focal, hinge, squared, absolute, huber, "
        "pinball, poisson, gamma, tweedie, auto (default); a parameter as in 'pinball(0.9)'; or a "
        "function MODULE:NAME")  # fmt: skip
    add("--tune-output", metavar="NAME", help="which float output, of several")
    add("--target-transform", choices=["log1p", "log", "sqrt", "asinh"],
        help="learn this of the target; the written graph ends in the inverse")  # fmt: skip
    add("--freeze", nargs="+", default=[], metavar="GLOB",
        help="tensors that stay, such as 'scaler/*'")  # fmt: skip
    add("--max-size", type=float, default=1, help="trees of the tuned model, over those of the "
        "original: 0.25 keeps a quarter, 4 allows copies (default: 1)")  # fmt: skip
    add("--companion", action="store_true", help="also try a small network beside the model")
    add("--only-numbers", action="store_true",
        help="nothing but numbers may change: no forest moves to logits")  # fmt: skip
    add("--init", choices=["model", "random"], default="model",
        help="random: a baseline from random numbers in the same graph")  # fmt: skip


def _add_how(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("--routing", choices=["auto", "soft", "straight-through", "leaves"], default="auto",
        help="how trees pass rows on (default: leaves alone, and soft where the forecast is below "
        "a minute, else straight-through)")  # fmt: skip
    add("--temperature", type=temperature, default="auto", help="width of a gate in units of its "
        "feature's spread (default: what validates best)")  # fmt: skip
    add("--epochs", type=int, default=30, help="passes over the rows at most (default: 30)")
    add("--batch-size", type=int, metavar="ROWS",
        help="rows a step (default: an eighth of all, within 32 and 256)")  # fmt: skip
    add("--lr", nargs="+", type=_rate, action=_Rates, metavar="RATE", help="Adam's step in "
        "standardised units, or GLOB=RATE ... (default: 0.01 for thresholds, else 0.003; twice "
        "that for straight-through)")  # fmt: skip
    add("--clip", type=float, metavar="NORM", help="cut each step's gradients to this norm")
    add("--precision", choices=["float32", "bfloat16"], default="float32",
        help="of training's forward pass")  # fmt: skip
    add("--patience", type=int, default=8, metavar="EPOCHS",
        help="without a better validation loss, then it stops (default: 8)")  # fmt: skip
    add("--on-epoch", type=_imported, metavar="MODULE:NAME",
        help="a function called with each epoch's record")  # fmt: skip
    add("--checkpoint", metavar="FOLDER", help="keep the state after each epoch there")
    add("--resume", action="store_true", help="go on with the run of the checkpoint")
    add("--device", default="auto", help="auto, cpu, cuda, ...")
    add("--threads", type=_threads, default="auto", help="of torch (default: as a trial says)")
    add("--seed", type=int, default=0, help="of all that is random (default: 0)")


def _add_results(group: argparse._ArgumentGroup) -> None:
    add = group.add_argument
    add("-o", "--output", required=True, help="where the tuned model goes")
    add("--form", choices=["native", "hard", "soft"], default="native",
        help="native: the same graph (default); hard, soft: standard operators")  # fmt: skip
    add("--provider", choices=["cpu", "cuda"], default="cpu",
        help="where a hard or soft form will run (default: cpu)")  # fmt: skip
    add("--metrics", nargs="+", default=(), metavar="NAME",
        help="scikit-learn's metrics to report besides, such as accuracy or r2")  # fmt: skip
    add("--history", metavar="FILE", help="write the epochs as JSON")
    add("--plot", metavar="FILE", help="draw epochs and candidates, as .png, .svg or .pdf")


class _ClassWeight(argparse.Action):
    """Either "balanced" or a mapping of labels to weights."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        if "balanced" in values and len(values) > 1:
            parser.error("argument --class-weight: 'balanced' stands alone")
        found = values[0] if values == ["balanced"] else dict(values)
        setattr(namespace, self.dest, found)


class _Rates(argparse.Action):
    """Either one learning rate or a mapping of globs to them."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        named = [value for value in values if isinstance(value, tuple)]
        if (named and len(named) < len(values)) or len(values) - len(named) > 1:
            parser.error("argument --lr: give one number, or GLOB=RATE for each glob")
        setattr(namespace, self.dest, dict(named) if named else values[0])


def _class_weight(text: str) -> str | tuple[str, float]:
    return text if text == "balanced" else _pair(text, "'balanced' or LABEL=WEIGHT")


def _rate(text: str) -> float | tuple[str, float]:
    try:
        return float(text)
    except ValueError:
        return _pair(text, "a number or GLOB=RATE")


def _pair(text: str, wanted: str) -> tuple[str, float]:
    name, sign, number = text.rpartition("=")
    try:
        if not sign:
            raise ValueError
        return name, float(number)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not {wanted}") from None


def temperature(text: str) -> float | str:
    """A number, or "auto"."""
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither 'auto' nor a number") from None


def _threads(text: str) -> int | str:
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither 'auto' nor a number") from None


def _order(text: str) -> Any:
    return _imported(text) if ":" in text else text


def _loss(text: str) -> Any:
    return _imported(text) if ":" in text else text


def _imported(text: str) -> Any:
    """The function of a module that can be imported from here."""
    module, sign, name = text.partition(":")
    if not sign:
        raise argparse.ArgumentTypeError(f"'{text}' is not MODULE:NAME")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:
        reason = " ".join(str(error).split())
        raise argparse.ArgumentTypeError(f"'{text}' cannot be imported ({reason})") from None
