"""`make bench-source`: Nexmark's unified JSON from Kafka, all columns decoded, into `blackhole`, beside bare loops that consume and decode."""

import argparse
import statistics
import time

from harness import Platform, conditions, example, show

TOPIC = "nexmark"
# As crates/kafka/examples/nexmark.rs decodes them.
EVENTS = {
    "Person": ("id date_time", "name email_address credit_card city state extra"),
    "Auction": ("id initial_bid reserve date_time expires seller category", "item_name description extra"),
    "Bid": ("auction bidder price date_time", "channel url extra"),
}


def job() -> str:
    def row(ints: str, texts: str) -> str:
        return ", ".join([f"`{name}` BIGINT" for name in ints.split()] + [f"`{name}` STRING" for name in texts.split()])

    columns = ", ".join(f"`{name}` ROW<{row(*fields)}>" for name, fields in EVENTS.items())
    names = ", ".join(f"`{name}`" for name in EVENTS)
    return f"""
    CREATE TABLE events ({columns}) WITH ('connector' = 'kafka', 'topic' = '{TOPIC}', 'format' = 'json', 'scan.startup.mode' = 'earliest-offset');
    CREATE TABLE nowhere ({columns}) WITH ('connector' = 'blackhole');
    CREATE JOB source_alone AS INSERT INTO nowhere SELECT {names} FROM events;
    """


def tool(*arguments: str) -> dict:
    return example("nexmark", *arguments)


def figures(who: str, events: int, cpu: float, wall: float) -> dict:
    return {
        "who": who,
        "events": events,
        "CPU-s": round(cpu, 2),
        "K events/CPU-s": round(events / cpu / 1_000),
        "seconds": round(wall, 1),
        "K events/s": round(events / wall / 1_000),
    }


def bare(decoder: str) -> dict:
    answer = tool("consume", TOPIC, decoder)
    return figures(f"bare loop, {decoder}", answer["events"], answer["cpu_s"], answer["seconds"])


def ours(events: int) -> dict:
    """From CREATE JOB until the last record is in a recorded epoch; scheduler and executor together."""
    with Platform("cluster", "--executors", "1", "--no-pipelines") as platform:
        cpu, wall = platform.tree.cpu_seconds(), time.monotonic()
        platform.sql(job())
        platform.wait_until_published(events, 0.3)
        row = figures("polybolos", events, platform.tree.cpu_seconds() - cpu, time.monotonic() - wall)
        last = platform.job()
        if last["records_in"] != events or last["dead_letters"]:
            raise SystemExit(f"{last['records_in']} records in and {last['dead_letters']} dead letters, not {events} and 0")
        return row


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    began = conditions()
    size = tool("fill", TOPIC, str(arguments.events))["bytes_per_event"]
    print(f"{arguments.events} events of {size} bytes in Kafka", flush=True)
    rows = []
    for _ in range(arguments.rounds):
        for run in (lambda: bare("arrow-json"), lambda: ours(arguments.events), lambda: bare("columns")):
            rows.append(run())
            print(rows[-1], flush=True)

    def middle(who: str) -> float:
        return statistics.median(row["K events/CPU-s"] for row in rows if row["who"] == who)

    best = max(middle("bare loop, arrow-json"), middle("bare loop, columns"))
    bars = [
        ("events per CPU-second, share of the better bare loop", middle("polybolos") / best, ">=", 0.9),
        ("K events per CPU-second", middle("polybolos"), ">=", 500),
    ]
    show("source", rows, bars, began)


if __name__ == "__main__":
    main()
