"""End-to-end tests of the doors against a running platform, found by its data directory: POLYBOLOS_DATA_DIR."""
import json
import os
import pathlib
import time

import pytest

PATIENCE_S = 60


class Platform:
    def __init__(self, data_dir: pathlib.Path):
        self.endpoints = json.loads((data_dir / "endpoints.json").read_text())
        self.token = (data_dir / "token").read_text().strip()

    def address(self, door: str) -> tuple[str, int]:
        host, port = self.endpoints[door].rsplit(":", 1)
        return host, int(port)


@pytest.fixture(scope="session")
def platform() -> Platform:
    folder = os.environ.get("POLYBOLOS_DATA_DIR")
    if not folder:
        pytest.exit("set POLYBOLOS_DATA_DIR to the data directory of a running platform", returncode=2)
    return Platform(pathlib.Path(folder))


@pytest.fixture(scope="session")
def artefacts() -> pathlib.Path:
    folder = pathlib.Path(os.environ.get("POLYBOLOS_ARTEFACTS", "target/console"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wait_for(what: str, probe, patience_s: float = PATIENCE_S):
    """Asks until the probe answers with something true; the last answer or error stands in the failure."""
    deadline = time.monotonic() + patience_s
    last = None
    while time.monotonic() < deadline:
        try:
            last = probe()
            if last:
                return last
        except Exception as error:  # noqa: BLE001 - whatever it is, it is shown below
            last = error
        time.sleep(0.25)
    raise AssertionError(f"{what} did not happen within {patience_s} s; last: {last!r}")
