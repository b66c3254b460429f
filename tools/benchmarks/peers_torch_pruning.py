"""Torch-Pruning brought to a measured latency: its pruning ratio is the knob.

Everything that is not its own is as for ours: the trained network it starts from, what predicts and measures on the way
to the goal, and what comes after the cut.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from functools import cached_property
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from compress.cut import Rig
from compress.export import deployable, export_module
from compress.graph.channels import Keep
from compress.graph.network import Network
from compress.select import MEASUREMENTS, Steered, steer_to_goal
from compress.validate import measure_latencies
from device_profiles.errors import RuntimeUnavailable, UnsupportedModel
from device_profiles.predict import predict
from device_profiles.target import Target
from runtimes.progress import progress_bar
from tools.benchmarks.peers_arms import TorchPruning

# Arguments of `GroupMagnitudeImportance`, by our name; its own defaults otherwise. "magnitude" looks only at the layer
# that makes the channels, "group-norm" at all that belongs to them (Fang et al., 2023, arXiv 2301.12900), "bn-scale" at
# the scales of their normalisations; channels without one it leaves alone.
IMPORTANCES: dict[str, dict[str, Any]] = {
    "magnitude": {"p": 2, "group_reduction": "first"},
    "bn-scale": {"p": 1, "target_types": [nn.modules.batchnorm._BatchNorm]},
    "group-norm": {"p": 2},
}
RATIOS = 64  # that are tried
LAYERS = (nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


def torch_pruning() -> ModuleType:
    """Import Torch-Pruning.

    Raises:
        RuntimeUnavailable: It is not installed.
    """
    try:
        import torch_pruning as found
    except ImportError as error:
        raise RuntimeUnavailable(
            "Torch-Pruning, which is compared with, is not installed: pip install --no-deps torch-pruning; or leave "
            "its arms out of --arms"
        ) from error
    return found


@dataclass(frozen=True)
class Found:
    """A network of Torch-Pruning's at a latency.

    Attributes:
        module: Not trained since.
        ratio: That it was pruned by.
        speedup: Measured when it was chosen, counted as in `Rig.predicted_speedup`.
    """

    module: nn.Module
    ratio: float
    speedup: float


class Peer:
    """Prunes one network in one of Torch-Pruning's ways, at any ratio.

    Args:
        way: Which.
        module: The trained network.
        example: Its input.
        untouchable: Layers whose outputs stay, beside the last layer's.
    """

    def __init__(
        self, way: TorchPruning, module: nn.Module, example: torch.Tensor, untouchable: tuple[str, ...]
    ) -> None:
        self.way, self.module, self.example = way, module, example
        last = [name for name, part in module.named_modules() if isinstance(part, LAYERS)][-1]
        self.untouched = (last, *untouchable)

    @cached_property
    def pruned(self) -> dict[float, nn.Module]:
        """The network pruned by every ratio that Torch-Pruning can, the lowest first.

        Raises:
            UnsupportedModel: It fails at all of them, or what it makes does not run.
        """
        found, reason = {}, ""
        for ratio in progress_bar([step / RATIOS for step in range(RATIOS)], "Torch-Pruning", "ratios"):
            try:
                found[ratio] = self._prune(ratio)
            except Exception as error:  # noqa: BLE001 - a peer fails in many ways, and each is a result here
                reason = f"at ratio {ratio:.3f}: {type(error).__name__}: {str(error)[:200]}"
        if not any(found):  # the network as it is does not count
            raise UnsupportedModel(f"Torch-Pruning fails {reason}")
        return found

    def steered_to(self, goal: float, rig: Rig) -> Found:
        """Turn the ratio until the measured speedup is the goal.

        A higher ratio may remove less, since a layer that would be emptied is left whole: only ratios that are
        predicted to be faster than all lower ones are tried.

        Raises:
            BudgetInfeasible: All are too slow.
            UnsupportedModel: See `pruned`.
        """
        whole = deployable(rig.graph.network)
        ladder: dict[float, Keep] = {}
        fastest = 0.0
        for ratio, module in self.pruned.items():
            keep = widths(module)
            if (predicted := _predicted_speedup(keep, rig)) > fastest:
                fastest, ladder[ratio] = predicted, keep
        ratios = list(ladder)
        by_widths = {_key(keep): ratio for ratio, keep in ladder.items()}
        with progress_bar(MEASUREMENTS, "Torch-Pruning", "cuts measured") as bar:

            def measure(keep: Keep) -> float:
                bar.update()
                pruned = deployable(export_module(self.pruned[by_widths[_key(keep)]], self.example))
                return min(_speedup(whole, pruned, target, rig.seconds) for target in rig.profiles) / goal

            steered: Steered = steer_to_goal(
                lambda setting: ladder[ratios[round(setting * (len(ratios) - 1))]],
                lambda keep: _predicted_speedup(keep, rig) / goal,
                measure,
            )
        ratio = by_widths[_key(steered.keep)]
        return Found(self.pruned[ratio], ratio, steered.speedup * goal)

    def _prune(self, ratio: float) -> nn.Module:
        library, way, module = torch_pruning(), self.way, copy.deepcopy(self.module)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            library.pruner.BasePruner(
                module,
                self.example,
                library.importance.GroupMagnitudeImportance(**IMPORTANCES[way.importance]),
                global_pruning=way.everywhere,
                pruning_ratio=ratio,
                ignored_layers=[module.get_submodule(name) for name in self.untouched],
                round_to=way.round_to,
                in_channel_groups={},  # its defaults are written to, and shared by all pruners
                out_channel_groups={},
            ).step()
        with torch.inference_mode():
            made, wanted = module.eval()(self.example).shape, self.module(self.example).shape
        if made != wanted:
            raise ValueError(f"its output has shape {tuple(made)} in place of {tuple(wanted)}")
        return module


def widths(module: nn.Module) -> Keep:
    """Return the channels in and out of every layer."""
    found = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Linear):
            found[name] = np.array([part.in_features, part.out_features])
        elif isinstance(part, LAYERS):
            found[name] = np.array([part.in_channels, part.out_channels])
    return found


def _predicted_speedup(keep: Keep, rig: Rig) -> float:
    pairs = {name: (int(pair[0]), int(pair[1])) for name, pair in keep.items()}
    return min(predict(profile, {}).ms / predict(profile, pairs).ms for profile in rig.profiles.values())


def _speedup(whole: Network, pruned: Network, target: Target, seconds: float) -> float:
    measured = measure_latencies({"whole": whole, "pruned": pruned}, target, seconds, 1.0)
    return measured["whole"].ms / measured["pruned"].ms


def _key(keep: Keep) -> bytes:
    return np.concatenate(list(keep.values())).tobytes()
