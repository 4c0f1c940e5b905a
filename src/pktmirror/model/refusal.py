"""The errors that a user can mend: what failed, what was found, what to do next. Never a traceback."""


class Refusal(Exception):
    """Something the user can fix.

    ``what`` names the thing that failed, ``found`` what was there, ``do`` the next step; whoever raises one must
    know the next step.
    """

    def __init__(self, what: str, *, found: str | None = None, do: str) -> None:
        super().__init__(what)
        self.what = what
        self.found = found
        self.do = do

    def __str__(self) -> str:
        found = "" if self.found is None else f" Found: {self.found}."
        return f"{self.what}{found} Next: {self.do}"
