"""Squeeze-and-excitation read as pruning: channels that no sample opens can go, those that some classes open must stay.

J. Hu, L. Shen, G. Sun, "Squeeze-and-Excitation Networks", CVPR 2018, arXiv 1709.01507, whose plots of gates by class
suggest it. This is an analysis with a score, not a promise:

* Without a penalty on the gates no channel of a trained network is always shut, and cutting the least open 40 % of a
  network for digits is hardly better than a random cut (20 to 36 % accuracy against 10 to 33, three seeds; with the
  weight 0.1, 34 to 48 against 10 to 34). With the weight 1 it is (86 to 94 % against 10 to 25), after the penalty alone
  has cost 0 to 1 points and absorbing the gates 2 to 3. That is no promise for another network.
* A gate alone says nothing of the scale of what it gates, so the score is gate times activation; `keep` names the
  channels that any sample opens.
* A channel that is shut still reaches the block's other gates through the squeeze. Its mean part is absorbed into the
  squeeze's bias; what varies from sample to sample is lost.
* Where a sum bypasses the block (the trunk of an SE-ResNet) shut gates remove nothing, and folded norms rank channels.
* Inserted gates are absorbed by their mean. That is exact only where they do not depend on the sample.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as validated
from torch import Tensor, fx, nn
from torch.nn import functional

from compress.graph.channels import ChannelGraph, Keep, Layer
from compress.methods.base import Context
from compress.operators import WEIGHTED, Operators, kind
from compress.report.gates import GatedBlock
from compress.scores import Scores, by_output, producers, set_norms, transposed_groups
from compress.select import Selection
from compress.surgery import named_tensors
from compress.tasks.base import Batch
from compress.train.loop import Extras
from device_profiles.errors import UnsupportedModel

ACTIVATIONS = {"sigmoid": torch.sigmoid, "hardsigmoid": functional.hardsigmoid}
RESHAPES = {"view", "reshape", "_unsafe_view", "unsqueeze", "expand", "flatten", "squeeze", "clone"}
SQUEEZES = {"mean", "adaptive_avg_pool2d", "avg_pool2d"}
LEAST_HIDDEN = 4
OPEN_BIAS = 3.0  # gates of 0.95: a trained network goes on nearly as it was
QUARTERS = ("lowest quarter", "second quarter", "third quarter", "highest quarter")


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class SqueezeExcitation:
    """Settings.

    Args:
        insert: Whether to gate the layers of sets without gates while the method trains.
        reduction: r, of inserted blocks; 16 in the paper.
        gate_penalty: Weight of the mean gate in the loss, 1 by the measurement above; 0 analyses the gates as they are.
        shut_below: A gate below it counts as shut.
        samples: How many training samples are looked at, rounded down to whole batches.
        batch: Samples at once.
    """

    title: ClassVar[str] = "SE as pruning"
    source: ClassVar[str] = "Hu et al., CVPR 2018, arXiv 1709.01507"
    score: ClassVar[str] = "gate times activation"
    trains: ClassVar[bool] = True
    selection: ClassVar[Selection] = "threshold"

    insert: bool = True
    reduction: int = Field(16, gt=0)
    gate_penalty: float = Field(1.0, ge=0)
    shut_below: float = Field(0.05, gt=0, lt=1)
    samples: int = Field(512, gt=0)
    batch: int = Field(64, gt=0)

    def prepare(self, context: Context) -> GateAnalysis:
        """Find the gates, and insert them where there are none.

        Raises:
            UnsupportedModel: There is no gate and none can be inserted.
        """
        return GateAnalysis(self, context)


class SqueezeExcite(nn.Module):
    """GAP, FC C/r, ReLU, FC C, sigmoid: one gate per channel and sample."""

    def __init__(self, channels: int, reduction: int) -> None:
        super().__init__()
        hidden = max(LEAST_HIDDEN, channels // reduction)
        self.squeeze = nn.Linear(channels, hidden)
        self.excite = nn.Linear(hidden, channels)
        nn.init.constant_(self.excite.bias, OPEN_BIAS)

    def forward(self, feature: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 1 1"]:
        """Return the gates."""
        hidden = functional.relu(self.squeeze(feature.mean((2, 3))))
        return torch.sigmoid(self.excite(hidden))[:, :, None, None]


@dataclass(frozen=True)
class Gate:
    """One block, as it is in the network.

    Attributes:
        excite: Name of the module that makes the gates.
        squeeze: Name of the module that reads the means.
        activation: "sigmoid" or "hardsigmoid".
        gates: Name of the value that holds them.
        squeezed: Name of the value that the squeeze reads.
        gated: Name of the value that they made of the feature map.
        set: Channel set that they gate.
    """

    excite: str
    squeeze: str
    activation: str
    gates: str
    squeezed: str
    gated: str
    set: str


class GateAnalysis:
    """The penalty in training, then what the gates say.

    Attributes:
        gates: The blocks that were found or inserted.
        gated_blocks: After `finish_`, the statistics of each, for the report.
    """

    def __init__(self, settings: SqueezeExcitation, context: Context) -> None:
        self.settings, self.context = settings, context
        self.gated_blocks: list[GatedBlock] = []
        self._inserted: dict[str, Layer] = {}
        size = min(settings.batch, settings.samples)
        self._batches = [context.task.batch(-1 - index, size) for index in range(settings.samples // size)]
        sets = {layer.name: layer.out_set for layer in context.graph.layers}
        operators = Operators(context.module, self._batches[0].inputs)
        gated = {gate.set for gate in find_gates(operators, sets)}
        if settings.insert:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(context.seed)
                self._inserted = insert_gates_(context.module, context.graph, gated, settings.reduction)
            operators = Operators(context.module, self._batches[0].inputs)
        sets |= {f"{name}.gate.excite": layer.out_set for name, layer in self._inserted.items()}
        self._operators, self.gates = operators, find_gates(operators, sets)
        if not self.gates:
            raise UnsupportedModel(
                f"{type(context.module).__name__} has no squeeze-and-excitation block that gates prunable channels and "
                f"got none (insert = {settings.insert}); set insert, or choose another method"
            )
        self._latest: dict[str, Tensor] = {}
        modules = dict(context.module.named_modules())
        self._hooks = [modules[gate.excite].register_forward_hook(self._reader(gate)) for gate in self.gates]

    def extras(self) -> Extras:
        """Add the mean gate to the loss; inserted gates are parts of the network and train with it."""
        return Extras(penalty=self.penalty if self.settings.gate_penalty else None)

    def penalty(self, *_: object) -> Float[Tensor, ""]:
        """Return the mean gate of the last forward pass, over blocks, times its weight."""
        gates = [self._latest.pop(gate.excite).mean() for gate in self.gates]
        return self.settings.gate_penalty * torch.stack(gates).mean()

    def finish_(self) -> None:
        """Gather the statistics, then absorb inserted gates and what channels that are shut tell the squeeze."""
        for hook in self._hooks:
            hook.remove()
        self.context.module.eval()
        kinds, kind_of = kinds_of_samples(self._batches)
        seen = self._seen()
        for gate in self.gates:
            gates, activity = seen[gate.gates], seen[gate.gated]
            place = gate.excite.removesuffix(".gate.excite")
            self.gated_blocks.append(
                GatedBlock(
                    name=gate.excite,
                    kinds=kinds,
                    means=_means(gates, kind_of, len(kinds)),
                    largest=gates.amax(0).numpy(),
                    activity=_means(activity, kind_of, len(kinds)),
                    shut_below=self.settings.shut_below,
                    samples=len(gates),
                    inserted=place in self._inserted,
                )
            )
            if place in self._inserted:
                absorb_gate_(self.context.module, place, gates.mean(0))
            else:
                dead = torch.from_numpy(self.gated_blocks[-1].dead)
                absorb_shut_(self.context.module.get_submodule(gate.squeeze), seen[gate.squeezed].mean(0), dead)

    def scores(self) -> Scores:
        """Return gate times activation, of the kind of sample that uses the channel most, over its mean.

        A set that several blocks gate has the largest of theirs. A set that is not gated, or that something ungated
        makes too, has its folded norms.
        """
        graph = self.context.graph
        made_by = producers(graph, self.context.module)
        found = {
            name: np.asarray(values, np.float64) for name, values in set_norms(made_by, self.context.module).items()
        }
        for name, blocks in self._governed().items():
            used = [block.activity.max(0) for block in blocks]
            found[name] = np.max([one / max(one.mean(), np.finfo(one.dtype).tiny) for one in used], axis=0)
        return found

    def keep(self) -> Keep | None:
        """Return the channels that some sample opens, of the sets that have others; None if there are none to drop."""
        chosen = {}
        for name, blocks in self._governed().items():
            alive = ~np.logical_and.reduce([block.dead for block in blocks])
            if alive.any() and not alive.all():
                chosen[name] = np.flatnonzero(alive)
        return chosen or None

    def _governed(self) -> dict[str, list[GatedBlock]]:
        """Return the blocks of each set that nothing ungated makes."""
        graph = self.context.graph
        prunable = {one.name for one in graph.prunable}
        excites = {gate.excite for gate in self.gates}
        blocks: dict[str, list[GatedBlock]] = {}
        for gate, block in zip(self.gates, self.gated_blocks, strict=True):
            if gate.set in prunable:
                blocks.setdefault(gate.set, []).append(block)
        return {name: found for name, found in blocks.items() if len(_makers(graph, name, excites)) == len(found)}

    def _seen(self) -> dict[str, Float[Tensor, "samples channels"]]:
        """Run the samples; return gates, squeezed means and mean magnitudes of what was gated, by value."""
        operators, tensors = self._operators, named_tensors(self.context.module)
        span = (0, len(operators.nodes))
        wanted = [name for gate in self.gates for name in (gate.gates, gate.squeezed, gate.gated)]
        found: dict[str, list[Tensor]] = {name: [] for name in wanted}
        with torch.no_grad():
            for batch in self._batches:
                values = operators.run({operators.input: batch.inputs}, span, tensors, wanted)
                for name, parts in found.items():
                    value = values[name]
                    parts.append(value.abs().mean((2, 3)) if value.ndim == 4 else value)
        return {name: torch.cat(parts) for name, parts in found.items()}

    def _reader(self, gate: Gate) -> Callable[[nn.Module, object, Tensor], None]:
        def read(layer: nn.Module, _: object, output: Tensor) -> None:
            if layer.training:
                self._latest[gate.excite] = ACTIVATIONS[gate.activation](output.float())

        return read


def find_gates(operators: Operators, sets: Mapping[str, str | None]) -> list[Gate]:
    """Find squeeze-and-excitation blocks by what they compute.

    A block is a sigmoid or hard sigmoid over one number per channel, made from a mean over positions by two weighted
    layers and multiplied onto a feature map. Hard sigmoids that are written out as arithmetic are not seen.

    Args:
        operators: Of the network.
        sets: Layer -> the channel set of its outputs; blocks whose exciting layer has none are left out.
    """
    layers = {position: name for name, position in operators.layers().items()}
    found = []
    for node in operators.nodes:
        if kind(node) not in ACTIVATIONS:
            continue
        chain = _chain_to_mean(node)
        product = _product(node)
        if chain is None or product is None:
            continue
        excite, squeeze = (layers.get(operators.positions[one.name], "").removesuffix(".weight") for one in chain)
        if sets.get(excite) is not None:
            found.append(
                Gate(excite, squeeze, kind(node), node.name, chain[1].args[0].name, product.name, sets[excite])
            )
    return found


def insert_gates_(module: nn.Module, graph: ChannelGraph, gated: set[str], reduction: int) -> dict[str, Layer]:
    """Gate the layers that alone make a prunable set, after their normalisation, in place.

    The network's own modules keep their names, so its channel graph stays valid.

    Args:
        module: The network.
        graph: Its channel graph.
        gated: Sets that have gates already.
        reduction: r.

    Returns:
        Name of the module that carries a new block as its child "gate" -> the layer it gates.
    """
    modules = dict(module.named_modules())
    inserted = {}
    for one in graph.prunable:
        makers = _makers(graph, one.name, set())
        if one.name in gated or len(makers) != 1 or len(graph.network.shapes[makers[0].output]) != 4:
            continue
        (layer,) = makers
        norm = layer.norm.scale.removesuffix(".weight") if layer.norm is not None else layer.name
        if norm in modules and layer.out_channels == one.width:
            modules[norm].add_module("gate", SqueezeExcite(one.width, reduction).train(modules[norm].training))
            modules[norm].register_forward_hook(_apply_gate)
            inserted[norm] = layer
    return inserted


def absorb_gate_(module: nn.Module, name: str, mean: Float[Tensor, " channels"]) -> None:
    """Replace an inserted block by its mean gate, multiplied into the weights of the module that carries it."""
    part = module.get_submodule(name)
    rows = by_output(part.weight, transposed_groups(part))
    with torch.no_grad():
        rows.mul_(mean.reshape(*rows.shape[:2], *[1] * (rows.ndim - 2)))
        if part.bias is not None:
            part.bias.mul_(mean)
    del part.gate
    for key, hook in list(part._forward_hooks.items()):  # torch offers no other way to remove a copied module's hook
        if hook is _apply_gate:
            del part._forward_hooks[key]


def absorb_shut_(squeeze: nn.Module, means: Float[Tensor, " channels"], dead: Tensor) -> None:
    """Let a squeeze read channels that are shut as the constants they are on average, where it has a bias."""
    if squeeze.bias is None or not dead.any():
        return
    with torch.no_grad():
        columns = squeeze.weight[:, dead].flatten(1)
        squeeze.bias.add_(columns @ means[dead])
        squeeze.weight[:, dead] = 0


def kinds_of_samples(batches: list[Batch]) -> tuple[tuple[str, ...], Tensor]:
    """Sort samples by class where targets are classes, else into quarters by the mean of their targets.

    Returns:
        The kinds' names, and the kind of each sample.
    """
    targets = torch.cat([batch.targets for batch in batches])
    if targets.ndim == 1 and not targets.is_floating_point():
        classes, kind_of = targets.unique(return_inverse=True)
        return tuple(f"class {one}" for one in classes.tolist()), kind_of
    means = targets.float().flatten(1).mean(1) if targets.ndim > 1 else targets
    ranks = means.argsort(stable=True).argsort(stable=True)
    return QUARTERS, ranks * len(QUARTERS) // len(ranks)


def _apply_gate(part: nn.Module, _: object, output: Tensor) -> Tensor:
    return output * part.gate(output)


def _makers(graph: ChannelGraph, name: str, excites: set[str]) -> list[Layer]:
    """Return the layers that make a set anew: neither exciting layers nor depthwise ones, which hand channels on."""
    layers = [graph.layer(one) for one in graph.sets[name].producers]
    return [layer for layer in layers if layer.name not in excites and not (layer.groups > 1 and name in layer.in_sets)]


def _chain_to_mean(node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """Go back from a gate over two weighted layers to a mean; return the exciting layer and the squeezing one."""
    weighted: list[fx.Node] = []
    while node.op == "call_function" and node.args and isinstance(node.args[0], fx.Node):
        if kind(node) in SQUEEZES:
            return (weighted[0], weighted[1]) if len(weighted) == 2 else None
        weighted += [node] if kind(node) in WEIGHTED else []
        node = node.args[0]
    return None


def _product(node: fx.Node) -> fx.Node | None:
    """Go on from a gate to its product with a feature map."""
    while len(node.users) == 1:
        (user,) = node.users
        if kind(user) == "mul":
            shape = user.meta["val"].shape
            return user if len(shape) == 4 and shape[2:].numel() > 1 else None
        if kind(user) not in RESHAPES:
            return None
        node = user
    return None


def _means(values: Float[Tensor, "n c"], kind_of: Tensor, kinds: int) -> Float[np.ndarray, "kinds c"]:
    return torch.stack([values[kind_of == one].mean(0) for one in range(kinds)]).numpy()
