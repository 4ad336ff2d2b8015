"""`--summarizer longbench`: LongBench's six categories and its averages."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import GroupSummarizer

with read_base():
    from ..helpers.planning import list_groups as __list_groups

summarizer = dict(type=GroupSummarizer, groups=__list_groups("longbench"))
