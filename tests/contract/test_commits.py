"""What is answered where the store goes away right behind a commit: that the change has happened."""

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pktmirror.aws import ApiError
from pktmirror.control.records import FilterRecord
from pktmirror.control.store import Store, Transaction
from pktmirror.control.trail import Trail
from pktmirror.model.limits import Quotas
from pktmirror.model.template import Selector, Template
from tests.contract.endpoint import InProcess
from tests.unit.control.records import target

FORM = {"content-type": "application/x-www-form-urlencoded"}
CREATE = b"Action=CreateTrafficMirrorFilter&Version=2016-11-15"


class GoneBehindACommit(Store):
    """With ``goes`` it answers nobody any more who reads after the next change."""

    goes = False
    gone = False

    @contextmanager
    def read(self) -> Iterator[Transaction]:
        if self.gone:
            raise ApiError("Unavailable", "The store does not answer. Try again")
        with super().read() as transaction:
            yield transaction

    @contextmanager
    def write(self) -> Iterator[Transaction]:
        with super().write() as transaction:
            yield transaction
        self.gone = self.goes


@pytest.fixture
def endpoint(tmp_path: Path) -> Iterator[InProcess]:
    store, trail = GoneBehindACommit.open(tmp_path / "store"), Trail(tmp_path)
    yield InProcess(store, trail, Quotas())
    store.close()
    trail.close()


def filters(store: Store) -> list[str]:
    assert isinstance(store, GoneBehindACommit)
    store.goes = store.gone = False
    with store.read() as transaction:
        return [record.filter_id for record in transaction.filters.where()]


def test_a_change_that_happened_is_answered_as_one_and_who_waits_looks_for_himself(endpoint: InProcess) -> None:
    assert isinstance(endpoint.store, GoneBehindACommit)
    changed = endpoint.endpoint.polls.revisions.next()
    endpoint.store.goes = True
    status, answer = asyncio.run(endpoint.post(CREATE, endpoint.signed(CREATE, FORM)))
    assert status == 200, answer
    assert changed.is_set()
    [made] = filters(endpoint.store)
    assert made.encode() in answer
    endpoint.store.gone = True  # and one that cannot even begin is refused
    status, answer = asyncio.run(endpoint.post(CREATE, endpoint.signed(CREATE, FORM)))
    assert status == 503, answer
    assert filters(endpoint.store) == [made]


def test_a_template_that_was_kept_is_answered_as_one(endpoint: InProcess) -> None:
    assert isinstance(endpoint.store, GoneBehindACommit)
    with endpoint.store.write() as transaction:
        transaction.targets.put(target("0"))
        transaction.filters.put(FilterRecord("tmf-0"))
    template = Template(
        name="office/web", select=Selector(name="web*"), target_id="tmt-0", filter_id="tmf-0", number=1, limit=1
    )
    endpoint.store.goes = True
    assert endpoint.plane.put_template(template, time.time()).template == template
