"""Run a profile bundle on another machine over ssh: copy it there, run it, fetch the results."""

from __future__ import annotations

import hashlib
import io
import re
import shlex
import subprocess
import tarfile
from collections.abc import Sequence
from pathlib import Path

from device_profiles.errors import BadInput, RuntimeUnavailable
from device_profiles.store import write_whole
from runtimes.bundle import BLOCK, RUNNER, read_manifest
from runtimes.bundled.runner import MANIFEST, RESULTS

HOST = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.@:%-]*")  # no option of ssh, nothing for a shell
SSH = ("ssh", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15")  # never asks for anything


def run_on_host(folder: Path, host: str, python: str = "python3") -> None:
    """Run a bundle on a device, and write its results into the bundle's folder.

    The device keeps the bundle and what is finished in the home folder, so that the same call goes on after a failure.

    Args:
        folder: The bundle.
        host: As ssh takes it: user@device, or a name from its configuration.
        python: The device's Python, the one in which numpy and the runtime are installed.

    Raises:
        BadInput: The host's name is none, or the bundle is missing.
        RuntimeUnavailable: The device cannot be reached, or the bundle failed there.
    """
    if not HOST.fullmatch(host):
        raise BadInput(f"host (={host!r}) must be like user@device, or a name from ~/.ssh/config")
    packed = _packed(folder)
    place = f"espalier-bundle-{hashlib.sha256((folder / MANIFEST).read_bytes()).hexdigest()[:12]}"
    copied = _ssh(host, f"mkdir -p {place} && tar -xzf - -C {place}", given=packed)
    _check(copied, host, "copy the bundle there")
    run = _ssh(host, f"cd {place} && exec {shlex.quote(python)} {RUNNER}", shown=True)
    fetched = _ssh(host, f"cat {place}/{RESULTS}")
    if fetched.returncode == 0:
        write_whole(folder / RESULTS, fetched.stdout)
    _check(run, host, f"run the bundle there, in ~/{place}")
    _check(fetched, host, "fetch the results")


def _packed(folder: Path) -> bytes:
    """Pack what the manifest names; a folder in which a bundle was run holds more."""
    manifest, packed = read_manifest(folder), io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=1) as archive:
        for file in (MANIFEST, RUNNER, BLOCK, *(model.file for model in manifest.models.values())):
            archive.add(folder / file, arcname=file)
    return packed.getvalue()


def _ssh(
    host: str, command: str, *, given: bytes | None = None, shown: bool = False
) -> subprocess.CompletedProcess[bytes]:
    arguments: Sequence[str] = (*SSH, "--", host, command)
    try:
        return subprocess.run(arguments, input=given, capture_output=not shown, check=False)  # noqa: S603
    except FileNotFoundError as err:
        raise RuntimeUnavailable("ssh is not installed here; install it, or copy the bundle by hand") from err


def _check(finished: subprocess.CompletedProcess[bytes], host: str, what: str) -> None:
    if finished.returncode != 0:
        said = (finished.stderr or b"").decode(errors="replace").strip()[-300:] or "see above"
        raise RuntimeUnavailable(
            f"{host} could not {what} (exit code {finished.returncode}: {said}); mend that and give the same command "
            "again, which goes on where it stopped"
        )
