from __future__ import annotations

import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.choose import choose
from compress.skeleton import rigid_by_shape


class Heads(nn.Module):
    """Code that repeats the size of a head."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.value, self.out = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        query = self.query(x).reshape(x.shape[0], -1, 2, 4).transpose(1, 2)
        weights = (query @ query.transpose(-1, -2)).softmax(-1)
        value = self.value(x).unflatten(-1, (2, -1)).transpose(1, 2)
        return self.out((weights @ value).transpose(1, 2).flatten(2))


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(3, 8)
        self.blocks = nn.ModuleList([Heads(), Heads()])
        self.head = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = x + block(x)
        return self.head(x)


class Looking(Blocks):
    """Code that looks at its input."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.isfinite().all() else x


def found(module: nn.Module, traced: nn.Module) -> dict[str, str]:
    graph = analyse(export_module(traced, torch.randn(1, 5, 3)))
    keep = choose(graph, {one.name: torch.rand(one.width).numpy() for one in graph.sets.values()}, 0.5)
    families: dict[str, dict[str, object]] = {}
    for name, indices in keep.items():
        families.setdefault(graph.sets[name].family, {})[name] = indices
    return rigid_by_shape(module, graph, families)


def test_the_smallest_part_that_does_not_run_tells_which_sets_are_rigid() -> None:
    module = Blocks()
    rigid = found(module, module)
    assert set(rigid) == {"blocks.0.query", "blocks.1.query"}
    assert all("does not run (shape '[1, -1, 2, 4]' is invalid" in reason for reason in rigid.values())


def test_the_module_stays_as_it_is() -> None:
    module = Blocks()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found(module, module)
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert module(torch.randn(1, 5, 3)).shape == (1, 5, 2)


def test_a_module_that_looks_at_its_input_says_nothing_without_data() -> None:
    module = Looking()
    assert not found(module, Blocks())
