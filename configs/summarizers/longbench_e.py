"""`--summarizer longbench_e`: LongBench-E by length, with its categories and averages."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import BreakdownSummarizer

with read_base():
    from ..helpers.longbench_groups import longbench_e_groups, longbench_e_parts

summarizer = dict(type=BreakdownSummarizer, parts=longbench_e_parts, groups=longbench_e_groups)
