"""The GraphQL edge of one process: HTTP and WebSocket under one path, with what their resolvers need."""

from __future__ import annotations

from typing import Any

from starlette.routing import BaseRoute


class GraphQLApi:
    """Built from the application's parts; started after them and stopped before them."""

    def __init__(self, application: Any) -> None:
        self._application = application

    def routes(self) -> list[BaseRoute]:
        """/graphql."""
        return []

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        pass
