"""A chat model asked about each source of a sample: several at a time, each once, whatever goes wrong with one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmembed.errors import EncoderUnavailable, InputError
from mmembed.images import load_in_order
from mmembed.testsets.answers import Answers
from mmembed.testsets.chat import Chat
from mmembed.testsets.sources import Source
from mmembed.types import Failure

__all__ = ["ask_about"]

_GIVEN_UP_AFTER = 8  # sources in a row without an answer: it is the server's fault and not theirs


def ask_about(
    drawn: Sequence[Source], chat: Chat, number: int, *, seed: int, folder: Path, pictures: Mapping[str, Path]
) -> Iterator[tuple[Source, list[str] | Failure]]:
    """The queries of each source, in order; answers that `folder` keeps from an earlier run are not asked again.

    Raises EncoderRefused or EncoderUnavailable where going on makes no sense; what came until then is kept.
    """
    answers = Answers(folder)
    asked = [(source, chat.question(source, number, seed=seed)) for source in drawn]
    api = chat.api()

    def queries(job: tuple[Source, str]) -> list[str] | Failure | EncoderUnavailable:
        source, question = job
        kept = answers.get(chat.key_of(source, question))
        try:
            return kept or chat.ask(api, source, question, pictures.get(source.uri), number)
        except EncoderUnavailable as exc:
            return exc

    unanswered = 0
    for (source, question), got in load_in_order(asked, queries, workers=chat.at_once, ahead=2 * chat.at_once):
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
