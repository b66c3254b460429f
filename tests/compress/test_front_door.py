from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from compress import export
from compress.export import OPSET, export_module
from compress.front_door.reading import translate
from compress.front_door.writer import Untranslated
from compress.graph.analyse import analyse
from compress.graph.network import Network
from compress.graph.run import random_feeds, run
from compress.models.unet import UNet

ROUNDING = 1e-5  # of the output's spread: the same operators, fused differently by the runtime


class Common(nn.Module):
    """A residual block with squeeze-and-excitation, attention over positions and operators in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.Hardswish(inplace=True))
        self.squeeze = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.SiLU(), nn.Conv2d(4, 8, 1))
        self.grouped = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6(), nn.Dropout(0.5, inplace=True))
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.stem(x)
        y = y * torch.sigmoid(self.squeeze(y))
        z = self.grouped(y)
        z += y
        tokens = self.norm(nn.functional.max_pool2d(z, 2).flatten(2).transpose(1, 2))
        mask = torch.zeros(16, 16)
        mask[:8, 8:] = -1.0
        mixed, _ = self.attention(tokens, tokens, tokens, attn_mask=mask, need_weights=False)
        return self.head(torch.cat([mixed, tokens], 1).mean(1))


class ReadsAfterWriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        y[:, :2].mul_(2.0)
        return y + 1


class WritesThroughAView(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layer(x)
        z = y.view(1, -1)
        z.relu_()
        return y


def sets(network: Network) -> list[tuple[object, ...]]:
    found = analyse(network).sets.values()
    return [(s.name, s.width, s.step, s.family, s.producers, s.consumers) for s in found]


def networks(module: nn.Module, example: Tensor, monkeypatch: pytest.MonkeyPatch) -> tuple[Network, Network]:
    """Export on both ways, the exporter's second."""
    used = []
    real = translate

    def counted(*arguments: object) -> onnx.ModelProto:
        used.append(real(*arguments))
        return used[-1]

    monkeypatch.setattr(export, "translate", counted)
    direct = export_module(module, example)
    assert used, "the program was not translated"

    def never(*_: object) -> onnx.ModelProto:
        raise Untranslated("on purpose")

    monkeypatch.setattr(export, "translate", never)
    return direct, export_module(module, example)


@pytest.mark.parametrize("module", [UNet(4), Common()], ids=["unet", "common"])
def test_the_front_door_gives_the_network_that_the_exporter_gives(
    module: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    example = torch.randn(1, 3, 128, 128) if isinstance(module, UNet) else torch.randn(1, 3, 16, 16)
    direct, slow = networks(module, example, monkeypatch)
    assert next(entry.version for entry in direct.model.opset_import) == OPSET
    named = {name for name, _ in (*module.named_parameters(), *module.named_buffers())}
    assert set(direct.weights) & named == set(slow.weights) & named
    kinds = [sorted(n.op_type for n in one.model.graph.node if n.op_type != "Identity") for one in (direct, slow)]
    assert kinds[0] == kinds[1]
    feeds = random_feeds(slow)
    assert list(feeds) == list(direct.inputs)
    (one,), (two,) = run(direct.model, feeds).values(), run(slow.model, feeds).values()
    assert np.abs(one - two).max() <= ROUNDING * np.ptp(two)
    assert sets(direct) == sets(slow)


def test_attention_between_windows_is_exported_though_the_exporter_takes_no_such_rank() -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.read = nn.Linear(6, 18)

        def forward(self, x: Tensor) -> Tensor:
            query, key, value = self.read(x).view(1, 3, 5, 3, 2, 3).permute(3, 0, 4, 1, 2, 5)
            return nn.functional.scaled_dot_product_attention(query, key, value)

    torch.manual_seed(0)
    module, example = Windows().eval(), torch.randn(1, 3, 5, 6)
    network = export_module(module, example)
    (name,) = network.inputs
    (result,) = run(network.model, {name: example.numpy()}).values()
    assert np.abs(result - module(example).detach().numpy()).max() <= 1e-6


@pytest.mark.parametrize("module", [UNet(4), Common()], ids=["unet", "common"])
def test_the_front_door_notes_the_shapes_that_onnx_infers(module: nn.Module) -> None:
    example = torch.randn(1, 3, 128, 128) if isinstance(module, UNet) else torch.randn(1, 3, 16, 16)
    program = torch.export.export(module.eval(), (example,), strict=False)
    model = translate(program, {}, OPSET)
    onnx.checker.check_model(model, full_check=True)
    noted = {value.name: value for value in model.graph.value_info}
    del model.graph.value_info[:]
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    assert {value.name: value.type for value in inferred.graph.value_info} == {n: v.type for n, v in noted.items()}


@pytest.mark.parametrize("module", [ReadsAfterWriting(), WritesThroughAView()])
def test_what_is_read_after_it_was_written_in_place_is_left_to_the_exporter(module: nn.Module) -> None:
    example = torch.randn(1, 3, 4, 4)
    program = torch.export.export(module.eval(), (example,), strict=False)
    with pytest.raises(Untranslated, match="read after it was written in place"):
        translate(program, {}, OPSET)
    network = export_module(module, example)
    (got,) = run(network.model, {"x": example.numpy()}).values()
    assert np.allclose(got, module(example).detach().numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        (lambda x: torch.cumsum(x, 0), "cumsum"),
        (lambda x: x + torch.rand(2, 3), "rand"),
        (lambda x: x + torch.empty(2, 3), "empty"),
        (lambda x: x.to(torch.float64), "change of type"),
        (lambda x: nn.functional.dropout(x, 0.5, True), "dropout in training"),
        (lambda x: torch.add(x, x, alpha=2), "alpha"),
        (lambda x: x[:, torch.tensor([2, 0])], "several axes"),
    ],
)
def test_an_operator_that_is_not_known_in_every_detail_is_left_to_the_exporter(function, reason: str) -> None:
    class Module(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return function(x)

    program = torch.export.export(Module().eval(), (torch.ones(2, 3),), strict=False)
    with pytest.raises(Untranslated, match=reason):
        translate(program, {}, OPSET)
