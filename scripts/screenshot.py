"""Takes the README's picture from a platform of its own that runs the demo, once its charts have something to show."""

import pathlib
import sys
import tempfile
import time

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests/python"))

from conftest import Platform  # noqa: E402
from test_console import browser, open_console  # noqa: E402

WATCHED_S = 75


def main():
    with tempfile.TemporaryDirectory() as folder:
        platform = Platform(pathlib.Path(folder) / "data")
        try:
            platform.start()
            time.sleep(WATCHED_S)
            with browser(1280, 1040) as driver:
                driver.execute_cdp_cmd("Emulation.setScrollbarsHidden", {"hidden": True})
                open_console(driver, platform)
                driver.save_screenshot(str(REPOSITORY / "docs/console.png"))
        finally:
            if platform.process:
                platform.stop()


main()
