"""From a tree to a document: the form is checked as a whole, and all that is wrong is told at once."""

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_network
from typing import TypeVar, cast

from pktmirror.document.text import Items, Malformed, Mark, Node, Problem, Scalar, Table, read
from pktmirror.document.values import (
    DEFAULT_DOCUMENT,
    Destination,
    Document,
    FilterEntry,
    InterfaceRef,
    Located,
    RuleEntry,
    SessionEntry,
    TargetEntry,
    TemplateEntry,
    is_id,
)
from pktmirror.model.filter import (
    PROTOCOLS,
    RULE_NUMBER_MAX,
    RULE_NUMBER_MIN,
    TCP,
    UDP,
    Action,
    Direction,
    Network,
    NetworkService,
    PortRange,
    Rule,
)
from pktmirror.model.limits import (
    PACKET_BYTES_MAX,
    PACKET_BYTES_MIN,
    SESSION_NUMBER_MAX,
    SESSION_NUMBER_MIN,
    VNI_MAX,
    VNI_MIN,
)
from pktmirror.model.template import LIMIT_MAX, NAME_CHARACTERS_MAX, NAME_TAG, ORIGIN_TAG, Selector, is_name

T = TypeVar("T")

DESCRIPTION_CHARACTERS_MAX = 255
TAGS_MAX = 50  # of which one is ours, but for what is bound by its id
TAG_KEY_CHARACTERS_MAX, TAG_VALUE_CHARACTERS_MAX = 127, 256
PATTERN_CHARACTERS_MAX = 256
LABEL_KEY_CHARACTERS_MAX = 256
RULE_PROTOCOLS = {name: PROTOCOLS[name] for name in ("icmp", "tcp", "udp", "gre", "icmpv6", "sctp")}
ALL_PROTOCOLS = "all"

_DESTINATIONS = {
    "interface": Destination.INTERFACE,
    "load_balancer": Destination.LOAD_BALANCER,
    "gateway_endpoint": Destination.GATEWAY_ENDPOINT,
}
_PORTS = re.compile(r"([0-9]{1,5})(?:\s*-\s*([0-9]{1,5}))?")


def parse(text: str) -> Document:
    """The document in a text; raises `Malformed` with everything that is wrong with it."""
    reader = _Reader()
    document = reader.document(read(text))
    if reader.problems:
        raise Malformed(reader.problems)
    return document


class _Fields:
    """The fields of one table, each asked for by its name; what nobody asked for is a problem."""

    def __init__(self, reader: "_Reader", node: Node, what: str, known: Sequence[str]) -> None:
        self.at = node.at
        self.what = what
        self._reader = reader
        self._found: dict[str, Node] = {}
        entries = node.entries if isinstance(node, Table) else ()
        if not isinstance(node, Table) and not _is_null(node):
            reader.wrong(node.at, f"{what} is {_shape(node)}", f"write it as fields: {', '.join(known)}")
        for key, value in entries:
            if key.text not in known:
                near = difflib.get_close_matches(key.text, known, 1)
                do = f"did you mean `{near[0]}`?" if near else f"the fields are {', '.join(known)}"
                reader.wrong(key.at, f"{what} has a field `{key.text}`, which is not known", do)
            elif key.text in self._found:
                reader.wrong(key.at, f"{what} has `{key.text}` twice", "keep one of the two")
            elif not _is_null(value):
                self._found[key.text] = value

    def node(self, name: str) -> Node | None:
        return self._found.get(name)

    def text(self, name: str, characters_max: int = DESCRIPTION_CHARACTERS_MAX) -> str | None:
        node = self._found.get(name)
        return None if node is None else self._reader.text(node, f"{self.what}: {name}", characters_max)

    def number(self, name: str, least: int, most: int) -> int | None:
        node = self._found.get(name)
        return None if node is None else self._reader.number(node, f"{self.what}: {name}", least, most)

    def needed(self, name: str, value: T | None, otherwise: T) -> T:
        """The value, or a problem where the field is not there."""
        if name not in self._found:
            self._reader.wrong(self.at, f"{self.what} has no `{name}`", f"add `{name}:`")
        return otherwise if value is None else value


class _Reader:
    """Reads on after what is wrong, with a stand-in, so that all problems are found."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []

    def wrong(self, at: Mark, found: str, do: str) -> None:
        self.problems.append(Problem(at, found, do))

    def document(self, node: Node) -> Document:
        fields = _Fields(self, node, "the document", ("document", "targets", "filters", "sessions", "templates"))
        name, at = fields.text("document"), fields.node("document")
        if name is not None and at is not None:
            self._check_name(name, at.at, "document")
        document = Document(
            name or DEFAULT_DOCUMENT,
            tuple(self._entries(fields, "targets", "target", self._target)),
            tuple(self._entries(fields, "filters", "filter", self._filter)),
            tuple(self._entries(fields, "sessions", "session", self._session)),
            tuple(self._entries(fields, "templates", "template", self._template)),
        )
        self._check_references(document)
        self._check_ids(document)
        return document

    # --- the kinds of entries

    def _target(self, name: str, at: Mark, node: Node) -> TargetEntry:
        fields = _Fields(self, node, f"target {name}", (*_DESTINATIONS, "description", "tags", "id"))
        given = [field for field in _DESTINATIONS if fields.node(field) is not None]
        if len(given) != 1:
            found = " and ".join(f"`{field}`" for field in given) or "no destination"
            self.wrong(at, f"target {name} has {found}", f"give exactly one of {', '.join(_DESTINATIONS)}")
        field = given[0] if given else "interface"
        resource: InterfaceRef = (
            self._interface(fields, field) if field == "interface" else fields.text(field, 2048) or ""
        )
        return TargetEntry(
            name,
            _DESTINATIONS[field],
            resource,
            self._description(fields),
            self._tags(fields),
            self._id(fields),
            at,
        )

    def _filter(self, name: str, at: Mark, node: Node) -> FilterEntry:
        known = ("ingress", "egress", "services", "description", "tags", "id")
        fields = _Fields(self, node, f"filter {name}", known)
        rules = [*self._rules(fields, Direction.INGRESS), *self._rules(fields, Direction.EGRESS)]
        seen: set[tuple[Direction, int]] = set()
        for rule in rules:
            if rule.place in seen:
                said = f"filter {name} has two {rule.rule.direction.value} rules {rule.rule.number}"
                self.wrong(rule.at, said, "give each rule of a direction a number of its own")
            seen.add(rule.place)
        return FilterEntry(
            name,
            tuple(sorted(rules, key=lambda rule: (rule.rule.direction.value, rule.rule.number))),
            self._services(fields),
            self._description(fields),
            self._tags(fields),
            self._id(fields),
            at,
        )

    def _session(self, name: str, at: Mark, node: Node) -> SessionEntry:
        known = ("source", "target", "filter", "number", "vni", "packet_length", "description", "tags", "id")
        fields = _Fields(self, node, f"session {name}", known)
        source = self._interface(fields, "source")
        return SessionEntry(
            name,
            fields.needed("source", source, source),
            fields.needed("target", fields.text("target"), ""),
            fields.needed("filter", fields.text("filter"), ""),
            fields.number("number", SESSION_NUMBER_MIN, SESSION_NUMBER_MAX),
            fields.number("vni", VNI_MIN, VNI_MAX),
            fields.number("packet_length", PACKET_BYTES_MIN, PACKET_BYTES_MAX),
            self._description(fields),
            self._tags(fields),
            self._id(fields),
            at,
        )

    def _template(self, name: str, at: Mark, node: Node) -> TemplateEntry:
        known = ("select", "target", "filter", "number", "limit", "vni", "packet_length", "description", "tags")
        fields = _Fields(self, node, f"template {name}", known)
        return TemplateEntry(
            name,
            fields.needed("select", self._selector(fields), Selector()),
            fields.needed("target", fields.text("target"), ""),
            fields.needed("filter", fields.text("filter"), ""),
            fields.needed("number", fields.number("number", SESSION_NUMBER_MIN, SESSION_NUMBER_MAX), 1),
            fields.needed("limit", fields.number("limit", 0, LIMIT_MAX), 0),
            fields.number("vni", VNI_MIN, VNI_MAX),
            fields.number("packet_length", PACKET_BYTES_MIN, PACKET_BYTES_MAX),
            self._description(fields),
            self._tags(fields),
            at,
        )

    # --- their parts

    def _rules(self, fields: _Fields, direction: Direction) -> list[RuleEntry]:
        node = fields.node(direction.value)
        what = f"{fields.what}: {direction.value}"
        return [] if node is None else [self._rule(each, direction, what) for each in self._items(node, what)]

    def _rule(self, node: Node, direction: Direction, list_: str) -> RuleEntry:
        known = (
            "number", "action", "protocol", "source", "destination", "source_ports", "destination_ports", "description",
        )  # fmt: skip
        fields = _Fields(self, node, f"a rule of {list_}", known)
        number = fields.needed("number", fields.number("number", RULE_NUMBER_MIN, RULE_NUMBER_MAX), RULE_NUMBER_MIN)
        fields.what = f"{list_} rule {number}"
        action = self._choice(fields, "action", {each.value: each for each in Action})
        source, destination = self._network(fields, "source"), self._network(fields, "destination")
        if source is None or destination is None:
            source = destination = ip_network("0.0.0.0/0")
        elif source.version != destination.version:
            self.wrong(fields.at, f"{fields.what} is from {source} to {destination}", "take two of one address family")
            destination = source
        protocol = self._protocol(fields)
        ports = [self._ports(fields, "source_ports"), self._ports(fields, "destination_ports")]
        if any(ports) and protocol not in (TCP, UDP):
            said = f"{fields.what} has ports, and its protocol is neither tcp nor udp"
            self.wrong(fields.at, said, "say `protocol: tcp` or `protocol: udp`, or leave the ports out")
        rule = Rule(
            number, direction, fields.needed("action", action, Action.ACCEPT), source, destination, protocol, *ports
        )
        return RuleEntry(rule, self._description(fields), fields.at)

    def _protocol(self, fields: _Fields) -> int | None:
        node = fields.node("protocol")
        if node is None or (isinstance(node, Scalar) and node.text == ALL_PROTOCOLS):
            return None
        if isinstance(node, Scalar) and node.text in RULE_PROTOCOLS:
            return RULE_PROTOCOLS[node.text]
        if isinstance(node, Scalar) and node.text.isascii() and node.text.isdecimal() and int(node.text[:4]) <= 255:
            return int(node.text[:4])
        names = f"{', '.join(RULE_PROTOCOLS)}, {ALL_PROTOCOLS}"
        self.wrong(node.at, f"{fields.what}: protocol is {_shape(node)}", f"write one of {names} or a number up to 255")
        return None

    def _ports(self, fields: _Fields, name: str) -> PortRange | None:
        node = fields.node(name)
        if node is None:
            return None
        found = _PORTS.fullmatch(node.text) if isinstance(node, Scalar) else None
        if found is not None:
            ports = PortRange(int(found[1]), int(found[2] or found[1]))
            if ports.first <= ports.last <= 65535:
                return ports
        self.wrong(node.at, f"{fields.what}: {name} is {_shape(node)}", "write a port, or a range as in 8000-8999")
        return None

    def _network(self, fields: _Fields, name: str) -> Network | None:
        node, text = fields.node(name), fields.text(name)
        if node is None or text is None:
            return fields.needed(name, None, None)
        try:
            if "/" in text:
                return ip_network(text, strict=False)
        except ValueError:
            pass
        do = "write a CIDR block such as 10.0.0.0/16, 203.0.113.7/32 or 2001:db8::/32; 0.0.0.0/0 is all of IPv4"
        self.wrong(node.at, f"{fields.what}: {name} is {_shape(node)}", do)
        return None

    def _services(self, fields: _Fields) -> frozenset[NetworkService]:
        node = fields.node("services")
        known = {each.value: each for each in NetworkService}
        chosen = set()
        for each in [] if node is None else self._items(node, f"{fields.what}: services"):
            if isinstance(each, Scalar) and each.text in known:
                chosen.add(known[each.text])
            else:
                self.wrong(
                    each.at, f"{fields.what}: {_shape(each)} is no service", f"the services are {', '.join(known)}"
                )
        return frozenset(chosen)

    def _interface(self, fields: _Fields, name: str) -> InterfaceRef:
        node = fields.node(name)
        if not isinstance(node, Table):
            return fields.text(name) or ""
        located = _Fields(self, node, f"{fields.what}: {name}", ("host", "key"))
        return Located(
            located.needed("host", located.text("host"), ""), located.needed("key", located.text("key", 1024), "")
        )

    def _selector(self, fields: _Fields) -> Selector | None:
        node = fields.node("select")
        if node is None:
            return None
        names = ("vpc", "subnet", "host", "name", "key")
        given = _Fields(self, node, f"{fields.what}: select", ("tags", "labels", *names))
        selector = Selector(
            tags=self._tags(given, reserved=False),
            labels=self._labels(given),
            **{name: given.text(name, PATTERN_CHARACTERS_MAX) for name in names},
        )
        if selector == Selector():
            self.wrong(node.at, f"{given.what} says nothing", 'select by something; `name: "*"` means every interface')
        for name in names:
            if getattr(selector, name) == "":
                self.wrong(node.at, f"{given.what}: {name} is empty, and nothing fits that", "leave it out, or write *")
        return selector

    def _labels(self, fields: _Fields) -> dict[str, str]:
        """Patterns of labels: an empty one fits an empty value alone, so it is as good as none."""
        patterns = self._tags(fields, "labels", reserved=False, key_max=LABEL_KEY_CHARACTERS_MAX)
        node = fields.node("labels")
        for key, pattern in patterns.items():
            if node is not None and not pattern:
                self.wrong(node.at, f"{fields.what}: label {key} has no pattern", 'write one; `"*"` means any value')
        return patterns

    def _tags(
        self, fields: _Fields, name: str = "tags", *, reserved: bool = True, key_max: int = TAG_KEY_CHARACTERS_MAX
    ) -> dict[str, str]:
        node = fields.node(name)
        if node is None:
            return {}
        what = f"{fields.what}: {name}"
        if not isinstance(node, Table):
            self.wrong(node.at, f"{what} is {_shape(node)}", "write them as fields, KEY: VALUE")
            return {}
        tags: dict[str, str] = {}
        for key, value in node.entries:
            if key.text in tags:
                self.wrong(key.at, f"{what} has `{key.text}` twice", "keep one of the two")
            if not 1 <= len(key.text) <= key_max:
                self.wrong(key.at, f"{what}: a key of {len(key.text)} characters", f"1 to {key_max}")
            if reserved and (key.text.lower().startswith("aws:") or key.text in (NAME_TAG, ORIGIN_TAG)):
                self.wrong(key.at, f"{what} has {key.text}, which is reserved", "choose another key")
            tags[key.text] = (
                "" if _is_null(value) else self.text(value, f"{what}: {key.text}", TAG_VALUE_CHARACTERS_MAX)
            )
        bound = fields.node("id") is not None
        most = TAGS_MAX if bound else TAGS_MAX - 1
        if len(tags) > most:
            do = f"a resource takes {most}{'' if bound else ' beside its name'}"
            self.wrong(node.at, f"{what} are {len(tags)}", do)
        return tags

    def _id(self, fields: _Fields) -> str | None:
        return fields.text("id")

    def _description(self, fields: _Fields) -> str | None:
        return fields.text("description") or None

    def _choice(self, fields: _Fields, name: str, known: dict[str, T]) -> T | None:
        node = fields.node(name)
        if node is None:
            return None
        if isinstance(node, Scalar) and node.text in known:
            return known[node.text]
        self.wrong(node.at, f"{fields.what}: {name} is {_shape(node)}", f"write {' or '.join(known)}")
        return None

    # --- what everything is made of

    def _entries(self, fields: _Fields, name: str, kind: str, entry: Callable[[str, Mark, Node], T]) -> Iterable[T]:
        node = fields.node(name)
        if node is None:
            return []
        if not isinstance(node, Table):
            self.wrong(node.at, f"{name} is {_shape(node)}", f"write each {kind} as NAME: and its fields below")
            return []
        seen: set[str] = set()
        made = []
        for key, value in node.entries:
            self._check_name(key.text, key.at, kind)
            if key.text in seen:
                self.wrong(key.at, f"there are two {name} called {key.text}", "rename one of them")
            seen.add(key.text)
            made.append(entry(key.text, key.at, value))
        return made

    def _items(self, node: Node, what: str) -> Sequence[Node]:
        if isinstance(node, Items):
            return node.nodes
        self.wrong(node.at, f"{what} is {_shape(node)}", "write a list, one item after each `- `")
        return ()

    def text(self, node: Node, what: str, characters_max: int) -> str:
        if not isinstance(node, Scalar):
            self.wrong(node.at, f"{what} is {_shape(node)}", "write a text")
            return ""
        if len(node.text) > characters_max:
            self.wrong(node.at, f"{what} has {len(node.text)} characters", f"write at most {characters_max}")
        return node.text

    def number(self, node: Node, what: str, least: int, most: int) -> int:
        if isinstance(node, Scalar) and node.text.isascii() and node.text.isdecimal():
            number = int(node.text[:10])
            if least <= number <= most and len(node.text) <= 10:
                return number
        self.wrong(node.at, f"{what} is {_shape(node)}", f"write a number from {least} to {most}")
        return least

    def _check_name(self, name: str, at: Mark, kind: str) -> None:
        if not is_name(name):
            do = f"1 to {NAME_CHARACTERS_MAX} letters, digits, `.`, `_`, `-`, the first a letter or digit"
            self.wrong(at, f"{name!r} is no name for a {kind}", do)
        elif is_id(name):
            self.wrong(at, f"{name} looks like an id, and is no name for a {kind}", "choose another name")

    def _check_references(self, document: Document) -> None:
        """Names of targets and filters must be of this document, or ids."""
        for kind, names in (
            ("target", {each.name for each in document.targets}),
            ("filter", {each.name for each in document.filters}),
        ):
            entries: tuple[SessionEntry | TemplateEntry, ...] = (*document.sessions, *document.templates)
            for entry in entries:
                named = entry.target if kind == "target" else entry.filter
                if named and named not in names and not is_id(named):
                    near = difflib.get_close_matches(named, names, 1)
                    what = "session" if isinstance(entry, SessionEntry) else "template"
                    do = f"did you mean `{near[0]}`?" if near else f"declare it, or give the id of a {kind}"
                    self.wrong(entry.at, f"{what} {entry.name} has the {kind} {named}, which is not declared", do)

    def _check_ids(self, document: Document) -> None:
        """An id binds one entry."""
        seen: dict[str, str] = {}
        for prefix, entries in (("tmt", document.targets), ("tmf", document.filters), ("tms", document.sessions)):
            for entry in cast("Sequence[TargetEntry | FilterEntry | SessionEntry]", entries):
                if entry.id is None:
                    continue
                if not (is_id(entry.id) and entry.id.startswith(f"{prefix}-")):
                    self.wrong(entry.at, f"the id of {entry.name} is {entry.id}", f"write one as in {prefix}-0a1b2c3d…")
                elif entry.id in seen:
                    self.wrong(entry.at, f"{entry.name} and {seen[entry.id]} have one id", "give it to one of them")
                seen[entry.id] = entry.name


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.is_null


def _shape(node: Node) -> str:
    """What somebody wrote, for a sentence."""
    match node:
        case Scalar(text):
            return f"`{text if len(text) <= 60 else text[:60] + '…'}`"
        case Items():
            return "a list"
        case Table():
            return "a table of fields"
