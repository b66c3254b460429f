"""Prune one architecture of torchvision or timm in every way.

Seconds are the CPU time of one thread, which other work on the machine does not lengthen, in a process that has
exported another network before. `zoo_coverage.py` forks such a process for each model.
"""

from __future__ import annotations

import contextlib
import importlib
import time
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from compress.export import export_module
from compress.graph.analyse import analyse
from compress.graph.channels import ChannelGraph, Keep
from compress.graph.choose import choose
from compress.graph.count import parameters
from compress.graph.proof import prove
from compress.graph.surgery import remove_channels
from compress.rigid import prune_where_flexible
from device_profiles.errors import ParityFailed, ToolkitError, UnsupportedModel

PACKAGES = ("torchvision", "timm", "torch_pruning")
SIDE = 128  # pixels, where a model takes any size; a multiple of every stride
RATIOS: dict[str, float | None] = {"0.5": 0.5, "0.3": 0.3, "uneven": None}


@contextlib.contextmanager
def warm() -> Iterator[None]:
    """Load the packages and what torch needs for its first export, once for all processes that are forked inside."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for package in PACKAGES:
        with contextlib.suppress(ImportError):  # what is missing is told when a model needs it
            importlib.import_module(package)
    part = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    analyse(export_module(part.eval(), torch.zeros(1, 3, 8, 8)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.set_num_threads(threads)


def ours(name: str) -> dict[str, Any]:
    """Measure this toolkit on one model."""
    torch.manual_seed(0)
    return measure(*build(name))


def build(name: str) -> tuple[nn.Module, Tensor]:
    """Build a model without downloads, with nothing left at zero."""
    package, _, short = name.rpartition(":")
    if package == "timm":
        import timm

        module = timm.create_model(short)
        size = module.pretrained_cfg["input_size"]
        fixed = module.pretrained_cfg.get("fixed_input_size") or "input_size" in module.__dict__
        shape = size if fixed else (size[0], SIDE, SIDE)
    else:
        import torchvision

        models = torchvision.models
        segmentation = short in models.list_models(models.segmentation)
        options = {"weights_backbone": None} if segmentation else {}
        if short in ("googlenet", "inception_v3"):
            options = {"init_weights": False}
        module = models.get_model(short, weights=None, **options)
        shape = (3, 224, 224) if short.startswith(("vit", "swin", "maxvit", "inception")) else (3, SIDE, SIDE)
    return lively_(module).eval(), torch.randn(1, *shape)


def lively_(module: nn.Module) -> nn.Module:
    """Make constant parameters random: zero-initialised scales and heads would hide every mistake."""
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.numel() > 1 and parameter.min() == parameter.max():
                parameter.uniform_(0.5, 1.5) if parameter.ndim == 1 else parameter.normal_(0, 0.05)
        for part in module.modules():
            if isinstance(getattr(part, "running_var", None), Tensor):
                part.running_mean.normal_(0, 0.1)
                part.running_var.uniform_(0.8, 1.2)
    return module


def measure(module: nn.Module, example: Tensor) -> dict[str, Any]:
    """Export, analyse and prune on both routes."""
    result: dict[str, Any] = {"parameters": sum(p.numel() for p in module.parameters())}
    started = time.process_time()
    try:
        network = export_module(module, example)
    except UnsupportedModel as err:
        return result | {"onnx_route": "not exported", "torch_route": "not exported", "error": str(err)}
    result["export_s"] = time.process_time() - started
    try:
        started = time.process_time()
        graph = analyse(network)
        result["analysis_s"] = time.process_time() - started
        result["module_to_graph_s"] = result["export_s"] + result["analysis_s"]
        result["sets"] = len(graph.prunable)
        for ratio in RATIOS:
            result |= onnx_route(graph, ratio)
        result["onnx_route"] = "passed"
    except ToolkitError as err:
        return result | {"onnx_route": f"{type(err).__name__}: {err}", "torch_route": "not tried"}
    return result | torch_route(module, graph)


def onnx_route(graph: ChannelGraph, ratio: str) -> dict[str, Any]:
    """Prune and prove the network."""
    keep = chosen(graph, ratio)
    started = time.process_time()
    pruned = remove_channels(graph, keep)
    surgery_s = time.process_time() - started
    proof = prove(graph, keep, pruned, remove_channels)
    found = {f"error_{ratio}": proof.max_error_of_spread}
    if ratio == "0.5":
        found |= {"parameters_left": parameters(pruned) / parameters(graph.network)}
        found |= {"surgery_s": surgery_s, "proof_s": proof.seconds, "removed": proof.removed_channels}
    return found


def torch_route(module: nn.Module, graph: ChannelGraph) -> dict[str, Any]:
    """Prune the module; freeze what its code does not let go."""
    started = time.process_time()
    verdicts: dict[str, Any] = {}
    prunable = len(graph.prunable)
    frozen: dict[str, str] = {}
    for ratio in reversed(RATIOS):  # the uneven one finds most of what is rigid, and that stays frozen for the others
        try:
            pruned = prune_where_flexible(module, graph, chosen(graph, ratio))
        except ParityFailed as err:
            return {"torch_route": f"failed at {ratio}: {err}"}
        graph, frozen = pruned.graph, frozen | pruned.frozen
        if ratio == "0.5":
            left = sum(p.numel() for p in pruned.module.parameters())
            verdicts["torch_parameters_left"] = left / sum(p.numel() for p in module.parameters())
    verdicts["torch_route"] = f"froze {len(frozen)} of {prunable}" if frozen else "passed"
    return verdicts | {"torch_route_s": time.process_time() - started}


def chosen(graph: ChannelGraph, ratio: str) -> Keep:
    """Choose at random, by a fixed seed."""
    generator = np.random.default_rng(0)
    scores = {one.name: generator.random(one.width) for one in graph.sets.values()}
    share = RATIOS[ratio]
    if share is None:
        return choose(graph, scores, {one.family: float(generator.uniform(0.2, 1.0)) for one in graph.sets.values()})
    return choose(graph, scores, share)


def torch_pruning(name: str) -> dict[str, Any]:
    """Prune the same model with Torch-Pruning at 0.5; its own mistakes are of many kinds, so each is only named."""
    try:
        import torch_pruning as peer
    except ImportError:
        return {}
    torch.manual_seed(0)
    module, example = build(name)
    before = sum(p.numel() for p in module.parameters())
    heads = [part for part in module.modules() if isinstance(part, nn.Linear) and part.out_features == 1000]
    started = time.process_time()
    try:
        importance = peer.importance.MagnitudeImportance(p=2)
        pruner = peer.pruner.MagnitudePruner(module, example, importance, pruning_ratio=0.5, ignored_layers=heads)
        pruner.step()
        seconds = time.process_time() - started
        with torch.no_grad():
            module.eval()(example)
    except Exception as err:  # noqa: BLE001 - any failure of the peer is a result here
        return {"torch_pruning": f"{type(err).__name__}: {str(err)[:100]}"}
    left = sum(p.numel() for p in module.parameters()) / before
    return {"torch_pruning": "runs", "torch_pruning_s": seconds, "torch_pruning_parameters_left": left}
