"""The HTML report in a real headless Chromium, at desktop and phone width, and without JavaScript.

Skipped where Chromium or its driver is missing; Debian: apt-get install chromium chromium-driver.
"""

import json
import re
import shutil
from importlib.resources import files

import pytest
from work_dirs import RULER_TASKS, make_model, niah_cell, ruler_cell, write_run

from opencompass_llada.report.publish import write_report
from opencompass_llada.runs.run_folder import find_runs

selenium = pytest.importorskip("selenium.webdriver")
keys = pytest.importorskip("selenium.webdriver.common.keys").Keys
waits = pytest.importorskip("selenium.webdriver.support.ui")
pytest.importorskip("axe_core_python")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(240),
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None,
        reason="no Chromium with its driver: apt-get install chromium chromium-driver",
    ),
]
HOSTILE = "</td></table><script>window.hacked = 1</script><img src='http://other/x.png'>"
THIRD = "third-ar-of-a_long_name_that_no_column_of_a_phone_holds_target_length=65536"
SIZES = {"desktop": (1280, 900, False), "phone": (390, 844, True)}
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Return the address of a report of three models, one cell missing, answers hostile."""
    root = tmp_path_factory.mktemp("browser")
    cells = [niah_cell(n, depth) for n in (2000, 4000, 8000) for depth in range(0, 101, 10)]
    cells += [ruler_cell(task, n) for task in RULER_TASKS for n in (4096, 8192)]
    models = [make_model(name) for name in ("one", "two", THIRD)]
    run = write_run(root / "run", models, cells, quality=0.7, prediction=HOSTILE)
    for folder in ("results", "predictions"):
        (run / folder / "two/niah_length4000_depth050.json").unlink()
    return write_report(find_runs([run]), root / "out")[0].as_uri()


def start(profile, width, height, mobile, script=True):
    options = selenium.ChromeOptions()
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"):
        options.add_argument(flag)
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    if not script:
        settings = {"profile.managed_default_content_settings.javascript": 2}
        options.add_experimental_option("prefs", settings)
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(DRIVER))
    if mobile:
        size = {"width": width, "height": height, "deviceScaleFactor": 2, "mobile": True}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    return driver


@pytest.fixture(scope="module", params=SIZES)
def browser(request, page, tmp_path_factory):
    driver = start(tmp_path_factory.mktemp("profile"), *SIZES[request.param])
    driver.get(page)
    yield driver
    driver.quit()


@pytest.fixture(autouse=True)
def closed_panel(request):
    """Close the panel and take back the filter that a test has left."""
    yield
    if "browser" in request.fixturenames:
        driver = request.getfixturevalue("browser")
        driver.execute_script(
            "document.getElementById('panel').close();"
            "document.querySelector('#models').open = false;"
            "document.querySelector('#filters form').reset()"
        )


def column(driver, place):
    script = (
        "return [...document.querySelector('#leaderboard table').tBodies[0].rows]"
        ".map(row => [row.cells[0].textContent, row.cells[arguments[0]].dataset.v])"
    )
    return driver.execute_script(script, place)


def click(driver, selector):
    element = driver.find_element("css selector", selector)
    driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
    element.click()
    return element


def test_tables_sort_by_number_in_both_directions_and_missing_stays_last(browser):
    head = "#leaderboard thead th:nth-child(3)"
    seen = []
    for wanted in ("descending", "ascending"):
        click(browser, f"{head} button")
        assert browser.find_element("css selector", head).get_attribute("aria-sort") == wanted
        values = column(browser, 2)
        assert values[-1] == ["two", None], "the model with a missing cell has no number"
        numbers = [float(value) for _, value in values[:-1]]
        assert numbers == sorted(numbers, reverse=wanted == "descending")
        seen.append([name for name, _ in values])
    assert seen[0] != seen[1]
    click(browser, "#leaderboard thead th:nth-child(1) button")
    names = [name for name, _ in column(browser, 2)]
    assert names == sorted(names)


def test_a_cell_opens_its_samples_as_text(browser):
    link = click(browser, "#heat td.s0 a.cell, #heat td.s50 a.cell")
    panel = browser.find_element("id", "panel")
    assert panel.is_displayed()
    assert HOSTILE in panel.text.replace("\n", "")
    assert "The password of island 0" in panel.text
    assert "needle" in panel.text
    assert "expected" in panel.text
    chosen = panel.find_elements("css selector", "tr.chosen th")
    assert chosen
    assert len({element.text for element in chosen}) == 1
    title = link.find_element("xpath", "..").get_attribute("title")
    assert re.match(r"accuracy (0|50) \[\d+, \d+\], n 2$", title)
    assert title in panel.text
    assert browser.execute_script("return window.hacked") is None
    click(browser, "#panel button")
    assert not panel.is_displayed()


def test_a_missing_cell_says_so_and_opens_its_state(browser):
    cell = browser.find_element("css selector", "#heat td.missing")
    assert "missing: no predictions were written" in cell.get_attribute("title")
    click(browser, "#heat td.missing a.cell")
    assert "two: missing: no predictions" in browser.find_element("id", "panel").text
    click(browser, "#panel button")
    assert "two on niah_length4000_depth050" in browser.find_element("id", "notes").text


def walk_to(driver, selector, most=80):
    """Press Tab until an element has the focus."""
    for _ in range(most):
        selenium.ActionChains(driver).send_keys(keys.TAB).perform()
        focused = driver.switch_to.active_element
        if driver.execute_script("return arguments[0].matches(arguments[1])", focused, selector):
            return focused
    raise AssertionError(f"{most} times Tab do not reach {selector}")


def start_at_the_top(driver):
    driver.execute_script(
        "history.replaceState(null, '', location.pathname); scrollTo(0, 0);"
        "const head = document.querySelector('h1'); head.tabIndex = -1; head.focus()"
    )


def visible(driver, selector):
    return [e.text for e in driver.find_elements("css selector", selector) if e.is_displayed()]


def test_verdict_and_picture_are_on_the_first_screen(browser):
    browser.execute_script("window.scrollTo(0, 0)")
    bottoms = browser.execute_script(
        "return ['#verdict li', '#heat td'].map(name => document.querySelector(name)"
        ".getBoundingClientRect().bottom)"
    )
    assert 0 < bottoms[0] < bottoms[1] < browser.execute_script("return innerHeight")


def test_the_filter_works_without_a_mouse(browser):
    start_at_the_top(browser)
    if not browser.execute_script("return document.querySelector('#filters').open"):
        walk_to(browser, "#filters > summary").send_keys(keys.SPACE)
    walk_to(browser, "#models summary").send_keys(keys.SPACE)
    walk_to(browser, "input[name=part]").send_keys("t")  # two and the third
    heads = "#leaderboard tbody th:first-child"
    assert {text.partition(" ")[0] for text in visible(browser, heads)} == {"two", THIRD}
    assert len(visible(browser, "#heat figure")) == 2
    walk_to(browser, "input[name=model][value=two]").send_keys(keys.SPACE)
    assert visible(browser, heads) == [THIRD]
    walk_to(browser, "select[name=benchmark]").send_keys("RULER")
    assert visible(browser, "#heat") == []
    assert visible(browser, "#ruler h2") == ["RULER"]
    walk_to(browser, "select[name=tokens]").send_keys("8,192")
    assert set(visible(browser, "#ruler tbody td:nth-child(2)")) == {"8,192"}
    assert {text.partition(" tokens")[0][-5:] for text in visible(browser, ".block")} == {"8,192"}
    walk_to(browser, "button[type=reset]").send_keys(keys.SPACE)
    # The page filters anew once the form has its first values again, which is after the event.
    waits.WebDriverWait(browser, 10).until(lambda page: len(visible(page, heads)) == 3)
    assert visible(browser, "#shown")[0].startswith("3 of 3 models")


def test_failed_samples_alone_are_shown(browser):
    script = (
        "return [...document.querySelectorAll('.answers tr')]"
        ".filter(row => !row.closest('[hidden]')).map(row => row.cells[2].textContent)"
    )
    before = browser.execute_script(script)
    assert {"0", "100"} <= set(before)
    browser.execute_script("document.querySelector('#filters').open = true")
    start_at_the_top(browser)
    walk_to(browser, "input[name=failed]").send_keys(keys.SPACE)
    scores = browser.execute_script(script)
    assert len(scores) == before.count("0") + before.count("5")
    assert all(float(score) < 50 for score in scores)


def test_two_models_are_compared_prompt_by_prompt_without_a_mouse(browser):
    start_at_the_top(browser)
    walk_to(browser, "nav a[href='#compare']").send_keys(keys.ENTER)
    walk_to(browser, "select[name=b]").send_keys(THIRD)
    where = browser.find_element("css selector", "#compare output")
    assert re.match(r"1 of \d+$", where.text)
    total = int(where.text.split()[-1])
    walk_to(browser, "input[name=differ]").send_keys(keys.SPACE)
    assert 0 < int(where.text.split()[-1]) < total
    seen = []
    following = walk_to(browser, "#compare button[value='1']")
    for place in (1, 2):
        assert where.text.startswith(f"{place} of")
        articles = browser.find_elements("css selector", "#pair article")
        assert [a.find_element("tag name", "h4").text for a in articles] == ["one", THIRD]
        scores = [a.find_element("css selector", "p:last-child").text for a in articles]
        assert len(set(scores)) == 2
        seen.append(browser.find_element("id", "pair").text)
        following.send_keys(keys.ENTER)
    assert seen[0] != seen[1]
    assert "The password of island" in seen[0]
    boxes = [a.rect for a in browser.find_elements("css selector", "#pair article")]
    width = browser.execute_script("return innerWidth")
    assert (boxes[0]["y"] == boxes[1]["y"]) == (width > 640)
    selenium.ActionChains(browser).key_down(keys.SHIFT).send_keys(keys.TAB).perform()
    selenium.ActionChains(browser).key_up(keys.SHIFT).send_keys(keys.ENTER).perform()
    assert where.text.startswith("2 of")


@pytest.mark.parametrize("part", ["main", "#panel"])
def test_axe_finds_no_serious_fault(browser, part):
    browser.execute_script(
        "for (const part of document.querySelectorAll("
        "'#filters, #models, #samples details:first-of-type, #provenance details'))"
        "  part.open = true;"
    )
    if part == "#panel":
        # The list of models lies over the maps.
        browser.execute_script("document.querySelector('#heat a.cell').click()")
    browser.execute_script(files("axe_core_python").joinpath("axe.min.js").read_text("utf-8"))
    browser.set_script_timeout(150)
    found = browser.execute_async_script(
        "axe.run(arguments[0] === 'main' ? document : arguments[0],"
        " {resultTypes: ['violations', 'passes']}).then(arguments[1])",
        part,
    )
    assert len(found["passes"]) > 5, "axe must have seen it"
    faults = {
        rule["id"]: [node["html"][:200] for node in rule["nodes"]][:3]
        for rule in found["violations"]
        if rule["impact"] in ("serious", "critical")
    }
    assert faults == {}


def test_nothing_scrolls_sideways_but_tables(browser):
    script = "return [document.documentElement.scrollWidth, document.documentElement.clientWidth]"
    inside, width = browser.execute_script(script)
    assert inside <= width
    assert width in (390, 1280) or 1200 < width < 1280, "a desktop's scroll bar takes some"
    widest = browser.execute_script(
        "return Math.max(...[...document.querySelectorAll('.scroll')].map(e => e.clientWidth))"
    )
    assert 0 < widest <= width


def test_no_request_leaves_the_page(browser, page):
    entries = browser.execute_script(
        "return performance.getEntriesByType('resource').map(entry => entry.name)"
    )
    assert [name for name in entries if not name.startswith("data:")] == []
    events = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    addresses = {
        event["params"]["request"]["url"]
        for event in events
        if event["method"] == "Network.requestWillBeSent"
        and event["params"]["documentURL"] == page  # the tab that Chromium opens has its own
    }
    outside = {address for address in addresses if not address.startswith("data:")}
    assert outside == {page}, "the log must have seen the page itself, and nothing else"
    policy = browser.find_element("css selector", "meta[http-equiv]").get_attribute("content")
    assert policy.startswith("default-src 'none'")
    assert browser.get_log("browser") == [], "nothing is blocked, nothing fails"


def test_the_policy_blocks_what_is_injected(browser):
    browser.execute_script(
        "const s = document.createElement('script'); s.textContent = 'window.hacked = 2';"
        "document.body.append(s); const i = new Image(); i.src = 'http://127.0.0.1:9/x.png';"
    )
    assert browser.execute_script("return window.hacked") is None
    messages = "".join(line["message"] for line in browser.get_log("browser"))
    assert "Content Security Policy" in messages


def test_it_reads_without_javascript(page, tmp_path):
    driver = start(tmp_path / "profile", *SIZES["desktop"], script=False)
    try:
        driver.get(page)
        assert not driver.find_elements("css selector", "th button"), "no script has run"
        text = driver.find_element("tag name", "main").text
        assert "two on niah_length4000_depth050" in text
        summary = driver.find_element("css selector", "#samples summary")
        block = summary.find_element("xpath", "..")
        assert "The password of island" not in block.text
        summary.click()
        assert "The password of island" in block.text
        link = driver.find_element("css selector", "#heat td:not(.missing) a.cell")
        target = link.get_attribute("href").rpartition("#")[2]
        assert driver.find_elements("id", target), "a cell leads to its samples"
    finally:
        driver.quit()
