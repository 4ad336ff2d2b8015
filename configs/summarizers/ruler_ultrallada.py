"""`--summarizer ruler_ultrallada`: RULER's table with UltraLLaDA's groups."""

from mmengine.config import read_base

from opencompass_llada.report.summarizers import GroupSummarizer

with read_base():
    from ...ruler_patches.groups import ultrallada_groups as __groups

summarizer = dict(type=GroupSummarizer, groups=__groups)
