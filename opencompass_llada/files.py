"""Writes files whole or not at all, and locks folders, so that no killed process leaves a half.

Temporary names and locks say whose they are (host and process), so that a later run knows what a
dead process has left.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

logger = logging.getLogger(__name__)

LOCK_NAME = ".lock"
#: Seconds after which a lock or a left-over of another host, whose processes cannot be seen, counts
#: as left behind. The owner of a lock renews it every `_RENEWAL` seconds.
STALE_SECONDS = 120.0
_RENEWAL = 15.0
#: How often a lock's folder is made again that another process removes before the lock is in it.
_OPENINGS = 100
#: What file systems without `flock` answer: NFS without its lock daemon, Lustre without the option.
_NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_TEMPORARY = re.compile(r"\.(?P<name>.*)~(?P<host>[^~/]+)~(?P<pid>\d+)~[0-9a-f]{8}\.part", re.S)
#: Bytes of the target's name that the temporary one repeats; file systems take 255 for the whole.
_NAME_BYTES = 80
#: Environment variable: folder of what is cached between runs, or ``none``.
CACHE_VARIABLE = "OPENCOMPASS_LLADA_CACHE"


class FolderInUse(ValueError):
    """Another process is at work in a folder."""


def user_cache(name: str) -> Path | None:
    """Return a folder, such as ``"ruler"``, of what is cached between runs; None for no cache."""
    chosen = os.environ.get(CACHE_VARIABLE, "").strip()
    if chosen.lower() == "none":
        return None
    base = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "opencompass_llada"
    return (Path(chosen) if chosen else base).expanduser() / name


def check_user_cache(name: str) -> None:
    """Refuse a `user_cache` in whose place a file lies."""
    folder = user_cache(name)
    for path in () if folder is None else (folder, *folder.parents):
        if path.is_dir():
            return
        if path.exists():
            raise ValueError(
                f"{CACHE_VARIABLE}: {str(path)!r} is a file, and the cache {str(folder)!r} needs a "
                f"folder there; set {CACHE_VARIABLE} to a folder, or to none to keep nothing"
            )


@contextmanager
def replacing(path: str | Path, before: Callable[[Path], None] | None = None) -> Iterator[Path]:
    """Give a temporary path in the target's folder, and move what is there into place at the end.

    The target is the old one or the new one, whole, also if the machine stops; after any error the
    temporary file is removed. A folder may be made where none of that name exists. ``before`` is
    called with the temporary path when it is on the disk, before it is moved.
    """
    target = Path(os.path.realpath(path))  # through a link, as `open` writes
    temporary = target.with_name(temporary_name(target.name))
    try:
        yield temporary
        settle(temporary)
        if before is not None:
            before(temporary)
        os.replace(temporary, target)
        settle(target.parent, inside=False)
    except BaseException:
        remove(temporary)
        raise


def write_text(path: str | Path, text: str, errors: str = "strict") -> None:
    """Write a UTF-8 file, and its folder if need be, whole or not at all.

    ``errors`` says what becomes of half surrogates, as in `str.encode`.
    """
    content = text.encode("utf-8", errors=errors)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def append_line(path: str | Path, line: str) -> None:
    """Append a line in one write; a line that an earlier process left torn is closed first.

    Half surrogates become question marks. What a full disk took of it is cut off again.
    """
    content = line.encode("utf-8", errors="replace") + b"\n"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    # Unbuffered, so that lines of several processes do not mix.
    with Path(path).open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        if end:
            file.seek(end - 1)
            content = (b"" if file.read(1) == b"\n" else b"\n") + content
        written = file.write(content)
        if written != len(content):  # a disk that became full takes a part
            if os.fstat(file.fileno()).st_size == end + written:
                file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def sealed_line(record: Mapping[str, Any]) -> str:
    """Return a record as a line of JSON that begins with the digest of the rest of it."""
    text = json.dumps(record, ensure_ascii=False, default=str)
    rest = text[1:].encode("utf-8", errors="replace")
    return f'{{"digest": "{_digest(rest)}", {rest.decode("utf-8")}'


def open_line(line: bytes, must_be_sealed: bool = True) -> dict[str, Any] | None:
    """Return a line's record without its digest; None if it is torn, damaged or no record."""
    sealed = re.match(rb'\{"digest": "([0-9a-f]{16})", ', line)
    is_whole = sealed and sealed[1].decode() == _digest(line[sealed.end() :])
    if not (is_whole or (sealed is None and not must_be_sealed)):
        return None
    try:
        record = json.loads(line.decode("utf-8"))
    except ValueError:
        return None
    is_record = isinstance(record, dict)
    return {k: v for k, v in record.items() if k != "digest"} if is_record else None


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def read_lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    r"""Yield the lines of a file of JSON lines with their numbers, blank ones left out.

    Only ``\n`` ends a line: `str.splitlines` cuts at U+2028, too, which JSON allows in a text.
    """
    for number, line in enumerate(Path(path).read_bytes().split(b"\n"), start=1):
        if line.strip():
            yield number, line


def temporary_name(name: str) -> str:
    """Return a name, of this process and no other call, for what will have the given one."""
    short = name.encode("utf-8", "surrogateescape")[:_NAME_BYTES].decode("utf-8", "ignore")
    return f".{short}~{host_name()}~{os.getpid()}~{uuid.uuid4().hex[:8]}.part"


@contextmanager
def temporary_folder(parent: str | Path, name: str) -> Iterator[Path]:
    """Give a folder in another, for as long as the block runs.

    `remove_left_overs` removes it where this process is killed.
    """
    folder = Path(parent) / temporary_name(name)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        remove(folder)


def host_name() -> str:
    """Return this machine's name in a form that a file name can hold."""
    return re.sub(r"[^\w.-]", "-", socket.gethostname())[:64] or "unknown"


def remove_left_overs(
    folder: str | Path, recursive: bool = True, *, with_own: bool = False
) -> list[Path]:
    """Remove what dead processes were writing, and return it; other hosts' young files stay.

    ``with_own``: what this process was writing, too, which is about to end.
    """
    removed = []
    for path in sorted(Path(folder).glob("**/.*.part" if recursive else ".*.part")):
        owner = _TEMPORARY.fullmatch(path.name)
        if owner is None:
            continue
        host, pid = owner["host"], int(owner["pid"])
        is_own = with_own and (host, pid) == (host_name(), os.getpid())
        if is_own or not _is_alive(host, pid, None, path):
            remove(path)
            removed.append(path)
    return removed


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def folder_lock(folder: str | Path, doing: str, part: str = "") -> Iterator[None]:
    """Keep a folder, made if need be, for this process; a second one gets `FolderInUse`.

    A lock whose process is dead is taken over at once; another host's after `STALE_SECONDS`.
    Locks of different parts of a folder, by name, go together, and none with one of the whole.
    """
    path = Path(folder) / (f"{LOCK_NAME}.{part}" if part else LOCK_NAME)
    own = {**describe_owner(), "doing": doing, "token": uuid.uuid4().hex}
    _take(path, own)
    # Each looks after it has taken its own: of two at once, one sees the other.
    others = [path.with_name(LOCK_NAME)] if part else sorted(path.parent.glob(f"{LOCK_NAME}.*"))
    try:
        for other in others:
            with suppress(FileNotFoundError):
                _refuse_if_held(other, other.read_bytes())
    except FolderInUse:
        _give_back(path, own)
        raise
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(_RENEWAL):
            try:
                os.utime(path)
            except OSError as error:
                logger.warning("The lock %s could not be renewed: %s", path, error)

    threading.Thread(target=renew, daemon=True, name="folder lock").start()
    try:
        yield
    finally:
        ended.set()
        # A forked child that comes through here must not give up its parent's lock.
        if os.getpid() == own["pid"]:
            _give_back(path, own)


def _take(path: Path, own: dict[str, object]) -> None:
    """Write the lock; readers and writers of it exclude each other for as long as this takes."""
    import fcntl

    while True:
        with _open_lock(path) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError as error:
                if error.errno not in _NO_FLOCK:
                    raise
                logger.info("%s: without flock here, so two starts within a moment mix.", path)
            try:
                if os.fstat(file.fileno()).st_ino != path.stat().st_ino:
                    continue  # taken over between opening and locking
            except FileNotFoundError:
                continue
            file.seek(0)
            _refuse_if_held(path, file.read())
            with replacing(path) as temporary:
                temporary.write_text(json.dumps(own) + "\n", encoding="utf-8")
            return


def _open_lock(path: Path) -> IO[bytes]:
    """Open a lock in its folder, which who held it may remove between the making and the opening.

    So does what moves a finished folder into place, with others waiting for it.
    """
    for _ in range(_OPENINGS):
        with suppress(FileNotFoundError, FileExistsError):
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("ab+")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("ab+")


def _refuse_if_held(path: Path, content: bytes) -> None:
    held = read_owner(content)  # None: new, or torn by a full disk, and nobody's
    if held is not None and _is_alive(held["host"], held["pid"], held["since"], path):
        raise FolderInUse(
            f"{str(path.parent)!r} is in use: process {held['pid']} on {held['host']} has "
            f"{held.get('doing')} running there, and two at once would mix their files. Wait for "
            "it or end it, or give another folder. If no such process is there any more, delete "
            f"{str(path)!r}."
        )


def left_lock(folder: str | Path) -> dict[str, Any] | None:
    """Return the owner of a lock of a folder that is not there any more; None if none was left."""
    for path in sorted(Path(folder).glob(f"{LOCK_NAME}*")):
        try:
            held = read_owner(path.read_bytes())
        except OSError:  # it has just been given back
            continue
        if held is not None and not _is_alive(held["host"], held["pid"], held["since"], path):
            return held
    return None


def _give_back(path: Path, own: dict[str, object]) -> None:
    try:
        if json.loads(path.read_bytes()).get("token") == own["token"]:
            path.unlink()
    except (OSError, ValueError, AttributeError) as error:
        logger.warning("The lock %s could not be given back: %s", path, error)


def describe_owner() -> dict[str, Any]:
    """Return what names this process to others: host, number and start."""
    return {"host": host_name(), "pid": os.getpid(), "since": _state_and_start(os.getpid())[1]}


def read_owner(text: str | bytes) -> dict[str, Any] | None:
    """Return what `describe_owner` gave, as JSON with more beside it; None if it is torn."""
    try:
        owner = json.loads(text)
        own = {"host": str(owner["host"]), "pid": int(owner["pid"]), "since": owner.get("since")}
        return {**owner, **own}
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _is_alive(host: str, pid: int, since: str | None, trace: Path) -> bool:
    """Say whether a process is there; of another host's, whether its trace is young."""
    if host == host_name():
        return process_exists(pid, since)
    try:
        # A folder's own time stands still while a file in it grows.
        inside = trace.rglob("*") if trace.is_dir() else ()
        newest = max(path.stat().st_mtime for path in (trace, *inside))
    except OSError:
        return False
    return time.time() - newest < STALE_SECONDS


def process_exists(pid: int, since: str | None = None) -> bool:
    """Say whether a process of this machine that started then (see `describe_owner`) is alive."""
    state, start = _state_and_start(pid)
    if since is not None and start not in (since, None):
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return state != "Z"


def _state_and_start(pid: int) -> tuple[str | None, str | None]:
    """Return a process's state and start, in the kernel's ticks; None where /proc does not say."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None, None
    fields = text.rpartition(")")[2].split()
    return (fields[0], fields[19]) if len(fields) > 19 else (None, None)


def settle(path: Path, *, inside: bool = True) -> None:
    """Wait until a file, or a folder's list of names and what is ``inside``, is on the disk."""
    for part in sorted(path.rglob("*"), reverse=True) if inside and path.is_dir() else ():
        settle(part, inside=False)
    descriptor = None
    try:
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
    except OSError as error:
        # Some folders may be written to and not read, and some file systems have no fsync.
        has_none = descriptor is not None and error.errno in (errno.EINVAL, errno.EOPNOTSUPP)
        if not (path.is_dir() or has_none):
            raise
    finally:
        if descriptor is not None:
            os.close(descriptor)
