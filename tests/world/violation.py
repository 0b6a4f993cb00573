"""What a world has found."""


class Violation(Exception):
    """An invariant is broken. `kind` names it, the same for the same fault."""

    def __init__(self, kind: str, detail: str, text: str = "") -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind, self.detail, self.text = kind, detail, text
