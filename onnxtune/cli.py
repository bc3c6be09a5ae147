"""The command line: each command calls the public function of its name, and prints.

Results go to stdout, messages and progress to stderr. Exit status: 0 right, 1 a check failed,
2 wrong use or bad input. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from onnxtune import __version__, output
from onnxtune.errors import ArgumentError, OnnxTuneError

_PLOTS = (".png", ".svg", ".pdf")
_DATA = "rows: a .csv, .parquet or .npz file, or a folder of .parquet files"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.INFO if options.debug else logging.WARNING,
        format="%(message)s",
        stream=sys.stderr,
    )
    # Two pools of threads that spin for work slow each other down; it must be set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command: Callable[[argparse.Namespace], int] = options.command
    try:
        status = command(options)
        sys.stdout.flush()  # here, and not on the way out, where nobody answers for it
        return status
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        _complain("interrupted.")
        return 130
    except OnnxTuneError as error:
        if options.debug:
            raise
        _complain(str(error))
        return 2
    except MemoryError as error:
        if options.debug:
            raise
        _complain(f"out of memory ({str(error).rstrip('.')}); give fewer rows.")
        return 1
    except Exception as error:
        if options.debug:
            raise
        _complain(
            f"internal error ({type(error).__name__}: {error}); run it again with --debug, and "
            "report what that prints."
        )
        return 1


def _complain(text: str) -> None:
    print(f"onnxtune: {' '.join(text.split())}", file=sys.stderr)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        _complain(f"{message}; see `{self.prog} --help`.")
        self.exit(2)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="onnxtune", description="Tune trained classical pipelines end to end, as ONNX."
    )
    parser.add_argument("--version", action="version", version=f"onnxtune {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    command = _add(commands, "inspect", _inspect, "what a model is made of, and what can be tuned")
    command.add_argument("model", help="an ONNX file")
    _add_serving(command)

    command = _add(commands, "convert", _convert, "a model in standard operators, hard or soft")
    command.add_argument("model", help="an ONNX file")
    command.add_argument("-o", "--output", help="default: model.FORM.onnx beside the model")
    command.add_argument("--form", choices=["soft", "hard"], default="soft")
    command.add_argument(
        "--temperature",
        type=_temperature,
        default="auto",
        help="width of a soft gate in units of its feature's spread (default: 0.1)",
    )
    command.add_argument("--data", help=f"{_DATA}, to measure the spreads on")
    command.add_argument("--target", help="a column of the data to leave out")
    _add_serving(command)

    command = _add(commands, "tune", _tune, "fine-tune a model on data")
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
        "--valid", default="0.2", help="a share of the rows (default: 0.2), or a file of rows"
    )
    command.add_argument("--loss", default="auto", help="log, squared, absolute, poisson or auto")
    command.add_argument("--tune-output", metavar="NAME", help="which float output, of several")
    command.add_argument(
        "--routing",
        choices=["auto", "soft", "straight-through", "leaves"],
        default="auto",
        help="how trees pass rows on in training (default: what validates best)",
    )
    command.add_argument(
        "--temperature",
        type=_temperature,
        default="auto",
        help="width of a gate in units of its feature's spread (default: 0.1)",
    )
    command.add_argument(
        "--max-size",
        type=float,
        default=1,
        help="trees of the tuned model, over those of the original (default: 1)",
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
        help="Adam's step in standardised units (default: 0.01 for thresholds, else 0.003)",
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

    command = _add(commands, "verify", _verify, "compare two models on the same rows")
    command.add_argument("original", help="an ONNX file")
    command.add_argument("candidate", help="an ONNX file")
    command.add_argument("--data", help=f"{_DATA}; default: rows sampled from the graph")
    command.add_argument("--target", help="the column to predict, for metrics of both models")
    command.add_argument("--rtol", type=float, default=1e-5)
    command.add_argument("--atol", type=float, default=0.0)
    command.add_argument("--rows", type=int, default=1000, help="rows to sample (default: 1000)")
    command.add_argument("--seed", type=int, default=0)

    command = _add(commands, "bench", _bench, "time models side by side")
    command.add_argument("models", nargs="+", help="ONNX files")
    command.add_argument("--data", help=f"{_DATA}; default: rows sampled from the graph")
    command.add_argument("--target", help="a column of the data to leave out")
    command.add_argument("--providers", nargs="+", default=["cpu"], metavar="PROVIDER")
    command.add_argument("--batch-sizes", nargs="+", type=int, default=[1, 1000, 100_000])
    command.add_argument("--threads", type=int)
    command.add_argument("--output", help="write the figures as JSON")
    command.add_argument("--plot", help="draw rows a second over batch size, as .png, .svg or .pdf")

    command = _add(commands, "demo", _demo, "the whole road on bundled data, in two minutes")
    command.add_argument("--output", default="onnxtune-demo", help="the folder for its files")
    return parser


def _add(commands: Any, name: str, function: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--debug", action="store_true", help="show tracebacks and log messages")
    parser.set_defaults(command=function)
    return parser


def _add_serving(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--trees",
        choices=["auto", "traversal", "level-wise", "gemm"],
        default="auto",
        help="how hard trees are evaluated (default: the fastest by forecast)",
    )
    command.add_argument(
        "--batch-size", type=int, default=1000, help="rows a call, for it (default: 1000)"
    )
    command.add_argument(
        "--provider", choices=["cpu", "cuda"], default="cpu", help="for it (default: cpu)"
    )


def _serving(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "trees": options.trees,
        "batch_size": options.batch_size,
        "provider": options.provider,
    }


def _temperature(text: str) -> float | str:
    try:
        return text if text == "auto" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is neither 'auto' nor a number") from None


def _say(options: argparse.Namespace, text: str, figures: Any) -> None:
    print(output.as_json(figures) if options.json else text)


def _inspect(options: argparse.Namespace) -> int:
    from onnxtune.inspection import inspect

    report = inspect(options.model, **_serving(options))
    _say(options, report.text(), report)
    return 0


def _convert(options: argparse.Namespace) -> int:
    from onnxtune.conversion import convert
    from onnxtune.model import check_output, load, write

    source = load(options.model)
    default = Path(options.model).with_suffix(f".{options.form}.onnx")
    target = check_output(options.output or default, [source.path, options.data])
    data = _features(source, options.data, options.target)
    proto = convert(source, options.form, options.temperature, data, **_serving(options))
    content = proto.SerializeToString()
    write(target, content)
    figures = {
        "model": options.model,
        "output": str(target),
        "form": options.form,
        "nodes": len(proto.graph.node),
        "bytes": len(content),
        "domains": {opset.domain or "ai.onnx": opset.version for opset in proto.opset_import},
    }
    text = f"{target}: {options.form} form, {len(proto.graph.node)} nodes, {len(content):,} bytes"
    _say(options, text, figures)
    return 0


def _tune(options: argparse.Namespace) -> int:
    from onnxtune.model import check_output, load, write
    from onnxtune.tuning import tune

    source = load(options.model)
    valid = _valid(options.valid, options.target)
    read = [source.path, options.data, valid[0] if isinstance(valid, tuple) else None]
    target = check_output(options.output, read)
    if options.history:
        check_output(options.history, read, [target])
    result = tune(
        source,
        options.data,
        options.target,
        valid=valid,
        loss=options.loss,
        output=options.tune_output,
        routing=options.routing,
        temperature=options.temperature,
        max_size=options.max_size,
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        freeze=options.freeze,
        patience=options.patience,
        device=options.device,
        seed=options.seed,
    )
    result.save(target, options.form)
    if options.history:
        write(options.history, output.as_json(result.history).encode() + b"\n")
    report = result.report | {"saved": str(target), "form": options.form}
    _say(options, f"{result.text()}\nSaved as {target} ({options.form} form).", report)
    return 0


def _valid(text: str, target: str) -> float | tuple[str, str]:
    """A share, or a file with the target's column in it."""
    try:
        return float(text)
    except ValueError:
        if not os.path.exists(text):
            raise ArgumentError(
                f"--valid {text}: is neither a share of the rows nor a file that exists."
            ) from None
        return (text, target)


def _verify(options: argparse.Namespace) -> int:
    from onnxtune.verification import verify

    if options.target and not options.data:
        raise ArgumentError("--target needs --data: sampled rows have no target.")
    verdict = verify(
        options.original,
        options.candidate,
        options.data,
        options.target,
        rtol=options.rtol,
        atol=options.atol,
        rows=options.rows,
        seed=options.seed,
    )
    _say(options, verdict.text(), verdict)
    return 0 if verdict.agrees else 1


def _bench(options: argparse.Namespace) -> int:
    from onnxtune.benchmark import bench
    from onnxtune.model import check_output, write

    read = [*options.models, options.data]
    if options.plot:
        check_output(options.plot, read)
        if Path(options.plot).suffix.lower() not in _PLOTS:
            raise ArgumentError(f"{options.plot}: a plot's name ends with {', '.join(_PLOTS)}.")
    if options.output:
        check_output(options.output, read, [options.plot])
    data = _features(options.models[0], options.data, options.target)
    report = bench(
        options.models,
        data,
        options.providers,
        options.batch_sizes,
        threads=options.threads,
    )
    if options.plot:
        report.plot(options.plot)
    if options.output:
        write(options.output, output.as_json(report).encode() + b"\n")
    _say(options, report.text(), report)
    return 0


def _features(model: Any, data: str | None, target: str | None) -> Any:
    """The data without the target's column."""
    from onnxtune.data import load as load_data
    from onnxtune.model import load
    from onnxtune.runtime import input_types

    if target is None:
        return data
    if data is None:
        raise ArgumentError("--target needs --data: sampled rows have no target.")
    return load_data(data, input_types(load(model).proto), target).feed


def _demo(options: argparse.Namespace) -> int:
    from onnxtune.demonstration import demonstrate

    report = demonstrate(options.output, lambda text: print(text, file=sys.stderr, flush=True))
    _say(options, report.text(), report)
    return 0
