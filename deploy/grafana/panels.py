"""The three kinds of panel that the dashboard has, typed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from grafana_foundation_sdk.builders import common as show
from grafana_foundation_sdk.builders import dashboard as make
from grafana_foundation_sdk.builders import prometheus, stat, statetimeline, timeseries
from grafana_foundation_sdk.models import common, dashboard
from grafana_foundation_sdk.models import prometheus as query

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

SOURCE: Final = dashboard.DataSourceRef(type_val="prometheus", uid="${datasource}")
WIDTH: Final = 24
GOOD, ODD, BAD, PLAIN = "green", "orange", "red", "blue"

AnyPanel = TypeVar("AnyPanel", stat.Panel, timeseries.Panel, statetimeline.Panel)


class Ask(NamedTuple):
    """One expression, and how its series are called."""

    expression: str
    legend: str = ""


# --- panels of three kinds -----------------------------------------------------------------------


def number(
    title: str,
    about: str,
    expression: str,
    *,
    unit: str = "none",
    steps: Sequence[tuple[float | None, str]] = ((None, PLAIN),),
    words: Mapping[str, tuple[str, str]] | None = None,
) -> stat.Panel:
    """What is so now, in one number or word; coloured from each of `steps` on."""
    panel = stat.Panel().unit(unit).decimals(0)
    panel.color_mode(common.BigValueColorMode.BACKGROUND)
    panel.graph_mode(common.BigValueGraphMode.NONE)
    panel.reduce_options(show.ReduceDataOptions().calcs(["lastNotNull"]))
    panel.thresholds(_steps(steps)).no_value("unknown")
    if words:
        panel.mappings([_in_words(words)])
    return _asking(panel.span(3).height(4), title, about, [Ask(expression)], is_now=True)


def course(
    title: str,
    about: str,
    *asked: Ask,
    unit: str = "short",
    width: int = 8,
    bars: bool = False,
    stacked: bool = False,
    limit: float | None = None,
) -> timeseries.Panel:
    """How it went, as lines or bars; `limit` is where an alert begins."""
    panel = timeseries.Panel().unit(unit).axis_soft_min(0)
    panel.draw_style(common.GraphDrawStyle.BARS if bars else common.GraphDrawStyle.LINE)
    panel.fill_opacity(60 if bars else 10).line_width(1)
    panel.show_points(common.VisibilityMode.NEVER)
    panel.line_interpolation(common.LineInterpolation.STEP_AFTER)
    if stacked:
        panel.stacking(show.StackingConfig().mode(common.StackingMode.NORMAL).group("A"))
    if limit is not None:
        panel.thresholds(_steps([(None, GOOD), (limit, BAD)]))
        style = common.GraphTresholdsStyleMode.DASHED
        panel.thresholds_style(show.GraphThresholdsStyleConfig().mode(style))
    panel.tooltip(show.VizTooltipOptions().mode(common.TooltipDisplayMode.MULTI))
    legend = show.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST)
    panel.legend(legend.placement(common.LegendPlacement.BOTTOM).show_legend(True))
    return _asking(panel.span(width).height(7), title, about, asked)


def states(
    title: str,
    about: str,
    *asked: Ask,
    words: Mapping[str, tuple[str, str]],
    width: int = 12,
    empty: str = "unknown",
) -> statetimeline.Panel:
    """Which of a few states it was in; `empty` is what no data means."""
    panel = statetimeline.Panel().mappings([_in_words(words)]).no_value(empty)
    panel.show_value(common.VisibilityMode.NEVER).merge_values(True).row_height(0.8)
    panel.fill_opacity(70).line_width(0)
    panel.thresholds(_steps([(None, PLAIN)]))
    panel.legend(show.VizLegendOptions().display_mode(common.LegendDisplayMode.LIST))
    return _asking(panel.span(width).height(7), title, about, asked)


def _asking(
    panel: AnyPanel, title: str, about: str, asked: Iterable[Ask], *, is_now: bool = False
) -> AnyPanel:
    for each, ref in zip(asked, "ABCDEF", strict=False):
        target = prometheus.Dataquery().expr(each.expression).ref_id(ref).datasource(SOURCE)
        target.legend_format(each.legend).editor_mode(query.QueryEditorMode.CODE)
        # What is so now is asked for now: the last of a range may be hours old.
        panel.with_target(target.instant() if is_now else target.range())
    return panel.title(title).description(about).datasource(SOURCE)


def _steps(steps: Iterable[tuple[float | None, str]]) -> make.ThresholdsConfig:
    colours = [dashboard.Threshold(value=value, color=colour) for value, colour in steps]
    return make.ThresholdsConfig().mode(dashboard.ThresholdsMode.ABSOLUTE).steps(colours)


def _in_words(words: Mapping[str, tuple[str, str]]) -> dashboard.ValueMap:
    return dashboard.ValueMap(
        options={
            value: dashboard.ValueMappingResult(text=text, color=colour, index=index)
            for index, (value, (text, colour)) in enumerate(words.items())
        }
    )
