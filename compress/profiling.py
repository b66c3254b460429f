"""Profile a network in isolation and in context, and check what the profile predicts."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph
from compress.graph.network import Network
from compress.width_variants import LEAST, draw_variants, full_variant
from device_profiles.blend import blend
from device_profiles.errors import BadInput
from device_profiles.profile import DeviceProfile
from device_profiles.store import save_profile
from device_profiles.target import Target
from runtimes.bundle import Bundling, write_bundle
from runtimes.data_dependence import DataDependence, data_dependences
from runtimes.in_context import WidthVariant, measure_in_context, partial_in_context
from runtimes.model_file import ModelSource, read_model
from runtimes.prediction_check import PredictionCheck, check_prediction
from runtimes.profiler import ProfileConfig, profile_model
from runtimes.shapes import input_shapes, with_batch, with_shapes

LEAST_VARIANTS = 8  # four folds of two
NARROW_TOO = 3  # times the multiplications of layers at full width are those at all widths
UNSEEN = 1_000_003  # added to the seed for networks that are drawn to check a profile


@dataclass(frozen=True)
class Profiling:
    """One network on one target.

    Args:
        model: The network, as it would be deployed.
        name: What to call it.
        target: Where it runs.
        config: How long to measure: in isolation, again in context, and again for a check.
        output: Where to write the profile; None not to.
        variants: How many networks of other widths to measure in context, 8 or more.
        least: Their smallest widths as a share of the full ones; predictions below it are extrapolated, and say so.
    """

    model: ModelSource
    name: str
    target: Target
    config: ProfileConfig
    output: Path | None = None
    variants: int = 32
    least: float = LEAST

    def __post_init__(self) -> None:
        if self.variants < LEAST_VARIANTS:
            raise BadInput(f"variants (={self.variants}) must be at least {LEAST_VARIANTS}; 24 to 32 predict well")

    def profile(self, *, in_context: bool, command: str = "") -> DeviceProfile:
        """Measure layers in isolation and, if asked, in context; interrupted, the same call goes on.

        Args:
            in_context: Whether to also measure whole networks of other widths.
            command: What to write into the profile as the way to repeat it.

        Raises:
            BadInput: The model, its shapes or the output's place are wrong, or nothing of it can be pruned.
            RuntimeUnavailable: The target is not here, or its runtime's profiler is not read.
            UnsupportedModel: The network has no layer with weights, or the runtime cannot run it.
        """
        started = time.monotonic()
        found = partial = None
        if in_context:
            partial = partial_in_context(self.output, self.target, self.profiled, self.config.effort)
            found = measure_in_context(self.profiled, self.target, self.config.effort, partial)
        config = self.config
        if in_context and not config.narrow:
            config = replace(config, budget_s=config.budget_s / NARROW_TOO)
        profile = profile_model(
            self.model, self.target, config, model_name=self.name, output=self.output, command=command
        )
        if partial is None:
            return profile
        profile = blend(replace(profile, in_context=found, seconds=round(time.monotonic() - started, 1)))
        if self.output is not None:
            save_profile(profile, self.output)
            partial.remove()
        return profile

    def check(self, profile: DeviceProfile, count: int, seed: int | None = None) -> PredictionCheck:
        """Measure networks of random widths that the profile has not seen.

        Args:
            profile: What `profile` returned.
            count: How many networks, at least 2.
            seed: Of their widths, see `unseen`.

        Raises:
            BadInput: There are too few networks.
            UnsupportedModel: The runtime cannot run one of them.
        """
        return check_prediction(profile, self.profiled, self.unseen(count, seed), self.config.effort)

    def unseen(self, count: int, seed: int | None = None) -> tuple[WidthVariant, ...]:
        """Draw the networks of a check.

        Args:
            count: How many, at least 1.
            seed: Of their widths; None for one that follows from the profile's.

        Raises:
            BadInput: There are too few.
        """
        seed = self.config.seed if seed is None else seed
        return draw_variants(self.graph, count, seed + UNSEEN, self.least)

    def bundle(self, folder: Path, *, in_context: bool, resident_bytes: int | None = None) -> None:
        """Write what a bare device needs to measure the same as `profile`, see `runtimes.bundle`.

        Args:
            folder: Where.
            in_context: Whether to also measure whole networks of other widths.
            resident_bytes: Of weights that the device can hold at a time; None: 1 GiB.

        Raises:
            BadInput: The target cannot be bundled, the model or its shapes are wrong, or nothing of it can be pruned.
            UnsupportedModel: The network has no layer with weights.
        """
        variants = self.profiled if in_context else ()
        write_bundle(folder, Bundling(self.model, self.name, self.target, self.config, variants, resident_bytes))

    @cached_property
    def graph(self) -> ChannelGraph:
        """The channels of the network at the shapes that are profiled."""
        proto = read_model(self.model)
        shapes = with_batch(input_shapes(proto) | dict(self.config.input_shapes), self.target.batch)
        return analyse(Network.from_model(with_shapes(proto, shapes)))

    @cached_property
    def data_dependences(self) -> tuple[DataDependence, ...]:
        """What makes the latency depend on the data."""
        return data_dependences(read_model(self.model))

    @cached_property
    def profiled(self) -> tuple[WidthVariant, ...]:
        """The network at full width, then those that it is measured with in context."""
        return (full_variant(self.graph), *draw_variants(self.graph, self.variants, self.config.seed, self.least))
