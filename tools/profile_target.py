"""Measure a network and each of its layers on a runtime of this machine.

Prints the layers sorted by cost and writes the device profile, which holds every sample, the widths that were measured
beside the full one, and the machine. A run that is killed goes on where it stopped when the same command is started
again.

Another machine needs no Espalier, only Python, numpy and the runtime: --host measures there over ssh; --from-bundle
reads what it wrote when it ran a bundle of tools/bundle_profile.py. See docs/bundles.md.

Layers are measured in isolation, each run by itself at several widths; or in context, inside whole networks of random
uneven widths, with the runtime's own profiler, and alone at full width only. The second way predicts networks of other
widths several times better (docs/profiling.md) and is what is done on CPUs, unless the network has no channels that may
be removed; the first one needs no profiler. --check draws networks that the profile has not seen, measures them and
tells how well each way predicts them.

Example:
    python tools/profile_target.py --runtime onnxruntime
    python tools/profile_target.py --runtime openvino --model unet-32 --how both --check 20
    python tools/profile_target.py --runtime openvino --model unet-32 --how isolated --threads 2
    python tools/profile_target.py --runtime tensorrt --precision f16
    python tools/profile_target.py --runtime onnxruntime --device cuda:0
    python tools/profile_target.py --runtime onnxruntime --model mine.onnx --input 1x3x224x224
    python tools/profile_target.py --runtime openvino --model package.module:callable --input 1x3x128x128
    python tools/profile_target.py --model unet-32 --how both --host user@device
    python tools/profile_target.py --from-bundle runs/bundles/unet-32-onnxruntime-cpu
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tools.command_line import run

if TYPE_CHECKING:
    from compress.profiling import Profiling
    from device_profiles.in_context import InContext
    from device_profiles.profile import DeviceProfile
    from device_profiles.target import Target
    from runtimes.prediction_check import PredictionCheck

HOW = ("isolated", "in-context", "both")
STDOUT = Path("-")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    add = parser.add_argument
    add(
        "--how",
        choices=HOW,
        help="how to measure layers (default: in-context on CPUs, else isolated; with --check, both)",
    )
    add("--check", type=int, default=0, metavar="N", help="measure N unseen networks against their predictions")
    add("--host", metavar="USER@DEVICE", help="measure there, over ssh")
    add("--host-python", default="python3", help="Python there, with numpy and the runtime (default: %(default)s)")
    add("--from-bundle", type=Path, metavar="FOLDER", help="measure nothing, read the results in a bundle's folder")
    add("--output", type=Path, help="the profile (default: runs/profiles/MODEL-TARGET.json)")
    add("--json", nargs="?", type=Path, const=STDOUT, help="write JSON to a file; without one, print it for the table")
    options = parser.parse_args(arguments, argparse.Namespace(only_isolated=""))
    command = shlex.join(["python", "tools/profile_target.py", *(sys.argv[1:] if arguments is None else arguments)])

    # Loaded only now, so that --help needs nothing and takes no time.
    from device_profiles.store import save_profile, write_whole
    from runtimes.base import check_target

    check = None
    if options.from_bundle or options.host:
        profile = _profile_elsewhere(options, command)
        output = options.output or profile_path(profile.model_name, profile.target)
        save_profile(profile, output)
    else:
        check_target(target_of(options))
        profiling = _settled(options)
        output = options.output or profile_path(profiling.name, profiling.target)
        profiling = replace(profiling, output=output)
        show_data_dependences(profiling)
        profile = profiling.profile(in_context=options.how != "isolated", command=command)
        check = profiling.check(profile, options.check) if options.check else None
    if options.only_isolated:
        print(f"note: layers were measured in isolation: {options.only_isolated}", file=sys.stderr)
    if options.json is not None:
        text = json.dumps(_summary(profile, output) | (check.to_json() if check else {}), indent=1)
        write_whole(options.json, text + "\n") if options.json != STDOUT else print(text)
    if options.json != STDOUT:
        print(_table(profile, output) + (f"\n\n{_check_table(check)}" if check else ""))
    return 0


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is measured, for what and how long."""
    add = parser.add_argument
    add("--runtime", default="onnxruntime", help="onnxruntime, openvino, tensorrt or tensorrt-rtx (%(default)s)")
    add("--model", default="unet-64", help="a bundled network, an .onnx file or package.module:callable (%(default)s)")
    add(
        "--input", action="append", default=[], metavar="1x3x128x128", help="shape of an input, once for each, in order"
    )
    add("--device", help="cpu, cuda, cuda:1, gpu ... (default: what the runtime is made for)")
    add("--precision", default="f32", help="f32, tf32, bf16 or f16 (default: %(default)s)")
    add("--threads", type=int, default=1, help="CPU threads of one inference (default: %(default)s)")
    add("--batch", type=int, help="samples of one inference (default: that of --input, or 1)")
    add(
        "--budget-s",
        type=float,
        default=15.0,
        help="about how long to measure, seconds, each way; loading is extra (default: %(default)s)",
    )
    add(
        "--patience-s",
        type=float,
        default=10.0,
        help="how long to wait for other processes, each time before something is measured (default: %(default)s)",
    )
    add(
        "--seed", type=int, default=0, help="of the weights of bundled networks and of the order (default: %(default)s)"
    )
    add("--variants", type=int, default=32, help="networks to measure layers in, in context (default: %(default)s)")


def target_of(options: argparse.Namespace) -> Target:
    """Read the target off the options of `add_network_options`."""
    from device_profiles.target import Target
    from runtimes.base import RUNTIMES
    from tools.model_argument import parse_shape

    shapes = [parse_shape(text) for text in options.input]
    batch = options.batch if options.batch is not None else shapes[0][0] if shapes else 1
    device = options.device or (RUNTIMES[options.runtime].device if options.runtime in RUNTIMES else "cpu")
    return Target(options.runtime, device, options.precision, options.threads, batch)


def profiling_of(options: argparse.Namespace) -> Profiling:
    """Load the network that the options of `add_network_options`, and `how`, ask for."""
    from compress.profiling import Profiling
    from runtimes.profiler import ProfileConfig
    from tools.model_argument import load_model, parse_shape

    target = target_of(options)
    loaded = load_model(options.model, [parse_shape(text) for text in options.input], target.batch, options.seed)
    config = ProfileConfig(
        loaded.input_shapes,
        options.budget_s,
        seed=options.seed,
        narrow=options.how != "in-context",
        patience_s=options.patience_s,
    )
    return Profiling(loaded.model, loaded.name, target, config, variants=options.variants)


def _settled(options: argparse.Namespace) -> Profiling:
    """Load the network, and choose how to measure it where that is left open: in context on CPUs, if that can be."""
    from device_profiles.errors import ToolkitError

    chosen = options.how or ("both" if options.check else "")
    options.how = chosen or ("in-context" if target_of(options).device == "cpu" else "isolated")
    profiling = profiling_of(options)
    if chosen or options.how == "isolated":
        return profiling
    try:
        options.only_isolated = "" if profiling.graph.prunable else "the network has no channels that may be removed"
    except ToolkitError as error:  # isolated layers need no channels; what is wrong for them, too, is said there
        options.only_isolated = str(error)
    if not options.only_isolated:
        return profiling
    options.how = "isolated"
    return replace(profiling, config=replace(profiling.config, narrow=True))


def show_data_dependences(profiling: Profiling) -> None:
    """Warn of what makes a latency depend on the data; those that are measured are random."""
    for found in profiling.data_dependences:
        print(f"the latency depends on the data: {found.op} {found.name!r} {found.reason}", file=sys.stderr)


def profile_path(name: str, target: Target) -> Path:
    """Where the profile of a network on a target is written."""
    return Path("runs/profiles") / f"{name}-{settings_name(target)}.json"


def _profile_elsewhere(options: argparse.Namespace, command: str) -> DeviceProfile:
    """Read what another machine measured, or have it measure."""
    from device_profiles.errors import BadInput
    from runtimes.bundle_host import run_on_host
    from runtimes.bundle_results import profile_from_bundle

    if options.check:
        raise BadInput(f"check (={options.check}) measures on this machine, not on the device; leave it out")
    if options.from_bundle:
        return profile_from_bundle(options.from_bundle, command)
    profiling = _settled(options)
    show_data_dependences(profiling)
    folder = Path("runs/bundles") / f"{profiling.name}-{settings_name(profiling.target)}"
    profiling.bundle(folder, in_context=options.how != "isolated")
    run_on_host(folder, options.host, options.host_python)
    return profile_from_bundle(folder, command)


def settings_name(target: Target) -> str:
    """Name a target with the settings that are not the usual ones."""
    threads = f"-{target.threads}-threads" if target.threads > 1 else ""
    return target.name + threads + (f"-batch-{target.batch}" if target.batch > 1 else "")


def _table(profile: DeviceProfile, output: Path) -> str:
    from compress.report.comparison import aligned

    rows = [("layer", "operator", "channels", "ms", "share, %", "spread, %")]
    if profile.in_context is not None:
        rows = [(*rows[0], "inside the network, ms")]
    for layer in sorted(profile.layers, key=lambda layer: -layer.full.ms):
        full = layer.full
        share = 100 * full.ms / profile.isolated_sum_ms
        channels = f"{layer.in_channels} -> {layer.out_channels}"
        row = (layer.name, layer.op, channels, f"{full.ms:.3f}", f"{share:.1f}", f"{full.spread_percent:.1f}")
        rows.append(row if profile.in_context is None else (*row, _inside(profile.in_context, layer.name)))
    whole, target = profile.end_to_end, profile.target
    disturbed = f"disturbed: {profile.note}\n" if profile.note else ""
    clock = {"cpu": "CPU time", "wall": "wall-clock time", "gpu": "the GPU's time, without copies"}[whole.clock]
    return f"""{aligned(rows)}

the whole network: {whole.ms:.3f} ms (n = {whole.n}, spread {whole.spread_percent:.1f} %); \
its layers by themselves: {profile.isolated_sum_ms:.3f} ms
{target.runtime} {target.version} on {target.device}, {target.precision}, threads {target.threads}, \
batch {target.batch}; {clock}, 20 % quantile; spread: up to the 90 % quantile
{disturbed}profile: {output}"""


def _inside(measured: InContext, name: str) -> str:
    """Write what a layer takes of the network's latency, or which layer it is computed together with."""
    ms = _inside_ms(measured, name)
    return f"with {measured.merged[name]}" if ms is None else f"{ms:.3f}"


def _inside_ms(measured: InContext | None, name: str) -> float | None:
    """Return what a layer takes of the network's latency, ms; None for one that is computed together with another."""
    if measured is None or name in measured.merged:
        return None
    parts_ms = measured.variants[0].layers_ms  # none where the runtime's profiler is not read
    return parts_ms[name] if name in parts_ms else measured.layer_ms(name, measured.full[name])


def _check_table(check: PredictionCheck) -> str:
    from compress.report.comparison import aligned

    rows = [("prediction", "median error, %", "worst, %", "within 5 %, %", "rank correlation")]
    for name, row in check.rows().items():
        errors = (row.median_percent, row.worst_percent, row.close_percent)
        rows.append((name, *(f"{percent:.1f}" for percent in errors), f"{row.spearman:.3f}"))
    return f"""{aligned(rows)}

{len(check.best.measured_ms)} unseen networks, {min(check.best.measured_ms):.2f} to {max(check.best.measured_ms):.2f} \
ms; {check.held_percent:.0f} % of them within the 90 % interval
the machine was at {check.level:.3f} of its level when the profile was measured; "as it is" does not know that"""


def _summary(profile: DeviceProfile, output: Path) -> dict[str, Any]:
    layers = [
        {
            "layer": layer.name,
            "op": layer.op,
            "in_channels": layer.in_channels,
            "out_channels": layer.out_channels,
            "ms": layer.full.ms,
            "inside_ms": _inside_ms(profile.in_context, layer.name),
            "share_percent": 100 * layer.full.ms / profile.isolated_sum_ms,
            "spread_percent": layer.full.spread_percent,
            "n": layer.full.n,
            "stable": layer.full.stable,
        }
        for layer in sorted(profile.layers, key=lambda layer: -layer.full.ms)
    ]
    return {
        "schema": 1,
        "model": profile.model_name,
        "target": asdict(profile.target),
        "end_to_end_ms": profile.end_to_end.ms,
        "isolated_sum_ms": profile.isolated_sum_ms,
        "discarded_percent": profile.discarded_percent,
        "note": profile.note,
        "layers": layers,
        "profile": str(output),
    }


if __name__ == "__main__":
    run(main)
