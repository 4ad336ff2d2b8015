"""`--summarizer perplexity`: CSV, table and curves over context length."""

from opencompass_llada.report.summarizers import PerplexitySummarizer

summarizer = dict(type=PerplexitySummarizer)
