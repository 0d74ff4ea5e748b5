"""The route `/metrics`."""

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import PlainTextResponse, Response
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, choose_encoder


def create_router(registry: CollectorRegistry) -> APIRouter:
    """Return the route `/metrics`."""
    router = APIRouter()

    @router.get(
        '/metrics',
        tags=['operation'],
        response_class=PlainTextResponse,
        responses={200: {'content': {'application/openmetrics-text': {}}}},
    )
    async def metrics(request: Request) -> Response:
        """The metrics in Prometheus' text format, or in OpenMetrics if the caller accepts it."""
        text, content_type = await asyncio.to_thread(_exposition, registry, request.headers.get('Accept', ''))
        return Response(text, headers={'Content-Type': content_type})

    return router


def _exposition(registry: CollectorRegistry, accept: str) -> tuple[bytes, str]:
    """Return the metrics and their content type."""
    try:
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type
    except (TypeError, ValueError):  # the library fails on a malformed version
        return generate_latest(registry), CONTENT_TYPE_PLAIN_0_0_4
