"""Make the pictures of the documents from the running product: `uv run python -m docs.make_pictures`.

The photographs may be published: the portrait of Grace Hopper from matplotlib's sample data is a work of the US Navy in
the public domain, the man behind the camera from scikit-image is CC0.

Needs Chromium or Google Chrome, or the environment variable CHROMIUM with its path.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import httpx
import numpy as np
from matplotlib.cbook import get_sample_data
from PIL import Image
from playwright.sync_api import sync_playwright
from skimage import data

PROJECT: Final = Path(__file__).parent.parent
PICTURES: Final = PROJECT / 'docs' / 'pictures'
CARD: Final = PROJECT / 'model_files' / 'test-card.jpg'
WIDTH: Final = 900
"""Width of the picture with the skeletons, in pixels."""
START_SECONDS: Final = 180
"""Time limit for the start of the node, in seconds."""


def main() -> None:
    """Draw the skeletons of photographs and of the test card, and photograph the page at `/ui`."""
    with tempfile.TemporaryDirectory() as folder:
        photographs = _photographs(Path(folder))
        drawn = [_drawn(photograph, 'starter', Path(folder)) for photograph in photographs]
        _write(np.hstack(drawn), PICTURES / 'photographs.jpg')
        _write(_drawn(CARD, 'test-card', Path(folder)), PICTURES / 'skeleton.jpg')
        with _running_node(_environment(Path(folder), 'starter')) as url:
            for _ in range(20):  # so that the card for the load has something to show
                httpx.post(f'{url}/poses', files={'file': photographs[0].read_bytes()}, timeout=60).raise_for_status()
            _photograph_page(f'{url}/ui', photographs[0], PICTURES / 'page.png')


def _photographs(folder: Path) -> list[Path]:
    """Write the photographs, of the same height, into a folder."""
    paths = [folder / 'portrait.png', folder / 'camera.png']
    with Image.open(str(get_sample_data('grace_hopper.jpg', asfileobj=False))) as portrait:
        portrait.save(paths[0])
        Image.fromarray(data.camera()).convert('RGB').resize((portrait.height, portrait.height)).save(paths[1])  # type: ignore[no-untyped-call]
    return paths


def _drawn(picture: Path, mode: str, folder: Path) -> np.ndarray:
    """Return a picture with the skeletons that a model finds in it."""
    drawn = folder / f'{picture.stem}-drawn.png'
    environment = _environment(folder, mode)
    subprocess.run(_command('detect', str(picture), '-o', str(drawn)), env=environment, cwd=folder, check=True)
    with Image.open(drawn) as image:
        return np.asarray(image)


def _write(picture: np.ndarray, path: Path) -> None:
    with Image.fromarray(picture) as image:
        image.resize((WIDTH, image.height * WIDTH // image.width)).save(path, quality=85)


def _environment(folder: Path, mode: str) -> dict[str, str]:
    """Return an environment without the user's settings; the working directory has no `.env` either."""
    kept = {name: value for name, value in os.environ.items() if name in ('PATH', 'HOME', 'LANG')}
    return {**kept, 'DATA_FOLDER': str(folder), 'NODE_HOST': '127.0.0.1', 'LOG_LEVEL': 'WARNING', 'MODE': mode}


def _command(*arguments: str) -> list[str]:
    return [sys.executable, '-m', 'detector', *arguments]


@contextmanager
def _running_node(environment: dict[str, str]) -> Iterator[str]:
    """Run a node and provide its address."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(_command('serve', '--port', str(port)), env=environment, cwd=environment['DATA_FOLDER'])
    try:
        url = f'http://127.0.0.1:{port}'
        _wait_until_ready(url)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=15)


def _wait_until_ready(url: str) -> None:
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        try:
            if httpx.get(f'{url}/ready').status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise TimeoutError(f'the node at {url} was not ready within {START_SECONDS} seconds')


def _photograph_page(url: str, photograph: Path, output: Path) -> None:
    """Choose a photograph on the page and take a picture when the skeletons are drawn."""
    chromium = shutil.which(os.environ.get('CHROMIUM', 'chromium')) or shutil.which('google-chrome')
    if chromium is None:
        raise FileNotFoundError('Chromium is not installed; set CHROMIUM to its path')
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium)
        page = browser.new_page(viewport={'width': 1280, 'height': 800})
        page.goto(url)
        page.locator('main input[type=file]').first.set_input_files(photograph)
        page.locator('main circle.point').first.wait_for()
        page.wait_for_timeout(2500)  # the cards renew themselves once a second
        page.screenshot(path=output)
        browser.close()
    with Image.open(output) as picture:
        picture.convert('RGB').quantize(256).save(output, optimize=True)


if __name__ == '__main__':
    main()
