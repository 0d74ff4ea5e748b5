"""A real Chromium that opens the project's own pages on a desktop or phone screen."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray
from playwright.sync_api import Locator, Page, sync_playwright

from detector.pose.skeleton import KEYPOINT_NAMES

from .browser import ACTION_MILLISECONDS, ARTEFACTS

DESKTOP: Final[dict[str, Any]] = {'viewport': {'width': 1280, 'height': 900}}
PHONE: Final[dict[str, Any]] = {'viewport': {'width': 360, 'height': 740}, 'device_scale_factor': 2, 'has_touch': True}
SCREENS: Final[dict[str, dict[str, Any]]] = {'desktop': DESKTOP, 'phone': PHONE}


@dataclass
class PageView:
    """An open page.

    :param page: Playwright's page, for operations that this class lacks.
    :param errors: errors that scripts have thrown or logged, and requests to other addresses than the loopback address.
    """

    page: Page
    errors: list[str] = field(default_factory=list)

    def screenshot(self, name: str) -> None:
        """Save a picture of the whole page for inspection."""
        ARTEFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTEFACTS / f'{name}.png', full_page=True)

    def drop(self, data: bytes, name: str, kind: str) -> None:
        """Drop a file on the area for images."""
        transfer = self.page.evaluate_handle(
            """([data, name, kind]) => {
                const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
                const transfer = new DataTransfer();
                transfer.items.add(new File([bytes], name, {type: kind}));
                return transfer;
            }""",
            [base64.b64encode(data).decode(), name, kind],
        )
        stage = self.page.locator('main .skeleton-stage')
        for event in ('dragover', 'drop'):
            stage.dispatch_event(event, {'dataTransfer': transfer})

    def skeletons(self, persons: int, inside: str = 'main') -> list[dict[str, 'Drawn']]:
        """Wait for a number of persons, and return the drawn points of each person by name.

        :param inside: selector of the element that contains the image.
        """
        view = self.page.locator(f'{inside} .skeleton-view')
        view.locator(f'g[data-person="{persons - 1}"] circle.point').first.wait_for()
        points = view.evaluate(_POINTS)
        found: list[dict[str, Drawn]] = [{} for _ in range(persons)]
        for point in points:
            found[int(point['person'])][point['keypoint']] = Drawn(**point)
        assert sum(map(len, found)) == len(points)
        return found

    def assert_fits(self) -> None:
        """Assert that nothing is wider than the screen, and that no text or control is cut or overlaps another card."""
        assert self.page.evaluate('document.scrollingElement.scrollWidth <= window.innerWidth')
        assert self.page.evaluate(_CUT) == []

    def choose(self, control: str, option: str) -> None:
        """Choose an option of a select element; `control` is its data-control."""
        self.page.locator(f'[data-control={control}]').first.click()
        self.page.locator('.q-menu .q-item', has_text=option).first.click()

    def text(self, selector: str) -> str:
        return self.page.locator(selector).first.inner_text()

    def switch(self, part: str, inside: str = 'main') -> Locator:
        """Return the button of a part, or of the box."""
        return self.page.locator(f'{inside} [data-toggle={part}]')


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """A point on the page.

    :param cx: x in pixels of the image, as in the page's document.
    :param x: x in pixels of the image, measured on the screen relative to the picture.
    """

    person: str
    keypoint: str
    part: str
    confidence: float
    cx: float
    cy: float
    x: float
    y: float


def seen(points: dict[str, Drawn]) -> NDArray[np.float64]:
    """Return the visible positions of a person's 133 points, shape (133, 2), in pixels of the image."""
    return np.array([(points[name].x, points[name].y) for name in KEYPOINT_NAMES])


@contextmanager
def opened(
    chromium: Path, url: str, *, arguments: tuple[str, ...] = (), token: str | None = None, **context: Any
) -> Iterator[PageView]:
    """Open a page in a fresh browser, and expect no error on it.

    :param arguments: arguments of Chromium's command line.
    :param token: API_TOKEN, to be entered on the login page.
    :param context: options of Playwright's `new_context`, such as the screen.
    """
    with sync_playwright() as playwright:
        process = playwright.chromium.launch(executable_path=chromium, headless=True, args=list(arguments))
        try:
            opened_context = process.new_context(**({**DESKTOP} | context))
            opened_context.set_default_timeout(ACTION_MILLISECONDS)
            page = opened_context.new_page()
            view = PageView(page)
            page.on('pageerror', lambda error: view.errors.append(str(error)))
            page.on('console', lambda message: view.errors.append(message.text) if _is_bad(message) else None)
            page.on('request', lambda request: view.errors.append(request.url) if _is_outside(request.url) else None)
            page.goto(url)
            if token is not None:
                page.get_by_label('API_TOKEN').fill(token)
                page.get_by_role('button').click()
            page.locator('.cards').wait_for()
            yield view
            assert view.errors == []
        finally:
            process.close()


def _is_bad(message: Any) -> bool:
    refused = 'the server responded with a status of' in message.text  # answers to bad images, which the page explains
    return message.type == 'error' and not refused


def _is_outside(url: str) -> bool:
    parts = urlsplit(url)
    return parts.scheme not in ('data', 'blob') and parts.hostname != '127.0.0.1'


_POINTS: Final = """(view) => {
    const image = view.querySelector('.skeleton-frame img');
    const frame = image.getBoundingClientRect();
    return [...view.querySelectorAll('circle.point')].map((circle) => {
        const box = circle.getBoundingClientRect();
        return {
            person: circle.dataset.person,
            keypoint: circle.dataset.keypoint,
            part: circle.dataset.part,
            confidence: Number(circle.dataset.confidence),
            cx: Number(circle.getAttribute('cx')),
            cy: Number(circle.getAttribute('cy')),
            x: ((box.left + box.right) / 2 - frame.left) / frame.width * image.naturalWidth - 0.5,
            y: ((box.top + box.bottom) / 2 - frame.top) / frame.height * image.naturalHeight - 0.5,
        };
    });
}"""

_CUT: Final = """() => {
    const cut = [];
    for (const title of document.querySelectorAll('h1, h2')) {
        if (title.clientHeight > 60) cut.push(`${title.textContent} is squeezed`);
    }
    for (const panel of document.querySelectorAll('.panel')) {
        const outer = panel.getBoundingClientRect();
        if (!outer.width) continue;
        for (const inner of panel.querySelectorAll('button, .q-btn, .q-field, .figure, dd, dt, img, .tag, .pill, h2')) {
            const box = inner.getBoundingClientRect();
            if (!box.width) continue;
            const inside = box.left >= outer.left - 1 && box.right <= outer.right + 1;
            if (!inside) cut.push(`${inner.className} leaves its card`);
            const clips = inner.scrollWidth > inner.clientWidth + 1 && !inner.matches('.q-field, img, dd, dt');
            if (clips && inner.clientWidth) cut.push(`${inner.className} is cut: ${inner.textContent}`);
        }
        for (const other of document.querySelectorAll('main .panel')) {
            if (other === panel || panel.closest('.q-dialog')) continue;
            const box = other.getBoundingClientRect();
            const apart = box.left >= outer.right || box.right <= outer.left
                || box.top >= outer.bottom || box.bottom <= outer.top;
            if (!apart) cut.push(`${panel.ariaLabel} overlaps ${other.ariaLabel}`);
        }
    }
    return cut;
}"""
