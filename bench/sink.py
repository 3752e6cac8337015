"""`make bench-sink`: users into a table of a real Cassandra by our sink, beside the loop around its driver that somebody would write by hand, with the batch size
and the batches in flight that are best for it here.

The sink alone is compared, by the interface that executors publish through: rows are there in Arrow for it, and as values of the program's own for the loop,
before a clock starts. The pipeline as a whole, which also reads and decodes, is `make bench-users`. Both are one program with one allocator, write the same rows by
four tasks over four connections at LOCAL_QUORUM into new tables, and end when the last row is acknowledged. Only ours writes a timestamp with each row."""

import argparse
import statistics

from harness import cassandra, conditions, example, numbers, show

KEYSPACE = "bench_sink"


class Runs:
    """Each into a table of its own."""

    def __init__(self, rows: int):
        self.rows, self.count = rows, 0
        self.session = cassandra()

    def run(self, who: str, how: str, *arguments: int) -> dict:
        self.count += 1
        table = f"users_{self.count}"
        answer = example("sink", how, table, str(self.rows), *map(str, arguments))
        # Counted by pages: one aggregate over all of the table would time out.
        found = sum(1 for _ in self.session.execute(f"SELECT age FROM {KEYSPACE}.{table}", timeout=120))
        if found != self.rows:
            raise SystemExit(f"table {table} has {found} rows, not {self.rows}: the figures are worth nothing")
        self.session.execute(f"DROP TABLE {KEYSPACE}.{table}", timeout=120)
        row = {
            "who": who,
            "rows": self.rows,
            "rows/s": round(self.rows / answer["seconds"]),
            "µs CPU per row": round(answer["cpu_s"] / self.rows * 1e6, 2),
            "CPU-s": answer["cpu_s"],
            "seconds": answer["seconds"],
        }
        print(row, flush=True)
        return row

    def loop(self, batch: int, in_flight: int) -> dict:
        return self.run(f"loop, {batch} rows a batch, {in_flight} in flight", "loop", batch, in_flight)

    def ours(self) -> dict:
        return self.run("polybolos", "ours")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=300_000)
    parser.add_argument("--batches", type=numbers, default=[8, 16, 32], help="rows in a batch of the loop that are tried, as 8,16")
    parser.add_argument("--in-flight", type=numbers, default=[32, 128, 512], help="batches under way that are tried, as 32,128")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    began = conditions()
    runs = Runs(arguments.rows)
    print("warming Cassandra up, which counts for nobody", flush=True)
    # The other way about, and the loop, which does not try again, would overrun it.
    runs.ours()
    runs.loop(16, 16)
    tried = {(batch, in_flight): runs.loop(batch, in_flight) for batch in arguments.batches for in_flight in arguments.in_flight}
    best = max(tried, key=lambda settings: tried[settings]["rows/s"])
    rows = [row for settings, row in tried.items() if settings != best]
    # The best one's own first run is not counted: it was chosen for being a fast one.
    loops, sinks = [], []
    for _ in range(arguments.rounds):
        loops.append(runs.loop(*best))
        sinks.append(runs.ours())

    def ratio(column: str) -> float:
        return statistics.median(row[column] for row in sinks) / statistics.median(row[column] for row in loops)

    bars = [
        ("rows per second, share of the best loop's", ratio("rows/s"), ">=", 0.9),
        ("CPU per row, times the best loop's", ratio("µs CPU per row"), "<=", 2),
    ]
    show("sink", rows + loops + sinks, bars, began)


main()
