"""What scripts read of `polybolos sql` is whole: rows are not left out without an error."""

import pytest

MANY = "SELECT value FROM generate_series(1, 25000)"
OF_MANY_TYPES = """SELECT 1 AS a, 9007199254740993 AS b, NULL AS c, 'é, "x"' AS d, CAST(1.50 AS DECIMAL(5, 2)) AS e, CAST('NaN' AS DOUBLE) AS f,
  TIMESTAMP '2026-01-02 03:04:05' AS g, make_array(1, NULL) AS h, named_struct('a', 'x') AS i, true AS j"""


def test_all_rows_of_a_query_are_printed(platform):
    rows = platform.run("sql", "-c", MANY, "--output", "json").stdout.splitlines()
    assert sorted(rows) == sorted(f'{{"value":{number}}}' for number in range(1, 25_001))
    head, *rows = platform.run("sql", "-c", MANY, "--output", "csv").stdout.splitlines()
    assert head == "value" and sorted(rows, key=int) == [str(number) for number in range(1, 25_001)]
    assert platform.run("sql", "-c", "SELECT 1 AS a WHERE false", "--output", "csv").stdout == "a\n"


def test_people_and_those_who_set_a_limit_get_a_hint(platform):
    for arguments, lines in [(["--output", "csv", "--limit", "10"], 11), (["--output", "table"], 1_000 + 5)]:
        done = platform.run("sql", "-c", MANY, *arguments)
        assert len(done.stdout.splitlines()) == lines and "more rows were left out" in done.stderr, done.stderr


def test_a_door_that_gives_no_more_rows_is_an_error(platform):
    done = platform.run("sql", "-c", MANY, "--output", "csv", "--http", platform.endpoints["http"], check=False)
    assert done.returncode == 1 and len(done.stdout.splitlines()) == 10_001
    assert done.stderr.count("\n") == 1 and "more than the 10000 rows" in done.stderr and "leave out --http" in done.stderr, done.stderr


@pytest.mark.parametrize("output", ["json", "csv"])
def test_both_doors_give_the_same_lines(platform, output):
    whole = platform.run("sql", "-c", OF_MANY_TYPES, "--output", output)
    assert whole.stdout == platform.run("sql", "-c", OF_MANY_TYPES, "--output", output, "--limit", "10").stdout and "9007199254740993" in whole.stdout
    for wrong in ("SELECT * FROM herd_of_nobody", "SELECT 1;  SELECT nothing", "SELECT CAST(a AS INT) FROM (VALUES ('x')) AS t (a)"):
        refused, limited = (platform.run("sql", "-c", wrong, "--output", output, *limit, check=False) for limit in ([], ["--limit", "10"]))
        assert refused.returncode == limited.returncode == 1 and refused.stderr == limited.stderr != "", (refused.stderr, limited.stderr)
        assert refused.stdout == limited.stdout, (refused.stdout, limited.stdout)
