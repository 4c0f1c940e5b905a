"""The kernel's figures become ledgers; marks and addresses go there and back."""

import random
from enum import Enum
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pktmirror.agent import abi
from pktmirror.model.filter import Direction
from pktmirror.model.ledger import InterfaceOutcome, Tally


@given(st.integers(0, 0x3FFF), st.integers(0, abi.MARK_GENERATION_MASK))
def test_a_mark_tells_its_slot_and_leaves_the_direction_bit_clear(slot: int, generation: int) -> None:
    mark = abi.mark(slot, generation)
    assert abi.slot_of(mark) == slot
    assert mark >> abi.MARK_GENERATION_SHIFT & abi.MARK_GENERATION_MASK == generation
    assert mark & 0xFF800000 == abi.MARK_MAGIC


@pytest.mark.parametrize(
    ("address", "expected"),
    [("10.0.0.2", "0a000002" + "00" * 12), ("fd00::2", "fd00" + "00" * 13 + "02")],
)
def test_an_address_is_sixteen_bytes_in_network_order(address: str, expected: str) -> None:
    assert abi.address_bytes(ip_address(address)).hex() == expected


def test_every_figure_of_a_session_arrives_under_its_name_and_is_the_sum_over_the_cpus() -> None:
    drawn = random.Random(1)
    cpus = [abi.SessionCounters(), abi.SessionCounters()]
    expected: dict[tuple[Direction, Enum], Tally] = {}
    for at, direction in enumerate(abi.DIRECTIONS):
        for names, field in ((abi.VERDICTS, "verdicts"), (abi.STAGES, "stages")):
            for index, name in enumerate(names):
                figures = [(drawn.randrange(2**40), drawn.randrange(2**50)) for _ in cpus]
                for cpu, (packets, in_bytes) in zip(cpus, figures, strict=True):
                    getattr(cpu, field)[at][index] = abi.TallyEntry(packets, in_bytes)
                expected[direction, name] = sum((Tally(*each) for each in figures), Tally())
    ledgers = abi.session_ledgers([bytes(bytearray(cpu)) for cpu in cpus])
    found = {
        (direction, name): tally
        for direction, ledger in ledgers.items()
        for name, tally in [*ledger.verdicts.items(), *ledger.stages.items()]
    }
    assert found == expected


def test_every_figure_of_an_interface_arrives_under_its_name_and_is_the_sum_over_the_cpus() -> None:
    cpus = [abi.InterfaceCounters(), abi.InterfaceCounters()]
    for number, cpu in enumerate(cpus):
        for at in range(2):
            for index in range(len(abi.OUTCOMES)):
                cpu.outcomes[at][index] = abi.TallyEntry(1 + index + 10 * at + 100 * number, index)
    ledgers = abi.interface_ledgers([bytes(bytearray(cpu)) for cpu in cpus])
    for at, direction in enumerate(abi.DIRECTIONS):
        assert ledgers[direction].outcomes == {
            outcome: Tally(102 + 2 * index + 20 * at, 2 * index) for index, outcome in enumerate(abi.OUTCOMES)
        }
    assert set(ledgers[Direction.INGRESS].outcomes) == set(InterfaceOutcome)
