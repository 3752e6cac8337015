"""A power cut takes what is written and not synced, which no kill does. So the platform runs under strace, one record goes through it, and its system calls are
looked at in their order: whatever is told of, or built upon, was synced before, file and folder (EPOCHS rule 2)."""

import json
import pathlib
import re
from dataclasses import dataclass, replace

from confluent_kafka import Producer
from conftest import create_topics, wait_for

WRITES = {"write", "writev", "pwrite64", "pwritev", "pwritev2"}
SYNCS = {"fsync", "fdatasync"}
MOVES = {"rename", "renameat", "renameat2"}
REMOVALS = {"unlink", "unlinkat"}
FOLDERS = {"mkdir", "mkdirat"}
CUT = "cut"
# The older ones are not everywhere.
TRACED = ",".join(f"?{name}" for name in sorted(WRITES | SYNCS | MOVES | REMOVALS | FOLDERS))

STARTED = re.compile(r"^(\d+) +(\w+)\((.*)$")
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$")
UNFINISHED = " <unfinished ...>"
RESULT = re.compile(r"\) += (-?\d+|\?)")
DESCRIPTOR = re.compile(r"^\d+<(.*?)(?:\(deleted\))?>")
QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"')

TABLES = """
CREATE TABLE readings (id BIGINT, sensor STRING) WITH ('connector' = 'kafka', 'topic' = 'readings', 'format' = 'json');
CREATE TABLE latest (id BIGINT, sensor STRING, PRIMARY KEY (id) NOT ENFORCED)
  WITH ('connector' = 'cassandra', 'keyspace' = 'power', 'table' = 'latest', 'table.create' = 'true');
CREATE JOB latest_job AS INSERT INTO latest SELECT id, sensor FROM readings;
"""


@dataclass(frozen=True)
class Call:
    """A system call that succeeded: who made it, on what, and in which lines of the trace it began and ended."""

    thread: int
    name: str
    path: str
    # Where a file is moved to.
    target: str
    began: int
    ended: int


def calls(trace: list[str]) -> list[Call]:
    """In the order in which they ended. strace lets a thread go on only after it has written its line: what follows from a call stands below it."""
    found, begun = [], {}
    for number, line in enumerate(trace):
        if match := RESUMED.match(line):
            thread, name, rest = match.groups()
            if thread not in begun:
                continue
            began, arguments = begun.pop(thread)
            text = arguments + rest
        elif match := STARTED.match(line):
            thread, name, text = match.groups()
            began = number
            if text.endswith(UNFINISHED):
                begun[thread] = (number, text.removesuffix(UNFINISHED))
                continue
        else:
            continue
        result = RESULT.findall(text)
        if not result or result[-1].startswith("-"):
            continue
        if name in WRITES | SYNCS:
            paths = [descriptor[1]] if (descriptor := DESCRIPTOR.match(text)) else []
        else:
            paths = QUOTED.findall(text)
        # The process ended in the middle of it.
        name = CUT if result[-1] == "?" else name
        if paths:
            found.append(Call(int(thread), name, paths[0], paths[-1] if name in MOVES else "", began, number))
    return found


def folder_of(path: str) -> str:
    return path.rsplit("/", 1)[0]


def is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


def left_unsynced(found: list[Call], folder: str) -> list[str]:
    """What a thread wrote, made or moved below the folder and did not sync before it went on to something else there, or ended: first the file, then, when it
    has a new name, the folder that has the name. A part of a file that is under way (fdatasync) has no name yet that anybody looks for."""
    problems = []
    # By thread: what it has to sync, and of which file.
    owed: dict[int, tuple[str, str]] = {}
    for call in found:
        # That the folder itself is there is nothing that was told of.
        if not is_below(call.path, folder) or call.name in FOLDERS and call.path == folder:
            continue
        due, file = owed.pop(call.thread, (None, None))
        if call.name == CUT:
            continue
        on_the_way = call.path == due and call.name in SYNCS | WRITES or call.path == file and call.name in REMOVALS
        is_moved = call.path == file and file != due and call.name in MOVES
        if due and not on_the_way and not is_moved:
            problems.append(f"{due} was not synced before {call.name} of {call.path}")
        if call.name in WRITES:
            owed[call.thread] = (call.path, call.path)
        elif call.name == "fsync" and due == file == call.path:
            owed[call.thread] = (folder_of(call.path), call.path)
        elif call.name in MOVES:
            owed[call.thread] = (folder_of(call.target), call.target)
        elif call.name in FOLDERS:
            owed[call.thread] = (folder_of(call.path), call.path)
    return problems + [f"{due} was never synced by who wrote {file}" for due, file in owed.values()]


def unsynced_at_swaps(found: list[Call], is_file) -> list[str]:
    """Files that somebody had written to, and nobody had synced since, when a manifest was put in its place."""
    problems = []
    for swap in [call for call in found if is_swap(call)]:
        last: dict[str, Call] = {}
        for call in found:
            if call.began < swap.began and call.name in WRITES and is_file(call.path, swap):
                last[call.path] = max(call, last.get(call.path, call), key=lambda write: write.ended)
        for path, write in last.items():
            if not any(sync.name in SYNCS and sync.path == path and write.ended < sync.began and sync.ended < swap.began for sync in found):
                problems.append(f"{path} was not synced before {swap.target} told of it")
    return problems


def is_swap(call: Call) -> bool:
    return call.name in MOVES and call.target.endswith("/manifest")


def is_journal(path: str, folder: str) -> bool:
    return is_below(path, folder) and path.endswith(".jnl")


class Watched:
    """The folders of one platform, and what has to hold of the calls that were made there."""

    def __init__(self, data: pathlib.Path, files: pathlib.Path):
        self.store, self.broker, self.tables, self.files = str(data / "store"), str(data / "broker"), str(data / "tables"), str(files)

    def concerns(self, call: Call) -> bool:
        return any(is_below(call.path, folder) for folder in (self.store, self.broker, self.tables, self.files))

    def problems(self, found: list[Call]) -> list[str]:
        # The broker's one writer answers after its sync; what else lies there is the business of the store below it.
        appended = [call for call in found if is_journal(call.path, self.broker)]
        # A journal has its name since it was made.
        appended = [replace(call, name="fdatasync") if call.name == "fsync" else call for call in appended]
        return [
            *left_unsynced(found, self.store),
            *left_unsynced(found, self.files),
            *left_unsynced(appended, self.broker),
            # Tables are written by one thread and synced by another.
            *unsynced_at_swaps(found, lambda path, _: is_journal(path, self.tables)),
            *unsynced_at_swaps(found, lambda path, swap: is_below(path, f"{folder_of(swap.target)}/parts")),
        ]

    def syncs(self, found: list[Call]) -> dict[str, list[Call]]:
        """By what they are of: each kind has to be there, and must not be missing."""
        synced = [call for call in found if call.name in SYNCS]
        folders = {folder_of(call.target or call.path) for call in found if call.name in WRITES | MOVES | FOLDERS}
        return {
            "manifests": [call for call in synced if "/manifest." in call.path and is_below(call.path, self.store)],
            "part files": [call for call in synced if "/parts/" in call.path and is_below(call.path, self.store)],
            "folders of the store": [call for call in synced if call.path in folders and is_below(call.path, self.store)],
            "the broker's journal": [call for call in synced if is_journal(call.path, self.broker)],
            "the tables' journal": [call for call in synced if is_journal(call.path, self.tables)],
            "files for others": [call for call in synced if is_below(call.path, self.files) and call.path not in folders],
            "folders of files for others": [call for call in synced if call.path in folders and is_below(call.path, self.files)],
        }


def test_what_is_told_of_was_synced(fresh_platform, tmp_path):
    files, trace = tmp_path / "files", tmp_path / "trace"
    files.mkdir()
    platform = fresh_platform("--no-pipelines", "--allow-location", str(files))
    # -D: the platform is our child, and strace its. --seccomp-bpf: only these calls stop it.
    platform.before = ["strace", "-D", "-f", "--seccomp-bpf", "-y", "-s", "0", "-o", str(trace), "-e", f"trace={TRACED}", "-e", "signal=none", "--"]
    platform.start(deadline=180)
    kafka = platform.endpoints["kafka"]
    create_topics(kafka, "readings")
    platform.run("sql", "-c", TABLES)
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce("readings", json.dumps({"id": 1, "sensor": "a"}).encode())
    assert producer.flush(60) == 0
    wait_for("the row", lambda: platform.sql("SELECT id, sensor FROM latest"), [{"id": 1, "sensor": "a"}])
    platform.run("sql", "-c", f"""
        CREATE TABLE lines (id BIGINT, sensor STRING) WITH ('connector' = 'filesystem', 'path' = 'file://{files}/lines', 'format' = 'json');
        CREATE JOB lines_job AS INSERT INTO lines SELECT id, sensor FROM readings;""")
    wait_for("the file", lambda: [file for file in (files / "lines").iterdir() if not file.name.startswith(".")])
    settled = "SELECT name FROM polybolos.jobs WHERE records_in = 1 AND unpublished_epochs = 0 ORDER BY name"
    wait_for("both jobs", lambda: platform.sql(settled), [{"name": "latest_job"}, {"name": "lines_job"}])
    assert platform.stop() == 0, platform.errors()
    ended = f"{platform.process.pid} +++ exited with 0 +++"
    wait_for("the end of the trace", lambda: ended in re.sub(" +", " ", trace.read_text()))

    watched = Watched(platform.folder, files)
    found = [call for call in calls(trace.read_text().splitlines()) if watched.concerns(call)]
    assert not (problems := watched.problems(found)), "\n".join(problems)
    # Each of these syncs is needed: without it the same trace has a problem.
    for kind, syncs in watched.syncs(found).items():
        assert syncs, f"no sync of {kind} in the trace"
        without = set(found) - set(syncs)
        assert watched.problems([call for call in found if call in without]), f"nobody misses the syncs of {kind}"
