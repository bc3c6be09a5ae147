"""The options of the command line."""

from __future__ import annotations

import argparse
from typing import Any, NoReturn

from onnxtune import __version__

_DATA = "rows: a .csv, .parquet or .npz file, or a folder of .parquet files"


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        text = " ".join(f"{message}; see `{self.prog} --help`.".split())
        self.exit(2, f"onnxtune: {text}\n")


def command_line() -> argparse.ArgumentParser:
    """The parser; `options.name` is the command that was given."""
    parser = _Parser(
        prog="onnxtune", description="Tune trained classical pipelines end to end, as ONNX."
    )
    parser.add_argument("--version", action="version", version=f"onnxtune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    command = _add(commands, "inspect", "what a model is made of, and what can be tuned")
    command.add_argument("model", help="an ONNX file")
    _add_serving(command)

    command = _add(commands, "convert", "a model in standard operators, hard or soft")
    command.add_argument("model", help="an ONNX file")
    command.add_argument("-o", "--output", help="default: model.FORM.onnx beside the model")
    command.add_argument(
        "--form",
        choices=["soft", "hard"],
        default="soft",
        help="hard: the answers of the original; soft: near them, by sigmoids (default: soft)",
    )
    command.add_argument(
        "--temperature",
        type=_temperature,
        default="auto",
        help="width of a soft gate in units of its feature's spread (default: 0.1)",
    )
    command.add_argument("--data", help=f"{_DATA}, to measure the spreads on")
    command.add_argument("--target", help="a column of the data to leave out")
    _add_serving(command)

    command = _add(commands, "tune", "fine-tune a model on data")
    command.add_argument("model", help="an ONNX file")
    command.add_argument("--data", required=True, help=_DATA)
    command.add_argument("--target", required=True, help="the column to predict")
    command.add_argument("-o", "--output", required=True, help="where the tuned model goes")
    command.add_argument(
        "--form",
        choices=["native", "hard", "soft"],
        default="native",
        help="native: the same graph (default); hard, soft: standard operators",
    )
    command.add_argument(
        "--valid",
        default="0.2",
        help="a share of the rows (default: 0.2; of up to 1,000 rows every fifth in turn), a "
        "file of rows, 'last' for the last fifth, or a column whose groups are kept whole",
    )
    command.add_argument(
        "--test", metavar="FILE", help="a file of rows to report on; nothing is chosen by it"
    )
    command.add_argument(
        "--metrics",
        nargs="+",
        default=(),
        metavar="NAME",
        help="scikit-learn's metrics to report besides, such as accuracy or r2",
    )
    command.add_argument(
        "--loss",
        default="auto",
        help="log, focal, hinge, squared, absolute, huber, pinball, poisson, gamma, tweedie, auto "
        "(default); a parameter as in 'pinball(0.9)'",
    )
    command.add_argument("--tune-output", metavar="NAME", help="which float output, of several")
    command.add_argument(
        "--routing",
        choices=["auto", "soft", "straight-through", "leaves"],
        default="auto",
        help="how trees pass rows on in training (default: leaves alone, and soft where the "
        "forecast is below a minute, else straight-through)",
    )
    command.add_argument(
        "--temperature",
        type=_temperature,
        default="auto",
        help="width of a gate in units of its feature's spread (default: what validates best)",
    )
    command.add_argument(
        "--max-size",
        type=float,
        default=1,
        help="trees of the tuned model, over those of the original: 0.25 keeps a quarter, 4 allows "
        "copies (default: 1)",
    )
    command.add_argument(
        "--companion",
        action="store_true",
        help="also try a small network beside the model",
    )
    command.add_argument(
        "--init",
        choices=["model", "random"],
        default="model",
        help="random: a baseline from random numbers in the same graph (default: model)",
    )
    command.add_argument(
        "--target-transform",
        choices=["log1p", "log", "sqrt", "asinh"],
        help="learn this of the target; the written graph ends in the inverse",
    )
    command.add_argument(
        "--epochs", type=int, default=30, help="passes over the rows at most (default: 30)"
    )
    command.add_argument(
        "--batch-size", type=int, help="rows a step (default: an eighth of all, within 32 and 256)"
    )
    command.add_argument(
        "--lr",
        type=float,
        help="Adam's step in standardised units (default: 0.01 for thresholds, else 0.003; with "
        "steps in trees, and beside that without trees, twice as much)",
    )
    command.add_argument(
        "--freeze",
        nargs="+",
        default=[],
        metavar="GLOB",
        help="tensors that stay, such as 'scaler/*'",
    )
    command.add_argument(
        "--patience",
        type=int,
        default=8,
        help="epochs without a better validation loss before it stops (default: 8)",
    )
    command.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    command.add_argument(
        "--seed", type=int, default=0, help="of the split and the order of rows (default: 0)"
    )
    command.add_argument("--history", metavar="FILE", help="write the epochs as JSON")
    command.add_argument(
        "--plot", metavar="FILE", help="draw epochs and candidates, as .png, .svg or .pdf"
    )

    command = _add(commands, "verify", "compare two models on the same rows")
    command.add_argument("original", help="an ONNX file")
    command.add_argument("candidate", help="an ONNX file")
    command.add_argument("--data", help=f"{_DATA}; default: rows sampled from the graph")
    command.add_argument("--target", help="the column to predict, for metrics of both models")
    command.add_argument("--rtol", type=float, default=1e-5)
    command.add_argument("--atol", type=float, default=0.0)
    command.add_argument("--rows", type=int, default=1000, help="rows to sample (default: 1000)")
    command.add_argument("--seed", type=int, default=0)

    command = _add(commands, "bench", "time models side by side")
    command.add_argument("models", nargs="+", help="ONNX files")
    command.add_argument("--data", help=f"{_DATA}; default: rows sampled from the graph")
    command.add_argument("--target", help="a column of the data to leave out")
    command.add_argument("--providers", nargs="+", default=["cpu"], metavar="PROVIDER")
    command.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 1000, 100_000])
    command.add_argument("--threads", type=int)
    command.add_argument("--output", help="write the figures as JSON")
    command.add_argument("--plot", help="draw rows a second over batch size, as .png, .svg or .pdf")

    command = _add(commands, "demo", "the whole road on bundled data, in two minutes")
    command.add_argument("--output", default="onnxtune-demo", help="the folder for its files")
    return parser


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and log messages")
    parser.set_defaults(name=name)
    return parser


def _add_serving(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trees",
        choices=["auto", "traversal", "level-wise", "gemm"],
        default="auto",
        help="how hard trees are evaluated (default: the fastest by forecast)",
    )
    command.add_argument(
        "--batch-size",
        type=int,
        default=1000,
        help="rows a call, for that forecast (default: 1000)",
    )
    command.add_argument(
        "--provider",
        choices=["cpu", "cuda"],
        default="cpu",
        help="where the file will run, for that forecast (default: cpu)",
    )


def _temperature(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither 'auto' nor a number") from None
