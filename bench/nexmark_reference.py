"""What Nexmark's queries answer over all events, by DataFusion as PyPI has it, and how a table differs from that. The tests and the benchmark hold the platform's tables against it.

No query has a column of floating-point numbers: everything is compared exactly, but for what ties leave open (`datafusion/nexmark.sql` says which columns)."""

import pathlib
import re

import pyarrow
from datafusion import SessionContext

SECTION = re.compile(r"^-- (q\d+(?: found)?):(.*)$", re.MULTILINE)
# Rows of a difference that are shown, of each kind.
SHOWN = 5
SIDE_INPUT_ROWS = 10_000


def fields(texts: str, ints: str, times: str) -> pyarrow.DataType:
    kinds = {pyarrow.string(): texts, pyarrow.int64(): ints, pyarrow.timestamp("ms"): times}
    return pyarrow.struct([(name, kind) for kind, names in kinds.items() for name in names.split()])


EVENTS = {
    "person": fields("name emailAddress creditCard city state extra", "id", "dateTime"),
    "auction": fields("itemName description extra", "id initialBid reserve seller category", "dateTime expires"),
    "bid": fields("channel url extra", "auction bidder price", "dateTime"),
}


def side_input() -> list[tuple[int, str]]:
    """The rows that q13 looks up: as many as the published file has."""
    return [(key, f"value {key}") for key in range(SIDE_INPUT_ROWS)]


class Reference:
    """Of the events that a file has, a JSON object a line; what is made of them is put beside it."""

    def __init__(self, events: pathlib.Path):
        self.context = SessionContext()
        schema = pyarrow.schema([("event_type", pyarrow.int32()), *EVENTS.items()])
        self.context.register_json("nexmark", events, schema=schema, file_extension=events.suffix)
        for number, (name, kind) in enumerate(EVENTS.items()):
            columns = ", ".join(f"{name}['{field.name}'] AS {field.name.lower()}" for field in kind)
            path = events.with_name(f"{name}.parquet")
            self.context.sql(f"COPY (SELECT {columns} FROM nexmark WHERE event_type = {number}) TO '{path}'").collect()
            self.context.register_parquet(name, path)
        keys, values = zip(*side_input())
        self._register("side_input", pyarrow.table({"key": keys, "value": values}))
        parts = SECTION.split(pathlib.Path(__file__).with_name("datafusion").joinpath("nexmark.sql").read_text())
        self.sections = {name: (text, opened.replace(",", " ").split()) for name, opened, text in zip(parts[1::3], parts[2::3], parts[3::3])}

    def _register(self, name: str, table: pyarrow.Table):
        if self.context.table_exist(name):
            self.context.deregister_table(name)
        self.context.register_record_batches(name, [table.to_batches() or [pyarrow.RecordBatch.from_pylist([], table.schema)]])

    def differences(self, query: str, found: pyarrow.Table) -> list[str]:
        """What is to be told of a table that has the rows of a query such as `q4`; nothing, where they are right."""
        text, opened = self.sections[query]
        if f"{query} found" in self.sections:
            self._register("found", found)
            found = self.context.sql(self.sections[f"{query} found"][0]).to_arrow_table()
        expected = self.context.sql(text).to_arrow_table().rename_columns(found.column_names)
        if not expected.num_rows:
            return ["DataFusion answers nothing: there is nothing to hold the table against"]
        self._register("expected", expected)
        # Of the same types: it is an error where a value would change.
        self._register("found", found.cast(expected.schema))
        decided = ", ".join(f'"{name}"' for name in found.column_names if name.lower() not in opened)
        told = self._lacking("surplus", "*", "found", "expected") + self._lacking("missing", decided, "expected", "found")
        if not told and found.num_rows != (rows := self._count(f"SELECT DISTINCT {decided} FROM expected")):
            told.append(f"{found.num_rows} rows instead of {rows}")
        return told

    def _count(self, query: str) -> int:
        return self.context.sql(query).count()

    def _lacking(self, what: str, columns: str, here: str, there: str) -> list[str]:
        lacking = f"SELECT {columns} FROM {here} EXCEPT SELECT {columns} FROM {there}"
        if not (count := self._count(lacking)):
            return []
        rows = self.context.sql(f"{lacking} ORDER BY 1, 2 LIMIT {SHOWN}").to_pylist()
        return [f"{count} {what}:", *(f"  {'  '.join(f'{name}={value}' for name, value in row.items())}" for row in rows)]
