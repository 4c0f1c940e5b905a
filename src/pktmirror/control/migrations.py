"""From the tables of an earlier version to those of this one, a step for each version. With `store` the only SQL.

A step is written once, for both stores, in the words of its day: it names no table of `schema`, which goes on changing.
All steps run in one transaction, so a store is of one version or another and never between. Versions 1 and 2 were in no
release; PostgreSQL came with version 4.
"""

from collections.abc import Callable, Mapping

from sqlalchemy import Connection

import pktmirror
from pktmirror.control import schema
from pktmirror.model.refusal import Refusal

EARLIEST = 3


def _to_4(connection: Connection) -> None:
    """Who wrote the store, for whoever must go back; and client tokens by age."""
    connection.exec_driver_sql(f"ALTER TABLE schema_version ADD COLUMN written_by {_text(connection)}")
    connection.exec_driver_sql("CREATE INDEX ix_idempotency_tokens_created_at_s ON idempotency_tokens (created_at_s)")


def _to_5(connection: Connection) -> None:
    """Hosts that join, and deletions that a host has not confirmed."""
    text, bytes_ = _text(connection), _bytes(connection)
    for statement in (
        f"CREATE TABLE unconfirmed_ends (session_id {text} NOT NULL PRIMARY KEY, host_id {text} NOT NULL, "
        "revision BIGINT NOT NULL, ended_at_s FLOAT NOT NULL)",
        "CREATE INDEX ix_unconfirmed_ends_host_id ON unconfirmed_ends (host_id)",
        f"CREATE TABLE join_tokens (token_id {text} NOT NULL PRIMARY KEY, digest {bytes_} NOT NULL, host_id {text}, "
        f"expires_at_s FLOAT NOT NULL, used_by {text})",
        "CREATE INDEX ix_join_tokens_host_id ON join_tokens (host_id)",
        f"CREATE TABLE host_certificates (serial {text} NOT NULL PRIMARY KEY, host_id {text} NOT NULL, "
        "ends_at_s FLOAT NOT NULL, revoked_at_s FLOAT)",
        "CREATE INDEX ix_host_certificates_host_id ON host_certificates (host_id)",
    ):
        connection.exec_driver_sql(statement)


def _to_6(connection: Connection) -> None:
    """Session templates."""
    text = _text(connection)
    connection.exec_driver_sql(
        f"CREATE TABLE session_templates (name {text} NOT NULL PRIMARY KEY, selector {text} NOT NULL, "
        f"target_id {text} NOT NULL, filter_id {text} NOT NULL, number INTEGER NOT NULL, "
        f"sessions_max INTEGER NOT NULL, vni INTEGER, packet_bytes_max INTEGER, description {text}, "
        f"tags {text} NOT NULL)"
    )


def _to_7(connection: Connection) -> None:
    """From one account to many: all that is there belongs to the store's own account, which has no name in it."""
    text = _text(connection)
    owner = f"account_id {text} DEFAULT '' NOT NULL"
    owned = ("tags", "access_keys", "interfaces", "targets", "filters", "filter_rules", "sessions")
    for statement in (
        f"ALTER TABLE access_keys ADD COLUMN user_id {text} DEFAULT '' NOT NULL",
        "CREATE INDEX ix_access_keys_user_id ON access_keys (user_id)",
        "ALTER TABLE access_keys ADD COLUMN active BOOLEAN DEFAULT true NOT NULL",
        *(f"ALTER TABLE {table} ADD COLUMN {owner}" for table in owned),
        f"CREATE TABLE accounts (account_id {text} NOT NULL PRIMARY KEY, name {text} NOT NULL UNIQUE, "
        "created_at_s FLOAT NOT NULL)",
        f"CREATE TABLE users (user_id {text} NOT NULL PRIMARY KEY, name {text} NOT NULL, created_at_s FLOAT NOT NULL, "
        f"{owner}, UNIQUE (account_id, name))",
        f"CREATE TABLE user_policies (policy_key {text} NOT NULL PRIMARY KEY, "
        f"user_id {text} NOT NULL REFERENCES users (user_id), name {text} NOT NULL, document {text} NOT NULL)",
        "CREATE INDEX ix_user_policies_user_id ON user_policies (user_id)",
        f"CREATE TABLE assignments (subject {text} NOT NULL PRIMARY KEY, account_id {text} NOT NULL)",
        *(f"CREATE INDEX ix_{table}_account_id ON {table} (account_id)" for table in (*owned, "users")),
    ):
        connection.exec_driver_sql(statement)


def _to_8(connection: Connection) -> None:
    """Targets that are shared between accounts."""
    text = _text(connection)
    owner, tables = f"account_id {text} DEFAULT '' NOT NULL", ("resource_shares", "shared_targets", "share_invitations")
    share = f"share_id {text} NOT NULL REFERENCES resource_shares (share_id)"
    for statement in (
        f"ALTER TABLE sessions ADD COLUMN target_account_id {text} DEFAULT '' NOT NULL",
        "CREATE INDEX ix_sessions_target_account_id ON sessions (target_account_id)",
        f"CREATE TABLE resource_shares (share_id {text} NOT NULL PRIMARY KEY, name {text} NOT NULL, "
        f"allows_external BOOLEAN NOT NULL, created_at_s FLOAT NOT NULL, updated_at_s FLOAT NOT NULL, {owner})",
        f"CREATE TABLE shared_targets (entry {text} NOT NULL PRIMARY KEY, {share}, "
        f"target_id {text} NOT NULL REFERENCES targets (target_id), created_at_s FLOAT NOT NULL, {owner})",
        f"CREATE TABLE share_invitations (invitation_id {text} NOT NULL PRIMARY KEY, {share}, "
        f"receiver_id {text} NOT NULL, invited_at_s FLOAT NOT NULL, accepted BOOLEAN, answered_at_s FLOAT, {owner}, "
        "UNIQUE (share_id, receiver_id))",
        "CREATE INDEX ix_shared_targets_share_id ON shared_targets (share_id)",
        "CREATE INDEX ix_shared_targets_target_id ON shared_targets (target_id)",
        "CREATE INDEX ix_share_invitations_receiver_id ON share_invitations (receiver_id)",
        *(f"CREATE INDEX ix_{table}_account_id ON {table} (account_id)" for table in tables),
    ):
        connection.exec_driver_sql(statement)


STEPS: Mapping[int, Callable[[Connection], None]] = {4: _to_4, 5: _to_5, 6: _to_6, 7: _to_7, 8: _to_8}
"""By the version that each leads to."""


def _text(connection: Connection) -> str:
    """The type of texts in the order of their code points."""
    return 'TEXT COLLATE "C"' if connection.dialect.name == "postgresql" else "TEXT"


def _bytes(connection: Connection) -> str:
    return "BYTEA" if connection.dialect.name == "postgresql" else "BLOB"


def version(connection: Connection) -> tuple[int | None, str | None]:
    """The version of the tables and the program that wrote it, as far as it is known; None where there are none."""
    if not connection.dialect.has_table(connection, "schema_version"):
        return None, None
    row = connection.exec_driver_sql("SELECT * FROM schema_version").mappings().first()
    return (None, None) if row is None else (row["version"], row.get("written_by"))


def make(connection: Connection) -> None:
    """The tables of this version, empty."""
    schema.METADATA.create_all(connection)
    connection.execute(schema.SCHEMA_VERSION.insert().values(version=schema.VERSION, written_by=pktmirror.__version__))


def migrate(connection: Connection, name: str) -> None:
    """Bring the tables to this version. Refusal for those that no step leads from, and for a later version's."""
    found, written_by = version(connection)
    if found == schema.VERSION:
        return
    refuse_later(name, found, written_by)
    if found is None or found < EARLIEST:
        raise Refusal(
            f"The store {name} is of another version of pktmirror.",
            found=f"store version {found}, and this program reads {EARLIEST} to {schema.VERSION}",
            do="give an empty directory as --state: that version was in no release",
        )
    for step in range(found + 1, schema.VERSION + 1):
        STEPS[step](connection)
    connection.execute(schema.SCHEMA_VERSION.update().values(version=schema.VERSION, written_by=pktmirror.__version__))


def refuse_later(name: str, found: int | None, written_by: str | None) -> None:
    """A later version's tables may mean what this one does not know."""
    if found is not None and found > schema.VERSION:
        program = f"pktmirror {written_by}" if written_by else "the later pktmirror that wrote it"
        raise Refusal(
            f"The store {name} is of a later version of pktmirror.",
            found=f"store version {found}, written by {program}, and this program knows {schema.VERSION}",
            do=f"run {program} or a later one; to go back, `pktmirror restore` a backup from before the upgrade "
            "into an empty --state directory or database",
        )
