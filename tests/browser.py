"""Headless Chromium, driven over the WebDriver protocol with the standard library."""

import base64
import contextlib
import io
import json
import re
import shutil
import subprocess
from urllib import error, request

import numpy as np
import pytest
from PIL import Image

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # key of an element reference in the protocol

needs_browser = pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="no chromium or google-chrome, or no chromedriver")


class Browser:
    """As much of a WebDriver client as these tests need."""

    def __init__(self, port):
        self.base = f"http://127.0.0.1:{port}"
        switches = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        wanted = {"goog:chromeOptions": {"binary": CHROMIUM, "args": switches}, "goog:loggingPrefs": {"browser": "ALL"}}
        session = self.call("POST", "/session", capabilities={"alwaysMatch": wanted})
        self.base += f"/session/{session['sessionId']}"

    def call(self, method, path, **body):
        data = json.dumps(body).encode() if method == "POST" else None
        message = request.Request(self.base + path, data, {"Content-Type": "application/json"}, method=method)
        try:
            with request.urlopen(message, timeout=60) as answer:
                return json.load(answer)["value"]
        except error.HTTPError as refusal:
            raise RuntimeError(json.load(refusal)["value"]["message"]) from refusal

    def js(self, script, *arguments):
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def devtools(self, command, **parameters):
        return self.call("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def media(self, scheme):
        """Light or dark, and without transitions, so that there is nothing to wait for."""
        pairs = (("prefers-color-scheme", scheme), ("prefers-reduced-motion", "reduce"))
        self.devtools("Emulation.setEmulatedMedia", features=[{"name": n, "value": v} for n, v in pairs])

    def size(self, width, height):
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        self.devtools("Emulation.setDeviceMetricsOverride", **screen)
        self.js("return new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def on(self, selector, action, **body):
        """`click`, or `value` with the text to type."""
        element = self.call("POST", "/element", using="css selector", value=selector)[ELEMENT]
        self.call("POST", f"/element/{element}/{action}", **body)

    def drag(self, *points):
        """Press at the first point of the viewport, move through the others, release."""
        first, *others = [{"type": "pointerMove", "x": round(x), "y": round(y)} for x, y in points]
        steps = [first, {"type": "pointerDown", "button": 0}, *others, {"type": "pointerUp", "button": 0}]
        self.call("POST", "/actions", actions=[{"type": "pointer", "id": "mouse", "actions": steps}])

    def screenshot(self):
        return np.asarray(Image.open(io.BytesIO(base64.b64decode(self.call("GET", "/screenshot")))).convert("RGB"))

    def fresh(self, page):
        """Open a page as if for the first time, light and on a large screen."""
        self.media("light")
        self.call("POST", "/url", url="about:blank")
        self.call("POST", "/url", url=page)
        self.size(1200, 900)

    def complaints(self):
        """What the console holds."""
        return self.call("POST", "/se/log", type="browser")


@contextlib.contextmanager
def started():
    """A browser while it is needed."""
    with subprocess.Popen([DRIVER, "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as driver:
        try:
            port = next(m[1] for m in (re.search(r"on port (\d+)\.", line) for line in driver.stdout) if m)
            browser = Browser(port)
            yield browser
            browser.call("DELETE", "")
        finally:
            driver.terminate()
