"""The page of a run: nothing unescaped, nothing from elsewhere, every number with its warning; and in a browser."""

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import cv2
import numpy as np
import pytest

import predict
from tests.measured_vessel import detection, draw_nothing, sees_vessel, write_frame
from tests.test_predict import exit_code
from tests.tiny_checkpoint import write_tiny_chain
from utils.history import readable_json
from utils.reports.markup import VOID, Html, table, tag

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge",
            "microsoft-edge")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny_chain(tmp_path_factory.mktemp("weights"))


def page_of(out, weights, *inputs):
    exit_code(predict.main, [*inputs, "--out", out, "--device", "cpu", "--checkpoint", *weights])
    return (out / "report.html").read_text(encoding="utf-8")


class Checked(HTMLParser):
    """Whether every element ends where it should, and what the page refers to."""

    def __init__(self, page):
        super().__init__()
        self.open, self.references, self.images, self.ids = [], [], [], []
        self.feed(page)
        assert not self.open, self.open

    def handle_starttag(self, name, attributes):
        given = dict(attributes)
        self.references += [given[key] for key in ("src", "href") if key in given]
        self.images += [given] if name == "img" else []
        self.ids += [given["id"]] if "id" in given else []
        if name not in VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name


def test_page_is_whole_and_asks_for_nothing_from_elsewhere(tmp_path, weights, monkeypatch):
    sees_vessel(monkeypatch, [detection()])
    page = page_of(tmp_path / "out", weights, write_frame(tmp_path), "--px-per-mm", 4)
    checked = Checked(page)
    assert "http" not in page.replace("http-equiv", "") and "<script" not in page
    links = [one for one in checked.references if one.startswith("#")]
    assert links and all(one[1:] in checked.ids for one in links)
    assert all(one.startswith(("#", "data:image/")) for one in checked.references)
    assert len(checked.images) == 3 and all(len(image["alt"]) > 20 for image in checked.images)
    for said in ("Research only. Not a medical device", "phase4_quantitative", "lumens.pth", "measurements",
                 "13 Mid LAD", "0.250 mm per px", "Detector&#x27;s estimate, not a measurement", "Unsure",
                 "the direction of flow is not given", "None."):
        assert said in page, said


def test_names_with_signs_of_html_are_escaped(tmp_path, weights, monkeypatch):
    sees_vessel(monkeypatch, [detection()], draw_lumen=draw_nothing)
    csv_path = tmp_path / "a&b.csv"
    csv_path.write_text('path,name\nframe.png,\n"<i>absent&.png",\n', encoding="utf-8")
    write_frame(tmp_path)
    page = page_of(tmp_path / "out", weights, "--batch", csv_path)
    Checked(page)
    assert "<i>" not in page and "&lt;i&gt;absent&amp;.png" in page and "a&amp;b.csv" in page


def test_markup_escapes_all_but_markup():
    assert tag("p", "a<b", 3, None, [Html("<br>"), "&"], class_="x\"y") == '<p class="x&quot;y">a&lt;b3<br>&amp;</p>'
    assert tag("img", src="s", alt=None) == '<img src="s">'
    assert '<td data-label="b">&lt;</td>' in table(["a", "b"], [["c", "<"]])


def test_json_keeps_lists_of_numbers_on_one_line_and_all_values():
    value = {"a": [1.5, None, [2, 3]], "b": [], "c": {}, "d": [{"e": "[ 1,\n 2 ]"}, "f"], "g": float("nan")}
    text = readable_json(value)
    assert json.loads(text) == value | {"g": None}
    assert '"a": [1.5, null, [2, 3]]' in text


def find_browser():
    found = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser on PATH: looked for {', '.join(BROWSERS)}")
    return found


def browse(browser, tmp_path, page, *flags):
    """Headless, with every host name unknown to it."""
    command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
               "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={tmp_path / 'profile'}", *flags]
    return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, encoding="utf-8", timeout=300)


# Says in the page itself what became of its pictures and of its layout.
CHECK = """<script>addEventListener("load", () => { const all = [...document.images];
document.title = JSON.stringify({pictures: all.length, loaded: all.filter(one => one.naturalWidth > 0).length,
requests: performance.getEntriesByType("resource").filter(one => !one.name.startsWith("data:")).length,
overflow: document.documentElement.scrollWidth - innerWidth}); });</script>"""


@pytest.mark.browser
@pytest.mark.parametrize("width", [1200, 500])
def test_page_opens_in_a_browser_without_a_network(tmp_path, weights, monkeypatch, width):
    browser = find_browser()
    sees_vessel(monkeypatch, [detection(), detection((60.0, 72.0), 0.8)])
    page = page_of(tmp_path / "out", weights, write_frame(tmp_path, "a&b.png"), "--px-per-mm", 4)
    checked = tmp_path / "checked.html"
    # The page forbids scripts; its copy for this test allows the one that looks.
    allowed = page.replace("default-src ", "script-src &#x27;unsafe-inline&#x27;; default-src ")
    checked.write_text(allowed.replace("</body>", CHECK + "</body>"), encoding="utf-8")
    size = f"--window-size={width},1600"
    dumped = browse(browser, tmp_path, checked, size, "--dump-dom")
    said = json.loads(re.search(r"<title>(\{.*?\})</title>", dumped.stdout).group(1))
    assert said["pictures"] == said["loaded"] == 5 and said["requests"] == 0, (said, dumped.stderr[-500:])
    assert said["overflow"] <= 0, said
    shot = tmp_path / "shot.png"
    browse(browser, tmp_path, tmp_path / "out" / "report.html", size, f"--screenshot={shot}")
    picture = cv2.imread(str(shot))
    assert picture is not None and picture.shape[1] == width and len(np.unique(picture)) > 50
