"""`make bench-executors`: what a job with state costs on 1, 2 and 4 executors that share it, all processes together, over one topic of a real Kafka into
`blackhole`. On a machine with fewer cores than executors it tells what sharing costs, not how fast it is."""

import argparse

from harness import conditions, numbers, show
from nexmark import TOPIC, ours
from source import tool


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--queries", type=numbers, default=[4, 5, 9, 16], help="as 0,4,7")
    parser.add_argument("--executors", type=numbers, default=[1, 2, 4], help="as 1,2,4")
    arguments = parser.parse_args()
    began = conditions()
    tool("fill-unified", TOPIC, str(arguments.events))
    rows, worst = [], 0.0
    for query in arguments.queries:
        costs = {}
        for executors in arguments.executors:
            row = ours(query, arguments.events, executors)
            costs[executors] = row["CPU-s"]
            cost = costs[executors] / costs[arguments.executors[0]]
            rows.append({"query": row["query"], "executors": executors, "CPU, times": round(cost, 2)} | {
                name: row[name] for name in ["CPU-s", "seconds", "K events/CPU-s", "peak MB"]
            })
            print(rows[-1], flush=True)
            worst = max(worst, cost)
    show("executors", rows, [(f"CPU per event, times that on {arguments.executors[0]}, the most", worst, "<=", 1.15)], began)


if __name__ == "__main__":
    main()
