"""From a sample to the queries that are kept, with a count of those that are not and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeAlias

from mmembed.collection import Collection
from mmembed.errors import EncoderUnavailable, InputError, SettingsError
from mmembed.evaluation.corpus_index import OnStep
from mmembed.evaluation.testsets.chat import Answers, Chat
from mmembed.evaluation.testsets.corpus import Corpus
from mmembed.evaluation.testsets.queries import (
    MOST_RELEVANT,
    Candidate,
    captions_of,
    headings_of,
    merged,
    query_key,
    refusal,
)
from mmembed.evaluation.testsets.sampling import QuerySource, chosen
from mmembed.streams import load_in_order
from mmembed.types import Failure

Way: TypeAlias = Literal["captions", "headings"] | Chat
QueriesFrom: TypeAlias = Way | Literal["auto"]

_TEXTS_OF: dict[str, Callable[[QuerySource], list[str]]] = {"captions": captions_of, "headings": headings_of}
_WAY_OF_KIND: dict[str, Literal["captions", "headings"]] = {"images": "captions", "documents": "headings"}


def way_of(queries_from: QueriesFrom, collection: Collection) -> Way:
    """How the queries are made. Raises SettingsError where the collection has none such."""
    kind = collection.require_ours().kind
    if isinstance(queries_from, Chat):
        return queries_from
    own = _WAY_OF_KIND[kind]
    if queries_from not in ("auto", own):
        raise SettingsError(
            f"collection {collection.name!r} holds {kind}, which have no {queries_from}: make the queries from {own}, "
            f"or by a chat model"
        )
    return own


@dataclass
class Making:
    """One test set in the making."""

    corpus: Corpus
    way: Way
    sample: int
    each: int
    seed: int
    on_progress: OnStep | None
    dropped: Counter[str] = field(default_factory=Counter)
    failures: list[Failure] = field(default_factory=list)

    @cached_property
    def drawn(self) -> Sequence[QuerySource]:
        """The sample: by chance, of all that queries can be made of."""
        usable = (source for source in self.corpus.sources if isinstance(self.way, Chat) or self._texts(source))
        return chosen(((source.lot, source) for source in usable), self.sample, seed=self.seed)

    def candidates(self, folder: Path) -> list[Candidate]:
        """Each query once, with all that it is relevant to, before the round trip."""
        candidates = merged((text, self.corpus.copies[source.uri]) for source, text in self._sound(folder))
        if isinstance(self.way, Chat):
            return candidates
        alike = self.corpus.saying(self._texts)
        widened = [Candidate(query.text, query.uris | alike[query_key(query.text)]) for query in candidates]
        telling = [query for query in widened if len(query.uris) <= MOST_RELEVANT]
        self._drop("too common", len(widened) - len(telling))
        return telling

    def filtered(self, among: Sequence[Candidate], finds: Callable[[Candidate], bool]) -> list[Candidate]:
        """Those that find what they were made from."""
        queries = []
        for number, query in enumerate(among, 1):
            queries += [query] if finds(query) else []
            self._report("filtering", number, len(among))
        self._drop("not found again", len(among) - len(queries))
        return queries

    def _sound(self, folder: Path) -> Iterator[tuple[QuerySource, str]]:
        for number, (source, texts) in enumerate(self._texts_of_sources(folder), 1):
            self._report("queries", number, len(self.drawn))
            if isinstance(texts, Failure):
                self.failures.append(texts)
                continue
            for text in texts:
                problem = refusal(text, source)
                if problem is None:
                    yield source, text
                else:
                    self._drop(problem, 1)

    def _texts_of_sources(self, folder: Path) -> Iterable[tuple[QuerySource, list[str] | Failure]]:
        if isinstance(self.way, Chat):
            images = self.corpus.images
            return ask_about(self.drawn, self.way, self.each, seed=self.seed, folder=folder, images=images)
        lots = ((source, ((f"{source.lot}\0{text}", text) for text in self._texts(source))) for source in self.drawn)
        return ((source, chosen(texts, self.each, seed=self.seed)) for source, texts in lots)

    def _texts(self, source: QuerySource) -> list[str]:
        assert not isinstance(self.way, Chat)
        return _TEXTS_OF[self.way](source)

    def _drop(self, why: str, count: int) -> None:
        if count:
            self.dropped[why] += count

    def _report(self, what: str, number: int, of: int) -> None:
        if self.on_progress is not None:
            self.on_progress(what, number, of)

    def facts(self) -> dict[str, object]:
        """How it was made, as JSON has it."""
        way = self.way.model if isinstance(self.way, Chat) else self.way
        facts = {"queries_from": way, "sample": self.sample, "queries_each": self.each, "seed": self.seed}
        return {**facts, "dropped": dict(self.dropped)}

    def nothing(self, collection: str, caption_key: str) -> str:
        """The sentence for a collection that no query can be made of."""
        count = len(self.corpus.sources)
        if not count:
            return f"collection {collection!r} holds nothing that can be judged: index pictures or documents first"
        if self.way == "captions":
            return (
                f"none of the {count} pictures of collection {collection!r} has a caption in {caption_key!r}: name "
                f"another payload key, or a chat model that looks at them"
            )
        return f"none of the {count} documents of collection {collection!r} has a heading: name a chat model"

    def none_left(self, collection: str) -> str:
        """The sentence for a sample of which no query is left."""
        lost = [f"{count} {why}" for why, count in sorted(self.dropped.items())]
        if self.failures:
            lost.append(f"{len(self.failures)} failures, the first: {self.failures[0].error}")
        return (
            f"collection {collection!r}: no query is left from a sample of {len(self.drawn)} ({', '.join(lost)}): "
            f"take a larger sample, make the queries in another way, or do not filter them"
        )


# --- A chat model asked about each source of a sample: several at a time, each once, whatever goes wrong with one ---

_GIVEN_UP_AFTER = 8  # sources in a row without an answer: it is the server's fault and not theirs


def ask_about(
    drawn: Sequence[QuerySource], chat: Chat, number: int, *, seed: int, folder: Path, images: Mapping[str, Path]
) -> Iterator[tuple[QuerySource, list[str] | Failure]]:
    """The queries of each source, in order; answers that `folder` keeps from an earlier run are not asked again.

    Raises EncoderRefused or EncoderUnavailable where going on makes no sense; what came until then is kept.
    """
    answers = Answers(folder)
    questions = [(source, chat.question(source, number, seed=seed)) for source in drawn]
    api = chat.api()

    def queries(job: tuple[QuerySource, str]) -> list[str] | Failure | EncoderUnavailable:
        source, question = job
        earlier = answers.get(chat.key_of(source, question))
        try:
            return earlier or chat.ask(api, source, question, images.get(source.uri), number)
        except EncoderUnavailable as exc:
            return exc

    unanswered = 0
    for (source, question), got in load_in_order(questions, queries, workers=chat.at_once, ahead=2 * chat.at_once):
        if isinstance(got, EncoderUnavailable):
            unanswered += 1
            if unanswered == min(_GIVEN_UP_AFTER, len(drawn)):
                raise got
            yield source, Failure(source.uri, f"no queries for {source.uri}: {got}")
            continue
        unanswered = 0
        assert not isinstance(got, InputError)  # `ask` makes a Failure of it
        if not isinstance(got, Failure) and answers.get(chat.key_of(source, question)) is None:
            answers.add(chat.key_of(source, question), source.uri, got)
        yield source, got
