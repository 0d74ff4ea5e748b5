"""Helpers that several commands share. Modules that load slowly are imported when a command runs."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

from detector.errors import InvalidRequest, WholebodyError

if TYPE_CHECKING:
    import httpx
    from rich.progress import Progress
    from rich.table import Table

    from detector.settings import Settings

IMAGE_ENDINGS: Final = ('.jpg', '.jpeg', '.png', '.webp')
"""Endings of the files that commands read from a folder of images."""
_NODE_SECONDS: Final = 60
"""Time limit for an answer from a running node."""
_PIPE_WIDTH: Final = 1000
"""Maximum width of tables in a file or pipe, in characters."""


def load_settings(**overrides: object) -> 'Settings':
    """Read the environment and `.env`; see `detector.settings.load_settings`."""
    from detector.settings import load_settings as load

    return load(**overrides)


def image_files(folder: Path) -> list[Path]:
    """Return the image files below a folder, sorted; hidden files and folders are ignored.

    :raises InvalidRequest: the folder contains no images.
    """
    files = [
        file
        for file in sorted(folder.rglob('*'))
        if file.suffix.lower() in IMAGE_ENDINGS
        and not any(part.startswith('.') for part in file.relative_to(folder).parts)
        and file.is_file()
    ]
    if not files:
        raise InvalidRequest(f'no images ({", ".join(IMAGE_ENDINGS)}) in {folder}')
    return files


class NodeClient:
    """HTTP client for a running node. It sends API_TOKEN, and its errors show no credentials.

    :raises InvalidRequest: the address cannot be read.
    """

    def __init__(self, url: str, settings: 'Settings') -> None:
        import httpx

        from detector.settings import without_logins
        from detector.system.proxies import ProxyTransport

        self.address = without_logins(url)
        try:
            self._client = httpx.Client(
                transport=ProxyTransport(),
                base_url=httpx.URL(url),
                timeout=_NODE_SECONDS,
                headers=settings.request_headers,
            )
        except httpx.InvalidURL as error:
            raise InvalidRequest(f'{self.address!r} is not an address: {error}') from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def send(self, method: str, path: str, **options: Any) -> 'httpx.Response':
        """Send a request and return the answer, whatever its status.

        :raises WholebodyError: the node does not answer.
        """
        import httpx

        try:
            return self._client.request(method, path, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise WholebodyError(f'no answer from {self.address}: {error}') from error

    def fault(self, response: 'httpx.Response', detail: str) -> WholebodyError:
        """Return the error for an answer that the command cannot use."""
        return WholebodyError(f'{self.address} answers {response.status_code}: {detail}')


def make_table(header: Iterable[str], rows: Iterable[Sequence[str]], *, numeric: bool = False) -> 'Table':
    """Return a `rich` table without borders.

    :param numeric: True to align all columns but the first to the right.
    """
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for index, title in enumerate(header):
        table.add_column(escape(title), justify='right' if numeric and index else 'left', overflow='fold')
    for row in rows:
        table.add_row(*map(escape, row))
    return table


def print_table(header: Iterable[str], rows: Iterable[Sequence[str]], *, numeric: bool = False) -> None:
    """Print a table, in a file or pipe at its full width."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, _PIPE_WIDTH)
    console.print(make_table(header, rows, numeric=numeric))


def progress_bar() -> 'Progress':
    """Return a progress bar on standard error, shown on terminals only; its `console.print` writes above the bar."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def write_text(file: Path, text: str) -> None:
    """Write a file and its missing folders, then print its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    print(file)
