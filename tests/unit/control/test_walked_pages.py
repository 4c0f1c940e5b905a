"""Pages that are read from the store piece by piece are those of the whole."""

import pytest

from pktmirror.control.operations import selection
from pktmirror.control.operations.operation import FilterOfDescribe
from pktmirror.control.operations.pages import PIECE_ITEMS, page, walked
from pktmirror.control.operations.sessions import DescribeTrafficMirrorSessions

KEY = b"k" * 32
ITEMS = [f"tms-{number:05}" for number in range(2 * PIECE_ITEMS + 3)]


def read(above: str, most: int) -> list[str]:
    return [item for item in ITEMS if item > above][:most]


@pytest.mark.parametrize("every", [1, 3, 700, 10_000])
@pytest.mark.parametrize("size", [5, 1000, None])
def test_they_are_those_of_the_whole(every: int, size: int | None) -> None:
    def wanted(items: object) -> list[str]:
        assert isinstance(items, list)
        return [item for item in items if int(item[4:]) % every == every - 1]

    token, pages = None, 0
    while pages == 0 or (token is not None and pages < 5):
        request = DescribeTrafficMirrorSessions(max_results=size, next_token=token)
        walked_so = walked(read, wanted, str, request, KEY)
        assert walked_so == page(wanted(ITEMS), str, request, KEY)
        token, pages = walked_so[1], pages + 1


@pytest.mark.parametrize(
    ("values", "asked"),
    [
        (("7",), {"vni": 7}),
        (("7", "8"), {}),
        (("*",), {}),
        (("7?",), {}),
        (("\\7",), {}),
        (("07",), {}),
        (("seven",), {}),
        (("99999999999",), {}),
    ],
)
def test_the_store_is_asked_for_single_plain_values_alone(values: tuple[str, ...], asked: dict[str, object]) -> None:
    filters = [FilterOfDescribe("virtual-network-id", values), FilterOfDescribe("description", ("d",))]
    assert selection.exactly(filters, {"virtual-network-id": ("vni", int)}) == asked
