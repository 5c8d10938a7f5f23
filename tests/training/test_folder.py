from __future__ import annotations

import subprocess
import sys

import pytest

from ornstein.training.folder import Journal, RunFolder

CONFIG = {
    "format": 1,
    "denoiser": {"class": "denoisers.NetworkDenoiser", "arguments": {"network": {"width": 8}}},
    "training": {"steps": 100, "learning_rate": 0.001, "schedule": "cosine", "keep": 2, "clip": None},
    "versions": {"torch": "2.6.0"},
}


def changed(**training) -> dict:
    return {**CONFIG, "training": {**CONFIG["training"], **training}}


def test_a_journal_is_cut_back_to_where_it_was(tmp_path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    assert journal.read() == []
    journal.append({"step": 1})
    size = journal.sync()
    journal.append({"step": 2})
    journal.path.write_text(journal.path.read_text() + '{"step": 3, "lo')
    assert journal.read() == [{"step": 1}, {"step": 2}]
    journal.cut(size)
    assert journal.path.read_text() == '{"step": 1}\n'
    journal.cut(10**6)
    assert journal.read() == [{"step": 1}]


def test_the_same_run_may_go_on_and_another_may_not(tmp_path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.check(CONFIG, resume=True)
    folder.path.mkdir()
    folder.write_config(CONFIG)
    folder.check(CONFIG, resume=True)
    other = changed(learning_rate=0.01)
    other["denoiser"] = {"class": "denoisers.NetworkDenoiser", "arguments": {"network": {"width": 16}}}
    with pytest.raises(ValueError, match="asked for differently") as caught:
        folder.check(other, resume=True)
    text = str(caught.value)
    assert "training.learning_rate was 0.001, now 0.01" in text
    assert "denoiser.arguments.network.width was 8, now 16" in text
    assert "clip" not in text


def test_what_decides_no_bit_may_change(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(CONFIG)
    folder.check({**changed(keep=5), "versions": {"torch": "2.7.0"}}, resume=True)


def test_a_constant_rate_may_go_on_for_longer_but_a_cosine_may_not(tmp_path) -> None:
    folder = RunFolder(tmp_path)
    folder.write_config(changed(schedule="constant"))
    folder.check(changed(schedule="constant", steps=200), resume=True)
    with pytest.raises(ValueError, match=r"training\.steps was 100, now 50"):
        folder.check(changed(schedule="constant", steps=50), resume=True)
    folder.write_config(CONFIG)
    with pytest.raises(ValueError, match=r"training\.steps was 100, now 200"):
        folder.check(changed(steps=200), resume=True)


def test_a_folder_of_other_things_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("words")
    for resume in (True, False):
        with pytest.raises(ValueError, match="out: "):
            RunFolder(tmp_path).check(CONFIG, resume)
    with pytest.raises(ValueError, match="is a file"):
        RunFolder(tmp_path / "thesis.txt").check(CONFIG, True)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_config_that_is_no_yaml_is_named(tmp_path) -> None:
    (tmp_path / "config.yaml").write_text("a: [")
    with pytest.raises(ValueError, match=r"config\.yaml: not readable"):
        RunFolder(tmp_path).check(CONFIG, True)


HOLDER = """
import sys
from pathlib import Path
from ornstein.training.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_do_not_write_one_folder(tmp_path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=f"written by process {holder.pid}"),
            RunFolder(tmp_path).locked(),
        ):
            pass
        holder.kill()
    with RunFolder(tmp_path).locked():
        pass
