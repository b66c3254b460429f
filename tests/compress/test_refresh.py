from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compress.graph.run import random_feeds, run
from compress.refresh import refreshed
from compress.surgery import prune_module
from device_profiles.errors import BadInput, ParityFailed
from tests.compress.graph.patterns import build, graph_of


def trained(name: str) -> nn.Module:
    module = build(name).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize("name", ["Residual", "ParametrisedWeights", "StandardisedWeights", "BatchStandardisedWeights"])
def test_the_refreshed_network_computes_what_the_module_does_now(name: str) -> None:
    module = trained(name)
    graph = refreshed(graph_of(name), module)
    feeds = random_feeds(graph.network)
    (result,) = run(graph.network.model, feeds).values()
    with torch.no_grad():
        wanted = module(*(torch.from_numpy(feed) for feed in feeds.values()))
    assert np.allclose(result, wanted.numpy(), atol=1e-4)


def test_a_module_with_standardised_weights_is_pruned_after_training() -> None:
    module, graph = trained("StandardisedWeights"), graph_of("StandardisedWeights")
    keep = {"b.folded": np.arange(6)}
    with pytest.raises(ParityFailed, match="away from the original with channels zeroed"):
        prune_module(module, graph, keep)
    prune_module(module, refreshed(graph, module), keep)


def test_another_module_is_refused() -> None:
    with pytest.raises(BadInput, match="is exported to other operators than before"):
        refreshed(graph_of("StandardisedWeights"), trained("Residual"))
