"""Session templates for people: what each selects, what it has made, and why not more."""

from collections.abc import Sequence

import msgspec
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pktmirror.model.template import Selector, Template

REASONS_SHOWN_MAX = 20
"""Of one template; ``--json`` has all of them."""


class Reason(msgspec.Struct, frozen=True, kw_only=True):
    """Why there is no session on an interface, or one that is not as the template says."""

    interface_id: str
    reason: str


class TemplateStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A template as ``GET /pktmirror/v1/templates`` tells it; ``problem``: why it makes nothing at all."""

    template: Template
    selected: int
    sessions: tuple[str, ...]
    reasons: tuple[Reason, ...]
    problem: str | None = None


def selected_by(selector: Selector) -> str:
    """A selector in one line."""
    given = [f"{name} {value}" for name, value in msgspec.to_builtins(selector).items() if name != "tags"]
    return " and ".join([*given, *(f"tag {key}={value}" for key, value in selector.tags.items())])


def shown_templates(templates: Sequence[TemplateStatus]) -> RenderableType:
    """A line for each, and below what stands in the way."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("template", "selects", "number", "interfaces", "sessions", "limit", "state"):
        table.add_column(column, overflow="fold", no_wrap=column in ("template", "number"))
    for each in templates:
        template = each.template
        table.add_row(
            template.name,
            selected_by(template.select),
            str(template.number),
            str(each.selected),
            str(len(each.sessions)),
            str(template.limit),
            _state(each),
        )
    return Group(table, *(line for each in templates for line in _reasons(each)))


def _state(status: TemplateStatus) -> Text:
    if status.problem is not None:
        return Text(status.problem, "red")
    if status.reasons:
        return Text(f"{len(status.reasons)} not as wanted", "yellow")
    return Text("complete", "green")


def _reasons(status: TemplateStatus) -> list[Text]:
    name = status.template.name
    told = status.reasons[:REASONS_SHOWN_MAX]
    lines = [Text(f"  · {name}: {each.interface_id}: {each.reason}", "yellow") for each in told]
    if len(status.reasons) > len(told):
        lines.append(Text(f"  · {name}: {len(status.reasons) - len(told)} more; --json has them", "yellow"))
    return lines
