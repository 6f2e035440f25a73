"""Where vectors lie: a Qdrant server, an embedded Qdrant Edge folder, or memory. `open_store(url)` gives one.

open_store -> edge/store.py   -> edge/pipe.py => in a process of its own: edge/process.py -> shards.py -> models.py
           -> qdrant/store.py -> collections.py -> calls.py; models.py
both       -> checks.py (what may be written and asked), filters.py (when a search must be exact)
"""

from __future__ import annotations

from urllib.parse import urlsplit

from mmembed.errors import SettingsError
from mmembed.types import Store

__all__ = ["open_store"]


def open_store(
    url: str,
    *,
    api_key: str | None = None,
    prefer_grpc: bool = False,
    grpc_port: int = 6334,
    timeout_seconds: float = 60,
) -> Store:
    """Open one Qdrant by its address.

    Args:
        url: "http://host:port" or "https://host:port" for a server; "edge:FOLDER" for an embedded one, made if it is
            not there, and one process at a time; ":memory:" for tests, forgotten on close.
        api_key: of the server.
        prefer_grpc: write and search over gRPC, which costs the client a tenth of the CPU of REST.
        timeout_seconds: of each request to a server.

    Raises:
        SettingsError: `url` has none of the three forms.
        StoreUnavailable: nothing answers there, or another process holds the folder.
    """
    if url == ":memory:":
        from mmembed.stores.qdrant.store import open_memory

        return open_memory()
    if url.startswith("edge:") and url != "edge:":
        from mmembed.stores.edge.store import EdgeStore

        return EdgeStore(url)
    if _is_server(url):
        from mmembed.stores.qdrant.store import open_server

        return open_server(
            url, api_key=api_key, prefer_grpc=prefer_grpc, grpc_port=grpc_port, timeout_seconds=timeout_seconds
        )
    raise SettingsError(
        f"store {url!r} is none of the three forms: http://host:port (a server), edge:FOLDER (embedded), :memory:"
    )


def _is_server(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is not a number
        return False
