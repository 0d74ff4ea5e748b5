"""A real Chromium that uses Label Studio's editor with the mouse, like an annotator."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from playwright.sync_api import BrowserContext, Page, sync_playwright

from benchmarks.support.label_studio_api import Json, LabelStudio, Project
from benchmarks.support.processes import PROJECT

from .debian import install

ARTEFACTS = PROJECT / 'test-artefacts'
"""Folder of the screenshots that the tests leave for inspection."""

Point = tuple[float, float]
"""Position x, y in percent of the image."""

_ANNOTATION: Final = re.compile(r'/api/(tasks/\d+/annotations|annotations/\d+)/?(\?|$)')

LOAD_MILLISECONDS = 90_000
ACTION_MILLISECONDS = 20_000


def chromium_executable() -> Path:
    """Return the Chromium or Chrome of this machine, or the one that the environment variable `CHROMIUM` names.

    Install Chromium through apt if the machine has neither.

    :raises AssertionError: Chromium is missing and cannot be installed.
    """
    names = [os.environ['CHROMIUM']] if 'CHROMIUM' in os.environ else ['chromium', 'google-chrome']
    for name in names:
        if found := shutil.which(name):
            return Path(found)
    if 'CHROMIUM' in os.environ:
        reason = f'CHROMIUM names {os.environ["CHROMIUM"]}, which is no executable'
    else:
        reason = install('chromium') or 'apt-get has installed something else (Ubuntu has it as a snap only)'
        if found := shutil.which('chromium'):
            return Path(found)
    raise AssertionError(
        f'tests in a browser need Chromium: {reason}. Install Chromium or Google Chrome, or let the environment '
        'variable CHROMIUM name one, for example the one that `playwright install chromium` downloads.'
    )


@contextmanager
def signed_in(chromium: Path, server: LabelStudio) -> Iterator['Browser']:
    """Open a fresh browser that is signed in to Label Studio as its user.

    While it is open, asyncio considers this thread's event loop to be running, so only synchronous tests may use it.
    """
    with sync_playwright() as playwright:
        process = playwright.chromium.launch(executable_path=chromium, headless=True)
        context = process.new_context(viewport={'width': 1600, 'height': 1000})
        context.set_default_timeout(ACTION_MILLISECONDS)
        context.add_cookies([{'name': 'sessionid', 'value': server.http.cookies['sessionid'], 'url': server.url}])
        context.add_init_script('localStorage.clear()')  # the editor stores its switches there
        try:
            yield Browser(context, server)
        finally:
            process.close()


class Browser:
    """A signed-in browser."""

    def __init__(self, context: BrowserContext, server: LabelStudio) -> None:
        self.context = context
        self.server = server
        self.errors: list[str] = []
        """Errors that scripts have thrown since a task was opened."""

    def open(self, project: Project, task_id: int, *, regions: int | None = None) -> 'Editor':
        """Open a task of the data manager in a new page, and wait until the editor shows it and nothing moves.

        :param regions: number of regions to wait for; None accepts any number, including 0.
        """
        for page in self.context.pages:
            page.close()
        self.errors.clear()
        page = self.context.new_page()
        page.on('pageerror', lambda error: self.errors.append(str(error)))
        page.goto(f'{self.server.url}/projects/{project.id}/data?task={task_id}')
        editor = Editor(page)
        editor.settle(regions)
        return editor


class Editor:
    """Editor with an open task. Positions are in percent of the image.

    :param page: Playwright's page, for operations that this class lacks.
    """

    def __init__(self, page: Page) -> None:
        self.page = page

    def settle(self, regions: int | None = None) -> None:
        """Wait until nothing moves: while a task opens, the canvas is replaced and the image is shifted.

        :param regions: number of regions to wait for; None accepts any number.
        """
        self.page.evaluate('window.settled = {state: "", looks: 0}')
        self.page.wait_for_function(_SETTLED, arg=regions, timeout=LOAD_MILLISECONDS, polling=50)

    def screenshot(self, name: str) -> Path:
        """Save a picture of the page for inspection, and return its file.

        :param name: name of the file without its extension.
        """
        ARTEFACTS.mkdir(exist_ok=True)
        path = ARTEFACTS / f'{re.sub(r"[^A-Za-z0-9_.-]+", "-", name)}.png'
        self.page.screenshot(path=path)
        return path

    # ------------------------------------------------------------ contents

    def result(self) -> list[Json]:
        """Return the regions as the editor would submit them now."""
        return list(self._evaluate('annotation.serializeAnnotation()'))

    def suggestions(self) -> list[Json]:
        """Return the regions of smart tools that are not accepted yet, as the editor would submit them."""
        return list(
            self._evaluate('[...annotation.suggestions.values()].flatMap(r => r.results.map(s => s.serialize()))')
        )

    def drawn(self) -> dict[str, list[Point]]:
        """Return the points on the canvas by region id: a keypoint's centre, a skeleton's vertices, a box's corners."""
        return {region: [(x, y) for x, y in points] for region, points in self._evaluate(_DRAWN).items()}

    def limbs(self) -> dict[str, int]:
        """Return the number of limbs of each skeleton on the canvas, by region id."""
        return dict(self._evaluate(_LIMBS))

    def region_at(self, point: Point) -> str | None:
        """Return the id of the region that a click on a point would hit."""
        found = self._evaluate(_REGION_AT, list(point))
        return None if found is None else str(found)

    def on_page(self, point: Point) -> tuple[float, float]:
        """Return the position of a point of the image on the page, which is also that in a screenshot, in pixels."""
        x, y = self._evaluate(_ON_PAGE, list(point))
        return float(x), float(y)

    def _evaluate(self, expression: str, argument: Any = None) -> Any:
        """Evaluate JavaScript that may use `annotation`, `image`, `stage`, `argument` and the helpers."""
        return self.page.evaluate(f'argument => {{ {_PRELUDE} return {expression}; }}', argument)

    # ------------------------------------------------------------ the mouse

    def fit(self) -> None:
        """Show the whole image, since Label Studio may cut off its edges when it opens a task."""
        self._evaluate('image.sizeToFit()')
        self.settle()

    def drag(self, start: Point, end: Point) -> None:
        """Press the mouse button at one point, move to another, and release it."""
        for point in (start, end):
            assert self._evaluate(_IN_SIGHT, list(point)), f'{point} % is not visible: call `fit` first'
        (x1, y1), (x2, y2) = self.on_page(start), self.on_page(end)
        mouse = self.page.mouse
        mouse.move(x1, y1)
        mouse.down()
        mouse.move(x1 + (x2 - x1) / 2, y1 + (y2 - y1) / 2, steps=5)
        mouse.move(x2, y2, steps=5)
        mouse.up()
        self.settle()

    def choose(self, label: str) -> None:
        """Choose a label and thereby its tool."""
        self.page.locator('.lsf-label', has=self.page.get_by_text(label, exact=True)).click()

    def turn_auto_annotation_on(self, *, accept: bool = False) -> None:
        """Turn on the smart tools, which need an interactive backend.

        :param accept: True to accept suggestions as soon as they arrive.
        """
        toggle = self.page.get_by_test_id('bottombar-auto-annotation-toggle')
        toggle.wait_for(state='attached')
        toggle.set_checked(True, force=True)
        if accept:
            self.page.get_by_test_id('bottombar-auto-accept-toggle').set_checked(True, force=True)
        self.page.locator('.lsf-tool_smart').first.wait_for()

    def draw_rectangle(self, label: str, start: Point, end: Point, *, smart: bool = False) -> None:
        """Draw a rectangle with the mouse.

        :param smart: True to use the smart tool, which sends the rectangle to the backend, and wait for the answer.
        """
        self.choose(label)
        if not smart:
            self.drag(start, end)
            return
        self.page.locator('.lsf-tool_smart').first.click()
        with self.page.expect_response(lambda response: response.url.endswith('/interactive-annotating')):
            self.drag(start, end)
        self.settle()

    def accept_suggestions(self) -> None:
        self._decide('accept')

    def reject_suggestions(self) -> None:
        self._decide('reject')

    def _decide(self, decision: str) -> None:
        self.page.get_by_test_id(f'bottombar-{decision}-suggestions-button').click()
        self.page.wait_for_function('!window.Htx.annotationStore.selected.suggestions.size')
        self.settle()

    def submit(self, *, by_key: bool = False) -> Json:
        """Press Submit or Update, and return the annotation that Label Studio stored.

        :param by_key: True to press Ctrl+Enter instead.
        """
        button = self.page.get_by_test_id(re.compile('^bottombar-(submit|update)-button$'))
        with self.page.expect_response(_is_of_annotation) as response:
            if by_key:
                self.page.keyboard.press('Control+Enter')
            else:
                button.click()
        assert response.value.ok, response.value.text()
        annotation: Json = response.value.json()
        return annotation


def _is_of_annotation(response: Any) -> bool:
    """Return True if the response answers the submission or the update of an annotation."""
    return response.request.method in ('POST', 'PATCH') and bool(_ANNOTATION.search(response.url))


# ---------------------------------------------------------------- JavaScript

_PRELUDE = """
    const annotation = window.Htx?.annotationStore?.selected;
    const image = annotation && [...annotation.names.values()].find(tag => tag.type === 'image');
    const stage = image?.stageRef;
    const clean = id => id.split('#')[0];
    const percent = ({x, y}) => {
        const inner = stage.getAbsoluteTransform().copy().invert().point({x, y});
        return [inner.x / image.stageWidth * 100, inner.y / image.stageHeight * 100];
    };
    const pixel = ([x, y]) => stage.getAbsoluteTransform().point(
        {x: x / 100 * image.stageWidth, y: y / 100 * image.stageHeight});
    const nodes = region => stage.find(node => (node.name() || '').split(' ')[0] === region.id && node.isVisible());
"""

_SETTLED = f"""regions => {{
    {_PRELUDE}
    const isThere = stage && image.imageIsLoaded && !window.Htx.isLoading
        && (regions === null || annotation.regions.length === regions);
    const state = isThere && JSON.stringify([
        stage.container().getBoundingClientRect(), stage.getAbsoluteTransform().getMatrix(), image.stageWidth,
        annotation.id, annotation.regions.length, annotation.suggestions.size, stage.find(() => true).length,
    ]);
    window.settled.looks = state && state === window.settled.state ? window.settled.looks + 1 : 0;
    window.settled.state = state;
    return window.settled.looks >= 12;
}}"""

_DRAWN = """Object.fromEntries([...annotation.regions, ...annotation.suggestions.values()].map(region => [
    clean(region.id),
    nodes(region).flatMap(node => {
        if (node.getClassName() === 'Circle') return [percent(node.getAbsolutePosition())];
        if (node.getClassName() === 'Rect') {
            const place = node.getAbsoluteTransform();
            const corners = [[0, 0], [node.width(), 0], [node.width(), node.height()], [0, node.height()]];
            return corners.map(([x, y]) => percent(place.point({x, y})));
        }
        const points = node.find(n => /^point-[0-9]+$/.test(n.name() || '') && n.isVisible());
        return points.sort((a, b) => a.name().slice(6) - b.name().slice(6)).map(p => percent(p.getAbsolutePosition()));
    }),
]))"""

_LIMBS = """Object.fromEntries(annotation.regions.filter(r => r.type === 'vectorregion').map(region => [
    clean(region.id), nodes(region).flatMap(node => node.find('Path')).filter(path => path.isVisible()).length,
]))"""

_REGION_AT = """(() => {
    for (let node = stage.getIntersection(pixel(argument)); node; node = node.getParent()) {
        const name = (node.name() || '').split(' ')[0];
        const region = annotation.regions.find(region => region.id === name);
        if (region) return clean(region.id);
    }
    return null;
})()"""

_ON_PAGE = """(() => {
    const {x, y} = pixel(argument);
    const place = stage.container().getBoundingClientRect();
    return [place.x + x, place.y + y];
})()"""

_IN_SIGHT = """(() => {
    const {x, y} = pixel(argument);
    return x >= 0 && y >= 0 && x <= stage.width() && y <= stage.height();
})()"""
