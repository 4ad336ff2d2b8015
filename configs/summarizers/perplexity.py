"""`--summarizer perplexity`: CSV, table and curves over context length."""

from opencompass_llada.report.perplexity_summarizer import PerplexitySummarizer

summarizer = dict(type=PerplexitySummarizer)
