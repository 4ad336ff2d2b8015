"""Files are whole or absent, what dead processes left is removed, and locks keep two apart."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from opencompass_llada.files import (
    LOCK_NAME,
    STALE_SECONDS,
    FolderInUse,
    append_line,
    folder_lock,
    host_name,
    process_exists,
    read_lines,
    remove_left_overs,
    replacing,
    temporary_name,
    write_text,
)


@pytest.fixture(scope="module")
def dead_process():
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_the_old_or_the_new_one(tmp_path):
    target = tmp_path / "result.json"
    write_text(target, "old")
    with replacing(target) as temporary:
        temporary.write_text("new")
        assert target.read_text() == "old"
        assert temporary.parent == tmp_path
    assert target.read_text() == "new"
    assert names(tmp_path) == ["result.json"]


def break_off(target, error, in_folder=False):
    with replacing(target) as temporary:
        if in_folder:
            temporary.mkdir()
            temporary = temporary / "tokens.bin"
        temporary.write_text("ne")
        raise error


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    target = tmp_path / "result.json"
    write_text(target, "old")
    with pytest.raises(type(error)):
        break_off(target, error)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["result.json"]


def test_a_folder_is_moved_whole_and_removed_whole(tmp_path):
    with replacing(tmp_path / "cache") as temporary:
        temporary.mkdir()
        (temporary / "tokens.bin").write_bytes(b"1")
    assert names(tmp_path / "cache") == ["tokens.bin"]
    with pytest.raises(KeyboardInterrupt):
        break_off(tmp_path / "other", KeyboardInterrupt(), in_folder=True)
    assert names(tmp_path) == ["cache"]


def test_what_comes_before_the_move_sees_the_whole_file(tmp_path):
    seen = []
    target = tmp_path / "a.json"

    def look(path):
        seen.append((path.read_text(), target.exists()))

    with replacing(target, look) as temporary:
        temporary.write_text("whole")
    assert seen == [("whole", False)]


def test_long_names_and_half_surrogates(tmp_path):
    name = "ä" * 120 + ".json"
    write_text(tmp_path / name, "x\ud800", errors="replace")
    assert (tmp_path / name).read_bytes() == b"x?"


def test_left_overs_go_when_their_owner_is_dead(tmp_path, dead_process):
    own = temporary_name("a.json")
    dead = own.replace(f"~{os.getpid()}~", f"~{dead_process}~")
    far = own.replace(f"~{host_name()}~", "~elsewhere~")
    old = far.replace("a.json", "b.json")
    inside = tmp_path / "predictions" / "m"
    inside.mkdir(parents=True)
    for name in (own, dead, far, old, "kept.part", ".kept.part", "a.json"):
        (inside / name).write_text("x")
    (inside / dead.replace("a.json", "folder")).mkdir()
    past = time.time() - STALE_SECONDS - 5
    os.utime(inside / old, (past, past))
    removed = remove_left_overs(tmp_path)
    assert len(removed) == 3
    assert names(inside) == sorted([own, far, "kept.part", ".kept.part", "a.json"])
    assert remove_left_overs(tmp_path / "missing") == []


def test_a_folder_that_another_host_is_filling_stays(tmp_path):
    """Tokenising takes hours, in a cache that hosts share; the folder's own time stands still."""
    folder = tmp_path / temporary_name("tokens").replace(f"~{host_name()}~", "~elsewhere~")
    folder.mkdir()
    (folder / "tokens.bin").write_text("x")
    past = time.time() - STALE_SECONDS - 5
    os.utime(folder, (past, past))
    assert remove_left_overs(tmp_path) == []
    os.utime(folder / "tokens.bin", (past, past))
    os.utime(folder, (past, past))
    assert remove_left_overs(tmp_path) == [folder]


def test_a_torn_line_costs_itself_only(tmp_path):
    path = tmp_path / "lines.jsonl"
    append_line(path, json.dumps({"text": "a\u2028b\u0085c"}, ensure_ascii=False))
    with path.open("ab") as file:
        file.write(b'{"torn')
    append_line(path, json.dumps({"half": "x"}))
    lines = [line for _, line in read_lines(path)]
    assert json.loads(lines[0]) == {"text": "a\u2028b\u0085c"}
    assert lines[1] == b'{"torn'
    assert json.loads(lines[2]) == {"half": "x"}


def test_a_lock_keeps_a_second_process_out(tmp_path):
    with folder_lock(tmp_path, "an evaluation"):
        second = folder_lock(tmp_path, "an evaluation")
        with pytest.raises(FolderInUse, match=rf"process {os.getpid()} on .* an evaluation"):
            second.__enter__()
        assert (tmp_path / LOCK_NAME).is_file()
    with folder_lock(tmp_path, "an evaluation"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", ["", "{", "[]", '{"host": 1}', '{"host":"h","pid":"x"}'])
def test_a_torn_lock_is_nobodys(tmp_path, content):
    (tmp_path / LOCK_NAME).write_text(content)
    with folder_lock(tmp_path, "an evaluation"):
        pass


def test_a_dead_owners_lock_is_taken_over(tmp_path, dead_process):
    def held(**changed):
        lock = {"host": host_name(), "pid": os.getpid(), "since": None, "doing": "a training"}
        (tmp_path / LOCK_NAME).write_text(json.dumps(lock | changed))

    held(pid=dead_process)
    with folder_lock(tmp_path, "a training"):
        pass
    held(since="1")  # the number belongs to another process by now
    with folder_lock(tmp_path, "a training"):
        pass
    held(host="elsewhere")
    with pytest.raises(FolderInUse, match="elsewhere"), folder_lock(tmp_path, "a training"):
        pass
    past = time.time() - STALE_SECONDS - 5
    os.utime(tmp_path / LOCK_NAME, (past, past))
    with folder_lock(tmp_path, "a training"):
        pass


def test_of_many_at_once_one_gets_the_lock(tmp_path):
    script = (
        "import sys, time\n"
        "from opencompass_llada.files import FolderInUse, folder_lock\n"
        "try:\n"
        "    with folder_lock(sys.argv[1], 'an evaluation'):\n"
        "        print('got', flush=True); time.sleep(3)\n"
        "except FolderInUse:\n"
        "    print('refused')\n"
    )
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(8)
    ]
    said = [child.communicate()[0].strip() for child in children]
    assert sorted(said) == ["got"] + ["refused"] * 7


def test_a_folder_that_its_last_user_removes_meanwhile_is_made_again(tmp_path, monkeypatch):
    own_open, removed = Path.open, []

    def open_late(path, *arguments, **options):
        if path.name == LOCK_NAME and len(removed) < 3:
            path.parent.rmdir()  # between its making and the lock in it
            removed.append(path)
        return own_open(path, *arguments, **options)

    monkeypatch.setattr(Path, "open", open_late)
    with folder_lock(tmp_path / "folder", "a test"):
        assert names(tmp_path / "folder") == [LOCK_NAME]
    assert len(removed) == 3


def test_a_zombie_is_dead():
    child = subprocess.Popen([sys.executable, "-c", ""])
    for _ in range(100):
        if not process_exists(child.pid):
            break
        time.sleep(0.05)
    assert not process_exists(child.pid)
    child.wait()


def test_a_file_system_without_flock_takes_locks_all_the_same(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        folder_lock(tmp_path, "an evaluation"),
        pytest.raises(FolderInUse),
        folder_lock(tmp_path, "another"),
    ):
        pass
    monkeypatch.setattr("fcntl.flock", lambda *_: os.stat(tmp_path / "gone"))
    with pytest.raises(FileNotFoundError), folder_lock(tmp_path, "an evaluation"):
        pass
