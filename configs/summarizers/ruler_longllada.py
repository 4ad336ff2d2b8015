"""`--summarizer ruler_longllada`: RULER's table with LongLLaDA's groups."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import GroupSummarizer

with read_base():
    from ...ruler_patches.groups import longllada_groups as __groups

summarizer = dict(type=GroupSummarizer, groups=__groups)
