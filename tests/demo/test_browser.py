"""The page as a visitor uses it, in Debian's Chromium."""

import json
import re
import time
from pathlib import Path

import av
import pytest
from PIL import Image

from autogaze.gaze import Gaze
from tests.cli.commands import run
from tests.clips import make_video
from tests.demo import served as serving
from tests.demo.served import browser, served

ActionChains = pytest.importorskip("selenium.webdriver", reason="no selenium").ActionChains
StaleElementReferenceException = pytest.importorskip(
    "selenium.common.exceptions"
).StaleElementReferenceException
Keys = pytest.importorskip("selenium.webdriver.common.keys").Keys

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with served(tmp_path_factory.mktemp("page"), "--max-seconds", 20, "--max-mb", 20) as page:
        yield page


@pytest.fixture(scope="module")
def shared_driver(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("browser")) as driver:
        yield driver


@pytest.fixture
def visitor(page, shared_driver):
    yield Visitor(page, shared_driver)
    shared_driver.get("about:blank")
    wait_for(lambda: not page.files(), 20)  # who leaves takes everything along


@pytest.fixture(scope="class")
def untouched(page, shared_driver):
    """A visitor who sends nothing: one for all tests of a class."""
    yield Visitor(page, shared_driver)
    shared_driver.get("about:blank")


def wait_for(what, seconds=60.0):
    """What a function returns once that is true; what is drawn anew meanwhile is looked at again."""

    def seen():
        try:
            return what()
        except StaleElementReferenceException:
            return None

    return serving.wait_for(seen, seconds)


class Visitor:
    """What a visitor does and sees."""

    def __init__(self, page, driver):
        self.page, self.driver = page, driver
        driver.get(page.url)
        wait_for(lambda: self.find("#gaze"))
        wait_for(lambda: self.find("#video input[type=file]"))

    def find(self, selector):
        return self.driver.find_elements("css selector", selector)

    def one(self, selector):
        return self.find(selector)[0]

    def press(self, name):
        self.driver.execute_script("document.querySelector(arguments[0]).click()", f"#{name}")

    def send(self, path):
        self.one("#video input[type=file]").send_keys(str(path))

    def send_video(self, path):
        self.send(path)
        wait_for(lambda: self.find("#video video"))

    def write(self, name, text):
        field = self.one(f"#{name} input, #{name} textarea")
        field.send_keys("\ue009a\ue000")  # all of it
        field.send_keys(str(text) + "\ue004")  # and leave it by the tab key

    def choose(self, name, text):
        self.one(f"#{name} input").click()

        def chosen():
            options = [one for one in self.find("ul[role=listbox] li") if one.text.strip() == text]
            return options and (options[0].click() or True)

        wait_for(chosen)

    @property
    def status(self):
        return self.one("#status").text

    def wait_for_status(self, pattern, seconds=60):
        return wait_for(lambda: re.search(pattern, self.status), seconds)

    def gaze(self):
        self.press("gaze")
        self.wait_for_status("^Done")

    def number(self, row, panel="a"):
        """The first number of a row of the table."""
        text = self.row(row, panel)
        return float(re.search(r"[\d,.]+\d", text).group().replace(",", ""))

    def row(self, row, panel="a"):
        rows = self.find(f"#numbers-{panel} tr")
        return next(one.text for one in rows if one.text.startswith(row)).removeprefix(row)


def square(folder, frames=6, width=96, height=64):
    return make_video(Path(folder) / "square.mp4", frames, width, height)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A video that the learned selector gazes at for longer than a visitor waits here."""
    path = tmp_path_factory.mktemp("large") / "square.mp4"
    return make_video(path, 64, 1280, 720, preset="ultrafast")


def test_numbers_are_those_of_the_command(visitor, tmp_path):
    video = square(tmp_path)
    visitor.send_video(video)
    visitor.write("ratio", 0.05)
    visitor.gaze()
    told = json.loads(run("gaze", video, "--ratio", 0.05, "--json").stdout)
    assert visitor.number("Tokens kept") == sum(told["kept"].values())
    assert visitor.number("Error") == pytest.approx(told["loss_mean"], abs=5e-5)
    chips = [int(chip.text.split()[-1].replace(",", "")) for chip in visitor.find(".ag-chip")]
    assert chips == list(told["kept"].values())
    for panel in ("video", "overlay", "reconstruction", "scales"):
        wait_for(
            lambda panel=panel: visitor.driver.execute_script(
                f"return document.querySelector('#{panel}-a video').videoWidth"
            )
        )
    assert "saved" in visitor.row("SigLIP2-base")
    names = {one.get_attribute("aria-label") for one in visitor.find("#panel-a video")}
    assert names == {
        "Video",
        "Chosen patches by scale",
        "What these patches show",
        "Scale by scale",
    }

    # The slider's handle is moved by keys, and the numbers follow.
    handle = visitor.one("#ratio input[type=range]")
    handle.send_keys("\ue014" * 3)
    ratio = float(handle.get_attribute("value"))
    assert ratio == pytest.approx(0.065)
    visitor.gaze()
    wait_for(lambda: "6.5 %" in visitor.status)
    told = json.loads(run("gaze", video, "--ratio", ratio, "--json").stdout)
    assert visitor.number("Tokens kept") == sum(told["kept"].values())


def test_two_selectors_are_compared(visitor, tmp_path):
    visitor.send_video(square(tmp_path, 3))
    visitor.choose("other", "random")
    visitor.gaze()
    for part in ("numbers", "overlay", "scales", "chart"):
        tops = [visitor.one(f"#{part}-{panel}").rect["y"] for panel in "ab"]
        assert tops[0] == pytest.approx(tops[1], abs=1), part
    assert visitor.number("Error", "a") < visitor.number("Error", "b")
    assert visitor.one("#panel-b").is_displayed()
    visitor.choose("other", "Nothing")
    visitor.gaze()
    wait_for(lambda: not any(one.is_displayed() for one in visitor.find("#panel-b")))


def test_results_are_downloaded(visitor, tmp_path):
    video = square(tmp_path, 3)
    visitor.driver.execute_cdp_cmd(
        "Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)}
    )
    visitor.send_video(video)
    visitor.write("ratio", 0.1)
    visitor.gaze()
    for kind, name in (
        ("gaze", "square.safetensors"),
        ("overlay", "square.overlay.mp4"),
        ("sheet", "square.sheet.png"),
    ):
        wait_for(lambda kind=kind: visitor.find(f"#save-{kind}-a"))
        visitor.press(f"save-{kind}-a")
        wait_for((tmp_path / name).exists)
    told = json.loads(run("gaze", video, "--ratio", 0.1, "--json").stdout)
    assert Gaze.load(tmp_path / "square.safetensors").num_patches == sum(told["kept"].values())
    with av.open(str(tmp_path / "square.overlay.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 3
    with Image.open(tmp_path / "square.sheet.png") as sheet:
        assert sheet.format == "PNG"


def test_work_is_cancelled(visitor, large):
    visitor.send_video(large)
    visitor.choose("selector", "learned")
    visitor.press("gaze")
    visitor.wait_for_status("learned: ")
    time.sleep(1)
    visitor.press("cancel")
    visitor.wait_for_status("Cancelled", 5)
    wait_for(lambda: not [one for one in visitor.page.files() if one.startswith("job")], 10)
    visitor.choose("selector", "greedy")
    visitor.write("fps", 0.5)
    visitor.gaze()  # the page goes on


def test_work_stops_when_the_visitor_leaves(visitor, large):
    visitor.send_video(large)
    visitor.choose("selector", "learned")
    visitor.press("gaze")
    visitor.wait_for_status("learned: ")
    wait_for(lambda: [one for one in visitor.page.files() if one.startswith("job")])
    visitor.driver.get("about:blank")
    wait_for(lambda: not visitor.page.files(), 20)


@pytest.mark.parametrize(
    ("name", "content", "pattern"),
    [
        ("words.mp4", b"no video at all", "not a video"),
        ("empty.mp4", b"", "empty"),
        ("<img src=x onerror=document.title=1>.mp4", b"no video at all", "not a video"),
    ],
)
def test_hostile_uploads_are_told(visitor, tmp_path, name, content, pattern):
    path = tmp_path / name
    path.write_bytes(content)
    visitor.send(path)
    time.sleep(1)
    visitor.press("gaze")
    visitor.wait_for_status(f"Not possible.*{pattern}")
    assert visitor.driver.title == "AutoGaze"
    assert not visitor.find("#status img")


def test_the_webcam_is_gazed_at_live(visitor):
    (tab,) = [one for one in visitor.find("button[role=tab]") if "Webcam" in one.text]
    tab.click()
    visitor.write("live-ratio", 0.05)

    def press(text):
        shown = [one for one in visitor.find("#camera button") if text in one.text]
        return shown and (visitor.driver.execute_script("arguments[0].click()", shown[0]) or True)

    def frame():
        found = re.search(r"([\d.]+) frames per second.*frame (\d+)", visitor.one("#live").text)
        return found and int(found.group(2)) > 5 and float(found.group(1))

    wait_for(lambda: press("Webcam"))
    wait_for(lambda: press("Record"))
    assert wait_for(frame) > 0.5
    wait_for(lambda: "13 of 265 patches" in visitor.one("#live").text)
    assert len(visitor.find("#live img[alt]")) == 2
    assert press("Stop")
    assert not [one for one in visitor.page.files() if not one.startswith("job")]


def test_what_goes_on_is_seen(visitor, tmp_path):
    visitor.press("gaze")
    visitor.wait_for_status("Not possible")
    visitor.send_video(square(tmp_path, 12, 640, 360))
    visitor.press("gaze")
    visitor.wait_for_status("greedy: ")
    assert "Not possible" not in visitor.one("#status").get_attribute("textContent")
    visitor.wait_for_status("^Done")
    visitor.press("gaze")
    visitor.press("cancel")
    visitor.wait_for_status("Cancelled", 5)


def test_a_loss_is_taken_where_a_selector_stops_at_it(visitor, tmp_path):
    field = visitor.one("#loss textarea, #loss input")
    visitor.write("loss", 0.02)
    visitor.choose("selector", "random")
    wait_for(lambda: not field.is_enabled())
    assert field.get_attribute("value") == ""
    visitor.send_video(square(tmp_path, 3))
    visitor.gaze()
    visitor.choose("selector", "learned")
    wait_for(field.is_enabled)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_nothing_is_wider_than_the_window(page, shared_driver, theme):
    """Of a phone, and of a desk."""
    driver = shared_driver

    def assert_fits(width):
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width

    size = {"width": 400, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    try:
        driver.get(f"{page.url}/?__theme={theme}")
        wait_for(lambda: driver.find_elements("css selector", "#gaze"))
        assert_fits(400)
        size |= {"width": 1400, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        wait_for(lambda: driver.execute_script("return window.innerWidth") == 1400)
        assert_fits(1400)
        classes = driver.find_element("css selector", "body").get_attribute("class").split()
        assert ("dark" in classes) == (theme == "dark")
    finally:
        driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_it_is_used_by_keys_alone(visitor):
    """From an example to a result with the tab and enter keys."""
    keys = ActionChains(visitor.driver)

    def walk_to(selector):
        for _ in range(80):
            keys.send_keys(Keys.TAB).perform()
            focus = visitor.driver.switch_to.active_element
            if visitor.driver.execute_script(
                "return arguments[0].closest(arguments[1]) !== null", focus, selector
            ):
                return
        raise AssertionError(f"the tab key does not lead to {selector}")

    walk_to("#examples")
    keys.send_keys(Keys.ENTER).perform()
    wait_for(lambda: visitor.find("#video video"))
    visitor.write("fps", 1)
    visitor.driver.execute_script("document.activeElement.blur()")
    walk_to("#gaze")
    keys.send_keys(Keys.ENTER).perform()
    visitor.wait_for_status("^Done")


class TestPageOfWhoSendsNothing:
    def test_everything_has_a_label(self, untouched):
        """Fields, buttons and videos are named for screen readers."""
        unnamed = untouched.driver.execute_script(
            """
            const shown = (one) => one.offsetParent !== null;
            const named = (one) => one.getAttribute("aria-label") || one.title || one.innerText?.trim()
              || one.getAttribute("aria-labelledby") || one.labels?.length || one.closest("label");
            return [...document.querySelectorAll("input, textarea, select, button, a")].filter(shown)
              .filter((one) => !named(one)).map((one) => one.outerHTML.slice(0, 200));
            """
        )
        assert unnamed == []

    @pytest.mark.parametrize("width", [400, 1400])
    def test_what_goes_on_is_seen_where_it_is_started(self, untouched, width):
        size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500}
        untouched.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        try:
            untouched.driver.execute_script("document.getElementById('gaze').scrollIntoView(false)")
            untouched.press("gaze")
            untouched.wait_for_status("Not possible")
            button, line = untouched.one("#gaze").rect, untouched.one("#status").rect
            assert 0 < line["y"] - button["y"] < 120
            box, icon = (
                untouched.one("#video").rect,
                untouched.find("#video [data-testid=source-select] button")[0].rect,
            )
            assert icon["y"] + icon["height"] <= box["y"] + box["height"]
        finally:
            untouched.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})

    def test_nothing_is_loaded_from_elsewhere(self, untouched):
        hosts = set()
        for entry in untouched.driver.get_log("performance"):
            message = json.loads(entry["message"])["message"]
            if message["method"] == "Network.requestWillBeSent":
                url = message["params"]["request"]["url"]
                if url.startswith(("http:", "https:", "ws:", "wss:")):
                    hosts.add("/".join(url.split("/")[:3]))
        assert hosts == {untouched.page.url}
