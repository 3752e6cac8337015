"""One of Nexmark's queries on Flink SQL, as published, from the topic's start to its end as of now, into `blackhole`. The settings are those of
Flink's own Nexmark: object reuse, mini-batches, two slots."""

import os
import pathlib
import re
import sys

from pyflink.common import Configuration
from pyflink.table import EnvironmentSettings, TableEnvironment

SINK = re.compile(r"^-- (q\d+): (.*)$", re.MULTILINE)

jars = ";".join(f"file://{jar}" for jar in sorted(pathlib.Path(os.environ["BENCH_JARS"]).glob("*.jar")))
settings = {
    "pipeline.jars": jars,
    "parallelism.default": "2",
    "taskmanager.numberOfTaskSlots": "2",
    "pipeline.object-reuse": "true",
    "table.exec.mini-batch.enabled": "true",
    "table.exec.mini-batch.allow-latency": "2s",
    "table.exec.mini-batch.size": "50000",
    "table.optimizer.distinct-agg.split.enabled": "true",
    "execution.checkpointing.interval": "30s",
    "execution.checkpointing.dir": f"file://{os.environ['BENCH_CHECKPOINT']}",
    "table.local-time-zone": "UTC",
    "rest.port": "0",
}
configuration = Configuration()
for key, value in settings.items():
    configuration.set_string(key, value)
tables = TableEnvironment.create(EnvironmentSettings.new_instance().in_streaming_mode().with_configuration(configuration).build())
parts = SINK.split(pathlib.Path(__file__).with_name("nexmark.sql").read_text())
declarations = parts[0].replace("${topic}", os.environ["BENCH_TOPIC"]).replace("${kafka}", os.environ["POLYBOLOS_TEST_KAFKA"])
declarations = declarations.replace("${side_input}", os.environ["BENCH_SIDE_INPUT"])
queries = {name: (columns, text) for name, columns, text in zip(parts[1::3], parts[2::3], parts[3::3])}
for statement in filter(str.strip, declarations.split(";")):
    tables.execute_sql(statement)
columns, text = queries[sys.argv[1]]
tables.execute_sql(f"CREATE TABLE sink ({columns}) WITH ('connector' = 'blackhole')")
print("session", flush=True)
sys.stdin.readline()

tables.execute_sql(f"INSERT INTO sink {text.strip().rstrip(';')}").wait()
print("done", flush=True)
sys.stdin.readline()
