"""What a network of other widths would take on a profiled target."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from device_profiles.errors import BadInput
from device_profiles.in_context import InContext
from device_profiles.profile import DeviceProfile, LayerProfile
from device_profiles.terms import Widths, evaluate

# 72 UNets of random widths (three sizes, 1.4 to 5.4 times faster than at full width, two runtimes) were predicted twice
# on a shared machine. Mean error, nine of ten within, largest: 2.7, 5.3 and 8.6 % the first time; 4.1, 8.3 and 14.3 %
# the second time, when other jobs took both cores and networks of 30 ms had few rounds.
ERROR = 0.07  # from isolated layers
# In context: what one session differs from the next by, on top of what the fit's own cross-validation finds.
SESSION_ERROR = 0.02


@dataclass(frozen=True)
class Prediction:
    """A latency that nobody has measured.

    Attributes:
        ms: The most likely one.
        low_ms: Lower end of the interval that held about nine of ten measured networks, see `ERROR` and
            `SESSION_ERROR`.
        high_ms: Upper end of that interval.
        outside: Layers with a width beyond the measured ones, which count with the nearest of those.
    """

    ms: float
    low_ms: float
    high_ms: float
    outside: tuple[str, ...]


def predict(profile: DeviceProfile, widths: Mapping[str, Widths]) -> Prediction:
    """Predict the latency of the profiled network with other widths, from the network in context where it was measured.

    In context, each layer takes what was fitted to its part of whole networks of uneven widths, and the parts add up;
    where layers were measured in isolation as well, they count as far as that predicted unseen networks better, see
    `device_profiles.blend`.

    Otherwise the isolated latencies of the layers are interpolated between the measured widths, from the upper end of
    one step of the runtime to the next, and added up. Such a sum leaves out what runs between the layers (activations,
    concatenations), which the runtime also converts between layouts there, so it is scaled by what the whole network
    took over the sum at full width. That factor need not hold at other widths: measure what you decide on.

    Args:
        profile: Of the network at full width.
        widths: Layer -> channels in and out; a layer that is not named keeps its full width.

    Raises:
        BadInput: A layer is not in the profile, or a width is below 1.
    """
    known = {layer.name: layer for layer in profile.layers}
    if unknown := sorted(widths.keys() - known.keys()):
        raise BadInput(
            f"layers (={unknown}) are not in the profile of {profile.model_name!r}, which has {sorted(known)}"
        )
    asked = {name: widths.get(name, (layer.in_channels, layer.out_channels)) for name, layer in known.items()}
    for name, pair in asked.items():
        if min(pair) < 1:
            raise BadInput(f"widths of {name!r} (={pair}) must be at least 1; a layer without channels is no layer")
    if profile.in_context is not None:
        return _predict_in_context(profile, profile.in_context, asked)
    return _predict_isolated(profile, asked)


def predict_layer(
    profile: DeviceProfile, name: str, widths_in: NDArray[np.int64], widths_out: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Predict a layer's part of the network's latency at all pairs of many widths: what `predict` adds up.

    Args:
        profile: Of the network at full width.
        name: The layer's.
        widths_in: Channels in, each at least 1.
        widths_out: Channels out, each at least 1.

    Returns:
        Milliseconds, shape (widths in, widths out).

    Raises:
        BadInput: The layer is not in the profile.
    """
    layer = next((layer for layer in profile.layers if layer.name == name), None)
    if layer is None:
        raise BadInput(
            f"layer {name!r} is not in the profile of {profile.model_name!r}, which has "
            f"{sorted(layer.name for layer in profile.layers)}; profile the network that is pruned"
        )
    measured = profile.in_context
    if measured is None:
        return _isolated_ms(profile, layer, widths_in, widths_out) * profile.end_to_end.ms / profile.isolated_sum_ms
    terms = measured.costs.get(name, {})
    pairs = np.stack(np.meshgrid(widths_in, widths_out, indexing="ij"), axis=-1).reshape(-1, 2)
    ms = evaluate(tuple(terms), pairs, measured.full[name]) @ np.asarray(tuple(terms.values()), np.float64)
    ms = measured.share * np.asarray(ms.reshape(len(widths_in), len(widths_out)))
    if measured.share < 1:
        factor = (1 - measured.share) * measured.isolated_level
        ms += factor * _isolated_ms(profile, layer, widths_in, widths_out)
    return ms


def sum_isolated_ms(profile: DeviceProfile, widths: Mapping[str, Widths]) -> float:
    """Add up isolated layers at any widths, which the level of the network is missing from.

    Args:
        profile: Of the network at full width.
        widths: Layer -> channels in and out, of every layer.
    """
    return sum(_isolated_at_ms(profile, layer, widths[layer.name]) for layer in profile.layers)


def _predict_in_context(profile: DeviceProfile, measured: InContext, widths: Mapping[str, Widths]) -> Prediction:
    ms = measured.share * sum(measured.layer_ms(name, pair) for name, pair in widths.items())
    if measured.share < 1:
        ms += (1 - measured.share) * measured.isolated_level * sum_isolated_ms(profile, widths)
    factor = math.exp(math.hypot(measured.error, SESSION_ERROR))
    outside = [name for name, pair in widths.items() if not _between(pair, measured.bounds[name])]
    return Prediction(ms, ms / factor, ms * factor, tuple(outside))


def _predict_isolated(profile: DeviceProfile, widths: Mapping[str, Widths]) -> Prediction:
    outside = []
    for layer in profile.layers:
        measured = list(zip(*layer.measurements, strict=True))
        if not _between(widths[layer.name], (tuple(map(min, measured)), tuple(map(max, measured)))):
            outside.append(layer.name)
    ms = sum_isolated_ms(profile, widths) * profile.end_to_end.ms / profile.isolated_sum_ms
    return Prediction(ms, ms * (1 - ERROR), ms * (1 + ERROR), tuple(outside))


def _isolated_at_ms(profile: DeviceProfile, layer: LayerProfile, widths: Widths) -> float:
    width_in, width_out = (np.asarray([width]) for width in widths)
    return float(_isolated_ms(profile, layer, width_in, width_out)[0, 0])


def _isolated_ms(
    profile: DeviceProfile, layer: LayerProfile, widths_in: NDArray[np.int64], widths_out: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Interpolate between the upper ends of the runtime's steps; shape (widths in, widths out)."""
    steps = (profile.step(layer.op, "in"), profile.step(layer.op, "out"))
    return _interpolate_ms(layer, _up(widths_in, steps[0]), _up(widths_out, steps[1]))


def _between(widths: Widths, bounds: tuple[tuple[int, ...], tuple[int, ...]]) -> bool:
    """Whether a layer was measured on both sides of the widths; one that was measured once only has no sides."""
    return all(low <= width <= high for low, width, high in zip(bounds[0], widths, bounds[1], strict=True))


def _up(widths: NDArray[np.int64], step: int) -> NDArray[np.int64]:
    """The upper ends of the steps that widths lie on; below the first step, where runtimes do otherwise, the widths."""
    return np.where(widths > step, -(-widths // step) * step, widths)


def _interpolate_ms(
    layer: LayerProfile, widths_in: NDArray[np.int64], widths_out: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Interpolate between the measured widths: on straight lines in each width; beyond them, at the nearest."""
    known_in = sorted({width_in for width_in, _ in layer.measurements})
    known_out = sorted({width_out for _, width_out in layer.measurements})
    from_in = _weights(widths_in, known_in)
    if len(layer.measurements) < len(known_in) * len(known_out):  # a depthwise convolution has one width, not two
        by_width = {width_in: measurement.ms for (width_in, _), measurement in layer.measurements.items()}
        return np.repeat((from_in @ [by_width[width] for width in known_in])[:, None], len(widths_out), axis=1)
    grid = np.asarray(
        [[layer.measurements[width_in, width_out].ms for width_out in known_out] for width_in in known_in]
    )
    return np.asarray(from_in @ grid @ _weights(widths_out, known_out).T)


def _weights(widths: NDArray[np.int64], known: Sequence[int]) -> NDArray[np.float64]:
    """How much each known width counts in the straight line between the two that a width lies between."""
    return np.stack([np.interp(widths, known, one) for one in np.eye(len(known))], axis=1)
