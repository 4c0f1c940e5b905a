"""Which interfaces an agent says are deleted: those of a namespace whose name was there and is gone."""

from pktmirror.agent.departures import NAMESPACES_MAX, Departures

WEB = {"web": ["netns:web/eth0", "netns:web/eth1"]}


def seen(gone_s: float = 10.0) -> Departures:
    departures = Departures(gone_s)
    departures.looked(WEB, {"web", "db"}, 0.0)
    return departures


def test_a_namespace_whose_name_is_gone_for_long_enough_is_deleted_with_all_its_interfaces() -> None:
    departures = seen()
    departures.looked({}, {"db"}, 100.0)
    assert departures.deleted(109.9) == ()
    assert departures.deleted(110.0) == ("netns:web/eth0", "netns:web/eth1")


def test_it_is_told_again_until_the_name_is_there_again() -> None:
    departures = seen()
    departures.looked({}, {"db"}, 100.0)
    departures.looked({}, {"db"}, 500.0)
    assert departures.deleted(500.0) == ("netns:web/eth0", "netns:web/eth1"), "a report may get lost"
    departures.looked({}, {"db", "web"}, 501.0)
    assert departures.deleted(999.0) == ()


def test_devices_that_vanish_from_a_namespace_that_is_there_are_not_deleted() -> None:
    departures = seen()
    departures.looked({}, {"web", "db"}, 100.0)
    assert departures.deleted(999.0) == ()


def test_a_device_that_vanished_before_its_namespace_is_deleted_with_it() -> None:
    departures = seen()
    departures.looked({"web": ["netns:web/eth0"]}, {"web"}, 50.0)
    departures.looked({}, set(), 100.0)
    assert departures.deleted(110.0) == ("netns:web/eth0", "netns:web/eth1")


def test_a_name_that_is_back_in_time_is_a_restart_and_begins_anew() -> None:
    departures = seen()
    departures.looked({}, {"db"}, 100.0)
    departures.looked({}, {"web"}, 109.0)
    departures.looked({}, set(), 111.0)
    assert departures.deleted(120.9) == ()
    assert departures.deleted(121.0) != ()


def test_what_was_gone_before_the_agent_started_is_not_known() -> None:
    departures = Departures(0.0)
    departures.looked({}, {"db"}, 0.0)
    departures.looked({}, set(), 100.0)
    assert departures.deleted(999.0) == (), "db never had an interface here"


def test_the_memory_of_what_is_gone_is_limited_and_the_oldest_is_forgotten() -> None:
    departures = Departures(0.0)
    for number in range(NAMESPACES_MAX + 1):
        departures.looked({f"n{number}": [f"netns:n{number}/eth0"]}, {f"n{number}"}, float(number))
    departures.looked({}, set(), 1e6)
    deleted = departures.deleted(1e6)
    assert len(deleted) == NAMESPACES_MAX
    assert "netns:n0/eth0" not in deleted
