"""The options of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

from onnxtune import __version__
from onnxtune.tune_options import DATA, add_tune_options, temperature


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        text = " ".join(f"{message}; see `{self.prog} --help`.".split())
        self.exit(2, f"onnxtune: {text}\n")


def parsed(given: Sequence[str]) -> argparse.Namespace:
    """The arguments of a call; what is wrong ends it with status 2."""
    parser = command_line()
    options, unknown = parser.parse_known_args(given)
    if unknown:
        parser.prog = f"{parser.prog} {options.name}"  # whose help tells of its options
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    return options


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
    _add_provider(command)

    command = _add(commands, "convert", "a model in standard operators, hard or soft")
    command.add_argument("model", help="an ONNX file")
    command.add_argument("-o", "--output", help="default: model.FORM.onnx beside the model")
    _add_form(command, "soft")
    _add_serving(command)
    _add_provider(command)
    _add_precision(command)

    command = _add(commands, "split", "a model in parts: what runs on a GPU, and what does not")
    command.add_argument("model", help="an ONNX file")
    command.add_argument(
        "-o", "--output", metavar="STEM",
        help="STEM.cpu.onnx, STEM.gpu.onnx and STEM.tail.onnx are written (default: the model's "
        "name without .onnx)",
    )  # fmt: skip
    _add_form(command, "hard")
    _add_serving(command)
    _add_precision(command)

    add_tune_options(_add(commands, "tune", "fine-tune a model on data"))

    command = _add(commands, "verify", "compare two models on the same rows")
    command.add_argument("original", help="an ONNX file")
    command.add_argument("candidate", help="an ONNX file")
    command.add_argument("--data", help=f"{DATA}; default: rows sampled from the graph")
    command.add_argument("--target", help="the column to predict, for metrics of both models")
    command.add_argument("--rtol", type=float, default=1e-5)
    command.add_argument("--atol", type=float, default=0.0)
    command.add_argument("--rows", type=int, default=1000, help="rows to sample (default: 1000)")
    command.add_argument("--seed", type=int, default=0)

    _add_bench(_add(commands, "bench", "time models side by side"))

    command = _add(commands, "demo", "the whole road on bundled data, in two minutes")
    command.add_argument("--output", default="onnxtune-demo", help="the folder for its files")
    return parser


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and log messages")
    parser.set_defaults(name=name)
    return parser


def _add_form(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--form",
        choices=["soft", "hard"],
        default=default,
        help="hard: the answers of the original; soft: near them, by sigmoids "
        f"(default: {default})",
    )
    command.add_argument(
        "--temperature",
        type=temperature,
        default="auto",
        help="width of a soft gate in units of its feature's spread (default: 0.1)",
    )
    command.add_argument("--data", help=f"{DATA}, to measure the spreads on")
    command.add_argument("--target", help="a column of the data to leave out")


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


def _add_precision(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--precision",
        choices=["float32", "float16"],
        default="float32",
        help="float16: of the gates of soft trees, for cuda (default: float32)",
    )


def _add_provider(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--provider",
        choices=["cpu", "cuda"],
        default="cpu",
        help="where the file will run, for that forecast (default: cpu)",
    )


def _add_bench(command: argparse.ArgumentParser) -> None:
    command.add_argument("models", nargs="*", help="ONNX files")
    command.add_argument("--data", help=f"{DATA}; default: rows sampled from the graph")
    command.add_argument("--target", help="a column of the data to leave out")
    command.add_argument("--providers", nargs="+", default=["cpu"], metavar="PROVIDER")
    command.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 1000, 100_000])
    command.add_argument(
        "--forms",
        nargs="+",
        choices=["original", "hard", "soft"],
        default=["original"],
        help="of each model: as it is, and what `convert` makes of it (default: original)",
    )
    command.add_argument(
        "--transfers",
        nargs="+",
        choices=["with", "without"],
        default=["with"],
        help="with the copies to a GPU and back, or values that stay there (default: with)",
    )
    command.add_argument(
        "--native",
        metavar="FILE",
        help="a fitted estimator as joblib wrote it, to time its own library; loading one runs "
        "what is in it",
    )
    command.add_argument("--chunk", type=int, help="rows run at once; larger batches in pieces")
    command.add_argument(
        "--placement",
        action="store_true",
        default=None,
        help="tell which provider ran each node (default: on others than the CPU)",
    )
    command.add_argument("--threads", type=int)
    command.add_argument("--output", help="write the figures as JSON")
    command.add_argument("--plot", help="draw rows a second over batch size, as .png, .svg or .pdf")
    command.add_argument(
        "--compare",
        nargs=2,
        metavar=("OLD", "NEW"),
        help="two files of --output; exit status 1 where something became slower",
    )
    command.add_argument(
        "--tolerance",
        type=float,
        default=0.25,
        help="how much slower counts, as a share (default: 0.25)",
    )
