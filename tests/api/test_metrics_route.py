"""The formats in which `/metrics` answers."""

import httpx
import pytest
from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter

from detector.api import metrics_route


@pytest.mark.parametrize(
    ('accept', 'kind'),
    [
        ('*/*', 'text/plain'),
        ('application/openmetrics-text; version=1.0.0', 'application/openmetrics-text'),
        ('application/openmetrics-text;version=abc', 'text/plain'),
    ],
)
async def test_the_caller_chooses_the_format(accept: str, kind: str) -> None:
    """Prometheus' text format is the default; a malformed version gets it too."""
    registry = CollectorRegistry()
    Counter('seen', 'Seen', registry=registry).inc()
    app = FastAPI()
    app.include_router(metrics_route.create_router(registry))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url='http://node') as client:
        answer = await client.get('/metrics', headers={'Accept': accept})
    assert answer.status_code == 200
    assert answer.headers['content-type'].startswith(kind)
    assert 'seen_total 1.0' in answer.text
