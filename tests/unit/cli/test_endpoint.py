"""Which control plane is asked, and with whose key."""

from pathlib import Path

import pytest

from pktmirror.cli.endpoint import Access, access, own_path
from pktmirror.model.refusal import Refusal

SHELL = {
    "AWS_ENDPOINT_URL": "http://127.0.0.1:8773/",
    "AWS_ACCESS_KEY_ID": "AKIA1",
    "AWS_SECRET_ACCESS_KEY": "hush",
    "AWS_REGION": "local-2",
    "AWS_DEFAULT_REGION": "local-3",
    "AWS_PROFILE": "default",
}


def test_the_shells_variables_count_where_they_name_an_endpoint():
    found = access(None, SHELL)
    assert found == Access("http://127.0.0.1:8773", "local-2", "AKIA1", "hush", {"profile": "default"})


def test_a_secret_is_never_shown():
    assert "hush" not in repr(access(None, SHELL))


def test_a_state_directory_that_is_named_wins_over_the_shell(tmp_path: Path):
    with pytest.raises(Refusal, match=f"no credentials in {tmp_path}"):
        access(tmp_path, SHELL)


@pytest.mark.parametrize("missing", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_an_endpoint_without_a_key_is_refused_by_name(missing: str):
    variables = {name: value for name, value in SHELL.items() if name != missing}
    with pytest.raises(Refusal, match=f"no {missing}"):
        access(None, variables)


def test_without_a_region_it_is_the_default_one():
    variables = {name: value for name, value in SHELL.items() if not name.endswith("REGION")}
    assert access(None, variables).region == "local-1"


@pytest.mark.parametrize("url", ["127.0.0.1:8773", "ftp://127.0.0.1", "http://", "http://a b", "no-url"])
def test_an_endpoint_that_is_no_url_is_refused(url: str):
    with pytest.raises(Refusal, match="is no URL"):
        access(None, SHELL | {"AWS_ENDPOINT_URL": url})


def test_a_path_has_each_segment_as_it_was_said():
    assert own_path("status") == "status"
    assert own_path("accounts", "a?b#c d%é+;=") == "accounts/a%3Fb%23c%20d%25%C3%A9%2B%3B%3D"
    assert own_path("sessions", "tms-1", "probes", within_s="1e+06") == "sessions/tms-1/probes?within_s=1e%2B06"
    assert own_path("accounts", "...", ".a") == "accounts/.../.a"


@pytest.mark.parametrize("segment", ["", ".", "..", "../templates", "a/b", "/", "\udcff"])
def test_what_would_lead_to_another_path_is_refused(segment: str):
    for segments in (("accounts", segment), ("hosts", segment, "certificates")):
        with pytest.raises(Refusal, match="is no name and no id"):
            own_path(*segments)
