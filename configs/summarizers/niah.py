"""`--summarizer niah`: table, CSV and heat maps of single-needle retrieval."""

from opencompass_llada.report.summarizers import NeedleSummarizer

summarizer = dict(type=NeedleSummarizer)
