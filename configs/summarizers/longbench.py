"""`--summarizer longbench`: LongBench's six categories and its averages."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import GroupSummarizer

with read_base():
    from ..helpers.longbench_groups import longbench_groups

summarizer = dict(type=GroupSummarizer, groups=longbench_groups)
