"""Every error code that the specification names for traffic mirroring (2.3 and 1.13) is shown by a test that gets it,
or stands here with the reason why nobody can get it."""

import ast
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[1]

SHOWN_BY = {
    "contract/test_protocol.py": {
        "AuthFailure": "test_who_does_not_hold_a_key_is_refused",
        "DryRunOperation": "test_fact_6_a_dry_run_succeeds_by_an_error_and_changes_nothing",
        "UnknownParameter": "test_what_cannot_be_changed_is_no_parameter",
        "InvalidAction": "test_a_bad_request_gets_its_code",
        "IdempotentParameterMismatch": "test_facts_4_and_5",
    },
    "contract/test_rights.py": {
        "UnauthorizedOperation": "test_a_user_may_do_what_a_policy_allows_and_nothing_else",
    },
    "contract/test_filters.py": {
        "MissingParameter": "test_fact_9_a_rule_without_a_required_member",
        "InvalidParameterValue": "test_a_rule_that_makes_no_sense_is_refused",
        "InvalidParameterCombination": "test_a_field_is_set_or_removed",
        "InvalidTrafficMirrorFilterRuleId.NotFound": "test_an_unknown_rule_is_not_found",
        "TrafficMirrorFilterInUse": "test_facts_31_to_33",
        "TrafficMirrorFilterRuleAlreadyExists": "test_fact_12_a_number_is_used_once_in_a_direction",
        "TrafficMirrorFilterRuleLimitExceeded": "test_fact_13",
    },
    "contract/test_describe.py": {
        "InvalidPaginationToken": "test_fact_39_a_forged_token_is_refused",
        "InvalidMaxResults": "test_fact_38_pages_have_a_smallest_and_a_largest_size",
        "FilterLimitExceeded": "test_a_call_has_a_bounded_number_of_filters_and_values",
        "InvalidFilter": "test_fact_36_an_unknown_filter_is_refused",
    },
    "contract/test_tags.py": {
        "TagLimitExceeded": "test_bad_tags_change_nothing",
        "InvalidTagKey.Malformed": "test_bad_tags_change_nothing",
        "InvalidID": "test_tags_of_nothing",
        "InvalidTrafficMirrorSessionId.NotFound": "test_tags_of_nothing",
    },
    "unit/aws/test_errors.py": {
        "InternalError": "test_an_error_says_its_code",
    },
    "contract/test_sessions.py": {
        "InvalidTrafficMirrorTargetId.NotFound": "test_fact_34_a_session_of_something_unknown",
        "InvalidTrafficMirrorFilterId.NotFound": "test_fact_34_a_session_of_something_unknown",
        "InvalidNetworkInterfaceID.NotFound": "test_fact_34_a_session_of_something_unknown",
        "NetworkInterfaceNotSupported": "test_an_interface_that_cannot_be_mirrored",
        "TrafficMirrorSessionsPerInterfaceLimitExceeded": "test_fact_20",
        "TrafficMirrorSourcesPerTargetLimitExceeded": "test_fact_21",
    },
    "contract/test_targets.py": {
        "TrafficMirrorTargetInUseException": "test_fact_31_a_target_in_use_is_not_deleted",
        "InvalidTrafficMirrorTarget": "test_an_unknown_interface_is_no_target",
        "InvalidNetworkLoadBalancerArn.Malformed": "test_an_arn_of_no_network_load_balancer",
        "is in use by target": "test_fact_44_a_target_is_no_source_and_a_source_no_target",
    },
    "contract/test_life.py": {
        "TrafficMirrorSessionLimitExceeded": "test_quotas_are_settings",
        "TrafficMirrorTargetLimitExceeded": "test_quotas_are_settings",
        "TrafficMirrorFilterLimitExceeded": "test_quotas_are_settings",
        "TrafficMirrorSessionsPerTargetLimitExceeded": "test_a_target_takes_no_more_sessions",
    },
}
"""By file of the tests: the code, and how the name of the test begins."""

NOT_REACHABLE = {
    "InvalidNextToken": "the other of two names that clients know: InvalidPaginationToken is given",
    "InvalidNetworkLoadBalancerArn.NotFound": "a load balancer is a target whether it exists or not",
    "InvalidVpcEndpointId.NotFound": "as with load balancers; what is no id of one is InvalidVpcEndpointId.Malformed",
    "RequestLimitExceeded": "no call of EC2's API is throttled; StartProbe of our own is",
}


def function_named(path: Path, begin: str) -> ast.FunctionDef:
    functions = (node for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef))
    found = [function for function in functions if function.name.startswith(begin)]
    assert len(found) == 1, f"{len(found)} functions of {path} begin with {begin}: name one in {Path(__file__).name}"
    return found[0]


def literals(tree: ast.AST) -> set[str]:
    return {str(node.value) for node in ast.walk(tree) if isinstance(node, ast.Constant)}


def names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}


def text_of(path: Path, function: ast.FunctionDef) -> set[str]:
    """The literals of a test, and of the module's constants that it names."""
    constants = {
        target.id: literals(node.value)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return literals(function).union(*(constants[name] for name in names(function) & constants.keys()))


@pytest.mark.parametrize(
    ("file", "code", "begin"),
    [(file, code, begin) for file, codes in SHOWN_BY.items() for code, begin in codes.items()],
)
def test_a_code_is_named_by_the_test_that_shows_it(file: str, code: str, begin: str) -> None:
    function = function_named(TESTS / file, begin)
    named = text_of(TESTS / file, function)
    assert code in named or (" " in code and any(code in text for text in named)), (
        f"{code}: {function.name} does not name it; name the test that shows it in {Path(__file__).name}"
    )


def test_a_code_is_shown_or_has_a_reason_and_not_both() -> None:
    shown = [code for codes in SHOWN_BY.values() for code in codes]
    assert len(shown) == len(set(shown))
    assert not set(shown) & NOT_REACHABLE.keys()


def test_what_nobody_can_get_is_raised_nowhere_in_the_operations() -> None:
    operations = TESTS.parent / "src/pktmirror/control/operations"
    raised = {text for path in operations.rglob("*.py") for text in literals(ast.parse(path.read_text()))}
    assert not NOT_REACHABLE.keys() & raised, "it can be had: name its test in SHOWN_BY"
