"""`--datasets multi_reasoning_zh_chat`: a multi-needle set of needlebench/multi.py."""

from mmengine.config import read_base

with read_base():
    from ...needlebench.multi import multi_reasoning_zh_chat_datasets as multi_needle_datasets
