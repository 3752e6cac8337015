"""Which conditions of a query Cassandra applies, and that the answer is the same where it does not."""

import re

from conftest import wait_for

# Condition -> (what is left to Cassandra, the same condition here).
WHERE = {
    "device = 'd1' AND day IN (1, 3) AND at >= 2 AND at < 5": (
        ["at GtEq", "at Lt", "day In", "device Eq"],
        lambda device, day, at, kind, v: device == "d1" and day in (1, 3) and 2 <= at < 5,
    ),
    "device = 'd1' AND day IN (0, 1, 2, 3, 4, 5) AND at BETWEEN 2 AND 3": (
        ["at GtEq", "at LtEq", "day In", "device Eq"],
        lambda device, day, at, kind, v: device == "d1" and at in (2, 3),
    ),
    "device = 'd1' AND (day = 1 OR day = 2) AND v % 2 = 0": (
        ["day In", "device Eq"],
        lambda device, day, at, kind, v: device == "d1" and day in (1, 2) and v % 2 == 0,
    ),
    "device = 'd1' AND day = 2 AND at = 3 AND kind > 'a'": (
        ["at Eq", "day Eq", "device Eq", "kind Gt"],
        lambda device, day, at, kind, v: device == "d1" and day == 2 and at == 3 and kind > "a",
    ),
    "device = 'd1' AND day > 2 AND at = 3": ([], lambda device, day, at, kind, v: device == "d1" and day > 2 and at == 3),
    "device IN ('d0', 'd1') AND day = 2": ([], lambda device, day, at, kind, v: day == 2),
}


def test_lists_of_partitions_and_ranges_within_them_are_left_to_cassandra(cluster):
    cluster.sql(
        "CREATE TABLE pushed (device STRING, day BIGINT, at BIGINT, kind STRING, v BIGINT, PRIMARY KEY ((device, day), at, kind) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'pushdown', 'table.create' = 'true')"
    )
    keys = [(f"d{device}", day, at, kind) for device in range(2) for day in range(4) for at in range(6) for kind in "abc"]
    rows = [(*key, v) for v, key in enumerate(keys)]
    cluster.sql(f"INSERT INTO pushed VALUES {', '.join(map(repr, rows))}")

    def left_to_cassandra(where: str) -> list[str]:
        plan = "\n".join(row["plan"] for row in cluster.sql(f"EXPLAIN SELECT v FROM pushed WHERE {where}"))
        predicates = re.search(r"TableScanExec: .*predicates=\[(.*?)\]", plan)[1]
        return sorted(predicates.split(", ")) if predicates else []

    for where, (wanted, keeps) in WHERE.items():
        # The server's schema is heard of a moment after the table is made.
        wait_for(where, lambda: left_to_cassandra(where) == wanted)
        values = sorted(row["v"] for row in cluster.sql(f"SELECT v FROM pushed WHERE {where}"))
        assert values and values == sorted(row[-1] for row in rows if keeps(*row)), where
