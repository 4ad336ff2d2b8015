"""`--summarizer longbench_e`: LongBench-E by length, with its categories and averages."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import BreakdownSummarizer

with read_base():
    from ..helpers.planning import list_groups as __list_groups, list_parts as __list_parts

summarizer = dict(
    type=BreakdownSummarizer,
    parts=__list_parts("longbench_e"),
    groups=__list_groups("longbench_e"),
)
