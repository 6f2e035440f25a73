"""Class embeddings that were made before: in memory, and on the disk where there is a folder."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import threading
from collections import OrderedDict
from pathlib import Path

import numpy as np

from mmembed.types import DenseArray, Encoder

logger = logging.getLogger(__name__)
_ROWS_IN_MEMORY = 20_000  # 80 MB of 1,024 dimensions


def row_key(encoder: Encoder, texts: tuple[str, ...], templates: tuple[str, ...]) -> str:
    """What one class embedding depends on, 64 hexadecimal digits."""
    whole = [encoder.spec.fingerprint, encoder.dtype, list(texts), list(templates)]
    return hashlib.sha256(json.dumps(whole).encode()).hexdigest()


class ClassCache:
    """Rows `(dim,)` by `row_key`; any number of threads and processes may share it.

    A file that is damaged counts as missing and is written anew. A folder that cannot be written to is warned of
    once, and classes are then kept in memory alone.
    """

    def __init__(self, folder: Path | None = None, *, rows: int = _ROWS_IN_MEMORY) -> None:
        self.folder = folder
        self._most = rows
        self._rows: OrderedDict[str, DenseArray] = OrderedDict()
        self._lock = threading.Lock()
        self._writes = folder is not None

    def get(self, key: str, dim: int | None) -> DenseArray | None:
        """The row, or None where there is none of `dim` dimensions."""
        with self._lock:
            if key in self._rows:
                self._rows.move_to_end(key)
                return self._rows[key]
        row = self._read(key, dim)
        if row is not None:
            self._keep(key, row)
        return row

    def put(self, key: str, row: DenseArray) -> None:
        self._keep(key, row)
        if self.folder is not None and self._writes:
            self._write(self._file(self.folder, key), row)

    def _keep(self, key: str, row: DenseArray) -> None:
        with self._lock:
            self._rows[key] = row
            while len(self._rows) > self._most:
                self._rows.popitem(last=False)

    @staticmethod
    def _file(folder: Path, key: str) -> Path:
        return folder / key[:2] / f"{key}.npy"

    def _read(self, key: str, dim: int | None) -> DenseArray | None:
        if self.folder is None:
            return None
        file = self._file(self.folder, key)
        try:
            row: DenseArray = np.load(file, allow_pickle=False)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError, EOFError) as exc:
            logger.warning("the class embedding %s cannot be read (%s) and is computed again", file, exc)
            return None
        whole = isinstance(row, np.ndarray) and row.dtype == np.float32 and row.shape == (dim,)
        if not whole or abs(float(np.linalg.norm(row)) - 1) > 1e-3:
            logger.warning("the class embedding %s is damaged and is computed again", file)
            return None
        return row

    def _write(self, file: Path, row: DenseArray) -> None:
        """Whole or not at all: a reader never sees half a row."""
        partial = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}.tmp")
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("wb") as stream:
                    np.save(stream, row)
                partial.replace(file)
            finally:
                partial.unlink(missing_ok=True)
        except OSError as exc:
            self._writes = False
            logger.warning(
                "class embeddings are not kept in %s (%s): make room or give write access there", self.folder, exc
            )
