"""`polybolos up` on a terminal: what flows is one line of it, which leaves nothing behind."""

import contextlib
import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

from conftest import BINARY, REPOSITORY, free_offset

COLUMNS = 40
# A line below the cursor, which goes back.
DRAWN = re.compile(r"\r\x1b\[J\r?\n([^\r\n]*)\r\x1b\[A")


def test_what_flows_is_one_line_that_is_gone_in_the_end(tmp_path):
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, COLUMNS, 0, 0))
    command = [BINARY, "up", "--data-dir", str(tmp_path / "data"), "--port-offset", str(free_offset())]
    process = subprocess.Popen(
        command, cwd=REPOSITORY, stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | {"TERM": "xterm"}, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    read = b""
    try:
        end = time.monotonic() + 60
        while not any(line.startswith("created_users_job ") for line in DRAWN.findall(read.decode(errors="replace"))):
            assert time.monotonic() < end, read
            if select.select([ours], [], [], 1)[0]:
                read += os.read(ours, 65_536)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # nobody has the other end any more
            while more := os.read(ours, 65_536):
                read += more
        assert process.wait(timeout=60) == 0, read
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        os.close(ours)
    shown = read.decode(errors="replace")
    lines = DRAWN.findall(shown)
    assert max(map(len, lines)) == COLUMNS - 1 and any(line.endswith("…") for line in lines), lines
    # After the last one it is cleared.
    assert "\r\x1b[J" in shown[list(DRAWN.finditer(shown))[-1].end():], shown[-500:]
    # Beside it, the ends of stopping.
    data = tmp_path / "data"
    assert shown.count("\rstopping; Ctrl-C again ends at once\r\n") == 1, shown[-500:]
    assert f"\rstopped; data stays in {data}, `polybolos up --data-dir {data}` goes on\r\n" in shown, shown[-500:]
