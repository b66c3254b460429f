"""How much slower the training loop is than the plainest loop that one would write by hand, on the same steps.

Both train the same network on the same batches, drawn beforehand, in turns of a few steps, so that whatever else the
machine does slows both. The training loop checks its losses, logs, shows its progress and writes checkpoints meanwhile;
judging the network on the way is left out. Drawing the data is timed by itself, as a share of the step. Processor time
is given beside the time that passed: on one thread the former leaves other jobs on the machine out. Prints a table and
writes the numbers, with the machine and its load, beside this file.

Example:
    python tools/benchmarks/loop_throughput.py --turns 20
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from device_profiles.store import write_whole
from tools.command_line import run

if TYPE_CHECKING:
    from collections.abc import Callable

    from compress.tasks.base import Batch, Task
    from compress.train.loop import Training

OUTPUT = Path(__file__).with_suffix(".json")
BATCHES = 4  # as many different ones as both loops go round
DRAWS = 20  # how often drawing a batch is timed
CLOCKS = {"passed": time.perf_counter, "processor": time.process_time}
PICTURES = 1000  # in each of the synthetic CIFAR's files


def main() -> None:
    """Time both loops on every network."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--turns", type=int, default=20, help="of each loop, for each network (default: %(default)s)")
    add("--steps", type=int, default=3, help="of a turn (default: %(default)s)")
    add("--json", action="store_true", help="print JSON instead of a table")
    add("--output", type=Path, default=OUTPUT, help="default: beside this file")
    options = parser.parse_args()

    from runtimes.environment import read_environment

    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(model, task, batch, options) for model, task, batch in _cases(Path(folder))]
    record = {
        "command": shlex.join(["python", "tools/benchmarks/loop_throughput.py", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "machine": asdict(read_environment()),
        "rows": rows,
    }
    write_whole(options.output, json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1) if options.json else _table(rows))


def _cases(folder: Path) -> list[tuple[str, Task, int]]:
    """A U-Net on drawn scenes of 128 x 128 pixels and a ResNet-20 on random pictures in CIFAR's files."""
    import numpy as np

    from compress.tasks.cifar import CIFAR_10, PIXELS
    from compress.tasks.classification import Classification
    from compress.tasks.scene_translation import SceneTranslation

    random = np.random.default_rng(0)
    for name in (*CIFAR_10.train, CIFAR_10.test):
        records = random.integers(0, 256, (PICTURES, 1 + PIXELS), dtype=np.uint8)
        records[:, 0] = np.arange(PICTURES) % CIFAR_10.classes
        records.tofile(folder / name)
    (folder / CIFAR_10.names).write_text("".join(f"class {n}\n" for n in range(CIFAR_10.classes)))
    return [("unet-32", SceneTranslation(64, 8), 8), ("resnet-20", Classification(folder=folder), 64)]


@dataclass
class Turns:
    """Interrupts the training loop after every few steps, for as many of the plain loop's.

    Attributes:
        plain: Does one step of the plain loop.
        steps: Of a turn.
        milliseconds: Of a step, by loop and clock, one number a turn.
        started: What the clocks said when the training loop's turn began.
    """

    plain: Callable[[int], None]
    steps: int
    milliseconds: dict[str, dict[str, list[float]]] = field(
        default_factory=lambda: {loop: {clock: [] for clock in CLOCKS} for loop in ("loop", "plain")}
    )
    started: dict[str, float] | None = None

    def after_step(self, step: int, _rate: float) -> None:
        """Note how long the loop took and let the plain one have its turn."""
        if step % self.steps:
            return
        between = _read_clocks()
        for index in range(self.steps):
            self.plain(step + index)
        after = _read_clocks()
        if self.started is not None:  # the first turn warms both loops up
            for clock in CLOCKS:
                self.milliseconds["loop"][clock].append(1000 * (between[clock] - self.started[clock]) / self.steps)
                self.milliseconds["plain"][clock].append(1000 * (after[clock] - between[clock]) / self.steps)
        self.started = _read_clocks()


def _read_clocks() -> dict[str, float]:
    return {name: clock() for name, clock in CLOCKS.items()}


def _row(model: str, task: Task, batch: int, options: argparse.Namespace) -> dict[str, Any]:
    from compress.models import build
    from compress.train import run as training_run
    from compress.train.loop import Extras, Training, train_
    from compress.train.processes import fabric_precision

    training_run.LOOKS = 0  # a few in a long run, but every second step of this short one
    drawn = [task.batch(step, batch) for step in range(BATCHES)]
    training = Training(steps=options.steps * (options.turns + 1), batch=batch, device="cpu")
    turns = Turns(_plain_step(model, drawn, task, training), options.steps)
    with tempfile.TemporaryDirectory() as folder:
        train_(
            build(model),
            _drawn_before(task, drawn),
            training,
            label=model,
            checkpoint=Path(folder) / f"{model}.safetensors",
            extras=Extras(after_step=turns.after_step),
        )
    found = turns.milliseconds
    ratios = {
        clock: [ours / theirs for ours, theirs in zip(found["loop"][clock], found["plain"][clock], strict=True)]
        for clock in CLOCKS
    }
    draw_ms = statistics.median(_timed_ms(lambda step=step: task.batch(100 + step, batch)) for step in range(DRAWS))
    return {
        "model": model,
        "batch": batch,
        "precision": fabric_precision("auto"),
        "turns": options.turns,
        "steps_a_turn": options.steps,
        "ms": found,
        "median_ratio": {clock: statistics.median(each) for clock, each in ratios.items()},
        "ratio_quartiles": {clock: statistics.quantiles(each, n=4)[::2] for clock, each in ratios.items()},
        "draw_ms": draw_ms,
        "draw_share_of_step_percent": 100 * draw_ms / (draw_ms + statistics.median(found["loop"]["passed"])),
    }


def _plain_step(model: str, drawn: list[Batch], task: Task, training: Training) -> Callable[[int], None]:
    """The loop that a tutorial would have, in the memory layout and precision of ours."""
    import torch

    from compress.models import build
    from compress.train.processes import fabric_precision

    network = build(model).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=training.betas)
    half = fabric_precision("auto") == "bf16-mixed"

    def step(index: int) -> None:
        batch = drawn[index % BATCHES]
        inputs = batch.inputs.contiguous(memory_format=torch.channels_last)
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            outputs = network(inputs)
        loss = task.loss(outputs.float(), batch.targets)
        loss.backward()
        optimizer.step()
        loss.item()

    return step


def _drawn_before(task: Task, drawn: list[Batch]) -> Task:
    """Make a task of batches that are there, judged by as little as there is."""

    class Drawn:
        description, metric = task.description, task.metric
        loss, quality = staticmethod(task.loss), staticmethod(task.quality)

        def batch(self, step: int, _size: int) -> Batch:
            return drawn[step % BATCHES]

        def held_out(self) -> Batch:
            return drawn[0].chunks(1)[0]

    return Drawn()


def _timed_ms(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - start)


def _table(rows: list[dict[str, Any]]) -> str:
    from compress.report.comparison import aligned

    lines = [("network", "batch", "n", "clock", "loop, ms", "plain, ms", "loop / plain (quartiles)", "data, % of step")]
    for row in rows:
        for clock in CLOCKS:
            low, high = row["ratio_quartiles"][clock]
            milliseconds = [f"{statistics.median(row['ms'][loop][clock]):.1f}" for loop in ("loop", "plain")]
            ratio = f"{row['median_ratio'][clock]:.3f} ({low:.3f} to {high:.3f})"
            name = (row["model"], str(row["batch"]), str(row["turns"]), clock)
            lines.append((*name, *milliseconds, ratio, f"{row['draw_share_of_step_percent']:.2f}"))
    return aligned(lines)


if __name__ == "__main__":
    run(main)
