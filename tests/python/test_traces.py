"""Traces of a running job, as a collector of OpenTelemetry's protocol sees them: an epoch goes on from the scheduler's process to an executor's."""

import json
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from conftest import wait_for
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

PARENTS = {
    "epoch": None,
    "attempt": "epoch",
    "plan": "attempt",
    "task": "attempt",
    "record": "epoch",
    "publish": "epoch",
    "publish_part": "publish",
}
ELSEWHERE = ("task", "publish_part")


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self):
        self.spans: list[dict] = []
        self.server = grpc.server(ThreadPoolExecutor(2))
        trace_service_pb2_grpc.add_TraceServiceServicer_to_server(self, self.server)
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()

    def Export(self, request, context):  # noqa: N802 - the protocol's name
        for of_process in request.resource_spans:
            service = attributes(of_process.resource)["service.name"]
            for scope in of_process.scope_spans:
                self.spans.extend(
                    {
                        "service": service,
                        "name": span.name,
                        "id": span.span_id,
                        "trace": span.trace_id,
                        "parent": span.parent_span_id,
                        "seconds": (span.end_time_unix_nano - span.start_time_unix_nano) / 1e9,
                        "attributes": attributes(span),
                    }
                    for span in scope.spans
                )
        return trace_service_pb2.ExportTraceServiceResponse()


def attributes(of) -> dict:
    return {item.key: getattr(item.value, item.value.WhichOneof("value")) for item in of.attributes}


@pytest.fixture
def collector():
    collector = Collector()
    yield collector
    collector.server.stop(None)


def test_an_epoch_is_a_trace_through_scheduler_and_executors(fresh_cluster, collector):
    endpoint = f"http://127.0.0.1:{collector.port}"
    cluster = fresh_cluster(environment={"POLYBOLOS_LOG_OTLP_ENDPOINT": endpoint, "OTEL_BSP_SCHEDULE_DELAY": "200"})
    cluster.sql("CREATE TABLE traced_source (id STRING, n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'traced', 'format' = 'json')")
    cluster.sql(
        "CREATE TABLE traced (id STRING, n BIGINT, PRIMARY KEY (id) NOT ENFORCED) "
        "WITH ('connector' = 'cassandra', 'keyspace' = 'traces', 'table.create' = 'true')"
    )
    cluster.run("topic", "produce", "traced", stdin="".join(json.dumps({"id": f"k{n}", "n": n}) + "\n" for n in range(20)))
    cluster.sql("CREATE JOB traced_job AS INSERT INTO traced SELECT id, n FROM traced_source")
    wait_for("the rows", lambda: cluster.sql("SELECT count(*) AS n FROM traced WHERE id <> 'hush-hush'"), [{"n": 20}])

    def traces() -> list[list[dict]]:
        """Those of the job's epochs that have ended, with the epoch first."""
        spans = list(collector.spans)
        roots = [span for span in spans if span["name"] == "epoch" and span["attributes"]["job"] == "traced_job"]
        return [[root] + [span for span in spans if span["trace"] == root["trace"] and span is not root] for root in roots]

    def is_whole() -> bool:
        """Executors send theirs by themselves."""
        whole = all({span["name"] for span in trace} == set(PARENTS) for trace in traces())
        return whole and sum(trace[0]["attributes"]["records_in"] for trace in traces()) == 20

    wait_for("whole traces", is_whole)
    for trace in traces():
        names = {span["id"]: span["name"] for span in trace}
        for span in trace:
            assert names.get(span["parent"]) == PARENTS[span["name"]], (span, trace)
            where = "polybolos-executor" if span["name"] in ELSEWHERE else "polybolos-scheduler"
            assert span["service"] == where and span["seconds"] >= 0, span
        [root, *others] = trace
        assert root["attributes"]["rows_out"] == root["attributes"]["records_in"] and root["attributes"]["attempts"] >= 1, root
        assert all(span["attributes"]["epoch"] == root["attributes"]["epoch"] for span in others if span["name"] in ELSEWHERE), trace
        [published] = [span for span in others if span["name"] == "publish"]
        assert published["attributes"]["sink"].endswith("traced") and published["attributes"]["rows"] == root["attributes"]["rows_out"]

    kinds = lambda: {span["attributes"]["kind"] for span in collector.spans if span["name"] == "statement"}  # noqa: E731
    wait_for("statements", lambda: {"CREATE TABLE", "CREATE JOB", "SELECT"} <= kinds())
    assert "hush-hush" not in repr(collector.spans), "statements are not sent"
    assert {span["service"] for span in collector.spans} == {"polybolos-scheduler", "polybolos-executor"}

    with urllib.request.urlopen(f"http://{cluster.endpoints['http']}/metrics", timeout=10) as answer:
        metrics = answer.read().decode()
    [written] = [line for line in metrics.splitlines() if line.startswith('polybolos_job_bytes_out_total{job="traced_job"}')]
    assert float(written.split()[1]) > 20, written
