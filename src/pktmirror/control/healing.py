"""Session templates within a transaction: keeping them, and making true what `templates` decides.

Whoever changes what a template looks at calls `heal` in the same transaction, so that nobody sees an interface that is
selected and has no session. Sessions made so are as others, with `ORIGIN_TAG` beside the template's tags. Transactions
are the operator's account's here: templates are his, and mirror what is his.
"""

from collections.abc import Mapping

from pktmirror.aws import ApiError, errors
from pktmirror.control import caps, history, sharing, templates
from pktmirror.control.operations import tags
from pktmirror.control.operations.operation import Tag, not_found
from pktmirror.control.operations.sessions import free_vni
from pktmirror.control.records import SessionRecord
from pktmirror.control.store import Transaction
from pktmirror.control.templates import Decision, Making, Situation
from pktmirror.model.ids import Prefix, new_id
from pktmirror.model.limits import Quotas
from pktmirror.model.template import NAME_TAG, ORIGIN_TAG, Selector, Template, is_full_name

ROUNDS_MAX = 8
"""One decision frees what another may use: two rounds are the most that was seen. What is left waits for a change."""


def heal(transaction: Transaction, quotas: Quotas) -> None:
    """Make, change and delete sessions as the templates say."""
    if not transaction.templates.count():
        return
    for _ in range(ROUNDS_MAX):
        decision = templates.decide(situation(transaction, quotas))
        if decision.is_nothing:
            return
        _carry_out(decision, transaction)


def situation(transaction: Transaction, quotas: Quotas) -> Situation:
    """What the templates look at, now."""
    held = transaction.tags.all()
    sessions = transaction.sessions.where()
    there = {session.session_id for session in sessions}
    seen, kept = {each.record.target_id: each for each in sharing.targets(transaction)}, transaction.templates.where()
    shared_by = {id_: each.account_id for id_, each in seen.items() if each.account_id}
    return Situation(
        templates=kept,
        interfaces=transaction.interfaces.where(),
        sessions=sessions,
        origins={id_: given[ORIGIN_TAG] for id_, given in held.items() if ORIGIN_TAG in given and id_ in there},
        tags=held,
        targets={id_: each.record for id_, each in seen.items()},
        filters={record.filter_id for record in transaction.filters.where()},
        networks=transaction.networks,
        quotas=quotas,
        shared_by=shared_by,
        sources_of_others=_sources_of_others(
            transaction, there, {template.target_id for template in kept} & shared_by.keys()
        ),
    )


def put(transaction: Transaction, template: Template) -> None:
    """Keep a template, in the place of one of that name; raises ApiError for one that cannot be kept."""
    _refuse_unfit(transaction, template)
    before = transaction.templates.get(template.name)
    transaction.templates.put(template)
    if before is None or before.tags == template.tags:
        return
    for session_id in _sessions_of(transaction, template.name):
        for key in before.tags.keys() - template.tags.keys():
            transaction.tags.remove(session_id, key)
        tags.put(transaction, session_id, template.tags)
    transaction.bump_revision()  # a tag may be a cap


def delete(transaction: Transaction, name: str) -> None:
    """Forget a template; its sessions go with it."""
    if transaction.templates.get(name) is None:
        raise ApiError("InvalidTemplate.NotFound", f"The session template '{errors.echo(name)}' does not exist", 404)
    transaction.templates.remove(name)
    for session_id in _sessions_of(transaction, name):
        transaction.remove_session(session_id)
        transaction.bump_revision()


def _sources_of_others(transaction: Transaction, own: set[str], borrowed: set[str]) -> dict[str, set[str]]:
    """By target: the interfaces of other accounts' sessions to the account's targets, and to those that it borrows."""
    others = [session for session, _ in sharing.sessions_of_others(transaction)]
    others += [session for target_id in borrowed for session in sharing.sessions_to(transaction, target_id)]
    found: dict[str, set[str]] = {}
    for session in others:
        if session.session_id not in own:
            found.setdefault(session.target_id, set()).add(session.interface_id)
    return found


def _carry_out(decision: Decision, transaction: Transaction) -> None:
    for session_id in decision.delete:
        transaction.remove_session(session_id)
    for record in decision.change:
        transaction.sessions.put(record)
    made = [_made(making, transaction) for making in decision.make]
    history.sessions_changed(transaction, [*decision.change, *made])
    transaction.bump_revision()


def _made(making: Making, transaction: Transaction) -> SessionRecord:
    template = making.template
    target = sharing.target(transaction, template.target_id)
    record = SessionRecord(
        new_id(Prefix.SESSION),
        making.interface_id,
        template.target_id,
        template.filter_id,
        template.number,
        template.vni or free_vni(transaction),
        template.packet_bytes_max,
        template.description,
        "" if target is None else target.account_id,
    )
    transaction.sessions.put(record)
    tags.put(transaction, record.session_id, {**template.tags, ORIGIN_TAG: template.name})
    return record


def _sessions_of(transaction: Transaction, name: str) -> list[str]:
    """The ids of the sessions that a template has made."""
    held = transaction.tags.with_keys([ORIGIN_TAG])
    return [
        id_ for id_, given in held.items() if given[ORIGIN_TAG] == name and transaction.sessions.get(id_) is not None
    ]


def _refuse_unfit(transaction: Transaction, template: Template) -> None:
    if not is_full_name(template.name):
        raise errors.invalid_value("name", template.name, "Expected a document's name and one in it, as in office/web")
    if template.select == Selector():
        raise errors.invalid_parameter_value(
            f"The template {template.name} selects by nothing, and so nothing. To select all, say name = *"
        )
    if sharing.target(transaction, template.target_id) is None:
        raise not_found("TrafficMirrorTargetId", "traffic mirror target", template.target_id)
    if transaction.filters.get(template.filter_id) is None:
        raise not_found("TrafficMirrorFilterId", "traffic mirror filter", template.filter_id)
    _refuse_unfit_tags(template.tags)


def _refuse_unfit_tags(given: Mapping[str, str]) -> None:
    tags.checked([Tag(key, value) for key, value in given.items()])
    problem = (
        f"The tag {NAME_TAG} is of what is applied by name, and no template's"
        if NAME_TAG in given
        else caps.problem(given)
    )
    if problem is not None:
        raise errors.invalid_parameter_value(problem)
    if len(given) >= tags.TAGS_PER_RESOURCE_MAX:
        raise ApiError(
            "TagLimitExceeded", f"A session of a template has at most {tags.TAGS_PER_RESOURCE_MAX - 1} tags of its own"
        )
