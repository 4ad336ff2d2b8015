"""`--datasets niah_zh_128k_chat`: a single-needle set of needlebench/niah.py."""

from mmengine.config import read_base

with read_base():
    from ...needlebench.niah import niah_zh_128k_chat_datasets as niah_datasets
