from __future__ import annotations

import pytest

from compress.run_folder import RunFolder
from device_profiles.errors import BadInput


def test_a_step_is_computed_once_and_found_again(tmp_path):
    calls = []
    for _ in range(2):
        folder = RunFolder(tmp_path / "run", {"recipe": 1})
        assert folder.once("step", lambda: calls.append(1) or {"x": 0.5}) == {"x": 0.5}
    assert len(calls) == 1


def test_a_step_that_fails_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run", {})
    with pytest.raises(ZeroDivisionError):
        folder.once("step", lambda: 1 / 0)
    assert folder.once("step", lambda: 2) == 2


def test_seconds_are_those_of_the_first_time(tmp_path):
    folder = RunFolder(tmp_path / "run", {})
    with folder.timed("a"):
        pass
    first = folder.seconds()
    with folder.timed("a"), folder.timed("b"):
        pass
    assert folder.seconds()["a"] == first["a"]
    assert list(folder.seconds()) == ["a", "b"]


def test_another_configuration_is_refused_and_restart_replaces_it(tmp_path):
    RunFolder(tmp_path / "run", {"steps": 1}).once("step", lambda: 1)
    with pytest.raises(BadInput, match="a run with another steps; add --restart"):
        RunFolder(tmp_path / "run", {"steps": 2})
    fresh = RunFolder(tmp_path / "run", {"steps": 2}, restart=True)
    assert fresh.once("step", lambda: 2) == 2


def test_a_run_that_left_nothing_gives_way_to_a_corrected_one(tmp_path):
    with RunFolder(tmp_path / "run", {"data": "typo"}).timed("read the data"):
        pass
    assert RunFolder(tmp_path / "run", {"data": "right"}).seconds() == {}


@pytest.mark.parametrize("content", ['{"architectures": ["BertModel"]}', '{"version": "1.0"}', "{}", "[1]", "not JSON"])
def test_another_programs_configuration_makes_no_runs_folder(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "model.safetensors").write_text("...")
    with pytest.raises(BadInput, match="not empty and no run's folder"):
        RunFolder(tmp_path, {"recipe": 1, "version": "1"}, restart=True)
    assert (tmp_path / "model.safetensors").exists()


def test_a_folder_with_other_things_in_it_is_never_touched(tmp_path):
    (tmp_path / "thesis.tex").write_text("...")
    for restart in (False, True):
        with pytest.raises(BadInput, match="not empty and no run's folder"):
            RunFolder(tmp_path, {}, restart=restart)
    assert (tmp_path / "thesis.tex").exists()


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(BadInput, match="is a file; name a folder"):
        RunFolder(tmp_path / "run", {})


def test_a_run_that_was_killed_before_its_configuration_was_whole_begins_again(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".config.json.123.part").write_text('{"st')
    assert RunFolder(tmp_path / "run", {"steps": 1}).once("step", lambda: 1) == 1
    assert not list((tmp_path / "run").glob("*.part"))


def test_a_restart_that_was_killed_can_be_repeated(tmp_path, monkeypatch):
    RunFolder(tmp_path / "run", {"steps": 1}).once("step", lambda: 1)

    def killed(path):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("compress.run_folder.shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            RunFolder(tmp_path / "run", {"steps": 2}, restart=True)
    for steps in (1, 2):  # what is left is no run's
        with pytest.raises(BadInput, match="another steps; add --restart"):
            RunFolder(tmp_path / "run", {"steps": steps})
    fresh = RunFolder(tmp_path / "run", {"steps": 2}, restart=True)
    assert fresh.once("step", lambda: 2) == 2


def test_a_link_to_a_folder_that_is_not_there_is_said(tmp_path):
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    with pytest.raises(BadInput, match=r"is a link to .*disk, which is not there; make that folder"):
        RunFolder(tmp_path / "run", {})


def test_a_folder_that_is_a_link_is_emptied_and_stays_one(tmp_path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "disk")
    RunFolder(tmp_path / "run", {"steps": 1}).once("step", lambda: 1)
    (tmp_path / "run" / "more").symlink_to(tmp_path)
    assert RunFolder(tmp_path / "run", {"steps": 2}, restart=True).once("step", lambda: 2) == 2
    assert (tmp_path / "run").is_symlink()
    assert not (tmp_path / "disk" / "more").exists()
    assert (tmp_path / "disk" / "work" / "step.json").read_text() == "2"


def test_what_a_killed_run_was_writing_is_cleared_away(tmp_path):
    folder = RunFolder(tmp_path / "run", {})
    folder.once("step", lambda: 1)
    (tmp_path / "run" / "work" / ".step.json.123.part").write_text("{")
    RunFolder(tmp_path / "run", {})
    assert sorted(path.name for path in (tmp_path / "run" / "work").iterdir()) == ["step.json"]
