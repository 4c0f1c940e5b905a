"""`pktmirror iam`: accounts, users, their access keys and policies. Users go by IAM's API, accounts by our own."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich import box
from rich.table import Table

from pktmirror.cli.endpoint import Endpoint, JsonOption, StateOption, own_path
from pktmirror.cli.terminal import terminal
from pktmirror.iam import Malformed, parse
from pktmirror.model.refusal import Refusal

app = typer.Typer(
    name="iam",
    help="See and change who may do what: accounts, users, access keys, policies.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)
User = Annotated[str, typer.Argument(help="The user's name.", show_default=False)]
OfUser = Annotated[str | None, typer.Argument(help="The user's name (default: the caller).", show_default=False)]
PolicyName = Annotated[str, typer.Argument(help="The policy's name.", show_default=False)]
Document = Annotated[Path, typer.Argument(help="A policy document in JSON.", show_default=False)]
KeyId = Annotated[str, typer.Argument(help="The access key's id.", show_default=False)]
Account = Annotated[str, typer.Argument(help="The account's name, or its number.", show_default=False)]
Subject = Annotated[str, typer.Argument(help="The id of an interface, or of a VPC.", show_default=False)]


class AccountShown(msgspec.Struct, frozen=True, kw_only=True):
    """One of ``GET /pktmirror/v1/accounts``; the operator's own has no name."""

    account_id: str
    name: str
    users: int
    interfaces: int
    sessions: int
    assigned: tuple[str, ...]


class AccountMade(msgspec.Struct, frozen=True, kw_only=True):
    account_id: str
    name: str
    access_key_id: str
    secret_access_key: str


@app.command("accounts")
def accounts(as_json: JsonOption = False, state: StateOption = None) -> None:
    """List the accounts, and what each has.

    Example: [bold]pktmirror iam accounts[/bold]
    """
    found = Endpoint.found(state).get(own_path("accounts"), tuple[AccountShown, ...])
    if as_json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
        return
    rows = [
        (each.account_id, each.name or "(own)", str(each.users), str(each.interfaces), str(each.sessions))
        for each in found
    ]
    _print(("ACCOUNT", "NAME", "USERS", "INTERFACES", "SESSIONS"), rows)


@app.command("create-account")
def create_account(
    name: Annotated[str, typer.Argument(help="A name for people.", show_default=False)], state: StateOption = None
) -> None:
    """Make an account. Its root's secret is shown this once, as lines for a shell.

    Example: [bold]pktmirror iam create-account red > red.env[/bold]
    """
    made = Endpoint.found(state).post(own_path("accounts", name), AccountMade)
    typer.echo(f"# account {made.name}: {made.account_id}")
    _print_key(made.access_key_id, made.secret_access_key)


@app.command("delete-account")
def delete_account(name: Account, state: StateOption = None) -> None:
    """Delete an account that mirrors nothing any more, with its users and keys.

    Example: [bold]pktmirror iam delete-account red[/bold]
    """
    Endpoint.found(state).delete(own_path("accounts", name))
    typer.echo(f"the account {name} is deleted", err=True)


@app.command("assign")
def assign(subject: Subject, account: Account, state: StateOption = None) -> None:
    """Give an interface, or a VPC with all interfaces in it, to an account.

    Example: [bold]pktmirror iam assign vpc-0f3a5c1e77b2d4961 red[/bold]
    """
    Endpoint.found(state).change("PUT", own_path("assignments", subject), account.encode())
    typer.echo(f"{subject} is the account {account}'s", err=True)


@app.command("unassign")
def unassign(subject: Subject, state: StateOption = None) -> None:
    """Take back what was assigned.

    Example: [bold]pktmirror iam unassign eni-0f3a5c1e77b2d4961[/bold]
    """
    Endpoint.found(state).delete(own_path("assignments", subject))
    typer.echo(f"{subject} is assigned to nobody", err=True)


@app.command("users")
def users(state: StateOption = None) -> None:
    """List the users of the caller's account.

    Example: [bold]pktmirror iam users[/bold]
    """
    found = _iam(state, "list_users")["Users"]
    _print(("USER", "ID", "ARN"), [(each["UserName"], each["UserId"], each["Arn"]) for each in found])


@app.command("create-user")
def create_user(name: User, state: StateOption = None) -> None:
    """Make a user, who may do nothing yet. `create-key` and `put-policy` come next.

    Example: [bold]pktmirror iam create-user ada[/bold]
    """
    typer.echo(_iam(state, "create_user", UserName=name)["User"]["Arn"])


@app.command("delete-user")
def delete_user(name: User, state: StateOption = None) -> None:
    """Delete a user who has no keys and policies any more.

    Example: [bold]pktmirror iam delete-user ada[/bold]
    """
    _iam(state, "delete_user", UserName=name)
    typer.echo(f"the user {name} is deleted", err=True)


@app.command("keys")
def keys(name: OfUser = None, state: StateOption = None) -> None:
    """List the access keys of a user; their secrets are shown nowhere.

    Example: [bold]pktmirror iam keys ada[/bold]
    """
    found = _iam(state, "list_access_keys", **_of(name))["AccessKeyMetadata"]
    _print(("KEY", "USER", "STATUS"), [(each["AccessKeyId"], each["UserName"], each["Status"]) for each in found])


@app.command("create-key")
def create_key(name: OfUser = None, state: StateOption = None) -> None:
    """Make an access key. Its secret is shown this once, as lines for a shell.

    Example: [bold]pktmirror iam create-key ada > ada.env[/bold]
    """
    made = _iam(state, "create_access_key", **_of(name))["AccessKey"]
    _print_key(made["AccessKeyId"], made["SecretAccessKey"])


@app.command("set-key")
def set_key(
    access_key_id: KeyId,
    status: Annotated[str, typer.Argument(help="Active or Inactive.", show_default=False)],
    name: OfUser = None,
    state: StateOption = None,
) -> None:
    """Take an access key out of service, or put it back.

    Example: [bold]pktmirror iam set-key AKIAIOSFODNN7EXAMPLE Inactive ada[/bold]
    """
    _iam(state, "update_access_key", AccessKeyId=access_key_id, Status=status, **_of(name))


@app.command("delete-key")
def delete_key(access_key_id: KeyId, name: OfUser = None, state: StateOption = None) -> None:
    """Delete an access key.

    Example: [bold]pktmirror iam delete-key AKIAIOSFODNN7EXAMPLE ada[/bold]
    """
    _iam(state, "delete_access_key", AccessKeyId=access_key_id, **_of(name))


@app.command("policies")
def policies(name: User, state: StateOption = None) -> None:
    """Print the policies of a user, each a document in JSON.

    Example: [bold]pktmirror iam policies ada[/bold]
    """
    for policy in _iam(state, "list_user_policies", UserName=name)["PolicyNames"]:
        found = _iam(state, "get_user_policy", UserName=name, PolicyName=policy)["PolicyDocument"]
        typer.echo(f"# {policy}", err=True)
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())


@app.command("put-policy")
def put_policy(name: User, policy: PolicyName, file: Document, state: StateOption = None) -> None:
    """Give a user a policy, in the place of one of that name.

    Example: [bold]pktmirror iam put-policy ada mirrors policy.json[/bold]
    """
    _iam(state, "put_user_policy", UserName=name, PolicyName=policy, PolicyDocument=_checked(file))


@app.command("delete-policy")
def delete_policy(name: User, policy: PolicyName, state: StateOption = None) -> None:
    """Take a policy from a user.

    Example: [bold]pktmirror iam delete-policy ada mirrors[/bold]
    """
    _iam(state, "delete_user_policy", UserName=name, PolicyName=policy)


@app.command("check-policy")
def check_policy(file: Document) -> None:
    """Say whether a file is a policy that `put-policy` takes; no control plane is asked.

    Example: [bold]pktmirror iam check-policy policy.json[/bold]
    """
    statements = len(parse(_checked(file)).statements)
    typer.echo(f"{file}: {statements} statement{'' if statements == 1 else 's'}")


def _checked(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8-sig")  # a mark before the text is no part of it
        parse(text)
        return text
    except Malformed as error:
        raise Refusal(f"{file} is no policy that is understood.", found=str(error), do="correct it there") from None
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(f"{file} cannot be read.", found=str(error), do="name a file with a policy document") from None


def _of(name: str | None) -> dict[str, str]:
    return {} if name is None else {"UserName": name}


def _iam(state: Path | None, operation: str, **parameters: Any) -> dict[str, Any]:
    return Endpoint.found(state).called("iam", operation, **parameters)


def _print_key(access_key_id: str, secret: str) -> None:
    typer.echo(f"export AWS_ACCESS_KEY_ID={access_key_id}")
    typer.echo(f"export AWS_SECRET_ACCESS_KEY={secret}")


def _print(heads: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    table = Table(*heads, box=box.SIMPLE_HEAD, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    terminal().print(table)
