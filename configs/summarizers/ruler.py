"""`--summarizer ruler`: RULER's table with tasks, groups of both papers and the 13-task mean."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import GroupSummarizer

with read_base():
    from ...ruler_patches.groups import ruler_groups as __groups

summarizer = dict(type=GroupSummarizer, groups=__groups)
