"""What is left of a profiled network, without some of its channels and layers, would take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property, partial

import numpy as np

from compress.graph.channels import ChannelGraph
from device_profiles.errors import BadInput
from device_profiles.predict import predict, predict_layer
from device_profiles.profile import DeviceProfile
from device_profiles.terms import Widths


@dataclass(frozen=True)
class Predictor:
    """Predicts a network on one target. What a layer takes at some widths is worked out once: a selection asks often.

    Args:
        profile: Of the whole network.
        whole: Its channel graph.
    """

    profile: DeviceProfile
    whole: ChannelGraph

    def rest_ms(self, rest: ChannelGraph, widths: Mapping[str, int]) -> float:
        """Predict the latency of what is left, ms.

        Args:
            rest: The channel graph of the network with the layers that are left.
            widths: Set of `rest` -> width; sets that are not named keep all their channels.

        Raises:
            BadInput: A set is unknown, a width is out of range, or a layer is not in the whole network or its profile.
        """
        left, part_ms = rest.layer_widths(widths), self.part_ms
        if unknown := sorted(left.keys() - self._full.keys()):
            raise BadInput(
                f"layers (={unknown}) are not in the network that was profiled, which has {sorted(self._full)}"
            )
        ms = self._whole_ms
        for name, full in self._full.items():
            if (pair := left.get(name)) != full:
                ms += (part_ms(name, pair) if pair else 0.0) - part_ms(name, full)
        return ms

    @cached_property
    def part_ms(self) -> Callable[[str, Widths], float]:
        """What a layer with some widths in and out takes of the latency, see `layer_ms`."""
        return cache(partial(layer_ms, self.profile))

    @cached_property
    def _whole_ms(self) -> float:
        return predict(self.profile, self._full).ms

    @cached_property
    def _full(self) -> dict[str, Widths]:
        return self.whole.layer_widths({})


def layer_ms(profile: DeviceProfile, name: str, widths: Widths) -> float:
    """Predict what one layer takes of a network's latency, ms, of some width in and out."""
    return predict_layer(profile, name, np.asarray(widths[:1]), np.asarray(widths[1:])).item()
