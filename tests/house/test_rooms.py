"""Which room may know which: the table of ARCHITECTURE.md, held against the imports. And which modules say that they
are edges."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/pktmirror"
HEAD = "| room | what it is | may import |"
EVERY_ROOM = {"all"}
COMPOSITION_ROOT = "cli"
DATA_PLANE = "bpf"
WORLD = {
    *("asyncio", "fcntl", "httpx", "pyroute2", "select", "shutil", "signal", "socket", "sqlite3", "subprocess"),
    *("psycopg", "uvicorn"),
}
"""Modules by which one gets at sockets, files, processes or the kernel."""


def table_of_rooms(page: str) -> dict[str, set[str]]:
    """What each room may import, by the page's table of rooms."""
    rows = page.split(f"{HEAD}\n", 1)[1].split("\n\n", 1)[0].splitlines()[1:]
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {
        room.strip("`/").removesuffix(".py"): {other.strip() for other in allowed.split(",") if other.strip()}
        for room, _, allowed in cells
    }


MAY_IMPORT = table_of_rooms((ROOT / "ARCHITECTURE.md").read_text())


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


def test_the_table_names_the_rooms_that_there_are() -> None:
    assert MAY_IMPORT.keys() - {DATA_PLANE} == set(ROOMS), "a row for each room in ARCHITECTURE.md, and no other"
    assert set().union(*MAY_IMPORT.values()) - EVERY_ROOM <= set(ROOMS), "it allows imports of a room that is not there"
    assert [room for room, allowed in MAY_IMPORT.items() if allowed == EVERY_ROOM] == [COMPOSITION_ROOT]


@pytest.mark.parametrize("room", [room for room in ROOMS if room != COMPOSITION_ROOT])
def test_a_room_imports_only_what_the_table_allows(room: str) -> None:
    for path in MODULES:
        package = ("pktmirror", *path.relative_to(PACKAGE).parent.parts)
        imported = imported_rooms(path.read_text(), package) & set(ROOMS) if room_of(path) == room else set()
        for other in imported - MAY_IMPORT.get(room, set()) - {room}:
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


def imported_packages(source: str) -> set[str]:
    """The first parts of all names that a module imports absolutely."""
    nodes = list(ast.walk(ast.parse(source)))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in plain | named}


@pytest.mark.parametrize(
    "path",
    [path for path in MODULES if room_of(path) != COMPOSITION_ROOT],
    ids=lambda path: str(path.relative_to(PACKAGE)),
)
def test_a_module_that_gets_at_the_world_says_that_it_is_an_edge(path: Path) -> None:
    source = path.read_text()
    found = imported_packages(source) & WORLD
    said = " ".join((ast.get_docstring(ast.parse(source)) or "").split())
    assert not found or "edge module" in said.lower(), (
        f"{path.relative_to(PACKAGE)} imports {', '.join(sorted(found))}: say 'An edge module.' in its docstring, or "
        "move that into one that does"
    )
