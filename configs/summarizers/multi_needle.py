"""`--summarizer multi_needle`: a table of multi-needle scores by task and length."""

from opencompass_llada.report.summarizers import GroupSummarizer

summarizer = dict(type=GroupSummarizer)
