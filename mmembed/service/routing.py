"""Which route a request is for, asked before the router has chosen it: by what an early refusal has to know."""

from __future__ import annotations

from starlette.routing import BaseRoute, Match
from starlette.types import Scope

__all__ = ["route_of"]


def route_of(scope: Scope) -> BaseRoute | None:
    """The route of a request, or the one that would take it by another method; None: there is none at its path."""
    chosen: BaseRoute | None = scope.get("route")
    if chosen is not None or "app" not in scope:
        return chosen
    other = None
    for route in scope["app"].router.routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            return route  # type: ignore[no-any-return]
        if match is Match.PARTIAL:
            other = other or route
    return other
