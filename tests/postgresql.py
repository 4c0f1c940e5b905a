"""A real PostgreSQL server of the tests' own: in a temporary directory, on a Unix socket, as an unprivileged user."""

import os
import pwd
import select
import shutil
import socket
import socketserver
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

USERS = ("postgres", "nobody")
SETTINGS = {
    "listen_addresses": "",  # nothing but the socket, so no port to agree on
    "fsync": "off",  # no test cuts the power of the server itself
    "max_connections": "200",
    "shared_buffers": "32MB",
}
# In another order than that of code points, so that it shows where one depends on it.
MADE_WITH = (
    *("--auth", "trust", "--encoding", "UTF8", "--locale", "C.UTF-8"),
    *("--locale-provider", "icu", "--icu-locale", "en-US", "--no-sync", "--no-instructions"),
)
_numbers = count(1)


def programs() -> Path | None:
    """Where the server's programs are; Debian does not put them on the PATH."""
    on_path = shutil.which("pg_ctl")
    found = [Path(on_path).resolve().parent] if on_path else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return next((each for each in reversed(found) if (each / "initdb").exists()), None)


class Server:
    """A running server; each database of it is a store of its own."""

    def __init__(self, directory: Path, user: str) -> None:
        self._directory = directory
        self._user = user

    def url(self, database: str) -> str:
        return f"postgresql://{self._user}@/{database}?host={quote(str(self._directory), safe='')}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        name = f"store_{os.getpid()}_{next(_numbers)}"
        self.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        return self.url(name)

    def execute(self, statement: sql.Composed | sql.SQL, database: str = "postgres") -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)


@contextmanager
def running(found: Path) -> Iterator[Server]:
    user = pwd.getpwuid(os.getuid()) if os.getuid() else _unprivileged()
    directory = Path(tempfile.mkdtemp(prefix="pktmirror-postgresql-"))
    os.chown(directory, user.pw_uid, user.pw_gid)
    as_user = [] if os.getuid() else ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
    data = directory / "data"
    ctl = [*as_user, str(found / "pg_ctl"), "--pgdata", str(data), "--silent", "--wait"]
    settings = {**SETTINGS, "unix_socket_directories": str(directory)}
    options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
    try:
        _run(*as_user, str(found / "initdb"), "--pgdata", str(data), "--username", user.pw_name, *MADE_WITH)
        _run(*ctl, "--log", str(directory / "log"), "--options", options, "start")
        try:
            yield Server(directory, user.pw_name)
        finally:
            _run(*ctl, "--mode", "immediate", "stop")
    finally:
        shutil.rmtree(directory)


@contextmanager
def by_tcp(url: str) -> Iterator[str]:
    """The URL of the same database by TCP on loopback: what is sent there is passed on to the server's Unix socket."""
    parts = conninfo_to_dict(url)
    to = f"{parts['host']}/.s.PGSQL.5432"

    class PassOn(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as server:
                server.connect(to)
                ends = {self.request: server, server: self.request}
                while chunks := {end: end.recv(65_536) for end in select.select([*ends], [], [])[0]}:
                    for end, chunk in chunks.items():
                        if not chunk:
                            return
                        ends[end].sendall(chunk)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), PassOn) as passing_on:
        thread = threading.Thread(target=passing_on.serve_forever, args=[0.01])
        thread.start()
        try:
            port = passing_on.server_address[1]
            yield f"postgresql://{parts['user']}@127.0.0.1:{port}/{parts['dbname']}?sslmode=disable"
        finally:
            passing_on.shutdown()
            thread.join()


def _unprivileged() -> pwd.struct_passwd:
    """The server does not run as root."""
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    return next(known[name] for name in USERS if name in known)


def _run(*command: str) -> None:
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
