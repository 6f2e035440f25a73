"""What is passed over in folders and patterns: what mmembed wrote itself, and what other programs leave beside files.

Neither is anybody's picture or document: a thumbnail that was indexed would get a thumbnail of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from fnmatch import fnmatchcase

STORE, THUMBNAIL, UPLOAD = "store", "thumbnail", "upload"
LOCK_FILE, SYSTEM_FOLDER = "lock file", "system folder"

_LOCK_FILES = (
    "~$*",
    "~wr[ald][0-9]*",
    ".~lock.*#",
)  # of Word, Excel, PowerPoint and LibreOffice while a document is open
_SYSTEM_FOLDERS = (
    *("@eadir", "#recycle", "#snapshot", "@tmp", "@sharebin", "@recycle", "@recently-snapshot"),  # Synology, QNAP
    *("$recycle.bin", "recycler", "system volume information", "found.[0-9]*"),  # Windows
    *(".trash*", ".trashes", "lost+found", "__macosx"),  # desktops of Linux, macOS
)
_THUMBNAIL = re.compile(r"/thumbnails/[^/]+/([0-9a-f]{2})/\1[0-9a-f]{6}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.webp$")
_UPLOAD = re.compile(r"/uploads/[^/]+/([0-9a-f]{32})/[^/]+$")


def why_folder(path: str, *, linked: bool) -> str | None:
    """Why a folder is passed over; None: it is not. `linked`: it may lie anywhere, within a store too."""
    if _is_like(path, _SYSTEM_FOLDERS):
        return SYSTEM_FOLDER
    if _is_store(path) or (linked and _in_store(os.path.realpath(path))):
        return STORE
    return None


def why_file(path: str, *, linked: bool) -> str | None:
    """Why a file is passed over; None: it is not."""
    return LOCK_FILE if _is_like(path, _LOCK_FILES) else written_here(path, linked=linked)


def written_here(path: str, *, linked: bool = True) -> str | None:
    """Whether mmembed wrote a file: STORE, THUMBNAIL or UPLOAD, of this store or of another; None: it did not."""
    real = os.path.realpath(path) if linked else path
    folder, name = os.path.split(real)
    if not linked and (name.endswith(".webp") or len(os.path.basename(folder)) == 32):
        real = os.path.realpath(path)  # a folder on its way may be a link
    if _THUMBNAIL.search(real):
        return THUMBNAIL
    if (upload := _UPLOAD.search(real)) and _digest(real) == upload[1]:
        return UPLOAD
    return STORE if linked and _in_store(folder) else None


def _is_like(path: str, patterns: tuple[str, ...]) -> bool:
    name = os.path.basename(path).lower()
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _in_store(folder: str) -> bool:
    """Whether a folder without a link in its path is an Edge store or lies within one."""
    while not _is_store(folder):
        parent = os.path.dirname(folder)
        if parent == folder:
            return False
        folder = parent
    return True


def _is_store(folder: str) -> bool:
    """Whether it holds what an Edge store holds; see `mmembed.stores.edge.shards`."""
    collections = os.path.join(folder, "collections")
    if not (os.path.isdir(collections) and os.path.isfile(os.path.join(folder, "lock"))):
        return False
    try:
        homes = [name for name in os.listdir(collections) if not name.startswith(".")]
    except OSError:  # one that is another user's: what lies beside a lock is a store all the same
        return True
    return all(os.path.exists(os.path.join(collections, name, "contract.json")) for name in homes)


def _digest(path: str) -> str | None:
    """What an upload's folder is called after; None where it cannot be read."""
    try:
        with open(path, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except OSError:
        return None
