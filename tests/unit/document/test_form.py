"""The form of a document: what is read of it, and what is said where it is wrong."""

import json
import re
import textwrap
from contextlib import suppress
from ipaddress import ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.document.form import parse
from pktmirror.document.text import Malformed, Mark
from pktmirror.document.values import (
    Destination,
    Document,
    FilterEntry,
    Located,
    RuleEntry,
    SessionEntry,
    TargetEntry,
    TemplateEntry,
)
from pktmirror.document.writing import written
from pktmirror.model.filter import Action, Direction, NetworkService, PortRange, Rule
from pktmirror.model.template import Selector
from tests.unit.document.documents import EVERY

WHOLE = """
document: office
targets:
  collector: {interface: eni-0123456789abcdef0, description: "no. 1"}
  sensor:
    interface: {host: hypervisor-1, key: "netns:sensor/eth0"}
  balancer: {load_balancer: arn:aws:x, id: tmt-0123456789abcdef0}
filters:
  web:
    services: [amazon-dns]
    egress:
      - {number: 5, action: reject, protocol: all, source: 2001:db8::1/32, destination: "::/0"}
    ingress:
      - number: 20
        action: accept
        protocol: tcp
        source: 0.0.0.0/0
        destination: 10.0.0.7/24     # bits beyond the prefix are cleared
        destination_ports: 443
        source_ports: 1024-65535
        description: no
    tags: {team: 7, empty: }
sessions:
  first:
    source: eni-0123456789abcdef1
    target: collector
    filter: tmf-0123456789abcdef0
    number: 10
    vni: 7
    packet_length: 128
templates:
  all:
    select: {name: web*, tags: {role: "*"}, labels: {com.example.team: "shop?"}}
    target: sensor
    filter: web
    number: 1
    limit: 50
"""
ANY_6, ALL = ip_network("::/0"), ip_network("0.0.0.0/0")
READ = Document(
    "office",
    (
        TargetEntry("collector", Destination.INTERFACE, "eni-0123456789abcdef0", "no. 1"),
        TargetEntry("sensor", Destination.INTERFACE, Located("hypervisor-1", "netns:sensor/eth0")),
        TargetEntry("balancer", Destination.LOAD_BALANCER, "arn:aws:x", id="tmt-0123456789abcdef0"),
    ),
    (
        FilterEntry(
            "web",
            (
                RuleEntry(Rule(5, Direction.EGRESS, Action.REJECT, ip_network("2001:db8::/32"), ANY_6)),
                RuleEntry(
                    Rule(
                        20,
                        Direction.INGRESS,
                        Action.ACCEPT,
                        ALL,
                        ip_network("10.0.0.0/24"),
                        6,
                        PortRange(1024, 65535),
                        PortRange(443, 443),
                    ),
                    "no",
                ),
            ),
            frozenset({NetworkService.AMAZON_DNS}),
            tags={"team": "7", "empty": ""},
        ),
    ),
    (SessionEntry("first", "eni-0123456789abcdef1", "collector", "tmf-0123456789abcdef0", 10, 7, 128),),
    (
        TemplateEntry(
            "all",
            Selector(name="web*", tags={"role": "*"}, labels={"com.example.team": "shop?"}),
            "sensor",
            "web",
            1,
            50,
        ),
    ),
)


def test_a_document_says_what_stands_there() -> None:
    assert parse(WHOLE) == READ
    assert parse(WHOLE).sessions[0].at == Mark(24, 3)


def test_what_is_written_is_read_back() -> None:
    assert parse(written(READ)) == READ
    assert parse(written(READ, as_json=True)) == READ


@given(EVERY)
def test_every_document_is_read_back_as_it_was_written(document: Document) -> None:
    assert parse(written(document)) == document
    text = written(document, as_json=True)
    assert parse(text) == document
    assert parse(json.dumps(json.loads(text), indent="\t")) == document, "ASCII, and tabs between the tokens"


def test_a_document_of_nothing_is_one() -> None:
    assert parse("document: office\ntargets:\nsessions: {}\n") == Document("office")
    assert parse("filters: {}") == Document("default")


RULE = "{number: 1, action: accept, source: 0.0.0.0/0, destination: 0.0.0.0/0%s}"
IPV6_TO_IPV4 = (RULE % "").replace("0.0.0.0/0", '"::/0"', 1)
SESSION = "source: eni-0123456789abcdef0, target: tmt-0123456789abcdef0, filter: tmf-0123456789abcdef0"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1, column 1: there is nothing in it: write at least `document: NAME`"),
        ("targets: [", "did not find expected node content: write it as YAML or JSON"),
        ("a\tb: \x01", "line 1, column 1: "),
        ("- a", "line 1, column 1: the document is a list: write it as fields: document, targets,"),
        ("document: a/b", "line 1, column 11: 'a/b' is no name for a document: 1 to 63 letters"),
        ("x: 1\ntarget: {}", "line 2, column 1: the document has a field `target`, which is not known: did you mean `"),
        ("targets: {a: {}}", "column 11: target a has no destination: give exactly one of interface, load_balancer,"),
        ("targets: {a: {interface: eni-1, load_balancer: b}}", "target a has `interface` and `load_balancer`: give ex"),
        ("targets:\n  a: {interface: {host: h}}", "line 2, column 18: target a: interface has no `key`: add `key:`"),
        ("targets: {tmt-0123456789abcdef0: {interface: e}}", "looks like an id, and is no name for a target"),
        ("targets:\n  a: {interface: e}\n  a: {interface: f}", "line 3, column 3: there are two targets called a"),
        ("targets: {a: {interface: e, id: tmf-0123456789abcdef0}}", "the id of a is tmf-0123456789abcdef0: write one "),
        ("targets: {a: {interface: e, tags: {aws:x: 1}}}", "target a: tags has aws:x, which is reserved"),
        ("targets: {a: {interface: e, tags: {pktmirror:name: b}}}", "tags has pktmirror:name, which is reserved"),
        ("targets: {a: {interface: e, tags: 7}}", "target a: tags is `7`: write them as fields, KEY: VALUE"),
        (f"targets: {{a: {{interface: e, description: {256 * 'x'}}}}}", "description has 256 characters: write at mos"),
        ("filters: {a: {services: [dns]}}", "filter a: `dns` is no service: the services are amazon-dns"),
        ("filters: {a: {ingress: {}}}", "filter a: ingress is a table of fields: write a list, one item after each `-"),
        ("filters: {a: {ingress: [{}]}}", "a rule of filter a: ingress has no `number`: add `number:`"),
        (f"filters: {{a: {{egress: [{RULE % ''}, {RULE % ''}]}}}}", "filter a has two egress rules 1: give each rule "),
        (f"filters: {{a: {{egress: [{RULE % ', protocol: 256'}]}}}}", "rule 1: protocol is `256`: write one of icmp, "),
        (f"filters: {{a: {{egress: [{RULE % ', source_ports: 1'}]}}}}", "rule 1 has ports, and its protocol is neithe"),
        (
            f"filters: {{a: {{egress: [{RULE % ', protocol: tcp, source_ports: 2-1'}]}}}}",
            "source_ports is `2-1`: write a port, or a range as in 8000-8999",
        ),
        (f"filters: {{a: {{egress: [{(RULE % '').replace('accept', 'allow')}]}}}}", "action is `allow`: write accept "),
        (f"filters: {{a: {{egress: [{(RULE % '').replace('0.0.0.0/0', '10.0.0.1', 1)}]}}}}", "source is `10.0.0.1`: w"),
        (f"filters: {{a: {{egress: [{IPV6_TO_IPV4}]}}}}", "rule 1 is from ::/0 to 0.0."),
        ("sessions: {a: {}}", "session a has no `source`: add `source:`"),
        (f"sessions: {{a: {{{SESSION}, number: 0}}}}", "session a: number is `0`: write a number from 1 to 32766"),
        (f"sessions: {{a: {{{SESSION}, vni: 0x7}}}}", "session a: vni is `0x7`: write a number from 1 to 16777215"),
        (f"sessions: {{a: {{{SESSION}, packet_length: [1]}}}}", "session a: packet_length is a list: write a number"),
        (
            f"targets: {{web: {{interface: e}}}}\nsessions:\n a: {{{SESSION.replace('tmt-0123456789abcdef0', 'wed')}}}",
            "line 3, column 2: session a has the target wed, which is not declared: did you mean `web`?",
        ),
        ("templates: {a: {select: {}}}", "template a: select says nothing: select by something; `name: \"*\"` means"),
        ("templates: {a: {select: {name: ''}}}", "template a: select: name is empty, and nothing fits that"),
        ("templates: {a: {select: {labels: {tier: ''}}}}", "template a: select: label tier has no pattern: write one"),
        ("templates: {a: {select: {labels: web}}}", "template a: select: labels is `web`: write them as fields"),
        ("templates: {a: {limit: -1}}", "template a: limit is `-1`: write a number from 0 to"),
        ("document: !!python/object:os.system a", "the tag tag:yaml.org,2002:python/object:os.system: write the "),
        ("document: !own a", "the tag !own: write the value without a tag"),
        ('{"document": "\\ud800"}', "line 1, column "),
        ("a: &a {b: *a}", "line 1, column 11: `*a`, which is nothing yet: name something &a before, or"),
        (50 * "[" + 50 * "]" + "", "the document is a list"),
        (1_000_000 * "[", "line 1, column 51: it is nested too deeply"),
        ("a: 1\n---\nb: 2", "line 2, column 1: a second document"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_its_line_what_was_found_and_what_to_do(text: str, problem: str) -> None:
    with pytest.raises(Malformed) as refused:
        parse(text)
    assert problem in str(refused.value)
    assert "Next: correct what the lines name" in str(refused.value)


@pytest.mark.parametrize("number", [49, 50, 51])
def test_what_is_bound_by_its_id_may_have_all_the_tags_that_ec2_allows(number: int) -> None:
    """50; of those of what `apply` makes, one is the name's."""
    tags = "".join(f"\n      k{each}: v" for each in range(number))
    for bound, most in (("", 49), ("\n    id: tmf-0123456789abcdef0", 50)):
        text = f"filters:\n  web:{bound}\n    tags:{tags}\n"
        if number <= most:
            assert len(parse(text).filters[0].tags) == number
        else:
            with pytest.raises(Malformed, match=f"tags are {number}: a resource takes {most}"):
                parse(text)


def test_all_that_is_wrong_is_said_at_once_in_the_order_of_the_text() -> None:
    with pytest.raises(Malformed) as refused:
        parse("document: a/b\ntemplates: {b: {}}\nsessions:\n  c: {number: x}\n")
    assert [problem.at.line for problem in refused.value.problems] == [1, 2, 2, 2, 2, 2, 4, 4, 4, 4]


def test_anchors_may_repeat_but_not_without_end() -> None:
    once = "sessions: {a: &a {" + SESSION + "}, b: *a}"
    assert [entry.name for entry in parse(once).sessions] == ["a", "b"]
    bomb = "a: &a [" + 30 * "x," + "]\n" + "".join(
        f"{this}: &{this} [{30 * f'*{before},'}]\n" for before, this in zip("abcde", "bcdef", strict=True)
    )  # fmt: skip
    with pytest.raises(Malformed, match="more than 500,000"):
        parse(bomb)


@given(st.text() | st.binary().map(lambda data: data.decode("latin-1")))
def test_any_text_is_read_or_refused(text: str) -> None:
    with suppress(Malformed):
        parse(text)


DOCS = Path(__file__).parents[3] / "docs"


def test_the_documents_of_the_guide_can_be_applied() -> None:
    text = (DOCS / "howto/mirror-by-a-document.md").read_text()
    shown = [textwrap.dedent(found) for found in re.findall(r"^ *```yaml\n(.*?)^ *```", text, re.DOTALL | re.MULTILINE)]
    first, second = map(parse, shown)
    assert ([each.name for each in first.sessions], first.templates) == (["first-web-server"], ())
    assert second.templates[0].select == Selector(vpc="office", name="web*")
