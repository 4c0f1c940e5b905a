"""The agent's line for its certificate: before it ends, the next one takes its place. An edge module."""

import random
import time
from collections.abc import Callable

import msgspec
import structlog

from pktmirror.agent.identity import Identity, due_at_s, new_key, of_key
from pktmirror.agent.line import Line, Uplink
from pktmirror.model.join import Certified, RenewalRequest

_log = structlog.get_logger("agent")

LOOK_S = 3600.0  # a clock may be set meanwhile, or the machine have slept
AGAIN_S = 60.0  # whatever the next one says


class Renewal:
    """``clock`` tells Unix seconds."""

    def __init__(self, uplink: Uplink, identity: Identity, *, clock: Callable[[], float] = time.time) -> None:
        self._uplink = uplink
        self._identity = identity
        self._clock = clock
        self._line = Line("certificate", self._turn)

    def start(self) -> None:
        self._line.start()

    def stop(self) -> None:
        self._line.stop()

    def renew_if_due(self) -> bool:
        """Whether there is another one now; each has a key of its own."""
        if self._clock() < due_at_s(self._identity.certificate()):
            return False
        key, request = new_key()
        answer = self._uplink.tell("certificate", msgspec.json.encode(RenewalRequest(csr=request)))
        certificate = msgspec.json.decode(answer, type=Certified).certificate
        self._identity.renew(of_key(certificate, key, self._identity.joined.ca))
        self._uplink.reopen()
        _log.info("the certificate of this host is renewed")
        return True

    def _turn(self) -> None:
        if self.renew_if_due():
            self._line.pause(AGAIN_S)
        else:
            left_s = due_at_s(self._identity.certificate()) - self._clock()
            self._line.pause(min(LOOK_S, left_s) + random.uniform(0, AGAIN_S))
