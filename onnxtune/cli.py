"""The command line: each command calls the public function of its name, and prints.

Results go to stdout, messages and progress to stderr. Exit status: 0 right, 1 a check failed,
2 wrong use or bad input. Nothing heavy is imported before a command runs.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shlex
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from onnxtune import output
from onnxtune.arguments import parsed
from onnxtune.errors import ArgumentError, OnnxTuneError
from onnxtune.tune_options import PASSED

# The exit status where Ctrl-C ended it.
_INTERRUPTED = 130

_PLOTS = (".png", ".svg", ".pdf")
_TABLES = (".csv", ".parquet", ".npz")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    with contextlib.suppress(AttributeError, ValueError):
        sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    given = sys.argv[1:] if arguments is None else list(arguments)
    options = parsed(given)
    options.command = shlex.join(["onnxtune", *given])
    logging.basicConfig(
        level=logging.INFO if options.debug else logging.WARNING,
        format="%(message)s",
        stream=sys.stderr,
    )
    # Two pools of threads that spin for work slow each other down; it must be set before torch.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    command = _COMMANDS[options.name]
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
        return _INTERRUPTED
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


def _serving(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "trees": options.trees,
        "batch_size": options.batch_size,
        "provider": options.provider,
    }


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
    from onnxtune.saved_form import saved_form

    source = load(options.model)
    default = Path(options.model).with_suffix(f".{options.form}.onnx")
    target = check_output(options.output or default, [source.path, options.data])
    data = _features(source, options.data, options.target)
    proto = convert(
        source,
        options.form,
        options.temperature,
        data,
        **_serving(options),
        precision=options.precision,
    )
    content = proto.SerializeToString()
    write(target, content)
    form = saved_form(proto) or options.form
    own = [node for node in proto.graph.node if node.domain not in ("", "ai.onnx")]
    stays = dict(Counter(f"{node.domain}:{node.op_type}" for node in own))
    figures = {
        "model": options.model,
        "output": str(target),
        "form": form,
        "nodes": len(proto.graph.node),
        "bytes": len(content),
        "domains": {opset.domain or "ai.onnx": opset.version for opset in proto.opset_import},
        "stays": stays,
    }
    lines = [f"{target}: {form} form, {len(proto.graph.node)} nodes, {len(content):,} bytes"]
    if stays:
        counts = ", ".join(f"{count} x {name}" for name, count in stays.items())
        lines.append(f"Without standard form, as they were: {counts}.")
    if options.form == "soft" and any("Tree" in node.op_type for node in source.proto.graph.node):
        lines.append(
            "Its answers are near the original's, not equal to them: trees pass rows down both "
            "sides. --form hard keeps the answers."
        )
    _say(options, "\n".join(lines), figures)
    return 0


def _split(options: argparse.Namespace) -> int:
    from onnxtune.model import check_output, load
    from onnxtune.saved_form import saved_form
    from onnxtune.splitting import part_path, split

    source = load(options.model)
    stem = options.output or Path(options.model).with_suffix("")
    read = [source.path, options.data]
    check_output(part_path(stem, "gpu"), read)
    data = _features(source, options.data, options.target)
    cut = split(
        source, options.form, options.temperature, data,
        trees=options.trees, batch_size=options.batch_size, precision=options.precision,
    )  # fmt: skip
    cut.save(stem, read)
    form = saved_form(cut.gpu) or options.form
    _say(options, cut.text(stem), {"model": options.model, "form": form, **cut.facts(stem)})
    return 0


def _tune(options: argparse.Namespace) -> int:
    from onnxtune.export import check_saved
    from onnxtune.model import check_output, load, write
    from onnxtune.tuning import tune

    check_saved(options.form, options.provider)
    source = load(options.model)
    valid = _valid(options.valid, options.target)
    files = [valid[0] if isinstance(valid, tuple) else None, options.test]
    read = [source.path, options.data, *files]
    target = check_output(options.output, read)
    if options.history:
        check_output(options.history, read, [target])
    if options.plot:
        _check_plot(options.plot, read, [target, options.history])
    result = tune(
        source,
        options.data,
        options.target,
        valid=valid,
        test=None if options.test is None else (options.test, options.target),
        output=options.tune_output,
        **{name: getattr(options, name) for name in PASSED},
    )
    result.save(target, options.form, options.provider)
    if options.history:
        write(options.history, output.as_json(result.history).encode() + b"\n")
    if options.plot:
        result.plot(options.plot)
    report = result.report | {"saved": str(target), "form": options.form}
    _say(options, f"{result.text()}\nSaved as {target} ({options.form} form).", report)
    return _INTERRUPTED if result.report["interrupted"] else 0


def _valid(text: str, target: str) -> float | str | tuple[str, str]:
    """A share, "last", a file with the target's column in it, or the name of a column."""
    with contextlib.suppress(ValueError):
        return float(text)
    if text == "last":
        return text
    if os.path.exists(text):
        return (text, target)
    if Path(text).suffix.lower() in _TABLES or os.path.dirname(text):
        raise ArgumentError(
            f"--valid {text}: there is no such file; give a share of the rows, a file that "
            "exists, 'last', or the name of a column."
        )
    return text


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
    from onnxtune.bench_candidates import read_estimator
    from onnxtune.bench_comparison import compare
    from onnxtune.benchmark import bench
    from onnxtune.model import check_output, write

    if options.compare:
        if options.models or options.output or options.plot:
            raise ArgumentError(
                "--compare reads two files of figures and times nothing; leave the models, "
                "--output and --plot out."
            )
        old, new = options.compare
        found = compare(old, new, options.tolerance)
        _say(options, found.text(), found)
        return 1 if found.slower else 0
    if not options.models:
        raise ArgumentError("There is no model to time; give at least one file.")
    read = [*options.models, options.data, options.native]
    if options.plot:
        _check_plot(options.plot, read)
    if options.output:
        check_output(options.output, read, [options.plot])
    data = _features(options.models[0], options.data, options.target)
    report = bench(
        options.models,
        data,
        options.providers,
        options.batch_sizes,
        forms=options.forms,
        transfers=options.transfers,
        native=None if options.native is None else read_estimator(options.native),
        chunk=options.chunk,
        placement=options.placement,
        threads=options.threads,
    )
    report.environment["command"] = options.command
    if options.plot:
        report.plot(options.plot)
    if options.output:
        write(options.output, output.as_json(report).encode() + b"\n")
    _say(options, report.text(), report)
    return 0


def _check_plot(path: str, read: Sequence[Any], written: Sequence[Any] = ()) -> None:
    from onnxtune.model import check_output

    check_output(path, read, written)
    if Path(path).suffix.lower() not in _PLOTS:
        raise ArgumentError(f"{path}: a plot's name ends with {', '.join(_PLOTS)}.")


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


_COMMANDS: dict[str, Callable[[argparse.Namespace], int]] = {
    "inspect": _inspect,
    "convert": _convert,
    "split": _split,
    "tune": _tune,
    "verify": _verify,
    "bench": _bench,
    "demo": _demo,
}
