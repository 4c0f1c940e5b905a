"""Session templates in a control plane's transactions."""

from pathlib import Path

from pktmirror.document import Document, plan
from pktmirror.document.values import Destination, FilterEntry, Located, TargetEntry, TemplateEntry
from pktmirror.model.limits import Quotas
from pktmirror.model.template import Selector
from tests.unit.control.records import HOST
from tests.unit.document.account import Account


def test_a_template_mirrors_what_is_the_operators_alone(tmp_path: Path) -> None:
    office = Account(tmp_path, Quotas())
    _, _, red = office.finds("sensor", "web1", "web2")
    document = Document(
        "office",
        (TargetEntry("t", Destination.INTERFACE, Located(HOST, "sensor")),),
        (FilterEntry("f"),),
        templates=(TemplateEntry("w", Selector(name="web*"), "t", "f", 1, 10),),
    )
    with office.store.write() as transaction:
        transaction.interfaces.give(red, "111122223333")
    assert office.carry_out(plan(document, office.state())).failed is None
    with office.store.read() as transaction:
        [one] = transaction.sessions.where()
        assert one.interface_id != red
        assert transaction.sessions.owner_of(one.session_id) == ""
    office.store.close()


def test_other_quotas_count_for_templates_from_the_start(tmp_path: Path) -> None:
    narrow = Account(tmp_path, Quotas(sources_per_interface_target=1))
    narrow.finds("sensor", "web1", "web2")
    document = Document(
        "office",
        (TargetEntry("t", Destination.INTERFACE, Located(HOST, "sensor")),),
        (FilterEntry("f"),),
        templates=(TemplateEntry("w", Selector(name="web*"), "t", "f", 1, 10),),
    )
    assert narrow.carry_out(plan(document, narrow.state())).failed is None
    [one] = narrow.state().sessions
    narrow.store.close()
    wide = Account(tmp_path, Quotas())
    assert len(wide.state().sessions) == 2
    assert one in wide.state().sessions
    wide.store.close()
