"""Trees on a GPU beside the CPU and the peers, in one command on the machine with the card.

    python benchmarks/gpu.py prepare FOLDER [--peers FOLDER] [--quick]
    python benchmarks/gpu.py run FOLDER [--provider cuda|cpu] [--seconds 420]

`prepare` runs where the exporters are: it fits, exports and converts 500 trees of depth 8 on 28
features and three classifiers, and with --peers traces Hummingbird in an environment of its own.
The folder is some 35 MB and goes to the card's machine with the checkout. `run` needs onnxruntime,
onnx, numpy and torch there; matplotlib for the plot; onnx2torch for the tuning, LightGBM and
nvForest for their lines, which are left out with the reason where they are missing. It prints what
holds of what must hold, and writes benchmarks/results/gpu.json and gpu.png after every part, so
that a run that is cut short has its figures; a part whose turn comes after --seconds is left out.
With --provider cpu all is tried without a card, and only --output is written.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from onnxtune import machine, output, runtime
from onnxtune.errors import OnnxTuneError
from onnxtune.model import write

# Before torch is loaded: its waiting threads would slow the CPU's figures down.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

RESULTS = Path(__file__).parent / "results" / "gpu.json"
_PACKAGES = ("onnxtune", "onnxruntime", "torch", "numpy", "onnx", "onnx2torch", "lightgbm",
             "nvforest-cu13")  # fmt: skip


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    steps = parser.add_subparsers(dest="step", required=True)
    step = steps.add_parser("prepare", help="make the models, where the exporters are")
    step.add_argument("folder", type=Path)
    step.add_argument("--peers", type=Path, help="folder to keep Hummingbird's environment in")
    step.add_argument("--quick", action="store_true", help="small models")
    step = steps.add_parser("run", help="measure, where the card is")
    step.add_argument("folder", type=Path)
    step.add_argument("--provider", choices=["cuda", "cpu"], default="cuda")
    step.add_argument("--seconds", type=float, default=420, help="no part begins after these")
    step.add_argument("--rows", type=int, default=1_000_000, help="of the agreement")
    step.add_argument("--batch-sizes", nargs="+", type=int)
    step.add_argument("--only", nargs="+", help="parts")
    step.add_argument("--output", type=Path, help="JSON file; the plot goes beside it")
    return parser.parse_args()


def command() -> str:
    """The command, without the folders of the machine it ran on."""
    words = iter(sys.argv[1:])
    shown = ["python", "benchmarks/gpu.py"]
    for word in words:
        if word in ("--peers", "--output"):
            next(words, None)
            shown += [word, "FILE" if word == "--output" else "FOLDER"]
        else:
            shown.append("FOLDER" if "/" in word else word)
    return " ".join(shown)


class Run:
    """The parts that were run, written after each."""

    def __init__(self, options: argparse.Namespace, to: Path | None) -> None:
        self.options, self.to = options, to
        self.start = time.monotonic()
        self.manifest = json.loads((options.folder / "manifest.json").read_text())
        self.record: dict[str, Any] = {
            "command": command(),
            "date": machine.today(),
            "machine": machine.machine(),
            "versions": machine.versions(_PACKAGES),
            "provider": options.provider,
            "prepared": self.manifest,
            "parts": {},
        }

    def part(self, name: str, work: Callable[[], Any]) -> Any:
        """Run one; its error is its record, and the others go on."""
        from gpu_bench.checks import shown_error

        spent = time.monotonic() - self.start
        if self.options.only and name not in self.options.only:
            return None
        if spent > self.options.seconds:
            found: Any = {"error": f"left out: {spent:.0f} s had gone"}
        else:
            try:
                found = work()
            except Exception as error:  # the card's figures must not be lost to one part
                found = {"error": shown_error(error)}
        took = time.monotonic() - self.start - spent
        self.record["parts"][name] = {"seconds": took, "found": found}
        self.record["checks"] = checks(self.record)
        print(f"{name}: {took:.0f} s", file=sys.stderr, flush=True)
        if self.to is not None:
            write(self.to, output.as_json(self.record).encode() + b"\n")
        return found


def run(options: argparse.Namespace) -> int:
    """Measure."""
    from gpu_bench import checks as must
    from gpu_bench import speed

    whole = options.provider == "cuda" and not options.only
    to = options.output or (RESULTS if whole else None)
    if options.provider == "cuda":
        runtime.session((options.folder / "trees.hard.onnx").read_bytes(), "cuda")  # or its reason
    done = Run(options, to)
    folder, provider, quick = options.folder, options.provider, done.manifest["quick"]
    done.part("placement", lambda: must.placements(folder, provider))
    batch = done.manifest["batch"]
    seconds = 0.5 if quick else 3.0
    done.part("one batch", lambda: speed.at_one_batch(folder, provider, batch, seconds))
    done.part("agreement", lambda: must.agreement(folder, provider, options.rows))
    done.part("small batches", lambda: speed.small_batches(folder, provider, 200))
    count, epochs = (500, 2) if quick else (4000, 5)
    done.part("tuning", lambda: must.tuning(folder, provider, count, epochs))
    done.part("threads", lambda: must.threads(folder, provider, 5 if quick else 60))
    sizes = options.batch_sizes or [1, 100, 10_000, 100_000, 1_000_000]

    def throughput() -> Any:
        report = speed.over_batches(folder, provider, sizes, 0.2 if quick else 1.0, 25_000)
        print(report.text())
        if to is not None:
            report.plot(to.with_suffix(".png"))
        return report

    done.part("throughput", throughput)
    print(text(done.record))
    return 1 if any(check["holds"] is False for check in done.record["checks"]) else 0


def checks(record: dict[str, Any]) -> list[dict[str, Any]]:
    """What must hold, with the figure; None where there is none."""
    found: list[dict[str, Any]] = []
    parts = {
        name: part["found"]
        for name, part in record["parts"].items()
        if isinstance(part["found"], dict) and "error" not in part["found"]
    }

    def add(name: str, value: Any, target: str, holds: bool | None) -> None:
        found.append({"check": name, "value": value, "target": target, "holds": holds})

    for file, where in parts.get("placement", {}).items():
        copies = where["copies"]
        add(f"copies in {file}", copies, "0", copies == 0)
    provider = record["provider"]
    candidates = parts.get("one batch", {}).get("candidates", {})
    hard = candidates.get(f"hard, {provider}", {})
    ratio = hard.get("times_as_fast")
    if candidates:
        on_card = provider == "cuda"  # the CPU only tries everything
        holds = None if ratio is None or not on_card else ratio >= 10
        add("hard form over the CPU's original", ratio, ">= 10", holds)
        for peer, target in (("Hummingbird's torch", ">= 1"), ("nvForest", "stated")):
            found_peers = [
                one["times_as_fast"]
                for name, one in candidates.items()
                if name.startswith(peer) and "without" not in name and one.get("times_as_fast")
            ]
            over = ratio / max(found_peers) if ratio and found_peers else None
            needed = on_card and target == ">= 1" and over is not None
            add(f"hard form over {peer}", over, target, over >= 1 if over and needed else None)
    for name, one in parts.get("agreement", {}).items():
        allowed = one["rows"] // 10_000 if name == "projected" else 0
        add(f"{name}: floats beyond 1e-5", one["floats_beyond"], f"<= {allowed}",
            one["floats_beyond"] <= allowed)  # fmt: skip
        if "labels_wrong" in one:
            add(f"{name}: labels that differ", one["labels_wrong"], f"<= {allowed}",
                one["labels_wrong"] <= allowed)  # fmt: skip
    for name, one in parts.get("tuning", {}).items():
        worst = one["worst"]
        add(f"tune, {name}: losses", worst, "<= 1e-3", worst is not None and worst <= 1e-3)
    several = parts.get("threads")
    if several:
        bad = several["errors"] + several["different"]
        add("threads: errors and other answers", bad, "0", bad == 0 and several["calls"] > 0)
        grown = max(several["grown_bytes"], several["device_grown_bytes"] or 0)
        add("threads: bytes that memory grew by", grown, "<= 64 MiB", grown <= 64 * 2**20)
    return found


def text(record: dict[str, Any]) -> str:
    """What was measured on one batch, and what holds."""
    lines = []
    parts = record["parts"]
    batch = parts.get("one batch", {}).get("found", {})
    if "candidates" in batch:
        body = [
            [
                name,
                one.get("median_s") and output.duration(one["median_s"]),
                one.get("rows_per_s"),
                one.get("times_as_fast"),
                one.get("error", ""),
            ]
            for name, one in batch["candidates"].items()
        ]
        headers = [f"{batch['batch']:,} rows", "median", "rows/s", "times as fast", "note"]
        lines += [output.table(headers, body, "lrrrl"), ""]
    body = [
        [check["check"], check["value"], check["target"],
         {True: "holds", False: "FAILS", None: "-"}[check["holds"]]]
        for check in record["checks"]
    ]  # fmt: skip
    lines.append(output.table(["check", "value", "target", ""], body, "lrll"))
    lines += [
        f"{name}: {part['found']['error']}"
        for name, part in parts.items()
        if isinstance(part["found"], dict) and "error" in part["found"]
    ]
    return "\n".join(lines)


def main() -> int:
    """Prepare or run."""
    options = arguments()
    try:
        if options.step == "run":
            return run(options)
        from gpu_bench.models import prepare

        made = prepare(options.folder, options.quick, options.peers, command())
    except OnnxTuneError as error:
        print(f"gpu.py: {error}", file=sys.stderr)
        return 2
    print(output.as_json({"bytes": made["bytes"], "hummingbird": made["hummingbird"]}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
