"""What happens to a topic under a job: records deleted before they were read, the topic made again under the same name, partitions added. On the
embedded platform, and on a cluster with a real Kafka."""

import json
import random
import re
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewPartitions, NewTopic
from conftest import Cluster, wait_for


class Job:
    """A job of a test's own over a topic of its own, and the topic."""

    def __init__(self, system, name: str, options: str = "", partitions: int = 2):
        self.system, self.name, self.partitions = system, name, partitions
        self.kafka = system.endpoints["kafka"]
        self.admin = AdminClient({"bootstrap.servers": self.kafka})
        self.create_topic()
        system.run("sql", "-c", f"""
            CREATE TABLE {name} (id STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = '{name}', 'format' = 'json' {options});
            CREATE TABLE {name}_rows (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED)
              WITH ('connector' = 'cassandra', 'keyspace' = 'topics', 'table' = '{name}_rows', 'table.create' = 'true');
            CREATE JOB {name}_job AS INSERT INTO {name}_rows SELECT id, n FROM {name};""")

    def create_topic(self) -> None:
        done(self.admin.create_topics([NewTopic(self.name, self.partitions, 1)]))

    def produce(self, numbers: range, partition: int = 0) -> None:
        producer = Producer({"bootstrap.servers": self.kafka, "topic.metadata.refresh.interval.ms": 1_000})
        for number in numbers:
            producer.produce(self.name, json.dumps({"id": f"row-{number}", "n": number}).encode(), partition=partition)
        assert producer.flush(60) == 0

    def shown(self) -> dict:
        return self.system.sql(f"SELECT * FROM polybolos.jobs WHERE name = '{self.name}_job'")[0]

    def numbers(self) -> set[int]:
        return {row["n"] for row in self.system.sql(f"SELECT n FROM {self.name}_rows")}

    def wait_until_looked_at(self, end: int) -> None:
        """The scheduler looks at topics once a second; until then the job may still take what it has read ahead, which is no loss."""
        wait_for("a look at the topic", lambda: self.system.sql(
            f"SELECT partition FROM polybolos.partitions WHERE topic = '{self.name}' AND partition = 0 AND end_offset = {end}"))

    def wait_until_read_ahead(self) -> None:
        """Of a platform that reads nothing else. The shared cluster may read for other tests: there, it gets the time to."""
        if isinstance(self.system, Cluster):
            time.sleep(3)
            return
        host, port = self.system.address("http")
        metrics = lambda: urllib.request.urlopen(f"http://{host}:{port}/metrics", timeout=10).read().decode()  # noqa: E731
        buffered = lambda: float(re.search(r"^polybolos_kafka_buffered_bytes (\S+)$", metrics(), re.MULTILINE)[1])  # noqa: E731
        wait_for("records read ahead", lambda: buffered() > 0)

    def statement(self, verb: str) -> None:
        self.system.run("sql", "-c", f"{verb} JOB {self.name}_job")

    def wait_for_state(self, state: str) -> dict:
        return wait_for(f"the job being {state}", lambda: (job := self.shown())["state"] == state and job)


def done(futures: dict) -> None:
    for future in futures.values():
        future.result()


@pytest.mark.parametrize("mode", ["fail", "continue"])
def test_records_deleted_before_they_were_read(system, mode):
    job = Job(system, f"deleted_{mode}", f", 'on_data_loss' = '{mode}'")
    job.produce(range(10))
    wait_for("the first rows", lambda: job.numbers(), set(range(10)))
    job.statement("PAUSE")
    job.wait_for_state("paused")
    job.produce(range(10, 30))
    done(job.admin.delete_records([TopicPartition(job.name, 0, 25)]))
    # The second look begins after the first, and so after the records were deleted.
    for number in (30, 31):
        job.produce(range(number, number + 1))
        job.wait_until_looked_at(number + 1)
    job.statement("RESUME")
    if mode == "fail":
        failed = job.wait_for_state("failed")
        for words in (f'topic "{job.name}"', "partition 0", "[10, 25)", "on_data_loss"):
            assert words in failed["error"], failed
        assert job.numbers() == set(range(10))
        shown = system.run("job", "show", f"{job.name}_job", check=False)
        assert shown.returncode == 4 and "[10, 25)" in shown.stdout
    else:
        wait_for("what was left", lambda: job.numbers(), set(range(10)) | set(range(25, 32)))
        wait_for("the count", lambda: job.shown()["lost_records"], 15)
        assert job.shown()["error"] is None
    job.statement("DROP")


@pytest.mark.parametrize("mode", ["fail", "continue"])
@pytest.mark.parametrize("records", [3, 40])
def test_a_topic_made_again_under_the_same_name(system, mode, records):
    job = Job(system, f"again_{mode}_{records}", f", 'on_data_loss' = '{mode}'")
    job.produce(range(10))
    wait_for("the first rows", lambda: job.numbers(), set(range(10)))
    job.statement("PAUSE")
    job.wait_for_state("paused")
    done(job.admin.delete_topics([job.name]))
    wait_for("the topic's end", lambda: job.name not in job.admin.list_topics(timeout=5).topics)
    wait_for("the topic anew", lambda: job.create_topic() is None)
    new = set(range(100, 100 + records))
    job.produce(range(100, 100 + records))
    job.statement("RESUME")
    if mode == "fail":
        failed = job.wait_for_state("failed")
        for words in (f'topic "{job.name}"', "made again", "on_data_loss"):
            assert words in failed["error"], failed
        assert job.numbers() == set(range(10))
    else:
        # From its beginning: nothing of the new topic is skipped.
        wait_for("the new topic's rows", lambda: job.numbers(), set(range(10)) | new)
        assert job.shown()["error"] is None
    job.statement("DROP")


def test_bad_records_of_a_topic_made_again_are_letters_of_their_own(system):
    """Each is at the same offset as the one of the topic before."""
    job = Job(system, "letters_again", ", 'on_data_loss' = 'continue'")

    def produce(record: bytes) -> None:
        # It lives no longer than this: a producer that asks for its topic makes it.
        producer = Producer({"bootstrap.servers": job.kafka})
        producer.produce(job.name, record, partition=0)
        assert producer.flush(60) == 0

    lengths = lambda: sorted(  # noqa: E731
        row["raw_bytes"] for row in system.sql(f"SELECT raw_bytes FROM polybolos.dead_letters WHERE job = '{job.name}_job'")
    )
    produce(b"bad")
    wait_for("the first letter", lengths, [3])
    job.statement("PAUSE")
    job.wait_for_state("paused")
    done(job.admin.delete_topics([job.name]))
    wait_for("the topic's end", lambda: job.name not in job.admin.list_topics(timeout=5).topics)
    wait_for("the topic anew", lambda: job.create_topic() is None)
    produce(b"worse")
    job.statement("RESUME")
    wait_for("both letters", lengths, [3, 5])
    job.statement("DROP")


def test_what_was_read_ahead_of_a_topic_is_not_taken_for_its_successors(system):
    """Nothing is recorded yet when the topic is made again, so both are read from the same offset."""
    job = Job(system, "ahead", ", 'on_data_loss' = 'continue'")
    wait_for("the first look", lambda: job.shown()["state"], "idle")
    job.statement("PAUSE")
    job.wait_for_state("paused")
    job.produce(range(10))
    # Executors read ahead of a paused job.
    job.wait_until_read_ahead()
    done(job.admin.delete_topics([job.name]))
    wait_for("the topic's end", lambda: job.name not in job.admin.list_topics(timeout=5).topics)
    wait_for("the topic anew", lambda: job.create_topic() is None)
    job.produce(range(100, 140))
    job.statement("RESUME")
    wait_for("the new topic's rows", lambda: job.numbers() >= set(range(100, 140)))
    assert job.numbers() == set(range(100, 140))
    job.statement("DROP")


def test_a_job_whose_topic_is_gone_says_so_and_goes_on_with_the_next(system):
    name = "sink_gone"
    admin = AdminClient({"bootstrap.servers": system.endpoints["kafka"]})
    done(admin.create_topics([NewTopic(f"{name}_in", 1, 1)]))
    system.run("sql", "-c", f"""
        CREATE TABLE {name}_in (id STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = '{name}_in', 'format' = 'json');
        CREATE TABLE {name}_out (id STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = '{name}_out', 'format' = 'json');
        CREATE JOB {name}_job AS INSERT INTO {name}_out SELECT id, n FROM {name}_in;""")
    job = lambda: system.sql(f"SELECT * FROM polybolos.jobs WHERE name = '{name}_job'")[0]  # noqa: E731
    rows = lambda: {row["n"] for row in system.sql(f"SELECT n FROM {name}_out")}  # noqa: E731
    send = lambda numbers: system.run(  # noqa: E731
        "topic", "produce", f"{name}_in", stdin="".join(json.dumps({"id": f"row-{n}", "n": n}) + "\n" for n in numbers)
    )
    send(range(5))
    wait_for("the first rows", rows, set(range(5)))
    done(admin.delete_topics([f"{name}_out"]))
    wait_for("the topic's end", lambda: f"{name}_out" not in admin.list_topics(timeout=5).topics)
    send(range(5, 8))
    failed = wait_for("the job naming the topic", lambda: (shown := job())["state"] == "failed" and shown)
    assert f"{name}_out" in failed["error"] and "does not exist" in failed["error"], failed
    assert f"{name}_out" not in admin.list_topics(timeout=5).topics, "it is not made again by itself"
    # Nor by the next leader. The cluster's processes are left alone: it is shared.
    if not isinstance(system, Cluster):
        assert system.stop() == 0, system.errors()
        system.start()
        wait_for("the job naming the topic again", lambda: (shown := job())["state"] == "failed" and "does not exist" in shown["error"])
        assert f"{name}_out" not in admin.list_topics(timeout=5).topics, "it is not made again by a new leader"
    done(admin.create_topics([NewTopic(f"{name}_out", 1, 1)]))
    wait_for("the rows that waited", rows, set(range(5, 8)))
    wait_for("the job going on", lambda: job()["state"], "idle")
    system.run("sql", "-c", f"DROP JOB {name}_job")


def test_topics_made_again_under_running_jobs_are_read_on(cluster):
    """Executors that read ahead meet the end of a topic at some moment of their own; all partitions must come back."""
    jobs = [Job(cluster, f"anew_{number}", ", 'on_data_loss' = 'continue'", partitions=4) for number in range(8)]
    for job in jobs:
        for partition in range(4):
            job.produce(range(5 * partition, 5 * partition + 5), partition)
    for job in jobs:
        wait_for("the first rows", lambda job=job: job.numbers() == set(range(20)))
    for job in jobs:
        done(job.admin.delete_topics([job.name]))
    for job in jobs:
        wait_for("the topic's end", lambda job=job: job.name not in job.admin.list_topics(timeout=5).topics)
    for job in jobs:
        wait_for("the loss being noticed", lambda job=job: "does not exist" in job.shown()["limiting"])
    for job in jobs:
        wait_for("the topic anew", lambda job=job: job.create_topic() is None)
    # What is told late of the old topic must not stop the new one.
    for job in jobs:
        wait_for("the new topic being noticed", lambda job=job: "does not exist" not in job.shown()["limiting"])
    for job in jobs:
        for partition in range(4):
            job.produce(range(100 + 25 * partition, 125 + 25 * partition), partition)
    for job in jobs:
        wait_for("the new topic's rows", lambda job=job: job.numbers() == set(range(20)) | set(range(100, 200)))
        job.statement("DROP")


def test_topics_made_again_at_once_are_not_taken_for_the_old_ones(cluster):
    """The client may notice nothing: it goes on at the old topic's offset in the new one. Each record counts once."""
    dice = random.Random(20261129)
    names = [f"at_once_{number}" for number in range(6)]
    admin = AdminClient({"bootstrap.servers": cluster.kafka})
    create = lambda name: done(admin.create_topics([NewTopic(name, 2, 1)])) is None  # noqa: E731
    for name in names:
        create(name)
        cluster.run("sql", "-c", f"""
            CREATE TABLE {name} (id STRING) WITH ('connector' = 'kafka', 'topic' = '{name}', 'format' = 'json', 'on_data_loss' = 'continue');
            CREATE TABLE {name}_counts (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED)
              WITH ('connector' = 'cassandra', 'keyspace' = 'topics', 'table' = '{name}_counts', 'table.create' = 'true');
            CREATE JOB {name}_job WITH ('state.unbounded' = 'allow') AS INSERT INTO {name}_counts SELECT id, count(*) FROM {name} GROUP BY id;""")

    def produce(name: str, life: int, count: int) -> None:
        producer = Producer({"bootstrap.servers": cluster.kafka, "topic.metadata.refresh.interval.ms": 500, "enable.idempotence": True})
        for number in range(count):
            producer.produce(name, json.dumps({"id": f"{life}-{number}"}).encode(), partition=number % 2)
        assert producer.flush(60) == 0

    def lead_lives(name: str, seed: int) -> int:
        chances = random.Random(seed)
        for life in range(3):
            if life:
                time.sleep(chances.choice([0.0, 0.3, 1.5]))
                done(admin.delete_topics([name]))
                wait_for("the topic anew", lambda: create(name))
            count = chances.choice([5, 40, 2_000])
            produce(name, life, count)
        return count

    with ThreadPoolExecutor(len(names)) as threads:
        lasts = list(threads.map(lead_lives, names, [dice.randrange(1 << 30) for _ in names]))
    for name, count in zip(names, lasts):
        found = lambda name=name: cluster.sql(f"SELECT count(*) AS ids, sum(n) AS records FROM {name}_counts WHERE id LIKE '2-%'")  # noqa: E731
        wait_for("the last topic's records", lambda found=found, count=count: found()[0]["ids"] == count)
        idle = lambda name=name: cluster.sql(f"SELECT state FROM polybolos.jobs WHERE name = '{name}_job'")[0]["state"] == "idle"  # noqa: E731
        wait_for("the job at rest", idle)
        assert found() == [{"ids": count, "records": count}], name
        assert cluster.sql(f"SELECT * FROM {name}_counts WHERE n > 1") == [], name
        cluster.run("sql", "-c", f"DROP JOB {name}_job")


def test_added_partitions_are_read_from_their_beginning(system):
    job = Job(system, "grows", ", 'scan.startup.mode' = 'latest-offset'", partitions=1)
    job.produce(range(10))
    wait_for("the first rows", lambda: job.numbers(), set(range(10)))
    done(job.admin.create_partitions([NewPartitions(job.name, 3)]))
    wait_for("the partitions", lambda: len(job.admin.list_topics(job.name, timeout=5).topics[job.name].partitions), 3)
    job.produce(range(10, 20), 1)
    job.produce(range(20, 30), 2)
    job.produce(range(30, 40), 0)
    wait_for("the new partitions' rows", lambda: job.numbers(), set(range(40)))
    offsets = system.sql("SELECT partition, next_offset FROM polybolos.partitions WHERE topic = 'grows' ORDER BY partition")
    assert offsets == [{"partition": 0, "next_offset": 20}, {"partition": 1, "next_offset": 10}, {"partition": 2, "next_offset": 10}]
    job.statement("DROP")
