"""What encoders behind an HTTP API have in common; a plugin adds how its API is asked, and its table of models.

    keys.py        which key goes to which server
    calls.py       one JSON call: retries, pauses, failures in one sentence
    batches.py     texts and pictures made ready to be sent, cut to what the API takes, and into requests
    responses.py   what comes back: complete, in order, of the right size
    models.py      rows of a plugin's table, and what a name may ask of them
    encoder.py     `RemoteEncoder`, an `Encoder` made of these and of a plugin's `Dialect`

A plugin's `load` reads from top to bottom:

    api = Api.at(base_url, home=HOME, variables=("SOME_API_KEY",))
    model = known_model(name, MODELS)
    size = wanted_dim(name, model, dim)
    dialect = SomeDialect(name.model, size)
    return remote_encoder(name, run, api=api, dialect=dialect, limits=LIMITS, model=model, dim=size)

A model with pictures adds `image_request=`, and one whose vectors are shortened here rather than there `width=`.
"""

from __future__ import annotations

from mmembed.encoders.remote.batches import Limits, data_uri, estimate_tokens
from mmembed.encoders.remote.calls import Api, Patience
from mmembed.encoders.remote.encoder import Dialect, RemoteEncoder, Request, remote_encoder
from mmembed.encoders.remote.keys import KEYS_VARIABLE, ApiKey, find_key
from mmembed.encoders.remote.models import RemoteModel, known_model, wanted_dim
from mmembed.encoders.remote.responses import rows_by_index

__all__ = [
    "KEYS_VARIABLE",
    "Api",
    "ApiKey",
    "Dialect",
    "Limits",
    "Patience",
    "RemoteEncoder",
    "RemoteModel",
    "Request",
    "data_uri",
    "estimate_tokens",
    "find_key",
    "known_model",
    "remote_encoder",
    "rows_by_index",
    "wanted_dim",
]
