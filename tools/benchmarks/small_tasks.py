"""The tasks that benchmarks train many networks on: bundled recipes with values under which each takes seconds.

Baselines have more steps than the budget, so that what comes after them is not just the rest of their training, and the
best of three learning rates: with that of its recipe the U-Net ended at an error of 4.93 % in place of 4.09 %, and
what was trained from new weights at a rate of its own, for as long, beat everything that was pruned from it.
"""

from __future__ import annotations

from typing import Any

from tools.benchmarks.study import Small


def _quick(learning_rate: float, batch: int = 8) -> dict[str, Any]:
    """Return how short everything is, and how the baseline is trained."""
    baseline = {"batch": batch, "learning_rate": learning_rate}
    return {"profile_seconds": 4.0, "measure_seconds": 0.9, "baseline": baseline, "finetune": {"batch": batch}}


SMALL = {
    "paired": Small(
        "paired",
        900,
        300,
        # without its discriminator, which takes 0.28 of 0.40 s a step
        {**_quick(0.012), "model": {"width": 24}, "task": {"adversary_weight": 0.0}},
    ),
    "super-resolution": Small(
        "super-resolution",
        900,
        300,
        {**_quick(0.006), "task": {"held_out_patches": 32}},
    ),
    "denoising": Small(
        "denoising",
        900,
        300,
        {
            **_quick(0.012),
            "model": {"width": 32, "depth": 8},
            "task": {"size": 40, "held_out_size": 64, "held_out_patches": 48},
        },
    ),
    "classification": Small("classification", 250, 200, _quick(0.002, batch=32)),
    "mobilenet": Small(
        "classification",
        250,
        200,
        {
            **_quick(0.006, batch=16),
            "model": {"name": "mobilenetv2-tiny", "width": 16, "classes": 10, "stem_stride": 1},
        },
    ),
}
