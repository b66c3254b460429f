"""A made-up but plausible run of a UNet: what the report's tests, and eyes, are given."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from compress.report.layers import LayerLatency, LayerPart, LayerResult
from compress.report.results import (
    BlockResult,
    Goal,
    Method,
    Metric,
    NetworkResult,
    ParityResult,
    Phase,
    PointResult,
    ProofResult,
    PruningError,
    Results,
    TargetNetwork,
    TargetResult,
)
from compress.report.store import save_results, save_samples
from device_profiles.environment import Environment
from device_profiles.json_form import to_json
from device_profiles.measurement import Measurement
from device_profiles.profile import DeviceProfile, LayerProfile
from device_profiles.steps import StepProbe, probe_widths
from device_profiles.store import save_profile
from device_profiles.target import Target

DOWN = (32, 64, 128, 256, 256, 256, 256)
UP = (256, 256, 256, 128, 64, 32, 3)
DOWN_KEPT = (32, 32, 64, 96, 80, 48, 32)
UP_KEPT = (48, 80, 96, 64, 32, 32, 3)
HINGED = {"down.4.conv", "down.5.conv", "up.1.conv"}
TARGETS = {"onnxruntime-cpu": ("1.31.1", 1.0, 16), "openvino-cpu": ("2026.4.1", 0.82, 8)}  # version, speed, step


def layer_sizes() -> list[tuple[str, str, tuple[int, int], tuple[int, int], int]]:
    """Name, operator, widths in (before, after), widths out (before, after) and output side of the 14 layers."""
    sizes = []
    width_in = (3, 3)
    for i, pair in enumerate(zip(DOWN, DOWN_KEPT, strict=True)):
        sizes.append((f"down.{i}.conv", "Conv", width_in, pair, 64 >> i))
        width_in = pair
    for i, pair in enumerate(zip(UP, UP_KEPT, strict=True)):
        sizes.append((f"up.{i}.conv", "ConvTranspose", width_in, pair, 2 << i))
        if i < 6:
            width_in = (pair[0] + DOWN[5 - i], pair[1] + DOWN_KEPT[5 - i])
    return sizes


def measured(ms: float, seed: int, n: int = 30, *, stable: bool = True) -> Measurement:
    """A latency of about `ms` with a long upper tail."""
    rng = np.random.default_rng(seed)
    samples = ms * (0.992 + rng.gamma(1.2, 0.012, n))
    return Measurement(tuple((samples * 1.01).tolist()), tuple(samples.tolist()), "cpu", stable)


def modelled_ms(width_in: int, width_out: int, side: int, target: str) -> float:
    """A latency with steps in the output's width."""
    _, speed, step = TARGETS[target]
    blocks = -(-width_out // step) * step
    return speed * (0.012 + 2.9e-8 * width_in * blocks * 16 * side * side + 2e-7 * width_in * blocks)


def curve(width: int, kept: int, rng: np.random.Generator, *, gap: float) -> tuple[float, ...]:
    """Sorted channel norms that fall by `gap` after `kept` channels."""
    norms = np.sort(rng.gamma(6.0, 0.2, width))[::-1] * np.linspace(1.3, 0.5, width)
    norms[kept:] /= gap
    return tuple(np.sort(norms)[::-1].tolist())


def example_layers() -> tuple[LayerResult, ...]:
    """Three layers with a hinge, one dead, the rest cut by a threshold or left whole."""
    rng = np.random.default_rng(3)
    layers = []
    for name, op, width_in, width_out, side in layer_sizes():
        hinged, frozen = name in HINGED, name == "up.6.conv"
        gap = 60.0 if hinged else 1.4
        after = curve(width_out[0], width_out[1], rng, gap=gap if width_out[1] < width_out[0] else 1.0)
        layers.append(
            LayerResult(
                name=name,
                op=op,
                width_before=width_out[0],
                width_after=width_out[1],
                width_in_before=width_in[0],
                width_in_after=width_in[1],
                curve_before=() if frozen else curve(width_out[0], width_out[0], rng, gap=1.0),
                curve_after=() if frozen else tuple(v * (1e-5 if name == "down.6.conv" else 1.0) for v in after),
                hinge=width_out[1] if hinged else None,
                gap=None if frozen else gap,
                threshold=None if hinged or frozen or width_out[0] == width_out[1] else after[width_out[1] - 1] * 0.9,
                dead=name == "down.6.conv",
                latency_ms={
                    target: LayerLatency(
                        before_ms=modelled_ms(width_in[0], width_out[0], side, target),
                        after_ms=modelled_ms(width_in[1], width_out[1], side, target),
                    )
                    for target in TARGETS
                },
                parts={
                    target: LayerPart(
                        before_ms=0.8 * modelled_ms(width_in[0], width_out[0], side, target),
                        after_ms=0.7 * modelled_ms(width_in[1], width_out[1], side, target),
                        predicted_saving_ms=0.8 * modelled_ms(width_in[0], width_out[0], side, target)
                        - 0.75 * modelled_ms(width_in[1], width_out[1], side, target),
                    )
                    for target in TARGETS
                },
            )
        )
    return tuple(layers)


def example_networks() -> tuple[NetworkResult, ...]:
    """Baseline, ours, uniform widths at the same latency, and a quarter of the widths."""
    rng = np.random.default_rng(5)
    hardness = rng.gamma(9.0, 0.6, 128)
    sizes = layer_sizes()
    rows = (
        ("baseline", "UNet-32, as trained", 10_461_507, 2_020_000_000, 4000, 1.0, 1.0),
        ("pruned", "pruned by DECIG", 1_873_204, 655_000_000, 800, 1.018, 0.4),
        ("uniform", "uniform widths, fine-tuned", 2_617_507, 640_000_000, 800, 1.09, 0.5),
        ("quarter", "a quarter of the width", 655_800, 170_000_000, 4000, 1.29, 0.25),
    )
    networks = []
    for key, label, parameters, macs, steps, worse, scale in rows:
        errors = hardness * worse * rng.normal(1.0, 0.03, hardness.size)
        widths = {name: after if key == "pruned" else int(before * scale) for name, _, _, (before, after), _ in sizes}
        networks.append(
            NetworkResult(
                key=key,
                label=label,
                parameters=parameters,
                macs=macs,
                onnx_bytes=parameters * 4 + 20_000,
                steps_trained=steps,
                quality=float(errors.mean()),
                widths=widths,
                quality_repeats=tuple(float(part.mean()) for part in np.split(errors, 4)),
                quality_by_image=tuple(errors.tolist()),
            )
        )
    return tuple(networks)


def example_targets(networks: tuple[NetworkResult, ...]) -> tuple[TargetResult, ...]:
    """Two CPU runtimes; one latency did not settle."""
    shares = {"baseline": 1.0, "pruned": 0.41, "uniform": 0.42, "quarter": 0.13}
    targets = []
    for i, (name, (version, speed, _)) in enumerate(TARGETS.items()):
        on_target = {}
        for j, network in enumerate(networks):
            error = (3.1e-6, 2.2e-6, 1.8e-6, 9e-7)[j]
            ms = 24.6 * speed * shares[network.key] ** (1.0 if i == 0 else 0.9)
            on_target[network.key] = TargetNetwork(
                latency=measured(ms, seed=10 * i + j, stable=not (i == 1 and j == 3)),
                quality=network.quality * (1 + 1e-6),
                parity=ParityResult(error, error * 0.6, 1e-4, passed=True),
                predicted_ms=ms * 1.06 if network.key == "pruned" else None,
            )
        targets.append(TargetResult(name, version, 1, "f32", on_target, speedup_goal=2.0))
    return tuple(targets)


def example_history() -> tuple[Phase, ...]:
    """Falling losses with noise, and the held-out metric at some steps."""
    rng = np.random.default_rng(11)
    phases = []
    for key, label, steps, start, end in (
        ("baseline", "baseline", 4000, 30.0, 5.4),
        ("condense", "stage I: condense", 1200, 9.0, 5.9),
        ("finetune", "stage II: fine-tune", 800, 7.2, 5.5),
        ("uniform", "uniform widths", 800, 9.0, 5.9),
        ("quarter", "a quarter of the width", 4000, 30.0, 7.0),
    ):
        at = np.arange(10, steps + 1, 10)
        loss = end + (start - end) * np.exp(-6 * at / steps)
        held = np.unique(np.linspace(steps / 8, steps, 8).astype(int))
        quality = end + (start - end) * np.exp(-6 * held / steps)
        noisy = loss * rng.normal(1.0, 0.06, loss.size)
        phases.append(
            Phase(key, label, tuple(at.tolist()), tuple(noisy.tolist()), tuple(held.tolist()), tuple(quality.tolist()))
        )
    return tuple(phases)


def example_results() -> Results:
    """The whole record."""
    networks = example_networks()
    targets = example_targets(networks)
    base, ours = networks[0].quality, networks[1].quality
    return Results(
        name="demo",
        title="A UNet that draws from a mask, made for this machine",
        task="segmentation mask -> shaded image, 128x128, drawn by a procedure; 128 held-out pairs",
        metric=Metric("L1", "of 255", higher_is_better=False, repeats="4 disjoint sets of 32 held-out images"),
        created="2025-11-20T12:00:00Z",
        command="python tools/compress_model.py tools/recipes/demo.toml",
        config={
            "model": "unet-32",
            "seed": 0,
            "train": {"steps": 4000, "batch": 8, "learning_rate": 0.004},
            "method": {"name": "decig", "weighting": "linear"},
        },
        environment=to_json(example_environment()),
        seconds={
            "baseline": 118.2,
            "profile": 24.0,
            "condense": 51.3,
            "prune": 2.1,
            "finetune": 44.9,
            "validate": 31.0,
        },
        method=Method(
            "DECIG",
            {"penalty": 3e-3, "weighting": "linear", "distill_weight": 0.4},
            "original",
            "Device-aware condense and prune",
        ),
        networks=networks,
        targets=targets,
        layers=example_layers(),
        proof=ProofResult(labels_ok=True, max_error=8.1e-7, tolerance=1e-4, removed_channels=1241, seconds=0.31),
        pruning_error=PruningError(
            condensed=5.61, pruned=5.66, recalibrated=5.63, random=(11.9, 13.4, 12.2, 15.1, 12.8)
        ),
        history=example_history(),
        goals=(
            *(
                Goal(f"speedup on {t.name}", "at least 2.0x", f"{t.speedup:.2f}x", passed=t.speedup >= 2)
                for t in targets
            ),
            Goal("held-out L1", "at most 3 % above the baseline", f"{100 * (ours / base - 1):+.1f} %", passed=True),
            Goal("parity with torch", "1e-4 of the output's spread", "1.9e-06", passed=True),
            Goal("removing equals zeroing", "within 1e-4 of the outputs' spread", "8e-07, 1241 channels", passed=True),
            Goal("a quarter of the width is clearly worse", "by at least 10 %", "+29 %", passed=True),
        ),
    )


def with_points(results: Results) -> Results:
    """The same run with its widths trained anew, a sweep, and a network for each target."""
    base, runtimes = results.baseline, tuple(TARGETS)
    further = {  # key: label, worse than the baseline, share of its latency
        "retrained": ("same widths, from new weights", 1.04, 0.41),
        "sweep-1.5x": ("1.5 times as fast", 1.005, 0.66),
        "sweep-2x": ("2 times as fast", 1.3, 0.5),
        "sweep-4x": ("4 times as fast", 1.12, 0.25),
        "targets-onnxruntime": ("for ONNX Runtime alone", 1.01, 0.45),
        "targets-openvino": ("for OpenVINO alone", 1.02, 0.4),
    }
    networks = tuple(
        replace(
            base,
            key=key,
            label=label,
            quality=base.quality * worse,
            quality_repeats=tuple(value * worse for value in base.quality_repeats),
            quality_by_image=tuple(value * worse for value in base.quality_by_image),
        )
        for key, (label, worse, _) in further.items()
    )
    targets = tuple(
        replace(
            target,
            networks=target.networks
            | {
                key: replace(target.networks["pruned"], latency=measured(share * target.baseline_ms, seed=len(key)))
                for key, (_, _, share) in further.items()
            },
        )
        for target in results.targets
    )
    points = (
        PointResult(
            "sweep-1.5x", "sweep", "1.5 times as fast", runtimes, True, "sweep/1.5x", steered_to="4 times as fast"
        ),
        PointResult("sweep-2x", "sweep", "2 times as fast", runtimes, True, "sweep/2x", steered_to="4 times as fast"),
        PointResult("sweep-4x", "sweep", "4 times as fast", runtimes, False, "sweep/4x"),
        PointResult("", "sweep", "9 times as fast", runtimes, False, "", note="the budget is out of reach"),
        PointResult("targets-onnxruntime", "target", "2 times as fast", runtimes[:1], True, "targets/onnxruntime"),
        PointResult("targets-openvino", "target", "2 times as fast", runtimes[1:], True, "targets/openvino"),
    )
    return replace(
        results,
        networks=(*results.networks, *networks),
        targets=targets,
        points=points,
        budget="2.4 times as fast",
        steered_to="4 times as fast",
    )


def with_blocks(results: Results) -> Results:
    """The same run without a block of two layers, another one that could not go, and a budget without both."""
    names = ("down.3.conv", "down.4.conv")
    gone = {"width_after": 0, "width_in_after": 0, "curve_before": (), "curve_after": (), "hinge": None, "gap": None}
    layers = tuple(replace(layer, **gone) if layer.name in names else layer for layer in results.layers)
    points = tuple(replace(point, blocks=("middle", "end")) if point.folder else point for point in results.points)
    return replace(
        results,
        layers=layers,
        points=points,
        blocks=(BlockResult("middle", names, 3.2, dict.fromkeys(TARGETS, 1.25)),),
        refused_blocks={"end": "its code computes with it"},
    )


def example_environment() -> Environment:
    """A machine that does not exist."""
    return Environment(
        machine="x86_64",
        system="Linux 6.1",
        cpu_model="Example CPU 9000",
        cpu_flags=("avx2", "avx512f"),
        cores=2,
        affinity=(0, 1),
        cpu_quota=None,
        hyperthreading=False,
        governor=None,
        clock_mhz=3600.0,
        load=0.7,
        temperature_celsius=None,
        versions={"python": "3.11.7", "torch": "2.13.0", "onnxruntime": "1.31.1", "openvino": "2026.4.1"},
        variables={"OMP_NUM_THREADS": "1"},
    )


def example_profiles() -> tuple[DeviceProfile, ...]:
    """l(i) on both targets at full and half the width in and eight widths out, and the probes of two layers."""
    profiles = []
    for name, (version, speed, _) in TARGETS.items():
        layers = []
        for j, (layer, op, width_in, width_out, side) in enumerate(layer_sizes()):
            grid = {(width_in[0], out) for out in {width_out[0]} | {max(1, width_out[0] * k // 8) for k in range(1, 9)}}
            grid |= {(max(1, width_in[0] // 2), out) for _, out in grid}
            latencies = {
                pair: measured(modelled_ms(*pair, side, name), seed=100 * j + k, n=8)
                for k, pair in enumerate(sorted(grid))
            }
            layers.append(LayerProfile(layer, op, width_in[0], width_out[0], latencies))
        profiles.append(
            DeviceProfile(
                target=Target(name.removesuffix("-cpu"), version=version),
                environment=example_environment(),
                model_name="unet-32",
                model_sha256="0" * 64,
                input_shapes={"image": (1, 3, 128, 128)},
                layers=tuple(layers),
                end_to_end=measured(24.6 * speed, seed=7),
                created="2025-11-20T11:58:00Z",
                command="python tools/profile_target.py --runtime onnxruntime",
                seconds=12.0,
                probes=example_probes(name),
            )
        )
    return tuple(profiles)


def example_probes(target: str) -> tuple[StepProbe, ...]:
    """Two layers from one channel to the next: steps in the output's width, none in the input's."""
    probes = []
    for j, (layer, op, (width_in, _), (width_out, _), side) in enumerate(layer_sizes()):
        if layer in {"down.2.conv", "up.4.conv"}:
            out = {width: modelled_ms(width_in, width, side, target) for width in probe_widths(width_out)}
            into = {width: modelled_ms(width, width_out, side, target) for width in probe_widths(width_in)}
            for axis, curve_ms in (("out", out), ("in", into)):
                latencies = {width: measured(ms, seed=j) for width, ms in curve_ms.items()}
                probes.append(StepProbe(layer, op, axis, latencies))
    return tuple(probes)


def example_samples(n: int = 4, side: int = 128) -> dict[str, NDArray[np.uint8]]:
    """Masks of ellipses, shaded targets, and drawings that are a little wrong."""
    rng = np.random.default_rng(2)
    palette = np.array([[38, 70, 83], [42, 157, 143], [233, 196, 106], [231, 111, 81]], dtype=np.float64)
    y, x = np.mgrid[0:side, 0:side] / side
    masks, targets = np.zeros((n, side, side, 3)), np.zeros((n, side, side, 3))
    for i in range(n):
        mask = np.zeros((side, side), dtype=int)
        for label in (1, 2, 3):
            cx, cy = rng.uniform(0.2, 0.8, 2)
            rx, ry = rng.uniform(0.12, 0.35, 2)
            mask[((x - cx) / rx) ** 2 + ((y - cy) / ry) ** 2 < 1] = label
        masks[i] = palette[mask]
        shade = 0.65 + 0.35 * np.sin(9 * x + 4 * y * (1 + mask)) * np.cos(6 * y - 3 * x)
        targets[i] = palette[mask] * shade[..., None]

    def drawn(amount: float) -> NDArray[np.uint8]:
        blurred = sum(np.roll(targets, shift, axis) for shift in (-1, 1) for axis in (1, 2)) / 4
        noise = rng.normal(0, 9 * amount, targets.shape)
        return np.clip((1 - amount) * targets + amount * blurred + noise, 0, 255).astype(np.uint8)

    return {
        "input": masks.astype(np.uint8),
        "target": np.clip(targets, 0, 255).astype(np.uint8),
        "baseline": drawn(0.35),
        "pruned": drawn(0.4),
        "uniform": drawn(0.6),
        "quarter": drawn(0.9),
    }


def write_example_run(folder: Path, results: Results | None = None) -> Path:
    """Write what a finished run leaves behind, less the report itself, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    save_results(results or example_results(), folder)
    save_samples(example_samples(), folder)
    for profile in example_profiles():
        save_profile(profile, folder / "profiles" / f"{profile.target.name}.json")
    return folder
