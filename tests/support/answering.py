"""Scripts in place of a model that answers."""

from collections.abc import Callable, Collection, Sequence

from amp_cli.asking.answerer import Answerer, Request
from amp_cli.asking.faults import ItemRejectedError
from amp_cli.records import Answer


def one_by_one(say: Callable[[Request], str]) -> Answerer:
    """Return who answers what is left with `say`, one request after the other; an `ItemRejectedError` rejects it."""

    def answer(
        requests: Sequence[Request],
        *,
        done: Collection[str],
        on_answer: Callable[[Answer], None],
        on_reject: Callable[[str, str], None],
    ) -> None:
        for request in requests:
            if request.id in done:
                continue
            try:
                text = say(request)
            except ItemRejectedError as error:
                on_reject(request.id, str(error))
            else:
                on_answer(Answer(id=request.id, answers=(text,)))

    return answer
