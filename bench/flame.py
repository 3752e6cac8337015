"""`make bench-flame`: where our CPU time goes while users flow from Kafka into Cassandra, or, with `--query q9`, one of Nexmark's queries into `blackhole`: tables of the
hottest threads, functions and callers, and a flame graph, `target/bench/flame.svg` or `flame-q9.svg`. Samples by `perf`, which must be there (linux-perf) and allowed
(`sysctl kernel.perf_event_paranoid=1`)."""

import argparse
import collections
import html
import re
import shutil
import signal
import subprocess
import time

import nexmark
from harness import TARGET, Platform, conditions, show
from records import fill
from source import tool

TOPIC = "users_created"
WIDTH, ROW = 1600, 17
# Rows of each table.
HOTTEST = 20
# Callers that tell something, and what of a name does not.
OURS = re.compile(r"polybolos|datafusion|ballista|arrow")
PARAMETERS = re.compile(r"::<.*>|::h[0-9a-f]{16}$")


def sample(platform: Platform, start, records: int) -> str:
    """The stacks of the platform's processes from when `start` begins a job until it has read and written all."""
    processes = ",".join(str(pid) for pid in platform.tree.members())
    data = TARGET / "bench/perf.data"
    command = ["perf", "record", "-e", "cpu-clock", "-F", "299", "-g", "-o", str(data), "-p", processes]
    perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    time.sleep(1)
    start()
    platform.wait_until_published(records, 1)
    perf.send_signal(signal.SIGINT)
    perf.wait()
    fields = ["perf", "script", "-i", str(data), "-F", "comm,ip,sym"]
    return subprocess.run(fields, capture_output=True, text=True, check=True).stdout


def of_users(records: int) -> str:
    fill(TOPIC, records)
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        return sample(platform, lambda: platform.start_users(f"flame_{int(time.time())}"), records)


def of_query(query: int, events: int) -> str:
    tool("fill-unified", nexmark.TOPIC, str(events))
    with nexmark.platform_with_tables("cluster", "--executors", "1") as platform:
        return sample(platform, lambda: platform.sql(nexmark.into_blackhole(nexmark.statements(query))), events)


def stacks(script: str) -> collections.Counter:
    """Samples by stack, the thread's name first."""
    found = collections.Counter()
    for block in script.split("\n\n"):
        lines = block.strip().splitlines()
        if lines:
            frames = [line.strip().split(" ", 1)[-1].split("+0x")[0] for line in lines[1:]]
            found[(lines[0].strip(), *reversed(frames))] += 1
    return found


def draw(found: collections.Counter) -> str:
    """Boxes as wide as their share of samples, callers below."""
    boxes, total = [], sum(found.values())

    def place(branches: list[tuple[tuple, int]], depth: int, left: float):
        groups: dict[str, list] = {}
        for stack, count in branches:
            if len(stack) > depth:
                groups.setdefault(stack[depth], []).append((stack, count))
        for name, members in sorted(groups.items()):
            share = sum(count for _, count in members) / total
            if share * WIDTH >= 1:
                boxes.append((left, depth, share, name))
                place(members, depth + 1, left)
            left += share

    place(list(found.items()), 0, 0.0)
    height = (max(depth for _, depth, _, _ in boxes) + 1) * ROW
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" font-family="monospace" font-size="11">']
    for left, depth, share, name in boxes:
        x, y, width = left * WIDTH, height - (depth + 1) * ROW, share * WIDTH
        text = html.escape(name[: max(0, int(width / 7))])
        colour = f"hsl({10 + hash(name) % 45},75%,62%)"
        parts.append(
            f'<g><title>{html.escape(name)}: {share:.1%}</title><rect x="{x:.1f}" y="{y}" width="{width:.1f}" height="{ROW - 1}" '
            f'fill="{colour}"/><text x="{x + 2:.1f}" y="{y + 12}">{text}</text></g>'
        )
    return "\n".join([*parts, "</svg>"])


def hottest(found: collections.Counter) -> list[dict]:
    """Threads by name; functions by the time in themselves; and callers by the time in them and in what they call, each once in a stack."""
    total = sum(found.values())
    counted = {"threads": collections.Counter(), "functions": collections.Counter(), "callers": collections.Counter()}
    for stack, count in found.items():
        counted["threads"][stack[0]] += count
        counted["functions"][stack[-1]] += count
        for name in {PARAMETERS.sub("", frame) for frame in stack[1:] if OURS.search(frame)}:
            counted["callers"][name] += count
    return [
        {"share": f"{count / total:.1%}", "of": kind, "name": name[:120]}
        for kind, counter in counted.items()
        for name, count in counter.most_common(HOTTEST)
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--query", help="one of Nexmark's, such as q9, instead of users")
    parser.add_argument("--records", type=int, help="so many users (300 000), or events of Nexmark (2 000 000)")
    arguments = parser.parse_args()
    if not shutil.which("perf"):
        raise SystemExit("perf is not installed; apt-get install linux-perf")
    if arguments.query and not re.fullmatch(r"q(\d|1\d|2[0-2])", arguments.query):
        raise SystemExit(f"--query {arguments.query}: Nexmark's queries are q0 to q22")
    began = conditions()
    (TARGET / "bench").mkdir(parents=True, exist_ok=True)
    if arguments.query:
        name, script = f"flame-{arguments.query}", of_query(int(arguments.query[1:]), arguments.records or 2_000_000)
    else:
        name, script = "flame", of_users(arguments.records or 300_000)
    found = stacks(script)
    path = TARGET / f"bench/{name}.svg"
    path.write_text(draw(found))
    print(f"written: {path}")
    show(name, hottest(found), [], began)


main()
