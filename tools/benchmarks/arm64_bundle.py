"""Run a profile bundle on ARM64, emulated: does it load, run, resume after a kill, and give a whole profile?

Times under emulation mean nothing and are not written. Needs Debian with qemu-user-static and debootstrap, and root to
unpack; fetches an ARM64 Python from Debian and the ARM64 wheels of ONNX Runtime 1.23.2 (1.31.1 crashes under this
emulator) into --folder, which later runs use again.

Example:
    python tools/benchmarks/arm64_bundle.py --json tools/benchmarks/arm64_bundle.json
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

from device_profiles.errors import RuntimeUnavailable
from device_profiles.store import write_whole
from runtimes.bundle_results import profile_from_bundle
from runtimes.bundled.records import read_records
from runtimes.bundled.runner import RESULTS
from tools import bundle_profile
from tools.command_line import run

EMULATOR, CORE = "qemu-aarch64-static", "cortex-a76"
WHEELS = ("numpy==2.3.5", "onnxruntime==1.23.2", "protobuf", "flatbuffers", "packaging")
PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
BUNDLE = ["--model", "unet-16", "--variants", "8", "--budget-s", "1", "--how", "in-context"]


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; `arguments` as on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--folder", type=Path, default=Path("runs/arm64"), help="where all is put (default: %(default)s)"
    )
    parser.add_argument("--kill-after", type=int, default=3, metavar="N", help="jobs before the kill (default: 3)")
    parser.add_argument("--json", type=Path, help="write what was found")
    options = parser.parse_args(arguments)
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    _fetch(folder)
    bundle = folder / "bundle"
    bundle_profile.main([*BUNDLE, "--output", str(bundle)])
    (bundle / RESULTS).unlink(missing_ok=True)
    found = _run_killed_and_again(folder, bundle, options.kill_after)
    print(json.dumps(found, indent=1))
    if options.json:
        write_whole(options.json, json.dumps(found, indent=1) + "\n")
    return 0


def _fetch(folder: Path) -> None:
    """Unpack an ARM64 Python and its packages."""
    root, site, wheels = folder / "root", folder / "site", folder / "wheels"
    if not (root / "usr/bin/python3.11").exists():
        packages = "--include=python3,libstdc++6,libgomp1"
        _call("debootstrap", "--arch=arm64", "--foreign", "--variant=minbase", packages, "bookworm", str(root))
        for package in sorted((root / "var/cache/apt/archives").glob("*.deb")):
            _call("dpkg", "-x", str(package), str(root))
    if not site.exists():
        platforms = [f"--platform={platform}" for platform in PLATFORMS]
        pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:")
        _call(*pip, "--python-version=311", *platforms, "--dest", str(wheels), *WHEELS)
        for wheel in wheels.glob("*.whl"):
            zipfile.ZipFile(wheel).extractall(site)


def _run_killed_and_again(folder: Path, bundle: Path, jobs: int) -> dict[str, Any]:
    """Run the bundle, kill it after some jobs, run it again, and read the profile."""
    command = [EMULATOR, "-L", str(folder / "root"), "-cpu", CORE, str(folder / "root/usr/bin/python3.11")]
    environment = os.environ | {"PYTHONHOME": str(folder / "root/usr"), "PYTHONPATH": str(folder / "site")}
    first = subprocess.Popen([*command, str(bundle / "run_bundle.py")], env=environment)  # noqa: S603
    while len(read_records(bundle / RESULTS)) <= jobs and first.poll() is None:
        time.sleep(0.2)
    first.kill()
    first.wait()
    before = [record["name"] for record in read_records(bundle / RESULTS) if "name" in record]
    with open(bundle / RESULTS, "ab") as file:
        file.write(b'{"record": "sitting", "na')  # what a power cut leaves
    subprocess.run([*command, str(bundle / "run_bundle.py")], env=environment, check=True)  # noqa: S603
    names = [record["name"] for record in read_records(bundle / RESULTS) if "name" in record]
    profile = profile_from_bundle(bundle)
    measured = profile.in_context
    return {
        "machine": profile.environment.machine,
        "runtime": f"{profile.target.runtime} {profile.target.version}",
        "python": profile.environment.versions["python"],
        "network": profile.model_name,
        "jobs": len(names),
        "jobs_finished_before_the_kill": len(before),
        "jobs_run_twice": len(names) - len(set(names)),
        "layers": len(profile.layers),
        "layers_without_latency": sum(ms <= 0 for ms in profile.latencies_ms().values()),
        "variants": len(measured.variants) if measured else 0,
        "layers_merged": len(measured.merged) if measured else 0,
    }


def _call(*command: str) -> None:
    try:
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)  # noqa: S603
    except FileNotFoundError as err:
        raise RuntimeUnavailable(
            f"{command[0]} is not installed here; install qemu-user-static and debootstrap"
        ) from err


if __name__ == "__main__":
    run(main)
