"""The page for people, in a browser without a screen, which is told what to do through a pipe."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.serving.conftest import KEY, Server
from tests.serving.sample import alone

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """Chromium with one page, in the words of its debugging protocol."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        theirs, self._out = os.pipe()
        self._in, their_answers = os.pipe()
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        command += ["--no-first-run", f"--user-data-dir={profile}", "--disable-dev-shm-usage", "about:blank"]
        shell = f'exec "$@" 3<&{theirs} 4>&{their_answers}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *command], pass_fds=(theirs, their_answers), stderr=subprocess.DEVNULL
        )
        os.close(theirs)
        os.close(their_answers)
        self._rest, self._number, self._session = b"", 0, ""
        self.events: list[dict[str, Any]] = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(t["targetId"] for t in targets if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """What the browser answers."""
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        message = {"id": self._number, "method": method, "params": params} | session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                new = os.read(self._in, 2**16)
                assert new, "the browser has ended"
                self._rest += new
            text, _, self._rest = self._rest.partition(b"\0")
            found = json.loads(text)
            if found.get("id") == self._number:
                assert "error" not in found, found
                return found["result"]
            self.events.append(found)

    def value(self, script: str) -> Any:
        """What an expression is on the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def until(self, script: str, seconds: float = 30) -> None:
        """Wait until it holds."""
        end = time.monotonic() + seconds
        while not self.value(script):
            assert time.monotonic() < end, self.value("document.body.innerText")
            time.sleep(0.05)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._in)
        os.close(self._out)


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    found = Browser(tmp_path / "profile")
    try:
        yield found
    finally:
        found.close()


def ask(browser: Browser, text: str) -> None:
    browser.value(f"at('text').value = {json.dumps(text)}; at('ask').requestSubmit()")


def test_people_can_chat(writer: Path, server: Server, browser: Browser) -> None:
    """Without the key they are told so; with it text comes as it is made, and can be stopped; nothing else is asked."""
    browser.call("Page.navigate", url=f"http://127.0.0.1:{server.port}/")
    browser.until("document.querySelector('.fault')?.textContent.includes('API key')")
    browser.value(f"at('key').value = {json.dumps(KEY)}; at('key').dispatchEvent(new Event('change'))")
    browser.until("at('name').textContent === 'write'")
    browser.value("at('most').value = 10; at('temperature').value = 0")
    ask(browser, "To be")
    browser.until("document.querySelector('.answer')?.textContent.length === 10 && !at('send').hidden")
    want = alone(writer, "To be\n", 10)[0]
    assert browser.value("document.querySelector('.answer').textContent") == want
    ask(browser, "I")  # with all that was said before
    browser.until("document.querySelectorAll('.answer').length === 2 && !at('send').hidden")
    second = browser.value("document.querySelectorAll('.answer')[1].textContent")
    assert second == alone(writer, f"To be\n{want}\nI\n", 10)[0]
    browser.value("at('most').value = 200")
    ask(browser, "a")
    browser.until("document.querySelectorAll('.answer')[2]?.textContent.length > 2")
    browser.value("at('stop').click()")
    browser.until("!at('send').hidden")
    assert browser.value("document.querySelectorAll('.answer')[2].textContent.length") < 200
    ask(browser, "\ud83d\ude00")
    browser.until("document.querySelectorAll('.fault').length === 2")
    browser.value("at('clear').click()")
    assert browser.value("at('said').children.length") == 0 and browser.value("messages.length") == 0
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(f"http://127.0.0.1:{server.port}/") for url in asked)
    logged = [e["params"]["entry"]["text"] for e in browser.events if e.get("method") == "Log.entryAdded"]
    assert not any("Content Security Policy" in text for text in logged), logged
