"""The command line of `tune`: every argument of the function, with its name and its default."""

from __future__ import annotations

import argparse
import contextlib
import inspect
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
import pytest
from pipelines import data_of, exported

from onnxtune.cli import main
from onnxtune.settings import Epoch
from onnxtune.tune_options import PASSED, add_tune_options
from onnxtune.tuning import tune

ROOT = Path(__file__).parents[1]

# Argument -> option, where these differ.
OTHERWISE = {"model": "model", "X": "data", "y": "target", "output": "tune_output"}

# Several outputs have a target each, and the command line has one.
PYTHON_ALONE = {"output_weight"}
ARGUMENTS = {
    name: parameter
    for name, parameter in inspect.signature(tune).parameters.items()
    if name not in PYTHON_ALONE
}

# What differs for good: a share is written as text, and may be a file's name.
TEXTS = {"valid": "0.2"}


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="onnxtune tune")
    add_tune_options(made)
    return made


def options(*arguments: str) -> argparse.Namespace:
    return parser().parse_args(["m.onnx", "--data", "d.csv", "--target", "y", "-o", "o.onnx",
                                *arguments])  # fmt: skip


def test_every_argument_is_an_option() -> None:
    offered = vars(options())
    for name in ARGUMENTS:
        assert OTHERWISE.get(name, name) in offered, name
    arguments = set(ARGUMENTS)
    assert set(PASSED) == arguments - set(OTHERWISE) - {"valid", "test"}
    # The rest says what becomes of the result.
    rest = set(offered) - {OTHERWISE.get(name, name) for name in arguments}
    assert rest == {"output", "form", "provider", "history", "plot"}


def test_defaults_are_those_of_the_function() -> None:
    offered = vars(options())
    for name, parameter in ARGUMENTS.items():
        default = parameter.default
        if default is inspect.Parameter.empty:
            continue
        found = offered[OTHERWISE.get(name, name)]
        if name in TEXTS:
            assert found == TEXTS[name] == str(default)
        elif default == ():
            assert not found
        else:
            assert (found, type(found)) == (default, type(default)), name


def test_defaults_of_the_reference() -> None:
    text = (ROOT / "docs" / "reference" / "python.md").read_text()
    body = text.partition("\n## `onnxtune.tune`\n")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) ?\| ", body[body.index("| parameter") :], re.M))
    for name, parameter in inspect.signature(tune).parameters.items():
        if parameter.default is inspect.Parameter.empty:
            assert rows[name] == ""
        else:
            assert rows[name] == f"`{json.dumps(parameter.default)}`".replace(
                "null", "None"
            ).replace("false", "False").replace("[]", "()"), name


def test_help_names_every_option(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parser().parse_args(["--help"])
    text = capsys.readouterr().out
    for name in ARGUMENTS:
        option = OTHERWISE.get(name, name).replace("_", "-")
        assert name == "model" or f"--{option}" in text, name


# How options are written


def test_weights_of_classes() -> None:
    assert options("--class-weight", "balanced").class_weight == "balanced"
    found = options("--class-weight", "yes=2", "a=b=0.5", "no=0").class_weight
    assert found == {"yes": 2.0, "a=b": 0.5, "no": 0.0}


def test_learning_rates() -> None:
    assert options("--lr", "0.01").lr == 0.01
    assert options("--lr", "*=0.1", "Scaler/*=1e-3").lr == {"*": 0.1, "Scaler/*": 1e-3}


def test_threads_and_temperature() -> None:
    assert options("--threads", "3").threads == 3
    assert options("--threads", "auto", "--temperature", "0.5").threads == "auto"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--class-weight", "balanced", "a=1"], "'balanced' stands alone"),
        (["--class-weight", "heavy"], "'heavy' is not 'balanced' or LABEL=WEIGHT"),
        (["--class-weight", "a=heavy"], "'a=heavy' is not 'balanced' or LABEL=WEIGHT"),
        (["--lr", "0.1", "0.2"], "give one number, or GLOB=RATE for each glob"),
        (["--lr", "0.1", "a=0.2"], "give one number, or GLOB=RATE for each glob"),
        (["--lr", "fast"], "'fast' is not a number or GLOB=RATE"),
        (["--threads", "many"], "'many' is neither 'auto' nor a number"),
        (["--augment", "mirror"], "'mirror' is not MODULE:NAME"),
        (["--on-epoch", "no_such_module:it"], "cannot be imported"),
        (["--order", "json:no_such_name"], "cannot be imported"),
        (["--precision", "half"], "invalid choice: 'half'"),
        (["--sampling", "both"], "invalid choice: 'both'"),
    ],
)
def test_what_is_written_wrong_is_named(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        options(*given)
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


# Runs


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (X, y), _, _ = data_of("logistic of three")
    onnx.save(exported("logistic of three"), folder / "it.onnx")
    table = pd.DataFrame(X, columns=[f"c{k}" for k in range(X.shape[1])])
    table.assign(kind=y, weight=1.0 + np.arange(len(X)) % 3).to_csv(folder / "it.csv", index=False)
    return folder


def command(files: Path, output: Path, *more: str) -> list[str]:
    return ["tune", str(files / "it.onnx"), "--data", str(files / "it.csv"), "--target", "kind",
            "-o", str(output), *more]  # fmt: skip


def epochs(epoch: int, numbers: Any, rng: Any) -> Any:
    """An order."""
    return numbers[epoch - 1 :]


def same(feed: dict[str, Any], rng: Any) -> dict[str, Any]:
    """An augmentation."""
    return feed


SEEN: list[Epoch] = []


def see(record: Epoch) -> None:
    SEEN.append(record)


def test_all_knobs_at_once(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import test_tune_options as own

    own.SEEN.clear()
    given = command(
        files, tmp_path / "o.onnx", "--json", "--sample-weight", "weight", "--class-weight", "0=2",
        "--noise", "0.1", "--augment", "test_tune_options:same", "--order",
        "test_tune_options:epochs", "--clip", "1", "--precision", "bfloat16", "--on-epoch",
        "test_tune_options:see", "--checkpoint", str(tmp_path / "kept"), "--threads", "1",
        "--epochs", "2", "--lr", "*=0.01", "--valid", "last", "--seed", "3",
    )  # fmt: skip
    assert main(given) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["threads"] == 1
    assert report["interrupted"] is False
    assert [record.epoch for record in own.SEEN] == [1, 2]
    assert main([*given, "--resume"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["candidates"] == report["candidates"]
    assert len(own.SEEN) == 2
    assert main(given) == 2
    assert "holds a run; resume it" in capsys.readouterr().err


@contextlib.contextmanager
def running(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own."""
    with subprocess.Popen(
        [sys.executable, "-m", "onnxtune", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_an_interrupt_writes_the_best_so_far(files: Path, tmp_path: Path) -> None:
    output, history = tmp_path / "o.onnx", tmp_path / "h.json"
    (tmp_path / "told.py").write_text(
        "def epoch(record):\n    print('epoch', record.epoch, flush=True)\n"
    )
    more = ("--epochs", "1000000", "--patience", "1000000", "--history", str(history), "--lr",
            "0.01", "--valid", "last", "--threads", "1", "--on-epoch", "told:epoch",
            "--sample-weight", "weight")  # fmt: skip
    with running(tmp_path, *command(files, output, *more)) as process:
        assert process.stdout is not None
        told = [process.stdout.readline(), process.stdout.readline()]
        process.send_signal(signal.SIGINT)
        out, complaints = process.communicate(timeout=120)
    assert told == ["epoch 1\n", "epoch 2\n"], complaints
    assert process.returncode == 130, complaints
    assert "once more to stop at once" in complaints
    assert "Traceback" not in complaints
    assert f"Saved as {output}" in out
    onnx.checker.check_model(onnx.load(output))
    assert len(json.loads(history.read_text())) >= 2


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_second_interrupt_writes_nothing(files: Path, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\ndef epoch(record):\n    print('epoch', flush=True)\n    time.sleep(600)\n"
    )
    output = tmp_path / "o.onnx"
    more = ("--valid", "last", "--on-epoch", "slow:epoch", "--sample-weight", "weight")
    with running(tmp_path, *command(files, output, *more)) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaints.endswith("onnxtune: interrupted.\n")
    assert not output.exists()
