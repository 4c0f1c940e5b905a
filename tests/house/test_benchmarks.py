"""What docs/benchmarks.md says is what the result files beside it give, and every bar that is missed has its reason."""

import subprocess
from pathlib import Path

import pytest
from bench.claims import Bar, Claim, Holds, Peer, best, found, held
from bench.page import CLAIMS, NO_REASON, page, read
from bench.reasons import REASONS
from bench.record import UNKNOWN, cpu_model, head, version

ROOT = Path(__file__).parents[2]
RESULTS = read(ROOT / "bench/results")


def test_the_page_is_what_the_results_give() -> None:
    committed = (ROOT / "docs/benchmarks.md").read_text()
    assert committed == page(RESULTS), "a result or a reason has changed: run script/bench --table"


def test_every_missed_bar_has_a_reason() -> None:
    missed = {claim.claim for name, result in RESULTS.items() for claim in CLAIMS[name](result) if claim.met is False}
    assert missed <= REASONS.keys(), f"{missed - REASONS.keys()}: say in bench/reasons.py why, or meet the bar"
    assert NO_REASON not in page(RESULTS)


@pytest.mark.parametrize("name", RESULTS)
def test_a_result_says_what_its_figures_give(name: str) -> None:
    """Files of before results had claims say less."""
    result = RESULTS[name]
    if "claims" in result:
        assert result["claims"] == [claim.as_json() for claim in CLAIMS[name](result)]
        assert head().keys() <= result.keys()


@pytest.mark.parametrize(
    ("bar", "value", "met"),
    [
        pytest.param(Bar(Holds.AT_MOST, 0.75, of_peer=True), 0.75, True, id="at most: the limit itself is met"),
        pytest.param(Bar(Holds.AT_MOST, 0.1), 0.102, False, id="at most: a little more is missed"),
        pytest.param(Bar(Holds.AT_LEAST, 0.95), 0.95, True, id="at least: the limit itself is met"),
        pytest.param(Bar(Holds.AT_LEAST, 0.95), 0.949, False, id="at least: a little less is missed"),
        pytest.param(Bar(Holds.MORE_THAN, 1), 1.002, False, id="more than: what is equal at two digits is a tie"),
        pytest.param(Bar(Holds.MORE_THAN, 1), 1.01, True, id="more than: a hundredth more is met"),
    ],
)
def test_a_bar(bar: Bar, value: float, met: bool) -> None:
    assert bar.is_met(value) is met
    claim = Claim("a claim", "a case", value, "", bar, Peer("a peer", 1.0))
    assert (claim.met, claim.as_json()["met"], claim.as_row()[-1]) == (met, met, "met" if met else "missed")


def test_a_bar_of_the_ratio_looks_at_the_peer_and_any_other_does_not() -> None:
    peer = Peer("nft dup", 0.5)
    of_ratio = Claim("kept", "full", 0.7, "", Bar(Holds.AT_LEAST, 1.2, of_peer=True), peer)
    of_ours = Claim("kept", "full", 0.7, "", Bar(Holds.AT_LEAST, 0.95), peer)
    assert (of_ratio.ratio, of_ratio.met, of_ours.met) == (1.4, True, False)
    assert Claim("kept", "full", 0.7, "", of_ratio.bar).met is None, "without a peer nobody knows"
    assert Claim("p99", "full", 0.7, "", None, peer).met is None, "no bar is set"


def test_the_best_peer_is_the_best_of_those_that_were_there() -> None:
    values = {"mirred": 0.50, "nft dup": 0.49, "copier": 0.80}
    assert best(values, ("mirred", "nft dup", "TEE"), largest=True) == Peer("mirred", 0.50)
    assert best(values, ("mirred", "nft dup", "TEE"), largest=False) == Peer("nft dup", 0.49)
    assert best(values, ("TEE",), largest=True) is None


def test_what_is_held_against_a_bar_within_a_result_is_found() -> None:
    result = {"kernel": "6.18", "creates": {"creates": 7, "p99_ms": held(49.96, 50, digits=1)}}
    assert list(found(result)) == [(("creates", "p99_ms"), {"is": 50.0, "bar": 50, "met": True})]


def test_a_result_begins_with_version_machine_kernel_and_date() -> None:
    said = head()
    assert list(said) == ["version", "tree_changed", "date", "machine", "kernel"]
    assert cpu_model() in str(said["machine"])
    assert None not in (said["version"], said["date"])


def test_a_version_is_the_commit_and_whether_the_tree_is_another(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=a", "-c", "user.email=a@example.org")
        argv = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()

    assert version(tmp_path) == (UNKNOWN, None), "as in a tarball"
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "a")
    commit = git("rev-parse", "--short", "HEAD")
    assert version(tmp_path) == (commit, False)
    (tmp_path / "bench/results").mkdir(parents=True)
    (tmp_path / "bench/results/x.json").write_text("{}")
    assert version(tmp_path) == (commit, False), "a result is no change"
    (tmp_path / "a").write_text("2")
    assert version(tmp_path) == (commit, True)
    (tmp_path / "tarball").mkdir()
    assert version(tmp_path / "tarball") == (UNKNOWN, None), "somebody else's repository is around it"
