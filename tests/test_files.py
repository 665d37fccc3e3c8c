"""Half-written output never appears under its final name."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from liquid_mm.errors import UserError, nearest
from liquid_mm.files import atomic_dir, atomic_file, cached_dir, disk_errors, read_json, sole_writer, write_json


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    with atomic_file(path) as part:
        part.write_text("one")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as part:
        part.write_text("two")
        1 / 0  # noqa: B018
    assert path.read_text() == "one"
    assert [entry.name for entry in path.parent.iterdir()] == ["a.txt"]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "set"
    with pytest.raises(ZeroDivisionError), atomic_dir(path) as part:
        (part / "a").touch()
        1 / 0  # noqa: B018
    assert not list(tmp_path.iterdir())
    with atomic_dir(path) as part:
        (part / "a").touch()
    with pytest.raises(UserError, match="already exists"), atomic_dir(path):
        pass
    with atomic_dir(path, overwrite=True) as part:
        (part / "b").touch()
    assert [entry.name for entry in path.iterdir()] == ["b"]
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


@pytest.mark.parametrize(("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EACCES, "no permission")])
def test_disk_trouble_is_told_in_words(tmp_path, number, words):
    with pytest.raises(UserError, match=words), atomic_file(tmp_path / "a"):
        raise OSError(number, "trouble")
    assert not list(tmp_path.iterdir())


def test_a_full_disk_under_safetensors_is_told_in_words_too(tmp_path):
    """It reports the system's errors by a type of its own, which has no number."""
    message = "Error while serializing: I/O error: No space left on device (os error 28)"
    with pytest.raises(UserError, match="disk is full"), disk_errors(tmp_path):
        raise SafetensorError(message)


def test_of_two_that_fill_a_cache_the_first_wins(tmp_path):
    path = tmp_path / "cache" / "model"
    with cached_dir(path) as late:
        with cached_dir(path) as early:
            (early / "early").touch()
        assert [entry.name for entry in path.iterdir()] == ["early"]  # a reader never sees it vanish
        (late / "late").touch()
    assert [entry.name for entry in path.iterdir()] == ["early"]
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]


def test_json_round_trip_and_errors(tmp_path):
    write_json(tmp_path / "a.json", {"é": 1})
    assert read_json(tmp_path / "a.json") == {"é": 1}
    (tmp_path / "b.json").write_text("{")
    with pytest.raises(UserError, match=r"b\.json is not valid JSON"):
        read_json(tmp_path / "b.json")
    with pytest.raises(UserError, match=r"no file .*c\.json"):
        read_json(tmp_path / "c.json")


def test_the_nearest_name_is_offered_else_all():
    assert nearest("guidence", ["guidance", "seed"]) == "did you mean 'guidance'?"
    assert nearest("x", ["b", "a"]) == "allowed: a, b."


def test_a_folder_has_one_writer_until_it_ends_or_is_killed(tmp_path):
    hold = (
        "import sys, time, pathlib; from liquid_mm.files import sole_writer\n"
        "with sole_writer(pathlib.Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(UserError, match="another process is writing"), sole_writer(tmp_path):
        pass
    os.kill(other.pid, signal.SIGKILL)
    other.communicate()
    with sole_writer(tmp_path):
        pass
    with sole_writer(tmp_path):
        pass
