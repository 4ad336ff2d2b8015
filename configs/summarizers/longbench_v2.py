"""`--summarizer longbench_v2`: accuracy over all, by difficulty and by length."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import BreakdownSummarizer

with read_base():
    from ..helpers.planning import list_parts as __list_parts

summarizer = dict(type=BreakdownSummarizer, parts=__list_parts("longbench_v2"))
