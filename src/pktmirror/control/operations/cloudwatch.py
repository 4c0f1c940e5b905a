"""CloudWatch's metrics of traffic mirroring (spec 1.10): list, and read by the minute for the last three hours."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec

from pktmirror.aws import ApiError, errors
from pktmirror.control.instances import MINUTE_S, counter
from pktmirror.control.operations.operation import Context, DescribeRequest, Operation, Request, Result
from pktmirror.control.operations.pages import page
from pktmirror.model.filter import Direction

NAMESPACE = "AWS/EC2"
DIMENSION = "InstanceId"
DATAPOINTS_MAX = 1440  # of one call of GetMetricStatistics
QUERIES_MAX = 500
STATISTICS = ("SampleCount", "Average", "Sum", "Minimum", "Maximum")


@dataclass(frozen=True, slots=True)
class Counted:
    """What a metric of an instance counts."""

    direction: Direction
    skipped: bool
    unit: str


METRICS: Mapping[str, Counted] = {
    f"Network{packets}{kind}{way}": Counted(direction, kind == "SkipMirror", "Count" if packets else "Bytes")
    for packets in ("", "Packets")
    for kind in ("Mirror", "SkipMirror")
    for way, direction in (("In", Direction.INGRESS), ("Out", Direction.EGRESS))
}


class Dimension(msgspec.Struct, frozen=True, rename="pascal"):
    name: str
    value: str | None = None


class ListMetrics(DescribeRequest, frozen=True, kw_only=True):
    namespace: str | None = None
    metric_name: str | None = None
    dimensions: tuple[Dimension, ...] = ()
    recently_active: str | None = None


class GetMetricStatistics(Request, frozen=True, kw_only=True):
    namespace: str
    metric_name: str
    dimensions: tuple[Dimension, ...] = ()
    start_time: datetime
    end_time: datetime
    period: int
    statistics: tuple[str, ...] = ()
    unit: str | None = None


class Metric(msgspec.Struct, frozen=True, rename="pascal"):
    namespace: str | None = None
    metric_name: str | None = None
    dimensions: tuple[Dimension, ...] = ()


class MetricStat(msgspec.Struct, frozen=True, rename="pascal"):
    metric: Metric
    period: int
    stat: str
    unit: str | None = None


class MetricDataQuery(msgspec.Struct, frozen=True, rename="pascal", forbid_unknown_fields=True):
    id: str
    metric_stat: MetricStat | None = None
    label: str | None = None
    return_data: bool = True


class GetMetricData(Request, frozen=True, kw_only=True):
    metric_data_queries: tuple[MetricDataQuery, ...]
    start_time: datetime
    end_time: datetime
    scan_by: str = "TimestampDescending"


@dataclass(frozen=True, slots=True)
class _Point:
    """The minutes of one period that have a figure."""

    at_s: int
    sums: tuple[int, ...]

    def statistic(self, name: str) -> float:
        match name:
            case "SampleCount":
                return float(len(self.sums))
            case "Sum":
                return float(sum(self.sums))
            case "Average":
                return sum(self.sums) / len(self.sums)
            case "Minimum":
                return float(min(self.sums))
            case _:
                return float(max(self.sums))


def list_metrics(request: ListMetrics, context: Context) -> Result:
    """Every metric of every instance that has a figure of the last three hours."""
    wanted = {each.name: each.value for each in request.dimensions}
    instances = {instance_id for minute in context.mirrored.values() for instance_id in minute}
    found = [
        (instance_id, name)
        for instance_id in instances
        for name in METRICS
        if request.namespace in (None, NAMESPACE)
        and request.metric_name in (None, name)
        and wanted.keys() <= {DIMENSION}
        and wanted.get(DIMENSION) in (None, instance_id)
    ]
    given, next_token = page(found, " ".join, request, context.page_key)
    metrics = [
        {"Namespace": NAMESPACE, "MetricName": name, "Dimensions": [{"Name": DIMENSION, "Value": instance_id}]}
        for instance_id, name in given
    ]
    return {"Metrics": metrics, "NextToken": next_token}


def get_metric_statistics(request: GetMetricStatistics, context: Context) -> Result:
    for statistic in request.statistics:
        _require_statistic(statistic, "Statistics")
    if not request.statistics:
        raise errors.missing_parameter("Statistics")
    _require_times(request.start_time, request.end_time, request.period)
    if (request.end_time - request.start_time).total_seconds() / request.period > DATAPOINTS_MAX:
        raise errors.invalid_parameter_combination(
            f"You have requested more than {DATAPOINTS_MAX} datapoints: use a longer Period, or a shorter time"
        )
    metric = Metric(request.namespace, request.metric_name, request.dimensions)
    unit = METRICS[request.metric_name].unit if request.metric_name in METRICS else None
    points = _points(metric, request.start_time, request.end_time, request.period, request.unit, context)
    return {
        "Label": request.metric_name,
        "Datapoints": [
            {"Timestamp": _time(point), "Unit": unit} | {name: point.statistic(name) for name in request.statistics}
            for point in points
        ],
    }


def get_metric_data(request: GetMetricData, context: Context) -> Result:
    if len(request.metric_data_queries) > QUERIES_MAX:
        raise errors.invalid_parameter_value(f"A call has at most {QUERIES_MAX} MetricDataQueries")
    if request.scan_by not in ("TimestampDescending", "TimestampAscending"):
        raise errors.invalid_value("ScanBy", request.scan_by, "Expected TimestampDescending or TimestampAscending")
    results = []
    for query in request.metric_data_queries:
        stat = query.metric_stat
        if stat is None:
            raise errors.invalid_parameter_value(f"The query {errors.echo(query.id)} has no MetricStat")
        _require_statistic(stat.stat, "Stat")
        _require_times(request.start_time, request.end_time, stat.period)
        points = list(_points(stat.metric, request.start_time, request.end_time, stat.period, stat.unit, context))
        if request.scan_by == "TimestampDescending":
            points.reverse()
        if query.return_data:
            results.append(
                {
                    "Id": query.id,
                    "Label": stat.metric.metric_name if query.label is None else query.label,
                    "Timestamps": [_time(point) for point in points],
                    "Values": [point.statistic(stat.stat) for point in points],
                    "StatusCode": "Complete",
                }
            )
    return {"MetricDataResults": results}


def _points(
    metric: Metric, start: datetime, end: datetime, period_s: int, unit: str | None, context: Context
) -> Iterator[_Point]:
    """The periods from the start on, which count from its minute, that have a figure; the end is not within."""
    counted = METRICS.get(metric.metric_name or "")
    dimensions = {each.name: each.value for each in metric.dimensions}
    instance_id = dimensions.get(DIMENSION) or ""
    if counted is None or metric.namespace != NAMESPACE or unit not in (None, counted.unit) or len(dimensions) != 1:
        return
    begin_s = int(start.timestamp()) // MINUTE_S * MINUTE_S
    periods: dict[int, list[int]] = {}
    for minute, instances in sorted(context.mirrored.items()):
        at_s = minute * MINUTE_S
        if begin_s <= at_s < end.timestamp() and instance_id in instances:
            tally = counter(instances[instance_id], counted.direction, skipped=counted.skipped)
            figure = tally.packets if counted.unit == "Count" else tally.bytes
            periods.setdefault(at_s - (at_s - begin_s) % period_s, []).append(figure)
    yield from (_Point(at_s, tuple(sums)) for at_s, sums in periods.items())


def _time(point: _Point) -> datetime:
    return datetime.fromtimestamp(point.at_s, UTC)


def _require_statistic(name: str, parameter: str) -> None:
    if name not in STATISTICS:
        raise errors.invalid_value(parameter, name, f"Expected one of {', '.join(STATISTICS)}")


def _require_times(start: datetime, end: datetime, period_s: int) -> None:
    if period_s < MINUTE_S or period_s % MINUTE_S:
        raise errors.invalid_value("Period", str(period_s), f"Expected a multiple of {MINUTE_S}")
    if start >= end:
        raise ApiError("ValidationError", "The parameter StartTime must be less than the parameter EndTime.")


OPERATIONS: Mapping[str, Operation[Any]] = {
    "ListMetrics": Operation(ListMetrics, list_metrics),
    "GetMetricStatistics": Operation(GetMetricStatistics, get_metric_statistics),
    "GetMetricData": Operation(GetMetricData, get_metric_data),
}
