"""Settings of the service: flags of `mmembed serve`, or variables `MMEMBED_*`. Nothing else reads them."""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mmembed.batching.options import BatchingOptions
from mmembed.errors import SettingsError
from mmembed.types import LoadOptions

Scope = Literal["search", "index", "infer", "admin"]
SCOPES: tuple[Scope, ...] = ("search", "index", "infer", "admin")
_PREFIX = "MMEMBED_"
_OTHERS = {"MMEMBED_API_KEYS", "MMEMBED_CHAT_API_KEY", "MMEMBED_DEBUG"}  # read elsewhere
Words = Annotated[tuple[str, ...], NoDecode]


class Settings(BaseSettings):
    """What `mmembed serve` runs with. A flag wins over its variable; lists in variables are separated by white space.

    An empty variable is none: what fills variables from a file or a secret sets those that are missing to nothing.
    """

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True, allow_inf_nan=False
    )

    host: str = Field("127.0.0.1", description="Address to listen on; any but loopback needs keys.")
    port: int = Field(8600, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    store: str | None = Field(None, description="http://HOST:6333 or edge:FOLDER; by default the embedded store.")
    qdrant_api_key: str | None = Field(None, repr=False, description="API key of the Qdrant server.")
    grpc: bool = Field(False, description="Talk gRPC to the Qdrant server.")
    folder: Path | None = Field(None, description="Where uploads and thumbnails lie; by default beside the store.")

    encoder: Words = Field((), description="Encoders to serve beside those of the collections, tiny and bm25.")
    trust_contracts: bool = Field(False, description="Load whatever encoder a collection's contract names.")
    reranker: Words = Field((), description="Rerankers that a search may name.")
    device: str | None = Field(None, description="cpu, cuda, cuda:1, mps; by default the best there is.")
    dtype: str | None = Field(None, description="float32, bfloat16 or float16.")
    batch_size: int | None = Field(None, ge=1, description="Inputs per forward pass; by default the encoder's own.")
    trust_remote_code: bool = Field(False, description="Run Python code that comes with a model's repository.")

    key: Words = Field((), repr=False, description="SECRET:SCOPE,SCOPE of search, index, infer, admin; no scope: all.")
    key_file: Path | None = Field(None, description="A file with one such key a line.")
    allow_origin: Words = Field((), description="Web pages of this origin may call the API (CORS); * is any.")
    allow_image_host: Words = Field((), description="Fetch pictures from this host though its address is private.")

    max_body_mb: float = Field(32, gt=0, description="Largest request, in MiB.")
    max_pixels: int = Field(50_000_000, ge=1, description="Largest picture.")
    max_inputs: int = Field(1024, ge=1, description="Texts and pictures in one request.")
    max_image_mb: float = Field(20, gt=0, description="Largest picture that is fetched from an address, in MiB.")
    rate: float | None = Field(None, gt=0, description="Requests per second for each key, or address without keys.")
    max_batch_tokens: int = Field(16_384, ge=1, description="Tokens per forward pass.")
    max_wait_ms: float = Field(5, ge=0, description="How long a forward pass waits for inputs that are on the way.")
    max_queue: int = Field(2048, ge=1, description="Inputs that may wait for one encoder; more are answered 429.")
    cache_mb: float = Field(256, ge=0, description="Vectors kept for inputs that come again, in MiB.")
    request_seconds: float = Field(30, gt=0, description="How long a request may take to arrive.")
    fetch_seconds: float = Field(10, gt=0, description="How long a picture may take to be fetched.")
    search_seconds: float = Field(30, gt=0, description="How long a search may take in the store.")
    shutdown_seconds: float = Field(30, ge=0, description="How long accepted requests may take after a stop signal.")
    threads: int = Field(80, ge=1, description="Requests that may search or write at the same time.")

    @field_validator("encoder", "reranker", "key", "allow_origin", "allow_image_host", mode="before")
    @classmethod
    def _words(cls, value: Any) -> Any:
        return tuple(value.split()) if isinstance(value, str) else value

    @field_validator("allow_origin")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if origin != "*" and not re.fullmatch(r"https?://[^/\s]+/?", origin):
                raise ValueError(
                    f"{origin!r} is not an origin: give https://HOST or http://HOST:PORT without a path, or *"
                )
        return tuple(origin.rstrip("/").lower() for origin in origins)

    @model_validator(mode="after")
    def _sensible(self) -> Settings:
        if self.max_queue < self.max_inputs:
            raise ValueError(f"max_queue ({self.max_queue}) must hold one request of max_inputs ({self.max_inputs})")
        if not self.has_keys and not is_loopback(self.host):
            raise ValueError(
                f"host {self.host!r} can be reached from other machines, so it needs keys: give --key SECRET or "
                f"--key-file FILE, or listen on 127.0.0.1"
            )
        return self

    @property
    def batching(self) -> BatchingOptions:
        return BatchingOptions(**{field.name: getattr(self, field.name) for field in fields(BatchingOptions)})

    @property
    def loading(self) -> LoadOptions:
        return LoadOptions(self.device, self.dtype, self.batch_size, self.trust_remote_code)

    @property
    def has_keys(self) -> bool:
        return bool(self.key) or self.key_file is not None


def is_loopback(host: str) -> bool:
    """Whether a name or address means this computer alone."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def read_settings(**flags: Any) -> Settings:
    """Flags that are not None, else variables, else defaults.

    Raises SettingsError for a value that makes no sense, and for a variable `MMEMBED_*` that is not a setting.
    """
    known = {f"{_PREFIX}{name}".upper() for name in Settings.model_fields} | _OTHERS
    for name in os.environ:
        if name.upper().startswith(_PREFIX) and name.upper() not in known and not name.startswith(f"{_PREFIX}TEST_"):
            nearest = difflib.get_close_matches(name.upper(), known, n=1)
            meant = f"did you mean {nearest[0]}?" if nearest else "docs/reference.md lists them all"
            raise SettingsError(f"the variable {name} is not a setting: {meant}")
    try:
        return Settings(**{name: value for name, value in flags.items() if value is not None})
    except ValidationError as exc:
        raise SettingsError(_sentence(exc.errors()[0])) from exc


def _sentence(error: ErrorDetails) -> str:
    """What pydantic found, with the value that was given unless it is a secret."""
    message = error["msg"].removeprefix("Value error, ")
    if not error["loc"] or error["type"] == "value_error":
        return f"{error['loc'][0]}: {message}" if error["loc"] else message
    name = str(error["loc"][0])
    field = Settings.model_fields.get(name)
    value = f"{error['input']!r} " if field is not None and field.repr else ""
    return f"{name}: {value}cannot be used, {message[:1].lower()}{message[1:]}"
