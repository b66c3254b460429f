"""Measure the networks of a profile bundle on this machine.

Needs Python 3.8, numpy and the runtime that the bundle is for (onnxruntime 1.16 or openvino), nothing else. Start it in
the bundle's folder. Results are appended to results.jsonl there; started again, it goes on after what is finished. Copy
results.jsonl back into the folder that the bundle was written to: tools/profile_target.py --from-bundle reads it there.

Example:
    python run_bundle.py
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from runtimes.bundled.interference import Others, wait_until_quiet
from runtimes.bundled.machine import load_average, read_environment
from runtimes.bundled.memory import give_back
from runtimes.bundled.records import append_record, read_records
from runtimes.bundled.sampling import MEASURING, measure, random_feeds
from runtimes.bundled.sessions import RUNTIMES, Refusal

MANIFEST, RESULTS, SCHEMA = "manifest.json", "results.jsonl", 1
BUSY_LOAD = 0.5  # runnable processes of others for each core this may use, from which on latencies are disturbed
LASTING = ("machine", "cpu_model", "cpu_flags", "cores")  # what tells machines apart


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parent, help="the bundle (default: beside this)")
    parser.add_argument(
        "--watchdog-s", type=float, default=600.0, help="end when one network hangs this long (default: %(default)s)"
    )
    options = parser.parse_args(arguments)
    try:
        run_bundle(options.folder, Watchdog(options.watchdog_s))
    except (Refusal, OSError) as error:
        say("error: " + " ".join(str(error).split()))
        return 2
    except KeyboardInterrupt:
        say("interrupted; start the same command again to go on")
        return 130
    return 0


class Watchdog:
    """End the process when nothing has moved for too long: a runtime that hangs cannot be interrupted otherwise.

    It watches what is done inside its `with`, and nothing after that.

    Args:
        limit_s: How long one network may take to be loaded or run.
    """

    def __init__(self, limit_s: float) -> None:
        self.limit_s, self._at, self._doing = limit_s, time.monotonic(), ""
        self._done = threading.Event()

    def __enter__(self) -> None:
        self.moved("the start")
        threading.Thread(target=self._watch, daemon=True).start()

    def __exit__(self, *error: object) -> None:
        self._done.set()

    def moved(self, doing: str) -> None:
        """Tell that work goes on, and with what."""
        self._at, self._doing = time.monotonic(), doing

    def _watch(self) -> None:
        while time.monotonic() - self._at < self.limit_s:
            if self._done.wait(min(1.0, self.limit_s / 4)):
                return
        say(
            f"error: {self._doing!r} has not moved for {self.limit_s:g} s; what is finished is kept: "
            "start again to try again, or give --watchdog-s more"
        )
        os._exit(2)


class Run:
    """The jobs of a bundle, and what they need.

    Args:
        folder: Of the bundle.
        manifest: What is in it.
        runtime: One of `RUNTIMES`, set up.
        watchdog: Told of every step.
    """

    def __init__(self, folder: Path, manifest: Any, runtime: Any, watchdog: Watchdog) -> None:
        self._folder, self._manifest, self._runtime, self._watchdog = folder, manifest, runtime, watchdog

    def job(self, kind: str, name: str) -> dict[str, Any]:
        """Run one job: a sitting, or the runtime's profiler on one network."""
        give_back()
        at, before = time.monotonic(), load_average()
        found = self._sitting(name) if kind == "sitting" else self._operators(name)
        seconds, finished = round(time.monotonic() - at, 2), time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime())
        about = {"record": kind, "name": name, "seconds": seconds, "finished": finished}
        return dict(about, load=[before, load_average()], **found)

    def _sitting(self, name: str) -> dict[str, Any]:
        """Load networks at the same time and measure them against each other."""
        started, sitting = time.monotonic(), self._manifest["sittings"][name]
        effort, groups, calls = sitting["effort"], list(sitting["turns"].values()), {}
        for model in (model for group in groups for model in group):
            self._watchdog.moved(model)
            calls[model] = self._runtime.open(*self._inputs(model, effort["seed"]))
        left_s = max(MEASURING * effort["budget_s"], effort["budget_s"] - (time.monotonic() - started))
        effort = dict(effort, budget_s=left_s)
        wait_until_quiet(min(effort["patience_s"], self._watchdog.limit_s / 2))
        others = Others()
        samples = measure(calls, groups, effort, self._manifest["clock"], moved=self._watchdog.moved)
        share = others.share()
        return {"samples": {name: dict(taken, others=share) for name, taken in samples.items()}}

    def _operators(self, name: str) -> dict[str, Any]:
        self._watchdog.moved(name)
        path, feeds = self._inputs(name, self._manifest["seed"])
        return {"nodes": self._runtime.operators(path, feeds, **self._manifest["operator_runs"])}

    def _inputs(self, name: str, seed: int) -> tuple[Path, dict[str, Any]]:
        model = self._manifest["models"][name]
        return self._folder / model["file"], random_feeds(model["feeds"], seed)


def run_bundle(folder: Path, watchdog: Watchdog) -> None:
    """Run what is not finished of a bundle.

    Raises:
        Refusal: A file is missing or not what the manifest says, the runtime is not here or refuses a network, or the
            results were begun on another machine or version, or belong to another bundle.
    """
    manifest, bundle = read_manifest(folder)
    models, target, results = manifest["models"], manifest["target"], folder / RESULTS
    for model in models.values():
        _check(folder / model["file"], model["sha256"])
    records = read_records(results)
    if any(record.get("bundle") != bundle for record in records):
        raise Refusal(f"{results} holds results of another bundle; move it away, or copy the whole bundle again")
    runtime = RUNTIMES[target["runtime"]](manifest["session_options"], target)
    expand_weights(folder, manifest["weights"])
    options = runtime.effective_options(folder / next(iter(models.values()))["file"])
    here = dict(read_environment(), options=options)
    for record in records:
        if record["record"] == "environment":
            _check_same(record, here, runtime.version)
    append_record(results, {"record": "environment", "bundle": bundle, "version": runtime.version, "environment": here})
    _report_load(here)
    run = Run(folder, manifest, runtime, watchdog)
    done = {(record["record"], record.get("name")) for record in records}
    with watchdog:
        for place, (kind, name) in enumerate(manifest["jobs"], start=1):
            if (kind, name) not in done:
                say(f"[{place}/{len(manifest['jobs'])}] {_title(kind, name, manifest)}")
                append_record(results, dict(run.job(kind, name), bundle=bundle))
    say(f"done: {results}")


def read_manifest(folder: Path) -> tuple[Any, str]:
    """Read a bundle's manifest.

    Returns:
        The manifest, and its hash.

    Raises:
        Refusal: It is missing, damaged or of another version.
    """
    try:
        data = (folder / MANIFEST).read_bytes()
        manifest = json.loads(data.decode("utf-8"))
    except FileNotFoundError:
        raise Refusal(f"no {MANIFEST} in {folder}; copy the whole bundle, and start the run_bundle.py in it") from None
    except ValueError:
        raise Refusal(f"{folder / MANIFEST} is damaged; copy the whole bundle again") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if schema != SCHEMA:
        raise Refusal(f"{folder / MANIFEST} has schema {schema!r}, this reads {SCHEMA}; write the bundle again")
    return manifest, hashlib.sha256(data).hexdigest()


def expand_weights(folder: Path, weights: Any) -> None:
    """Write the files that the networks take their weights from: one small block of numbers, repeated and scaled.

    Raises:
        Refusal: The block is missing or not what the manifest says, or this machine computes other files from it.
    """
    _check(folder / weights["block"], weights["sha256"])
    block = np.fromfile(str(folder / weights["block"]), dtype="<f4")
    for name, file in weights["files"].items():
        path = folder / name
        if not (path.exists() and _sha256(path) == file["sha256"]):
            path.write_bytes(scaled(block, file["scale"], file["floats"]).tobytes())
            _check(path, file["sha256"])


def scaled(block: np.ndarray[Any, Any], scale: float, floats: int) -> np.ndarray[Any, Any]:
    """Repeat a block of numbers up to a length, times a factor; the same bits on every machine."""
    return np.resize(block * np.float32(scale), floats).astype("<f4", copy=False)


def say(line: str) -> None:
    """Tell whoever waits."""
    sys.stderr.write(line + "\n")
    sys.stderr.flush()


def _title(kind: str, name: str, manifest: Any) -> str:
    if kind == "operators":
        return f"the operators of {name}"
    sitting = manifest["sittings"][name]
    count = sum(len(names) for names in sitting["turns"].values())
    return f"{name}: {count} networks against each other, about {sitting['effort']['budget_s']:.0f} s"


def _report_load(here: Mapping[str, Any]) -> None:
    if here["load"] and here["load"] / len(here["affinity"]) > BUSY_LOAD:
        say(
            f"others are at work here (load {here['load']:.1f} on {len(here['affinity'])} cores), which disturbs "
            "latencies; better stop, and start again when they are done"
        )


def _check_same(record: Mapping[str, Any], here: Mapping[str, Any], version: str) -> None:
    """Refuse to add to results that were begun elsewhere."""
    pairs = {name: (record["environment"][name], here[name]) for name in LASTING}
    pairs["version"] = (record["version"], version)
    wrong = [f"{name} was {then!r:.60}, here it is {now!r:.60}" for name, (then, now) in pairs.items() if then != now]
    if wrong:
        raise Refusal(f"{RESULTS} was begun elsewhere: {'; '.join(wrong)}; go on there, or move {RESULTS} away")


def _check(path: Path, sha256: str) -> None:
    if not path.exists():
        raise Refusal(f"{path} is missing; copy the whole bundle again")
    if _sha256(path) != sha256:
        raise Refusal(f"{path} is not the file that the bundle was written with; copy the whole bundle again")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
