"""`make bench-flame`: where our CPU time goes while users flow from Kafka into Cassandra: a table of the hottest functions, and a flame graph,
`target/bench/flame.svg`. Samples by `perf`, which must be there (linux-perf) and allowed (`sysctl kernel.perf_event_paranoid=1`)."""

import argparse
import collections
import html
import shutil
import signal
import subprocess
import time

from harness import TARGET, Platform
from records import fill

TOPIC = "users_created"
WIDTH, ROW = 1600, 17


def sample(records: int) -> str:
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        processes = ",".join(str(pid) for pid in platform.tree.members())
        data = TARGET / "bench/perf.data"
        command = ["perf", "record", "-e", "cpu-clock", "-F", "299", "-g", "-o", str(data), "-p", processes]
        perf = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(1)
        platform.start_users(f"flame_{int(time.time())}")
        platform.wait_until_published(records, 1)
        perf.send_signal(signal.SIGINT)
        perf.wait()
    fields = ["perf", "script", "-i", str(data), "-F", "comm,ip,sym"]
    return subprocess.run(fields, capture_output=True, text=True, check=True).stdout


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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=300_000)
    records = parser.parse_args().records
    if not shutil.which("perf"):
        raise SystemExit("perf is not installed; apt-get install linux-perf")
    (TARGET / "bench").mkdir(parents=True, exist_ok=True)
    fill(TOPIC, records)
    found = stacks(sample(records))
    total = sum(found.values())
    leaves, threads = collections.Counter(), collections.Counter()
    for stack, count in found.items():
        leaves[stack[-1]] += count
        threads[stack[0]] += count
    for title, counted in (("threads", threads), ("functions", leaves)):
        print(f"{title}:")
        for name, count in counted.most_common(20):
            print(f"  {count / total:6.1%}  {name[:120]}")
    path = TARGET / "bench/flame.svg"
    path.write_text(draw(found))
    print(f"written: {path}")


main()
