"""Tables of models: what a vendor says of each, and what a name may ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mmembed.encoders.registry import EncoderName
from mmembed.errors import EncoderLoadError, SettingsError


@dataclass(frozen=True)
class RemoteModel:
    """One row of a plugin's table: what the vendor says about a model."""

    dim: int | None = None  # None: not known before it has answered once
    dims: tuple[int, ...] = ()  # the sizes that it can be asked for; (): its own alone
    context_length: int | None = None  # tokens
    images: bool = False
    space: str = ""  # models of one space have comparable vectors; "": the model's own
    licence: str | None = None


def known_model(
    name: EncoderName, models: Mapping[str, RemoteModel], *, other: RemoteModel | None = None
) -> RemoteModel:
    """The row of the model, or `other` for one that is not in the table: vendors add models all the time.

    Raises EncoderLoadError for a name without a model.
    """
    if not name.model:
        raise EncoderLoadError(
            f"encoder {str(name)!r} names no model: write {name.family}:MODEL, such as "
            f"{name.family}:{next(iter(models))}"
        )
    return models.get(name.model, other or RemoteModel())


def wanted_dim(name: EncoderName, model: RemoteModel, dim: str | None) -> int | None:
    """The dimensions that vectors shall have: `?dim=`, otherwise the model's; None: it will be asked.

    Raises SettingsError for a size that the model does not have.
    """
    if dim is None:
        return model.dim
    if not dim.isdecimal() or int(dim) < 1:
        raise SettingsError(f"encoder {str(name)!r}: dim must be a whole number above 0, not {dim!r}")
    if model.dim is not None and int(dim) not in {model.dim, *model.dims}:
        has = ", ".join(map(str, sorted({model.dim, *model.dims})))
        raise SettingsError(
            f"encoder {str(name)!r} was asked for {dim} dimensions, but {name.model} has {has}: take one"
        )
    return int(dim)
