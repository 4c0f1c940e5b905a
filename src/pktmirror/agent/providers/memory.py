"""What an agent keeps of the taps whose machines it knew, for a start while their engine is away. An edge module.

Numbers of devices hold for one boot and one network namespace; what is kept of another is forgotten.
"""

from collections.abc import Mapping
from pathlib import Path

import msgspec
import structlog

from pktmirror.agent.providers.naming import Bond
from pktmirror.kernel import netns

_log = structlog.get_logger("agent")
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class _Kept(msgspec.Struct, frozen=True, kw_only=True):
    boot_id: str
    namespace: int
    bonds: dict[int, Bond] = {}


class Memory:
    """A file in the agent's state directory. To be made and used in the agent's network namespace."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._boot_id = _BOOT_ID.read_text().strip()
        self._namespace = netns.cookie()
        self._saved: Mapping[int, Bond] | None = None

    def read(self) -> dict[int, Bond]:
        """By ifindex; nothing where there is none, or it cannot be read."""
        try:
            kept = msgspec.json.decode(self._file.read_bytes(), type=_Kept)
        except FileNotFoundError:
            return {}
        except (OSError, msgspec.MsgspecError) as error:
            _log.warning("what was known of taps cannot be read; engines will tell again", why=str(error))
            return {}
        here = (kept.boot_id, kept.namespace) == (self._boot_id, self._namespace)
        return kept.bonds if here else {}

    def keep(self, bonds: Mapping[int, Bond]) -> None:
        """Write them if they differ from the last ones; what cannot be written is not worth a turn."""
        if bonds == self._saved or (self._saved is None and not bonds and not self._file.exists()):
            return
        kept = _Kept(boot_id=self._boot_id, namespace=self._namespace, bonds=dict(bonds))
        beside = self._file.with_suffix(".new")
        try:
            beside.write_bytes(msgspec.json.encode(kept))
            beside.replace(self._file)
        except OSError as error:
            _log.warning("what is known of taps cannot be kept", why=str(error))
        self._saved = dict(bonds)
