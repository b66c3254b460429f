"""Figures of training: the held-out metric and the loss of every phase over its steps."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from markupsafe import Markup

from compress.report import wording
from compress.report.latency_figures import style
from compress.report.results import Metric, Phase
from compress.report.svg import Canvas, Scale, span

LINEAR_RANGE = 2.5  # a metric that changes by more than this factor is drawn on a log scale: its end is what matters
LONGEST_LINE = 300  # points: more cannot be told apart on 400 pixels


def held_out_curves(history: Sequence[Phase], metric: Metric) -> Markup | None:
    """Draw the held-out metric over the steps of each phase; the baseline's end is a dashed line."""
    judged = [phase for phase in history if phase.quality]
    if not judged:
        return None
    canvas = Canvas(440, 280)
    x = Scale(0, max(max(phase.quality_steps) for phase in judged) or 1, 40, 432)
    values = [value for phase in judged for value in phase.quality]
    if wide := min(values) > 0 and max(values) > LINEAR_RANGE * min(values):
        y = Scale(min(values) * 0.95, max(values) * 1.05, 236, 28, log=True)
    else:
        y = Scale(*span(values), 236, 28)
    canvas.y_axis(
        y,
        40,
        f"held-out {wording.with_unit(metric)}, {wording.better(metric)}{', log scale' if wide else ''}",
        grid_to=432,
        count=5,
    )
    canvas.x_axis(x, 236, "step of the phase", count=5)
    for phase in judged:
        if phase.key == "baseline":
            canvas.line((40, y(phase.quality[-1])), (432, y(phase.quality[-1])), "reference")
        points = [(x(step), y(value)) for step, value in zip(phase.quality_steps, phase.quality, strict=True)]
        canvas.path(points, f"line s-{style(phase.key)}")
        for point, step, value in zip(points, phase.quality_steps, phase.quality, strict=True):
            tip = f"{phase.label}, step {step}: {wording.significant(value, 3)}"
            canvas.dot(point, 2.4, f"mark f-{style(phase.key)}", tip)
    return canvas.svg(f"Held-out {metric.name} during training")


def loss_curves(history: Sequence[Phase]) -> Markup | None:
    """Draw the training loss of each phase, smoothed; losses of different phases have different terms."""
    trained = [phase for phase in history if phase.loss]
    positive = [value for phase in trained for value in phase.loss if value > 0]
    if not positive:
        return None
    canvas = Canvas(440, 280)
    x = Scale(0, max(max(phase.steps) for phase in trained) or 1, 40, 432)
    y = Scale(min(positive) * 0.9, max(positive) * 1.1, 236, 28, log=True)
    canvas.y_axis(y, 40, "training loss (log scale; its terms differ by phase)", grid_to=432, count=5)
    canvas.x_axis(x, 236, "step of the phase", count=5)
    for phase in trained:
        steps, loss = smoothed(phase.steps, phase.loss)
        points = [(x(step), y(value)) for step, value in zip(steps, loss, strict=True)]
        canvas.path(points, f"line s-{style(phase.key)}")
    return canvas.svg("Training loss")


def smoothed(steps: Sequence[int], values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Average over windows of 2 % of the run and keep at most `LONGEST_LINE` points.

    Returns:
        The steps and the values that are left.
    """
    window = max(1, len(values) // 50)
    kernel = np.ones(window) / window
    smooth = np.convolve(values, kernel, mode="valid")
    centre = np.convolve(steps, kernel, mode="valid")
    stride = -(-smooth.size // LONGEST_LINE)
    return centre[::stride].tolist(), smooth[::stride].tolist()
