"""The console in headless Chromium: users arrive, nothing is logged, it fits light, dark and a phone, and the basics of accessibility."""
import contextlib
import json
import tempfile

import pytest
from conftest import wait_for
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select

FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]

ACCESSIBILITY = """
  const bad = [];
  if (!document.documentElement.lang) bad.push('no language');
  if (document.querySelectorAll('h1').length !== 1) bad.push('not exactly one h1');
  if (!document.querySelector('main')) bad.push('no main');
  for (const node of document.querySelectorAll('button, select, input, a[href]')) {
    const name = node.getAttribute('aria-label') || node.textContent.trim() || node.labels?.[0]?.textContent.trim();
    if (!name) bad.push('no name: ' + node.outerHTML.slice(0, 80));
  }
  for (const node of document.querySelectorAll('img')) if (!node.hasAttribute('alt')) bad.push('no alt: ' + node.outerHTML);
  for (const node of document.querySelectorAll('svg[role=img]')) if (!node.getAttribute('aria-label')) bad.push('a chart without words');
  for (const node of document.querySelectorAll('table')) if (!node.caption) bad.push('a table without a caption');
  const ids = [...document.querySelectorAll('[id]')].map((node) => node.id);
  if (new Set(ids).size !== ids.length) bad.push('an id twice');
  const light = (c) => { const v = c.map((x) => { x /= 255; return x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4; });
    return 0.2126 * v[0] + 0.7152 * v[1] + 0.0722 * v[2]; };
  const rgb = (text) => { const v = text.match(/[\\d.]+/g).map(Number);
    return text.startsWith('color(') ? v.map((x, i) => (i < 3 ? x * 255 : x)) : v; };
  const ground = (node) => { for (; node; node = node.parentElement) { const c = rgb(getComputedStyle(node).backgroundColor);
    if (c.length < 4 || c[3] > 0.9) return c.slice(0, 3); } return [255, 255, 255]; };
  for (const node of document.querySelectorAll('h1, h2, p, dt, dd, td, th, span, button, small, code, figcaption')) {
    const own = [...node.childNodes].some((child) => child.nodeType === 3 && child.data.trim());
    if (!own || !node.checkVisibility() || node.closest('.hidden, .fresh')) continue;
    const [a, b] = [light(rgb(getComputedStyle(node).color)), light(ground(node))].sort((x, y) => y - x);
    const contrast = (a + 0.05) / (b + 0.05);
    if (contrast < 4.5) bad.push(`contrast ${contrast.toFixed(2)}: ${node.outerHTML.slice(0, 80)}`);
  }
  return bad;
"""


@contextlib.contextmanager
def browser(width, height, scheme="light", phone=False):
    with tempfile.TemporaryDirectory() as profile:
        options = webdriver.ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in [*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]:
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        driver = webdriver.Chrome(options=options, service=Service("/usr/bin/chromedriver"))
        try:
            driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
            if phone:
                driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride",
                                       {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True})
            yield driver
        finally:
            driver.quit()


def url(platform, path="/"):
    host, port = platform.address("http")
    return f"http://{host}:{port}{path}"


def open_console(driver, platform):
    driver.get(url(platform, f"/?token={platform.token}"))
    wait_for("the console", lambda: driver.find_elements(By.ID, "rows"))
    wait_for("rows of users", lambda: len(driver.find_elements(By.CSS_SELECTOR, "#rows tbody tr")) >= 3)
    wait_for("a job's state", lambda: driver.find_element(By.ID, "job-state").text not in ("", "waiting for status"))


def complaints(driver):
    return [entry for entry in driver.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


@pytest.mark.parametrize(("name", "width", "height", "scheme", "phone"), [
    ("light", 1280, 1400, "light", False), ("dark", 1280, 1400, "dark", False), ("phone", 390, 844, "light", True), ("narrow", 360, 780, "dark", True)])
def test_users_are_shown(platform, artefacts, name, width, height, scheme, phone):
    with browser(width, height, scheme, phone) as driver:
        open_console(driver, platform)
        assert platform.token not in driver.current_url
        # In one step: rows are replaced as new ones arrive.
        names = driver.execute_script("return [...document.querySelectorAll('#rows .person-name')].map(node => node.textContent)")
        assert any(names), "the users have names"
        assert driver.find_elements(By.CSS_SELECTOR, "#chart-rate path.area"), "the throughput is drawn"
        assert len(driver.find_elements(By.CSS_SELECTOR, "#chart-epoch path.area")) == 6, "the epoch's six steps are stacked"
        assert driver.find_elements(By.CSS_SELECTOR, "#executors tbody tr"), "an executor is listed"
        wait_for("the feed", lambda: "running" in driver.find_element(By.CSS_SELECTOR, "#feeds tbody tr").text)
        assert "users_created" in driver.find_element(By.CSS_SELECTOR, "#feeds tbody th").text
        wide = driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, "the page does not scroll sideways"
        driver.save_screenshot(str(artefacts / f"console-{name}.png"))
        assert complaints(driver) == []


def test_rows_go_on_arriving_and_can_be_held(platform):
    with browser(1280, 900) as driver:
        open_console(driver, platform)
        first = lambda: driver.find_element(By.CSS_SELECTOR, "#rows tbody tr").text  # noqa: E731
        before = first()
        wait_for("a newer row", lambda: first() != before)
        # Whatever its key: the store has it behind all others.
        newest = {"id": "zzzz-console", "first_name": "Zuletzt", "last_name": "Gekommen"}
        platform.run("topic", "produce", "users_created", stdin=json.dumps(newest) + "\n")
        shown = lambda: driver.find_element(By.ID, "rows").text  # noqa: E731
        wait_for("the newest row", lambda: "Zuletzt Gekommen" in shown())
        driver.find_element(By.ID, "hold").click()
        wait_for("a held row", lambda: "waits" in driver.find_element(By.ID, "rows-note").text or "wait." in driver.find_element(By.ID, "rows-note").text)
        assert complaints(driver) == []


def test_a_stream_that_comes_back_shows_no_row_twice(platform):
    with browser(1200, 800) as driver:
        open_console(driver, platform)
        # In one go, so that no event of the page's own comes between.
        shown = driver.execute_async_script("""
          const done = arguments[arguments.length - 1];
          import('/js/rows_view.js').then(({ RowsView }) => {
            const view = new RowsView(() => {});
            view.tables([{ name: 'quiet', connector: 'kafka', written_by: null }]);
            const batch = (rows, anew) => ({ table: 'quiet', columns: [{ name: 'a', type: 'Utf8' }], rows, anew });
            const cells = () => [...document.querySelectorAll('#rows tbody tr')].map((row) => row.textContent);
            const note = () => document.getElementById('rows-note').textContent;
            view.rows(batch([['2'], ['1']], true));
            view.rows(batch([['3']], false));
            const first = cells();
            view.rows(batch([['3'], ['2'], ['1']], true));
            const again = cells();
            view.trouble('gone');
            view.rows(batch([], false));
            const recovered = note();
            done([first, again, recovered]);
          });
        """)
        assert shown[0] == shown[1] == ["3", "2", "1"]
        assert shown[2].startswith("Newest first, 3 shown")


def test_a_failed_job_is_told_of(fresh_platform, artefacts):
    platform = fresh_platform()
    platform.start()
    failing = [f"broken_{number}" for number in range(5)]
    for job, options, value in [("a_job", "", "username"), *((job, "WITH ('on_error' = 'fail')", "CAST(CAST(username AS INT) AS STRING)") for job in failing)]:
        platform.sql(f"CREATE TABLE {job}_rows (v STRING) WITH ('connector' = 'blackhole'); "
                     f"CREATE JOB {job} {options} AS INSERT INTO {job}_rows SELECT {value} FROM users_created")
    wait_for("the failures", lambda: platform.sql("SELECT count(*) AS n FROM polybolos.jobs WHERE state = 'failed'")[0]["n"], len(failing))
    for name, width, height, scheme, phone in [("light", 1280, 900, "light", False), ("phone", 390, 844, "dark", True)]:
        with browser(width, height, scheme, phone) as driver:
            open_console(driver, platform)
            text = lambda place: driver.find_element(By.ID, place).text  # noqa: E731, B023
            options = lambda place: Select(driver.find_element(By.ID, place)).options  # noqa: E731, B023
            assert text("job-name") == "created_users_job", "the page opens on the job whose rows it shows"
            assert options("table-picker")[0].text == "created_users", "not a table that keeps no rows"
            assert driver.title == "⚠ 5 failed – Polybolos", "a tab in the background tells of it"
            assert text("failures").endswith("5 jobs have failed: broken_0, broken_1, broken_2 and 2 more")
            jobs = [option.text for option in options("job-picker")]
            assert jobs[:5] == [f"⚠ {job} – Failed" for job in failing], jobs
            assert [job.split(" – ")[0] for job in jobs[5:]] == ["a_job", "created_users_job"], jobs
            assert all(job.split(" – ")[1] for job in jobs), jobs
            driver.find_elements(By.CSS_SELECTOR, "#failures button")[1].click()
            assert (text("job-name"), text("job-state"), text("job-limiting")) == ("broken_1", "Failed", "Limited by: failed")
            assert "Cannot cast" in text("job-error")
            assert driver.find_element(By.TAG_NAME, "main").text.count("Cannot cast") == 1, "the error stands once"
            wide = driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
            assert wide <= 0, "the page does not scroll sideways"
            driver.save_screenshot(str(artefacts / f"console-failed-{name}.png"))
            assert driver.execute_script(ACCESSIBILITY) == []
            Select(driver.find_element(By.ID, "job-picker")).select_by_value("a_job")
            assert text("through").startswith("This job only fills a_job_rows, and blackhole keeps no rows")
            Select(driver.find_element(By.ID, "table-picker")).select_by_value("a_job_rows")
            assert text("rows").startswith("blackhole keeps no rows")
            assert complaints(driver) == []


def test_text_of_any_length_fits(platform):
    """On a phone nothing of the short lists is cut off, and columns of rows stay as wide as they are, whatever comes."""
    with browser(390, 844, phone=True) as driver:
        open_console(driver, platform)
        wait_for("the feed", lambda: driver.find_elements(By.CSS_SELECTOR, "#feeds tbody tr"))
        cut = "return [...document.querySelectorAll('.scroll')].map(node => node.scrollWidth - node.clientWidth)"
        assert driver.execute_script(cut) == [0, 0, 0]
        widths = driver.execute_script("""
          const widths = () => [...document.querySelectorAll('#rows thead th')].map((node) => node.offsetWidth);
          const before = widths();
          for (const node of document.querySelectorAll('#rows tbody td:nth-child(3) span')) node.textContent = 'x'.repeat(500);
          return [before, widths()];""")
        assert widths[0] == widths[1]
        driver.execute_script("document.getElementById('job-name').textContent = 'x'.repeat(200)")
        wide = driver.execute_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, "a long name does not make the page scroll sideways"


def test_charts_are_read_with_the_keyboard(platform):
    with browser(1280, 900) as driver:
        open_console(driver, platform)
        assert driver.find_element(By.CSS_SELECTOR, "#chart-rate .now").text.endswith("\u202frows/s")
        chart = driver.find_element(By.CSS_SELECTOR, "#chart-epoch svg")
        tip = driver.find_element(By.CSS_SELECTOR, "#chart-epoch .tip")
        driver.execute_script("arguments[0].focus()", chart)
        assert not tip.is_displayed()
        chart.send_keys(Keys.ARROW_LEFT)
        labels = driver.execute_script("return [...arguments[0].querySelectorAll('div span')].map(node => node.textContent)", tip)
        assert labels == ["total", "publish", "record", "write", "compute", "decode", "fetch"]
        chart.send_keys(Keys.ESCAPE)
        assert not tip.is_displayed()


def test_dead_letters_can_be_read(fresh_platform):
    platform = fresh_platform()
    platform.start()
    platform.sql("CREATE TABLE console_letters (v STRING) WITH ('connector' = 'blackhole'); CREATE JOB console_letters_job AS "
                 "INSERT INTO console_letters SELECT CAST(CAST(username AS INT) AS STRING) FROM users_created")
    with browser(1280, 900) as driver:
        open_console(driver, platform)
        wait_for("the job", lambda: "console_letters_job" in [option.get_attribute("value") for option in Select(driver.find_element(By.ID, "job-picker")).options])
        Select(driver.find_element(By.ID, "job-picker")).select_by_value("console_letters_job")
        show = driver.find_element(By.CSS_SELECTOR, "#figures button")
        wait_for("a dead letter", show.is_enabled)
        show.click()
        wait_for("the letters", lambda: driver.find_elements(By.CSS_SELECTOR, "#letters-rows tbody tr"))
        assert driver.find_element(By.CSS_SELECTOR, "#letters-rows tbody th").text.startswith("Cannot cast"), "what went wrong stands first"
        cells = driver.execute_script("return [...document.querySelectorAll('#letters-rows tbody tr:first-child td')].map(node => node.textContent)")
        assert any(cell.startswith('{"') for cell in cells), f"the record is text, not its bytes: {cells}"
        assert complaints(driver) == []


def test_an_empty_and_a_lost_platform_say_what_to_do(fresh_platform):
    platform = fresh_platform("--no-pipelines")
    platform.start()
    with browser(1280, 900) as driver:
        driver.get(url(platform, f"/?token={platform.token}"))
        text = lambda place: driver.find_element(By.ID, place).text  # noqa: E731
        wait_for("the status", lambda: text("job-name") == "No jobs yet")
        assert "CREATE JOB" in text("job-limiting")
        assert text("rows").startswith("No tables yet")
        assert text("feeds").startswith("No feeds") and "polybolos up --pipelines FOLDER" in text("feeds")
        assert Select(driver.find_element(By.ID, "table-picker")).first_selected_option.text == "none yet"
        assert not driver.find_element(By.ID, "hold").is_enabled(), "nothing comes that could be held"
        assert driver.execute_script(ACCESSIBILITY) == []
        place = "return document.querySelector('main').getBoundingClientRect().top"
        top = driver.execute_script(place)
        platform.stop()
        wait_for("the banner", lambda: text("banner").startswith("The platform does not answer. What you see is the state of "))
        assert driver.execute_script(place) == top, "the banner moves nothing"
        assert driver.execute_script(ACCESSIBILITY) == [], "the last state can still be read"


def test_themes_can_be_chosen_and_are_kept(platform):
    ground = "return getComputedStyle(document.body).backgroundColor"
    with browser(1280, 900, "light") as driver:
        open_console(driver, platform)
        light = driver.execute_script(ground)
        driver.find_element(By.ID, "theme").click()
        dark = driver.execute_script(ground)
        assert dark != light
        driver.refresh()
        assert driver.execute_script(ground) == dark


def test_without_a_token_the_page_says_what_to_do(platform, artefacts):
    with browser(900, 700) as driver:
        driver.get(url(platform))
        assert "Log in" in driver.find_element(By.TAG_NAME, "h1").text
        assert not driver.find_elements(By.ID, "rows")
        driver.find_element(By.ID, "token").send_keys("wrong")
        driver.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        wait_for("the refusal", lambda: driver.find_element(By.ID, "refused").is_displayed())
        assert "wrong" not in driver.current_url
        driver.save_screenshot(str(artefacts / "console-login.png"))
        driver.find_element(By.ID, "token").send_keys(platform.token)
        driver.find_element(By.CSS_SELECTOR, "button[type=submit]").click()
        wait_for("the console", lambda: driver.find_elements(By.ID, "rows"))


def test_basics_of_accessibility(platform):
    for scheme in ("light", "dark"):
        with browser(1280, 1200, scheme) as driver:
            open_console(driver, platform)
            assert driver.execute_script(ACCESSIBILITY) == [], scheme
