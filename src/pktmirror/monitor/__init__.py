"""The far end of a mirror: receives VXLAN on UDP 4789, counts it and keeps it. Works behind AWS's own mirrors too."""

from pktmirror.monitor.daemon import run
from pktmirror.monitor.report import GivenWay, MonitorReport, ReportedProbe, StreamFigures

__all__ = ["GivenWay", "MonitorReport", "ReportedProbe", "StreamFigures", "run"]
