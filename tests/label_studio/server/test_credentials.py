"""Legacy and personal access tokens, as Label Studio 1.23 treats them."""

import asyncio
import base64
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field

import pytest
import pytest_asyncio

from detector.errors import LabelStudioFault
from detector.label_studio.server.client import Connection
from tests.support.label_studio.recorder import Recorder, Reply, Request, recording


def jwt(**claims: object) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip('=')
    return f'eyJhbGciOiJIUzI1NiJ9.{payload}.c2lnbmF0dXJl'


PERSONAL = jwt(token_type='refresh', user_id=1)


@dataclass
class Studio:
    """A Label Studio that issues access tokens and accepts the latest one.

    :param lifetime: lifetime in seconds that access tokens state.
    :param clock: seconds by which its clock is ahead.
    :param refusal: status with which it refuses the personal access token, if at all.
    """

    recorder: Recorder
    lifetime: float = 300
    clock: float = 0
    refusal: int | None = None
    issued: list[str] = field(default_factory=list)
    valid: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def refreshes(self) -> int:
        return self.recorder.paths.count('/api/token/refresh/')

    def answer(self, request: Request) -> Reply:
        with self.lock:
            if request.path == '/api/token/refresh/':
                assert json.loads(request.body) == {'refresh': PERSONAL}
                assert request.authorization is None
                if self.refusal is not None:
                    return Reply(self.refusal, b'{"detail": "Token is blacklisted"}')
                now = time.time() + self.clock
                self.issued.append(jwt(exp=now + self.lifetime, iat=now, jti=len(self.issued)))
                self.valid = {f'Bearer {self.issued[-1]}'}
                return Reply(body=json.dumps({'access': self.issued[-1]}).encode())
            return Reply(200 if request.authorization in self.valid else 401, b'{}')


@pytest.fixture
def studio() -> Iterator[Studio]:
    with recording() as recorder:
        studio = Studio(recorder)
        recorder.answer = studio.answer
        yield studio


@pytest_asyncio.fixture
async def connection(studio: Studio) -> AsyncIterator[Connection]:
    connection = Connection(studio.recorder.url, PERSONAL)
    yield connection
    await connection.close()


async def test_one_refresh_serves_ten_concurrent_requests_and_those_after(
    studio: Studio, connection: Connection
) -> None:
    """Ten concurrent requests and later ones share one refresh, and only the refresh gets the personal access token."""
    await asyncio.gather(*(connection.task(number) for number in range(10)))
    await connection.task(11)
    assert studio.refreshes == 1
    assert {request.authorization for request in studio.recorder.requests} == {None, f'Bearer {studio.issued[0]}'}


@pytest.mark.parametrize('clock', [0, -7200, 7200])
async def test_an_access_token_is_renewed_before_it_ends(studio: Studio, connection: Connection, clock: float) -> None:
    """An access token is renewed a fifth of its lifetime early, whatever Label Studio's clock says, so no request
    fails."""
    studio.lifetime, studio.clock = 0.6, clock
    await connection.task(1)
    await connection.task(2)
    assert studio.refreshes == 1
    await asyncio.sleep(0.5)
    await connection.task(3)
    assert studio.refreshes == 2
    assert studio.recorder.requests[-1].authorization == f'Bearer {studio.issued[1]}'


@pytest.mark.parametrize(
    'token',
    ['opaque', 'a.b.c', jwt(exp='soon'), jwt(exp=time.time() - 9), jwt(exp=None)],
    ids=['opaque', 'three parts', 'no number', 'past', 'null'],
)
async def test_an_access_token_that_does_not_say_is_kept_for_a_while(
    studio: Studio, connection: Connection, token: str
) -> None:
    """An access token without a stated lifetime is kept for five minutes."""
    studio.recorder.answer = lambda request: Reply(body=json.dumps({'access': token}).encode())
    await connection.task(1)
    await connection.task(2)
    assert studio.refreshes == 1


async def test_requests_refused_with_401_share_one_refresh(studio: Studio, connection: Connection) -> None:
    """Requests that fail with 401 share one refresh, and all succeed then."""
    await connection.task(0)
    studio.valid = set()
    await asyncio.gather(*(connection.task(number) for number in range(10)))
    assert studio.refreshes == 2


async def test_a_second_401_is_the_end(studio: Studio, connection: Connection) -> None:
    """A second 401 is reported without another refresh."""
    await connection.task(0)
    studio.recorder.answer = lambda request: studio.answer(request) if 'token' in request.path else Reply(401, b'{}')
    with pytest.raises(LabelStudioFault, match='401.*LABEL_STUDIO_API_TOKEN'):
        await connection.task(1)
    assert studio.refreshes == 2
    assert len(studio.recorder.requests) == 5


@pytest.mark.parametrize(
    ('status', 'text'), [(401, 'revoked, has expired'), (404, 'LABEL_STUDIO_URL'), (500, 'LABEL_STUDIO_URL')]
)
async def test_a_personal_access_token_that_is_refused_is_tried_once_for_a_whole_batch(
    studio: Studio, connection: Connection, status: int, text: str
) -> None:
    """A refused personal access token is tried once for ten requests, and all report the reason without the token."""
    studio.refusal = status
    faults = await asyncio.gather(*(connection.task(number) for number in range(10)), return_exceptions=True)
    assert studio.recorder.paths == ['/api/token/refresh/']
    for fault in faults:
        assert isinstance(fault, LabelStudioFault)
        assert text in str(fault)
        assert str(status) in str(fault)
        assert PERSONAL not in f'{fault!r}'


async def test_legacy_tokens_that_are_off_are_explained() -> None:
    """A refused legacy token is explained without another try."""
    with recording() as recorder:
        recorder.answer = lambda _: Reply(401, b'{}')
        connection = Connection(recorder.url, '0123456789abcdef0123456789abcdef01234567')
        with pytest.raises(LabelStudioFault, match='legacy tokens switched off.*use a personal access token') as caught:
            await connection.task(1)
        assert '0123' not in str(caught.value)
        assert len(recorder.requests) == 1
        await connection.close()
