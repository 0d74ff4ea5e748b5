"""Projects by number, address and title; tests/integration uses a real server."""

import re
from typing import Any, cast

import pytest

from detector.errors import InvalidRequest, NotInLabelStudio
from detector.label_studio.server.client import Connection
from detector.label_studio.server.project_lookup import find_project, titled


class Titles:
    """Label Studio with projects of these titles, numbered from 1, in pages of two."""

    def __init__(self, *titles: str) -> None:
        self._titles = titles
        self.requests = 0

    async def get_json(self, path: str, *, title: str, page: int, **_: Any) -> Any:
        assert path == '/api/projects/'
        self.requests += 1
        numbered = enumerate(self._titles, start=1)
        found = [{'id': n, 'title': name} for n, name in numbered if title.lower() in name.lower()]
        more = found[2 * page :]
        return {'results': found[2 * (page - 1) : 2 * page], 'next': f'page={page + 1}' if more else None}

    async def project(self, number: int) -> Any:
        self.requests += 1
        if not 0 < number <= len(self._titles):
            raise NotInLabelStudio('no such project')
        return {'id': number, 'title': self._titles[number - 1]}


async def number_of(text: str, *titles: str) -> int:
    return (await find_project(cast(Connection, Titles(*titles)), text)).id


@pytest.mark.parametrize(
    'text', ['http://localhost:8080/projects/7', 'https://host/ls/projects/7/data?tab=1', '/projects/7/#x']
)
async def test_addresses_need_no_request(text: str) -> None:
    """An address names a project without a request, also if it is the title of another one."""
    connection = Titles('7', '/projects/7')
    assert (await find_project(cast(Connection, connection), text)).id == 7
    assert connection.requests == 0


async def test_digits_are_a_number_or_a_title() -> None:
    """Digits name the project with this number, or else the one with this title."""
    assert await number_of(' 2 ', 'a', 'b') == 2
    assert await number_of('02', 'a', 'b') == 2
    assert await number_of('2', 'a', '2') == 2
    for year in ('2024', '007', '0', '9' * 30):
        assert await number_of(year, 'Kitchen', f'{year} 2', year) == 3


async def test_digits_that_mean_two_projects_are_refused() -> None:
    """The refusal names both projects, each with an option that chooses it; unknown digits are told with the remedy."""
    with pytest.raises(InvalidRequest, match='title of another, of project 3: .*') as caught:
        await number_of('2', 'a', 'b', '2')
    for number, choice in zip((2, 3), re.findall(r'--project (\S+/)', str(caught.value)), strict=True):
        assert await number_of(choice, 'a', 'b', '2') == number
    with pytest.raises(
        InvalidRequest, match=r'no project with this number or title, but there is "in 2024" \(1\); give'
    ):
        await number_of('2024', 'in 2024')


@pytest.mark.parametrize('title', ['Kitchen', 'Kitchen 7', 'a/b', 'Küche & Bad', 'our /projects/7 of 2026', '7th'])
async def test_a_title_names_its_project(title: str) -> None:
    """An exact title names its project among others that contain it, on any page."""
    assert await number_of(title, f'{title} 2', f'old {title}', title.upper() + '!', f'{title} ', title) == 5
    assert await number_of(f' {title} ', title) == 1


async def test_an_ambiguous_or_unknown_title_is_refused() -> None:
    """A title of several projects is refused with their numbers, an unknown one with the similar titles."""
    with pytest.raises(InvalidRequest, match='2 projects have the title "Kitchen".* --project 1 or --project 3'):
        await number_of('Kitchen', 'Kitchen', 'kitchen', 'Kitchen')
    with pytest.raises(InvalidRequest, match=r'but there is "Kitchen" \(1\), "Old kitchen" \(2\); give its number'):
        await number_of('kitchen', 'Kitchen', 'Old kitchen')
    with pytest.raises(InvalidRequest, match='there is no project with this title; give its number'):
        await number_of('Bath', 'Kitchen')
    assert await titled(cast(Connection, Titles('Kitchen')), 'Bath') is None
