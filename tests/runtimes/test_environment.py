from __future__ import annotations

from pathlib import Path

import pytest

from runtimes.environment import read_environment

MODEL = "Model: \t\t Example GPU\nIRQ:   \t\t 99\n"
FILES = {
    "proc/cpuinfo": "model name\t: Example CPU\ncpu MHz\t: 2600.5\nflags\t: fpu avx2 smep fma sme2\n\nmodel name: B\n",
    "sys/devices/system/cpu/smt/active": "1\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "performance\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "3100000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "800000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "3500000\n",
    "sys/class/thermal/thermal_zone0/temp": "41000\n",
    "sys/class/thermal/thermal_zone1/temp": "52500\n",
    "sys/fs/cgroup/cpu.max": "150000 100000\n",
}


def machine(root: Path, **changes: str | None) -> Path:
    for name, content in (FILES | {key.replace("__", "/"): value for key, value in changes.items()}).items():
        if content is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(content)
    return root


def test_a_machine_is_read_from_its_files(tmp_path: Path) -> None:
    found = read_environment(machine(tmp_path))
    assert (found.cpu_model, found.cpu_flags) == ("Example CPU", ("avx2", "fma", "sme2"))
    assert (found.governor, found.clock_mhz, found.hyperthreading) == ("performance", 3100.0, True)
    assert (found.lowest_clock_mhz, found.highest_clock_mhz) == (800.0, 3500.0)
    assert (found.temperature_celsius, found.cpu_quota) == (52.5, 1.5)


def test_what_a_machine_does_not_tell_is_none(tmp_path: Path) -> None:
    found = read_environment(tmp_path)
    assert (found.governor, found.clock_mhz, found.hyperthreading) == (None, None, None)
    assert (found.temperature_celsius, found.cpu_quota, found.cpu_flags) == (None, None, ())
    assert found.cpu_model


@pytest.mark.parametrize(
    ("quota", "expected"),
    [({"sys__fs__cgroup__cpu.max": "max 100000"}, None)],
)
def test_no_limit_is_none(tmp_path: Path, quota: dict[str, str], expected: float | None) -> None:
    assert read_environment(machine(tmp_path, **quota)).cpu_quota == expected


@pytest.mark.parametrize(("quota_us", "expected"), [("50000", 0.5), ("-1", None)])
def test_the_older_control_groups_are_read_too(tmp_path: Path, quota_us: str, expected: float | None) -> None:
    folder = tmp_path / "sys/fs/cgroup/cpu"
    folder.mkdir(parents=True)
    (folder / "cpu.cfs_quota_us").write_text(quota_us)
    (folder / "cpu.cfs_period_us").write_text("100000")
    assert read_environment(tmp_path).cpu_quota == expected


def test_the_clock_of_the_processors_entry_serves_where_there_is_no_governor(tmp_path: Path) -> None:
    no_file = {"sys__devices__system__cpu__cpu0__cpufreq__scaling_cur_freq": None}
    assert read_environment(machine(tmp_path, **no_file)).clock_mhz == 2600.5


def test_settings_of_runtimes_are_noted_and_nothing_private(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("MY_PASSWORD", "secret")
    found = read_environment()
    assert found.variables["OMP_WAIT_POLICY"] == "passive"
    assert "MY_PASSWORD" not in found.variables
    assert {"python", "numpy", "onnx"} <= found.versions.keys()


def test_this_machine_keeps_its_fingerprint() -> None:
    assert read_environment().fingerprint == read_environment().fingerprint


def test_gpus_are_read_from_the_drivers_files_and_tell_machines_apart(tmp_path: Path) -> None:
    without = read_environment(machine(tmp_path))
    found = read_environment(machine(tmp_path, **{"proc__driver__nvidia__gpus__0000:01:00.0__information": MODEL}))
    assert (without.gpus, found.gpus) == ((), ("Example GPU",))
    assert found.fingerprint != without.fingerprint


def test_an_arm_processor_is_named_by_its_numbers_and_its_board(tmp_path: Path) -> None:
    text = "processor\t: 0\nFeatures\t: fp asimd i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"
    found = read_environment(machine(tmp_path, **{"proc__cpuinfo": text, "proc__device-tree__model": "Board 5\0"}))
    assert (found.cpu_model, found.cpu_flags) == ("Board 5, ARM 0x41 0xd0b", ("asimd", "i8mm"))
    assert read_environment(machine(tmp_path, **{"proc__device-tree__model": None})).cpu_model != found.cpu_model
