"""`--summarizer longbench_v2`: accuracy over all, by difficulty and by length."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import BreakdownSummarizer

with read_base():
    from ..helpers.longbench_groups import longbench_v2_parts

summarizer = dict(type=BreakdownSummarizer, parts=longbench_v2_parts)
