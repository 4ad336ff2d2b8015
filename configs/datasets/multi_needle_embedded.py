"""`--datasets multi_needle_embedded`: a multi-needle set of needlebench/multi.py."""

from mmengine.config import read_base

with read_base():
    from ...needlebench.multi import multi_needle_embedded_datasets as multi_needle_datasets
