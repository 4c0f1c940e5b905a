"""When the agent looks into the namespaces again. Pure; the caller's clock is monotonic, in seconds.

A look is due by an event of links, routes or neighbours, and now and then without one. Guests cause events of
neighbours as they like, and a look at many namespaces is dear, so that looking has a share of the time, and no more.
"""

LOOKS_SHARE = 0.05
FULL_LOOK_S = 5.0
"""How often namespaces are looked into without an event of their links here."""


class Looks:
    """``share`` is in (0, 1]: with 1 every event is followed by a look; with 0.05 a look of 0.1 s by 1.9 s of none.

    ``every_s``: how often without an event.
    """

    def __init__(self, share: float = LOOKS_SHARE, *, every_s: float = FULL_LOOK_S) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"{share} is no share of the time")
        self._share = share
        self._every_s = every_s
        self._due_s = float("-inf")  # at the start
        self._not_before_s = float("-inf")

    def ask(self) -> None:
        """Something has changed, or has failed: look as soon as the share allows."""
        self._due_s = float("-inf")

    def due_in_s(self, now_s: float) -> float:
        """In how many seconds the next look is due; 0 is now."""
        return max(0.0, self._due_s - now_s, self._not_before_s - now_s)

    def looked(self, began_s: float, ended_s: float) -> None:
        """A look has ended: what was asked before is answered, and the next waits for its share."""
        self._due_s = began_s + self._every_s
        self._not_before_s = ended_s + (ended_s - began_s) * (1 / self._share - 1)
