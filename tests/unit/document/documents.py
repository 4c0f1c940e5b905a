"""Documents for the tests."""

from ipaddress import ip_network
from typing import Any

from hypothesis import strategies as st

from pktmirror.document.values import (
    Destination,
    Document,
    FilterEntry,
    InterfaceRef,
    Located,
    RuleEntry,
    SessionEntry,
    TargetEntry,
    TemplateEntry,
)
from pktmirror.model.filter import TCP, UDP, Action, Direction, NetworkService, PortRange, Rule
from pktmirror.model.template import Selector

TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
DESCRIPTIONS = st.none() | st.sampled_from(["null", "no", "1", "~", " a: #b", "ü\u2028\U0001f600"]) | TEXTS.filter(bool)
TAG_KEYS = TEXTS.filter(lambda key: key != "" and not key.lower().startswith(("aws:", "pktmirror:")))
NAMES = st.sampled_from(["a", "b", "no", "1", "web.x-y_z"])
NETWORKS = st.sampled_from(["0.0.0.0/0", "10.0.0.0/8", "203.0.113.7/32"]).map(ip_network)
NETWORKS_6 = st.sampled_from(["::/0", "2001:db8::/32"]).map(ip_network)
PORTS = st.none() | st.sampled_from([PortRange(0, 65535), PortRange(443, 443), PortRange(8000, 8999)])
ARN = "arn:aws:elasticloadbalancing:us-east-1:111122223333:loadbalancer/net/NLB/7cdec873EXAMPLE"


@st.composite
def rules(draw: st.DrawFn) -> RuleEntry:
    networks = draw(st.sampled_from([NETWORKS, NETWORKS_6]))
    protocol = draw(st.sampled_from([None, TCP, UDP, 1, 0, 250]))
    ports = PORTS if protocol in (TCP, UDP) else st.none()
    return RuleEntry(
        Rule(
            draw(st.sampled_from([1, 2, 10, 32766])),
            draw(st.sampled_from(Direction)),
            draw(st.sampled_from(Action)),
            draw(networks),
            draw(networks),
            protocol,
            draw(ports),
            draw(ports),
        ),
        draw(DESCRIPTIONS),
    )


def filters(descriptions: st.SearchStrategy[str | None], tags: st.SearchStrategy[dict[str, str]]) -> Any:
    listed = st.lists(rules(), max_size=5, unique_by=lambda rule: rule.place).map(
        lambda found: tuple(sorted(found, key=lambda rule: (rule.rule.direction.value, rule.rule.number)))
    )
    return st.builds(
        FilterEntry, NAMES, listed, st.frozensets(st.sampled_from(NetworkService)), descriptions, tags, st.none()
    )


def targets(resources: st.SearchStrategy[InterfaceRef], descriptions: Any, tags: Any) -> Any:
    to_interface = st.builds(
        TargetEntry, NAMES, st.just(Destination.INTERFACE), resources, descriptions, tags, st.none()
    )
    to_balancer = st.builds(
        TargetEntry, NAMES, st.just(Destination.LOAD_BALANCER), st.just(ARN), descriptions, tags, st.none()
    )
    return to_interface | to_balancer


SELECTORS = st.builds(
    Selector,
    tags=st.dictionaries(st.sampled_from(["role", "no"]), st.just("x*"), max_size=1),
    labels=st.dictionaries(st.sampled_from(["com.example/tier", "no"]), st.just("x*"), max_size=1),
    name=st.just("*"),
)


@st.composite
def documents(
    draw: st.DrawFn,
    sources: st.SearchStrategy[InterfaceRef],
    resources: st.SearchStrategy[InterfaceRef],
    descriptions: st.SearchStrategy[str | None] = DESCRIPTIONS,
    tags: st.SearchStrategy[dict[str, str]] | None = None,
    selectors: st.SearchStrategy[Selector] | None = None,
    name: str = "office",
) -> Document:
    """Any that hangs together."""
    tags = st.dictionaries(TAG_KEYS, TEXTS, max_size=2) if tags is None else tags
    selectors = SELECTORS if selectors is None else selectors

    def unique(entries: Any, most: int = 3) -> Any:
        return tuple(draw(st.lists(entries, max_size=most, unique_by=lambda entry: entry.name)))

    some_targets = unique(targets(resources, descriptions, tags))
    some_filters = unique(filters(descriptions, tags))
    sessions: tuple[SessionEntry, ...] = ()
    templates: tuple[TemplateEntry, ...] = ()
    if some_targets and some_filters:
        to = st.sampled_from([target.name for target in some_targets])
        by = st.sampled_from([filter_.name for filter_ in some_filters])
        lengths, vnis = st.none() | st.sampled_from([64, 8500]), st.none() | st.sampled_from([5, 6])
        numbers = st.none() | st.integers(1, 3)
        sessions = unique(
            st.builds(SessionEntry, NAMES, sources, to, by, numbers, vnis, lengths, descriptions, tags, st.none())
        )
        templates = unique(
            st.builds(
                TemplateEntry,
                NAMES,
                selectors,
                to,
                by,
                st.integers(4, 5),
                st.integers(0, 3),
                vnis,
                lengths,
                descriptions,
                tags,
            ),
            2,
        )
    return Document(name, some_targets, some_filters, sessions, templates)


LOCATED = st.builds(Located, st.sampled_from(["h1", "no"]), st.sampled_from(["netns:a/eth0", "1"]))
EVERY = documents(LOCATED | st.just("eni-00000000000000001"), LOCATED | st.just("eni-00000000000000002"))
