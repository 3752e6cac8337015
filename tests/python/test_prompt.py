"""The prompt of `polybolos sql`, as a person has it on a terminal."""

import fcntl
import os
import pty
import select
import signal
import socket
import struct
import subprocess
import termios
import time

import pytest
from conftest import BINARY

# With the cursor behind it. The prompt before a text is shown anew when Tab completes that, and when it comes to the end of the line.
PROMPT = "polybolos> \r\x1b[11C"


class Terminal:
    def __init__(self, platform, home, columns: int):
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        command = [BINARY, "sql", "--data-dir", str(platform.folder)]
        environment = os.environ | {"HOME": str(home), "TERM": "xterm"}
        # With a session of its own, its Ctrl-C comes by that terminal alone.
        self.process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(theirs)
        self.shown = ""

    def wait_for(self, text: str) -> str:
        """What came until this text, and it."""
        end = time.monotonic() + 60
        while text not in self.shown:
            assert time.monotonic() < end, f"{text!r} did not come, but {self.shown!r}"
            if select.select([self.ours], [], [], 1)[0]:
                self.shown += os.read(self.ours, 65_536).decode(errors="replace")
        at = self.shown.index(text) + len(text)
        came, self.shown = self.shown[:at], self.shown[at:]
        return came

    def type(self, text: str) -> None:
        os.write(self.ours, text.encode())

    def ask(self, line: str, prompt: str = PROMPT) -> str:
        """Types a line, and waits for the next prompt."""
        self.type(line + "\r")
        return self.wait_for(prompt)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        os.close(self.ours)


@pytest.fixture
def terminal(platform, tmp_path):
    terminals = []

    def open_one(columns: int = 120) -> Terminal:
        terminals.append(Terminal(platform, tmp_path, columns))
        terminals[-1].wait_for(PROMPT)
        return terminals[-1]

    yield open_one
    for each in terminals:
        each.end()


def test_the_prompt_knows_what_hands_type(terminal, tmp_path):
    at = terminal()
    at.ask("")
    assert "\\timing" in at.ask("\\?")
    tables = at.ask("\\d")
    assert "created_users" in tables and " ms\r\n" in tables, tables
    assert "times are not shown" in at.ask("\\timing")
    # Tab has the rest of the name.
    columns = at.ask("\\d created_u\t")
    assert "first_name" in columns and " ms\r\n" not in columns, columns
    assert "a line per column" in at.ask("\\x")
    at.ask("SELECT 1 AS one,", "...> ")
    rows = at.ask("2 AS two;")
    assert "─[ 1 ]─" in rows and "two │ 2" in rows, rows
    assert "there is no command \\nonsense" in at.ask("\\nonsense")
    assert "line 1, column 12: " in at.ask("SELECT 1;  SELEC 2;")
    at.type("\\q\r")
    assert at.process.wait(timeout=60) == 0
    assert "created_users" in (tmp_path / ".polybolos_history").read_text()


def test_ctrl_c_cancels_a_statement_and_not_the_prompt(platform, terminal):
    at = terminal()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        port = silent.getsockname()[1]
        platform.sql(
            "CREATE TABLE prompt_silent (a STRING) WITH ('connector' = 'kafka', 'topic' = 'prompt_silent', 'format' = 'json', "
            f"'properties.bootstrap.servers' = '127.0.0.1:{port}')"
        )
        at.type("SELECT * FROM prompt_silent;\r")
        # Whoever is asked never answers, so the statement waits.
        with silent.accept()[0]:
            at.type("\x03")
            at.wait_for("cancelled; a change that has begun goes on")
            at.wait_for(PROMPT)
    platform.sql("DROP TABLE prompt_silent")
    assert "still here" in at.ask("SELECT 'still ' || 'here' AS answer;")


def test_ctrl_c_ends_rows_that_have_no_end_and_not_the_prompt(platform, terminal):
    platform.run("topic", "produce", "prompt_rows", stdin='{"n": 1}\n')
    platform.sql("CREATE TABLE prompt_rows (n BIGINT) WITH ('connector' = 'kafka', 'topic' = 'prompt_rows', 'format' = 'json')")
    at = terminal()
    at.type("SELECT n FROM prompt_rows EMIT CHANGES;\r")
    at.wait_for("│ 1 ")
    at.type("\x03")
    shown = at.wait_for(PROMPT)
    assert "1 row\r\n" in shown and "cancelled" not in shown, shown
    assert "still here" in at.ask("SELECT 'still ' || 'here' AS answer;")
    platform.sql("DROP TABLE prompt_rows")


def test_a_table_too_wide_for_the_terminal_is_shown_a_line_per_column(terminal):
    at = terminal(columns=60)
    rows = at.ask("SELECT 'aaaaaaaaaaaaaaaaaaaa' AS a, 'bbbbbbbbbbbbbbbbbbbb' AS b, 'cccccccccccccccccccc' AS c, 'dddddddddddddddddddd' AS d;")
    assert "─[ 1 ]─" in rows and "d │ dddddddddddddddddddd" in rows, rows
