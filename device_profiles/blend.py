"""Predictions from layers in context and from isolated layers, put together.

Both see the same network with different errors: layers in context rest on the wall clock of the runtime's profiler and
on a fit, isolated layers miss what happens between them. How much each counts is decided by the networks that were
profiled in context: the isolated layers know nothing of them, and neither do the fits that were made without them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from device_profiles.predict import sum_isolated_ms
from device_profiles.profile import DeviceProfile

CONFIDENCE = 0.9


def blend(profile: DeviceProfile) -> DeviceProfile:
    """Let isolated layers count in predictions as far as that predicts unseen networks better.

    Args:
        profile: Of a network that was measured in context.

    Returns:
        The profile with `InContext.share`, `isolated_level` and `error` set; as it is where it was measured in one way
        only, or too narrowly.
    """
    measured = profile.in_context
    narrow = any(len(layer.measurements) > 1 for layer in profile.layers)
    if measured is None or not measured.unseen_ms or not narrow:
        return profile
    # The full network, which no other surrounds, does not count.
    total_ms = np.asarray([variant.end_to_end.ms for variant in measured.variants[1:]])
    isolated_ms = np.asarray([sum_isolated_ms(profile, variant.widths) for variant in measured.variants[1:]])
    level = float(np.median(total_ms / isolated_ms))
    seen, alone = np.asarray(measured.unseen_ms[1:]) / total_ms, level * isolated_ms / total_ms
    apart = seen - alone
    # Least squares of share * seen + (1 - share) * alone - 1.
    share = float(np.clip((1 - alone) @ apart / max(apart @ apart, 1e-12), 0, 1))
    errors = np.abs(np.log(np.maximum(share * seen + (1 - share) * alone, 1e-9)))
    error = float(np.quantile(errors, CONFIDENCE))
    return replace(profile, in_context=replace(measured, share=share, isolated_level=level, error=error))
