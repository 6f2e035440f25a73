"""mteb's retrieval tasks over a Qdrant collection: its metrics, with the loss of graph and quantization in them."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from itertools import chain, count
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, TypeAlias

from qdrant_client import models

from mmembed.collection.contract import check_fingerprint
from mmembed.collection.prepare import vector_contract
from mmembed.errors import StoreError
from mmembed.evaluation.harnesses.mteb_encoder import encode_batch, load_for_mteb, model_meta
from mmembed.evaluation.harnesses.mteb_tasks import TaskMetadata, accepted_task
from mmembed.stores import open_store
from mmembed.types import Contract, Encoder, Leg, Modality, Point, Role, Store, StoreQuery, Vector

Dataset: TypeAlias = Any  # of the package `datasets`: rows with an "id"

_VECTOR = "mteb"
_NOTE = "mteb"


class QdrantSearch:
    """mteb's SearchProtocol: `index` fills a collection, `search` asks it. For encoders of every kind.

        with QdrantSearch("minilm", exact=False) as search:
            mteb.evaluate(search, tasks)

    Args:
        encoder: an encoder, or a name for `load_encoder`.
        store: where the collections lie; None is an embedded one in a temporary folder, gone on `close`.
        collection: the beginning of their names, to keep them: "beir" makes "beir-SciFact-default-test", and a later
            run with the same encoder and corpus searches it as it then is, with another graph or quantized. None: a
            collection of a new name for each corpus, dropped before the next and on `close`.
        exact: compare with every vector, which is what mteb itself does.
        tasks: as in `MtebEncoder`.
    """

    def __init__(
        self,
        encoder: Encoder | str,
        *,
        store: Store | None = None,
        collection: str | None = None,
        exact: bool = False,
        tasks: Mapping[str, str] | None = None,
    ) -> None:
        self.encoder = load_for_mteb(encoder)
        self.exact = exact
        self.tasks = dict(tasks or {})
        self._closing = ExitStack()
        self._prefix = collection
        self._collection = ""
        self._documents: list[str] = []
        if store is None:
            folder = self._closing.enter_context(TemporaryDirectory(prefix="mmembed-mteb-"))
            store = self._closing.enter_context(closing(open_store(f"edge:{folder}/store.mm")))
        self.store = store
        self.mteb_model_meta = model_meta(self.encoder, {"search": "qdrant", "exact": exact})

    def __enter__(self) -> QdrantSearch:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Drop the collection that is not to be kept, and with it the temporary store."""
        self._forget()
        self._closing.close()

    def index(
        self,
        corpus: Dataset,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,
        hf_subset: str,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None = None,
        **later: Any,  # what mteb's protocol reserves for its next releases
    ) -> None:
        """Encode the corpus into a collection, unless it is kept there from an earlier run.

        Raises:
            CollectionMismatch: the kept collection holds vectors of another encoder.
            StoreError: it holds another corpus.
        """
        from mteb.types import PromptType

        self._forget()
        self._documents = list(corpus["id"])
        kept = f"{self._prefix}-{task_metadata.name}-{hf_subset}-{hf_split}"
        name = self._collection = kept if self._prefix else f"mteb-{uuid.uuid4().hex}"
        digest = hashlib.sha256("\n".join(self._documents).encode()).hexdigest()
        if self._prefix and self._is_there(digest):
            return
        # pictures, where the documents are pictures alone or the encoder reads no texts
        texts = "text" in self.encoder.spec.modalities and "text" in task_metadata.get_modalities(PromptType.document)
        modality: Modality = "text" if texts else "image"
        contract = {_VECTOR: vector_contract(self.encoder, modality)}
        self.store.create(name, Contract("images" if modality == "image" else "documents", contract), indexes={})
        numbers = count()
        for vectors in self._encoded(corpus, "document", task_metadata, encode_kwargs, num_proc):
            self.store.upsert(name, [Point(_point_id(next(numbers)), {_VECTOR: vector}) for vector in vectors])
        self.store.optimize(name)
        self.store.set_note(name, _NOTE, {"corpus": digest})  # last: a collection without it is not whole

    def search(
        self,
        queries: Dataset,
        *,
        task_metadata: TaskMetadata,
        hf_split: str,  # the collection is of one split and subset
        hf_subset: str,
        top_k: int,
        encode_kwargs: Mapping[str, Any],
        top_ranked: Mapping[str, Sequence[str]] | None = None,
        num_proc: int | None = None,
        **later: Any,
    ) -> dict[str, dict[str, float]]:
        """mteb's queries -> {query: {document: score}}, the `top_k` best of each.

        With `top_ranked` (reranking) the documents named there alone, by exact search.
        """
        places = {document: number for number, document in enumerate(self._documents)} if top_ranked else {}
        batches = self._encoded(queries, "query", task_metadata, encode_kwargs, num_proc)
        found: dict[str, dict[str, float]] = {}
        for name, vector in zip(list(queries["id"]), chain.from_iterable(batches), strict=True):
            among = None if top_ranked is None else [_point_id(places[d]) for d in top_ranked.get(name, ())]
            found[name] = self._best(vector, top_k, among)
        return found

    def _best(self, vector: Vector, limit: int, among: Sequence[str] | None) -> dict[str, float]:
        if among is not None and not among:
            return {}
        hits = self.store.query(
            self._collection,
            StoreQuery(
                [Leg(_VECTOR, vector)],
                limit=limit,
                filter=None if among is None else models.Filter(must=[models.HasIdCondition(has_id=list(among))]),
                exact=self.exact or among is not None,
            ),
        )
        return {self._documents[uuid.UUID(hit.id).int]: hit.score for hit in hits}

    def _encoded(
        self,
        rows: Dataset,
        role: Role,
        metadata: TaskMetadata,
        encode_kwargs: Mapping[str, Any],
        num_proc: int | None,
    ) -> Iterator[Sequence[Vector]]:
        """The vectors of a corpus or of queries, a batch at a time, as mteb itself would have them encoded."""
        from mteb._create_dataloaders import create_dataloader
        from mteb.types import PromptType

        task = accepted_task(self.encoder, metadata, role, self.tasks)
        size, side = encode_kwargs.get("batch_size", 32), PromptType(role)
        loader = create_dataloader(rows, task_metadata=metadata, prompt_type=side, batch_size=size, num_proc=num_proc)
        for batch in loader:
            yield list(encode_batch(self.encoder, batch, role=role, task=task))

    def _is_there(self, digest: str) -> bool:
        """Whether the kept collection is whole. One that an earlier run did not finish is dropped."""
        name = self._collection
        if name not in self.store.collections():
            return False
        contract = self.store.contract(name)
        if contract is None or _VECTOR not in contract.vectors:
            raise StoreError(f"collection {name!r} was not made by QdrantSearch: give another collection=")
        check_fingerprint(name, _VECTOR, contract.vectors[_VECTOR], self.encoder)
        if _NOTE not in contract.notes:
            self.store.drop(name)
            return False
        if contract.notes[_NOTE] != {"corpus": digest}:
            raise StoreError(f"collection {name!r} holds another corpus: give another collection=, or drop it")
        return True

    def _forget(self) -> None:
        """Drop the collection of the last corpus, unless it is kept."""
        if self._collection and not self._prefix and self._collection in self.store.collections():
            self.store.drop(self._collection)
        self._collection = ""


def _point_id(number: int) -> str:
    """The position of a document in its corpus as a UUID."""
    return str(uuid.UUID(int=number))
