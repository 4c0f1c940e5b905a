"""Which room may know which. The table stands in ARCHITECTURE.md; this is the test that holds it."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src/pktmirror"
MAY_IMPORT: dict[str, set[str]] = {
    "model": set(),
    "packet": set(),
    "kernel": set(),
    "desired": {"model"},
    "networks": {"model"},
    "aws": {"model"},
    "control": {"model", "networks", "desired", "aws"},
    "agent": {"model", "desired", "kernel"},
    "monitor": {"model", "packet", "kernel"},
    "lab": {"model", "kernel", "packet"},
}
COMPOSITION_ROOT = "cli"


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_rooms(source: str, package: tuple[str, ...]) -> set[str]:
    """Every room that a module of ``package`` names in an import, wherever in the module it stands."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) + 1 - node.level] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return {name.split(".")[1] for name in names if name.startswith("pktmirror.")}


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
ROOMS = sorted({room_of(path) for path in MODULES})


@pytest.mark.parametrize("room", [room for room in ROOMS if room != COMPOSITION_ROOT])
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    assert room in MAY_IMPORT, f"{room} is a new room: say in ARCHITECTURE.md and here what it may import"
    for path in MODULES:
        package = ("pktmirror", *path.relative_to(PACKAGE).parent.parts)
        imported = imported_rooms(path.read_text(), package) & set(ROOMS) if room_of(path) == room else set()
        for other in imported - MAY_IMPORT[room] - {room}:
            raise AssertionError(
                f"{path.relative_to(PACKAGE)} imports {other}, which {room} must not know: pass what it needs as a "
                f"value, or put the two together in {COMPOSITION_ROOT}"
            )


@pytest.mark.parametrize(
    ("form", "rooms"),
    [
        ("import pktmirror.agent.plan", {"agent"}),
        ("from pktmirror import agent, lab", {"agent", "lab"}),
        ("from pktmirror.agent import plan", {"agent"}),
        ("from ..agent.plan import plan", {"agent"}),
        ("from .. import agent", {"agent"}),
        ("from . import ids", {"model"}),
        ("def late():\n    from pktmirror.agent.plan import plan", {"agent"}),
        ("import pktmirrored.agent", set()),
    ],
)
def test_every_form_of_import_is_seen(form: str, rooms: set[str]) -> None:
    assert imported_rooms(form, ("pktmirror", "model")) == rooms
