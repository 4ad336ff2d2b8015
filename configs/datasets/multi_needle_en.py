"""`--datasets multi_needle_en`: a multi-needle set of needlebench/multi.py."""

from mmengine.config import read_base

with read_base():
    from ...needlebench.multi import multi_needle_en_datasets as multi_needle_datasets
