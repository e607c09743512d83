"""What the requests of one run have cost and may still cost, so that a limit is kept before it is passed."""

from amp_cli.asking.judge import JudgeRequest, JudgeSettings, guess_tokens, prompt_guess
from amp_cli.errors import AmpError


class Ledger:
    """Adds up money: spent as the judge counts it, and reserved at its worst for each request on its way.

    The worst case of a request is its guessed prompt tokens and a completion of full length. As soon as a reply says
    how many tokens a prompt really had, guesses are raised by the largest ratio seen.
    """

    def __init__(self, settings: JudgeSettings) -> None:
        self._price = settings.token_price
        self._limit = settings.max_cost
        self._reserved: dict[tuple[str, int], float] = {}
        self._ratio = 1.0
        self.spent = 0.0
        self.lost_attempts = 0

    def _worst(self, request: JudgeRequest) -> float:
        if self._price is None:
            return 0.0
        return self._price.of(self._ratio * prompt_guess(request), request.max_tokens)

    def allows(self, request: JudgeRequest) -> bool:
        """Whether one more request stays within the limit, those on their way counted."""
        if self._limit is None:
            return True
        return self.spent + sum(self._reserved.values()) + self._worst(request) <= self._limit

    def reserve(self, request: JudgeRequest) -> None:
        """Note that a request goes out."""
        self._reserved[request.id, request.repeat] = self._worst(request)

    def release(self, request: JudgeRequest) -> None:
        """Note that a request is over; what it used was counted when its reply was read."""
        del self._reserved[request.id, request.repeat]

    def count(self, request: JudgeRequest, prompt: int | None, completion: int | None, text: str) -> None:
        """Add what a reply used, by its own count or, where it has none, by our guess."""
        guess = prompt_guess(request)
        if prompt is not None and guess:
            self._ratio = max(self._ratio, prompt / guess)
        if self._price is not None:
            used = guess_tokens(text) if completion is None else completion
            self.spent += self._price.of(guess * self._ratio if prompt is None else prompt, used)

    def lose(self, request: JudgeRequest) -> None:
        """Add a request that ended without a usable reply at its worst: it may have been charged."""
        self.lost_attempts += 1
        self.spent += self._worst(request)

    def over(self, left: int) -> AmpError:
        """Return the end of a run that may not spend more."""
        return AmpError(
            f"--max-cost {self._limit:g} is reached: {left:,} requests were not sent, about {self.spent:.4g} is spent",
            hint="Verdicts so far are kept; a higher --max-cost goes on with the rest",
        )
