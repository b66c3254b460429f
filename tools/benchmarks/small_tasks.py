"""The tasks that benchmarks train many networks on: bundled recipes with values under which each takes seconds.

Baselines have more steps than the budget, so that what comes after them is not just the rest of their training.
"""

from __future__ import annotations

from tools.benchmarks.study import Small

QUICK = {"profile_seconds": 4.0, "measure_seconds": 0.9, "baseline": {"batch": 8}, "finetune": {"batch": 8}}
DIGITS = {**QUICK, "baseline": {"batch": 32}, "finetune": {"batch": 32}}
FINAL_SECONDS = 60.0  # for about 65 networks

SMALL = {
    "paired": Small(
        "paired",
        900,
        300,
        # without its discriminator, which takes 0.28 of 0.40 s a step
        {**QUICK, "model": {"width": 24}, "task": {"adversary_weight": 0.0}},
        FINAL_SECONDS,
        choosing_every=4,
    ),
    "super-resolution": Small(
        "super-resolution",
        900,
        300,
        {**QUICK, "task": {"held_out_patches": 32}},
        FINAL_SECONDS,
        choosing_every=2,
    ),
    "denoising": Small(
        "denoising",
        900,
        300,
        {
            **QUICK,
            "model": {"width": 32, "depth": 8},
            "task": {"size": 40, "held_out_size": 64, "held_out_patches": 48},
        },
        FINAL_SECONDS,
        choosing_every=3,
    ),
    "classification": Small("classification", 250, 200, DIGITS, FINAL_SECONDS, choosing_every=3),
    "mobilenet": Small(
        "classification",
        250,
        200,
        {
            **QUICK,
            "model": {"name": "mobilenetv2-tiny", "width": 16, "classes": 10, "stem_stride": 1},
            "baseline": {"batch": 16},
            "finetune": {"batch": 16},
        },
        FINAL_SECONDS,
        choosing_every=3,
    ),
}
