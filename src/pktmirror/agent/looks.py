"""When the agent looks into the namespaces again. Pure; the caller's clock is monotonic, in seconds.

A look is due by an event of links, routes or neighbours, and now and then without one. Guests cause events of
neighbours as they like, and a look at many namespaces is dear, so that looking has a share of the time, and no more.
What was not used of the last `SAVED_OF_S` may be used later: one look that was held up does not make the host blind.
"""

LOOKS_SHARE = 0.05
FULL_LOOK_S = 5.0
"""How often namespaces are looked into without an event of their links here."""
SAVED_OF_S = 20.0
"""The share of so much time may be used in one go, after a time without looks: 1 s of 5 %."""


class Looks:
    """A token bucket of seconds: looks take from it what they last, and it fills with ``share`` of the time.

    ``share`` is in (0, 1]: with 1 every event is followed by a look; with 0.05 a look of 0.1 s costs 2 s of the others.
    ``every_s``: how often without an event.
    """

    def __init__(self, share: float = LOOKS_SHARE, *, every_s: float = FULL_LOOK_S) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"{share} is no share of the time")
        self._share = share
        self._every_s = every_s
        self._due_s = float("-inf")  # at the start
        self._saved_s = self._saved_s_max = share * SAVED_OF_S
        self._saved_at_s = float("-inf")

    def ask(self) -> None:
        """Something has changed, or has failed: look as soon as the share allows."""
        self._due_s = float("-inf")

    def due_in_s(self, now_s: float) -> float:
        """In how many seconds the next look is due; 0 is now."""
        return max(0.0, self._due_s - now_s, -self._saved_by(now_s) / self._share)

    def looked(self, began_s: float, ended_s: float) -> None:
        """A look has ended: what was asked before is answered, and what it took is off what was saved."""
        self._due_s = began_s + self._every_s
        self._saved_s = self._saved_by(ended_s) - (ended_s - began_s)
        self._saved_at_s = ended_s

    def _saved_by(self, now_s: float) -> float:
        """Below 0 while looks have taken more than their share."""
        return min(self._saved_s_max, self._saved_s + max(0.0, now_s - self._saved_at_s) * self._share)
