"""The state directory: SQLite's file, the key, the tokens, the CA, and the files that make AWS clients ready to use.

One control plane at a time holds it; several of one PostgreSQL have one each. All its files are for its owner only.
An edge module.
"""

import fcntl
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from pktmirror.control.authority import Authority
from pktmirror.control.keys import KEY_BYTES, Key
from pktmirror.model.refusal import Refusal

STORE, KEY, LOCK = "pktmirror.sqlite", "key", "lock"
AGENT_TOKEN, METRICS_TOKEN = "agent-token", "metrics-token"
CREDENTIALS, CONFIG = "aws-credentials", "aws-config"
CLIENT = "client.json"
CA, CA_KEY, SERVER = "ca.pem", "ca-key.pem", "server.pem"
SHARED = (KEY, AGENT_TOKEN, METRICS_TOKEN, CA_KEY, CA)
"""What belongs to the store: in a backup, and the same for all control planes of one."""
TOKEN_CHARACTERS_MIN = 16

_TOKEN = re.compile(rf"[!-~]{{{TOKEN_CHARACTERS_MIN},}}")  # what a header can carry


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """What a client needs to know of a control plane; kept beside the AWS files for `environment`."""

    endpoint_url: str
    region: str
    access_key_id: str
    secret_access_key: str


class StateDirectory:
    """An open state directory, locked until `close`."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def open(cls, path: Path) -> "StateDirectory":
        """Make or take the directory; raises `Refusal` where it cannot be written or another process has it."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise Refusal(
                f"The state directory {path} cannot be used.",
                found=error.strerror or str(error),
                do="name a directory that you may write with --state",
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise Refusal(
                f"The state directory {path} is in use.",
                found="another control plane that has it open",
                do="stop that one first, or name another directory with --state",
            ) from None
        return cls(path, lock)

    def close(self) -> None:
        os.close(self._lock)

    @property
    def store(self) -> Path:
        # SQLite would make it by the umask.
        path = self.path / STORE
        try:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise Refusal(
                f"The store {path} cannot be opened.",
                found=error.strerror or str(error),
                do="move away what is there, or name another state directory with --state",
            ) from None
        return path

    def key(self) -> Key:
        """The key; made at the first start."""
        text = self._kept(KEY, secrets.token_hex(KEY_BYTES))
        try:
            secret = bytes.fromhex(text)
        except ValueError:
            secret = b""
        if len(secret) != KEY_BYTES:
            raise Refusal(
                f"The key file {self.path / KEY} is damaged.",
                found=f"{len(text)} characters; {2 * KEY_BYTES} hexadecimal digits are expected",
                do="put back the file that belongs to this store, or start with an empty directory",
            )
        return Key(secret)

    @property
    def has_key(self) -> bool:
        return (self.path / KEY).exists()

    def lacks(self) -> list[str]:
        """Which of the files that are the same for all control planes of a store are not there."""
        return [name for name in SHARED if not (self.path / name).exists()]

    def agent_token(self) -> str:
        """The bearer token of agents and monitors; made at the first start."""
        return self._token(AGENT_TOKEN, "agents'")

    def metrics_token(self) -> str:
        """The bearer token with which metrics are read, and nothing else is done; made at the first start."""
        return self._token(METRICS_TOKEN, "metrics'")

    @contextmanager
    def putting_back(self, kept: dict[str, str]) -> Iterator[None]:
        """Have these files, by name, whatever was there, once the block has ended well; they are on the disk before it
        begins, and have only to take their names after it. Refusal where one or the other cannot be."""
        names = [Path(name).name for name in kept]
        try:
            try:
                for name, text in zip(names, kept.values(), strict=True):
                    self._write_fresh(name, text)
            except OSError as error:
                raise Refusal(
                    f"The files of the state directory {self.path} cannot be written. Nothing has changed.",
                    found=error.strerror or str(error),
                    do="see that there is room, and that nothing is in the way, and restore again",
                ) from None
            yield
            try:
                for name in names:
                    self._fresh(name).rename(self.path / name)
                sync(self.path)
            except OSError as error:
                raise Refusal(
                    f"The store is restored, but not all files of the state directory {self.path}, which belong to it.",
                    found=f"{error.filename2 or self.path}: {error.strerror or error}",
                    do="move away what is in the way, and restore again with --replace, before any start",
                ) from None
        finally:
            for name in names:
                with suppress(OSError):
                    self._fresh(name).unlink(missing_ok=True)

    @property
    def has_authority(self) -> bool:
        return (self.path / CA).exists()

    def authority(self, now_s: float) -> Authority:
        """The CA of hosts and servers; made where there is none."""
        if not (self.path / CA).exists():
            made = Authority.made(now_s)
            self._write(CA_KEY, made.key_pem.decode())  # the first: a key without its certificate has signed nothing
            self._write(CA, made.certificate_pem.decode())
        try:
            return Authority.of((self.path / CA).read_bytes(), (self.path / CA_KEY).read_bytes())
        except OSError as error:
            raise Refusal(
                f"The CA in {self.path} cannot be read.",
                found=str(error),
                do=f"put back the file {CA_KEY} that belongs to {CA}; without them all hosts must join again",
            ) from None

    def write_server_certificate(self, pem: bytes) -> Path:
        """Key and certificates in one file, as a TLS context takes them."""
        self._write(SERVER, pem.decode())
        return self.path / SERVER

    def write_client(self, client: Client) -> None:
        """The files for AWS clients and `environment`. An operator's own edits of them do not last."""
        credentials = (
            "[default]\n"
            f"aws_access_key_id = {client.access_key_id}\n"
            f"aws_secret_access_key = {client.secret_access_key}\n"
        )
        config = f"[default]\nregion = {client.region}\nendpoint_url = {client.endpoint_url}\n"
        self._write(CREDENTIALS, credentials)
        self._write(CONFIG, config)
        self._write(CLIENT, msgspec.json.encode(client).decode())

    def _token(self, name: str, whose: str) -> str:
        token = self._kept(name, secrets.token_urlsafe(32))
        if _TOKEN.fullmatch(token) is None:
            raise Refusal(
                f"The {whose} token in {self.path / name} is no token.",
                found=f"{len(token)} characters; {TOKEN_CHARACTERS_MIN} or more are expected, and none of them blank",
                do="put back the token that its users have, or remove the file: the next start makes a new one",
            )
        return token

    def _kept(self, name: str, otherwise: str) -> str:
        try:
            return (self.path / name).read_text(encoding="ascii").strip()
        except FileNotFoundError:
            self._write(name, f"{otherwise}\n")
            return otherwise
        except (OSError, UnicodeDecodeError) as error:
            raise Refusal(
                f"{self.path / name} cannot be read.",
                found=str(error),
                do="run as the owner of the state directory, or name another one with --state",
            ) from None

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all, and never readable by others, not even for a moment."""
        self._write_fresh(name, text)
        self._fresh(name).rename(self.path / name)

    def _fresh(self, name: str) -> Path:
        return self.path / f".{name}.new"

    def _write_fresh(self, name: str, text: str) -> None:
        """On the disk, under another name yet."""
        fresh = self._fresh(name)
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())


def sync(path: Path) -> None:
    """What was written to a file, or what was named in a directory, is on the disk."""
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def kept_files(state_dir: Path) -> dict[str, str]:
    """By name: what only this directory has, and the store is of no use without; Refusal where the key is missing."""
    try:
        return {
            name: (state_dir / name).read_text(encoding="ascii")
            for name in SHARED
            if name == KEY or (state_dir / name).exists()
        }
    except (OSError, UnicodeDecodeError) as error:
        raise Refusal(
            f"The files of the state directory {state_dir} cannot be read.",
            found=str(error),
            do="run as its owner, or name the directory of `pktmirror serve` with --state",
        ) from None


def client(state_dir: Path) -> Client:
    """How to reach the control plane of a state directory; raises `Refusal` before its first start."""
    try:
        return msgspec.json.decode((state_dir / CLIENT).read_bytes(), type=Client)
    except FileNotFoundError:
        raise Refusal(
            f"There are no credentials in {state_dir}.",
            do="start `pktmirror serve` with the same --state first",
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        raise Refusal(
            f"The credentials in {state_dir} cannot be read.",
            found=str(error),
            do="run as the owner of the state directory",
        ) from None


def environment(state_dir: Path) -> dict[str, str]:
    """The variables that point any AWS client at this control plane, whatever else it is configured for.

    The keys stand in it, since keys of the shell would win over a file; the empty session token undoes one of the
    shell. Raises `Refusal` before the first start.
    """
    known = client(state_dir)
    return {
        "AWS_ACCESS_KEY_ID": known.access_key_id,
        "AWS_SECRET_ACCESS_KEY": known.secret_access_key,
        "AWS_SESSION_TOKEN": "",
        "AWS_SHARED_CREDENTIALS_FILE": str(state_dir.absolute() / CREDENTIALS),
        "AWS_CONFIG_FILE": str(state_dir.absolute() / CONFIG),
        "AWS_PROFILE": "default",
        "AWS_REGION": known.region,
        "AWS_DEFAULT_REGION": known.region,
        "AWS_ENDPOINT_URL": known.endpoint_url,
        "AWS_EC2_METADATA_DISABLED": "true",
    }
