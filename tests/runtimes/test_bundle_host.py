"""Bundles where Espalier is not: in a bare virtual environment, and over ssh."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_profiles.errors import BadInput, RuntimeUnavailable
from runtimes.bundle_host import run_on_host
from runtimes.bundle_results import profile_from_bundle
from runtimes.bundled.runner import MANIFEST, RESULTS
from tests.runtimes.bundles import bundle

PLACE = "espalier-bundle-*"


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python that has numpy and onnxruntime, and nothing else."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "numpy", "onnxruntime"]
    done = subprocess.run(install, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        reason = f"numpy and onnxruntime cannot be installed: {done.stderr.strip()[-200:]}"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return python


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return bundle(tmp_path / "bundle", in_context=False)


def test_a_bundle_needs_numpy_and_the_runtime_only(folder: Path, bare_python: Path) -> None:
    missing = (
        "import importlib.util as u; print([n for n in ('onnx', 'torch', 'espalier', 'runtimes') if u.find_spec(n)])"
    )
    found = subprocess.run([bare_python, "-I", "-c", missing], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
    subprocess.run([bare_python, "-I", folder / "run_bundle.py"], check=True)
    profile = profile_from_bundle(folder)
    assert "onnx" not in profile.environment.versions
    assert all(ms > 0 for ms in profile.latencies_ms().values())


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A real sshd on the loopback under the name "device"; commands run in the folder that is returned."""
    sshd = shutil.which("sshd", path="/usr/sbin:/usr/local/sbin") or shutil.which("sshd")
    if not sshd or not shutil.which("ssh") or not shutil.which("ssh-keygen"):
        pytest.skip("there is no sshd here; install openssh-server")
    home, keys = tmp_path / "device", tmp_path / "keys"
    home.mkdir()
    keys.mkdir()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", keys / name], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)
    (keys / "sshd_config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {keys}/host\nPidFile none\nUsePAM no\nStrictModes no\n"
        f"AuthorizedKeysFile {keys}/user.pub\nPermitRootLogin prohibit-password\n"
        f'ForceCommand cd {home} && eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    (keys / "config").write_text(
        f"Host device\nHostName 127.0.0.1\nPort {port}\nIdentityFile {keys}/user\nIdentitiesOnly yes\n"
        f"UserKnownHostsFile {keys}/known\nStrictHostKeyChecking no\nLogLevel ERROR\n"
    )
    wrapper = tmp_path / "path" / "ssh"
    wrapper.parent.mkdir()
    wrapper.write_text(f'#!/bin/sh\nexec {shutil.which("ssh")} -F {keys}/config "$@"\n')
    wrapper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{wrapper.parent}:{os.environ['PATH']}")
    daemon = subprocess.Popen([str(sshd), "-D", "-e", "-f", keys / "sshd_config"], stderr=subprocess.PIPE)
    try:
        _wait_for(port, daemon)
        yield home
    finally:
        daemon.terminate()
        daemon.communicate()


def _wait_for(port: int, daemon: subprocess.Popen[bytes]) -> None:
    for _ in range(100):
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert daemon.poll() is None, (daemon.stderr.read() if daemon.stderr else b"").decode()
            time.sleep(0.1)
        else:
            return


def test_a_bundle_is_copied_run_and_fetched_over_ssh(device: Path, folder: Path, bare_python: Path) -> None:
    run_on_host(folder, "device", str(bare_python))
    profile = profile_from_bundle(folder)
    assert [layer.name for layer in profile.layers] == ["down.0", "down.1", "up.0", "up.1"]
    (place,) = device.glob(PLACE)
    assert (place / RESULTS).read_bytes() == (folder / RESULTS).read_bytes()
    run_on_host(folder, "device", str(bare_python))  # goes on after what is finished: nothing
    assert profile_from_bundle(folder).end_to_end == profile.end_to_end


def test_what_fails_on_the_device_is_told_and_what_is_finished_fetched(
    device: Path, folder: Path, bare_python: Path
) -> None:
    with pytest.raises(
        RuntimeUnavailable, match=r"device could not run the bundle there, in ~/espalier.*exit code 127"
    ):
        run_on_host(folder, "device", "no-such-python")
    assert not (folder / RESULTS).exists()
    run_on_host(folder, "device", str(bare_python))
    (place,) = device.glob(PLACE)
    (place / RESULTS).write_bytes(b"\n".join((place / RESULTS).read_bytes().splitlines()[:1]))
    with pytest.raises(RuntimeUnavailable, match="exit code 127"):
        run_on_host(folder, "device", "no-such-python")
    with pytest.raises(BadInput, match="1 of 1 jobs are not finished"):
        profile_from_bundle(folder)


def test_a_device_that_cannot_be_reached_is_named(device: Path, folder: Path) -> None:
    with pytest.raises(RuntimeUnavailable, match=r"nobody\.invalid could not copy the bundle there \(exit code 255"):
        run_on_host(folder, "nobody.invalid")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=touch /tmp/x", "a b", "a;b", "$(a)", "a\nb"])
def test_what_is_no_host_is_refused(folder: Path, host: str) -> None:
    with pytest.raises(BadInput, match=r"host \(=.*\) must be like user@device"):
        run_on_host(folder, host)


def test_a_machine_without_ssh_is_told_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(RuntimeUnavailable, match="ssh is not installed here; install it, or copy the bundle by hand"):
        run_on_host(folder, "device")


def test_a_folder_without_a_bundle_is_refused(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text("{}")
    with pytest.raises(BadInput, match="no manifest of schema"):
        run_on_host(tmp_path, "device")
    with pytest.raises(BadInput, match=r"no bundle in .*nowhere"):
        run_on_host(tmp_path / "nowhere", "device")
