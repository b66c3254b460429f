"""Write a profile bundle: what a machine without Espalier needs to measure a network and each of its layers.

The folder holds the networks without their weights, a manifest, and run_bundle.py. Copy it to the device and start
`python run_bundle.py` there: that needs Python 3.8, numpy and the runtime, appends to results.jsonl, and goes on after
what is finished when it is started again. Copy results.jsonl back into the folder, and make the profile with
`python tools/profile_target.py --from-bundle FOLDER`. See docs/bundles.md.

Example:
    python tools/bundle_profile.py --model unet-32 --runtime onnxruntime
    python tools/bundle_profile.py --model mine.onnx --input 1x3x224x224 --runtime openvino --output bundle
"""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.command_line import run
from tools.profile_target import HOW, add_network_options, profiling_of, settings_name, show_data_dependences


def main(arguments: list[str] | None = None) -> int:
    """Run the command; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_network_options(parser)
    add = parser.add_argument
    add("--how", choices=HOW, default="both", help="how to measure layers (default: %(default)s)")
    add("--memory-mib", type=int, default=2048, help="what the device may spend on networks (default: %(default)s)")
    add("--output", type=Path, help="the bundle (default: runs/bundles/MODEL-TARGET)")
    options = parser.parse_args(arguments)

    # Loaded only now, so that --help needs nothing and takes no time.
    from device_profiles.errors import BadInput

    if options.memory_mib < 1:
        raise BadInput(f"memory_mib (={options.memory_mib}) must be at least 1; most of the device's memory is right")
    profiling = profiling_of(options)
    output = options.output or Path("runs/bundles") / f"{profiling.name}-{settings_name(profiling.target)}"
    show_data_dependences(profiling)
    # Runtimes hold weights up to twice.
    profiling.bundle(output, in_context=options.how != "isolated", resident_bytes=options.memory_mib * 2**20 // 2)
    print(output)
    return 0


if __name__ == "__main__":
    run(main)
