"""The page in a real browser, Debian's chromium: a person uploads a clip, asks, makes and listens. Skipped without one."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.stages.serve.conftest import listening, server_of

BROWSER = shutil.which("chromium")
PATIENCE = 60_000  # ms


@pytest.fixture
def address(served) -> Iterator[str]:
    pytest.importorskip("gradio")
    with listening(server_of(served), with_page=True) as address:
        yield f"{address}/"


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no chromium on the path: apt-get install chromium")
@pytest.mark.parametrize("width", [1280, 390])
def test_a_person_asks_makes_and_listens(address: str, clip, width: int):
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as player:
        browser = player.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        page: Any = browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(PATIENCE)
        foreign: list[str] = []
        page.on("request", lambda asked: foreign.append(asked.url) if _is_foreign(asked.url, address) else None)
        page.goto(address)
        page.get_by_role("button", name="Ask", exact=True).click()
        page.get_by_text("No clip yet").wait_for()

        page.locator("input[type=file]").first.set_input_files(clip)
        page.get_by_text("0:02").first.wait_for()
        page.get_by_label("Question").fill("Is it noise?")
        page.get_by_role("button", name="Ask", exact=True).click()
        page.locator(".message.bot, .bot.message").first.wait_for()
        page.get_by_role("button", name="Yes or no?").click()
        page.get_by_text("100%").or_(page.get_by_text("%")).first.wait_for()

        page.get_by_role("tab", name="Make").click()
        page.get_by_label("What shall be heard").fill("a low sound")
        page.get_by_role("button", name="Make", exact=True).click()
        page.get_by_text("seed 1:").wait_for()

        page.get_by_role("tab", name="Listen").click()
        page.locator("input[type=file]").last.set_input_files(clip)
        page.get_by_role("button", name="Listen", exact=True).click()
        page.get_by_text("bits a second").wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing is cut off at the side"
        assert foreign == [], "it asks no other machine"
        browser.close()


def _is_foreign(url: str, address: str) -> bool:
    return not url.startswith((address, "data:", "blob:"))
