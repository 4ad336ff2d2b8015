"""RULER's group averages, as the two papers report them.

Facts, not functions: a config takes a table with `read_base`. Each is for `GroupSummarizer`.
"""

niah_tasks = [
    "niah_single_1",
    "niah_single_2",
    "niah_single_3",
    "niah_multikey_1",
    "niah_multikey_2",
    "niah_multikey_3",
    "niah_multivalue",
    "niah_multiquery",
]
qa_tasks = ["qa_squad", "qa_hotpotqa"]
all_tasks = [*niah_tasks, "vt", "cwe", "fwe", *qa_tasks]

# LongLLaDA (arXiv 2506.14429, Table 2): the average is over tasks, not over groups. Check: its
# LLaDA-8B-Base at 4K, (8 x 99.7 + 3 x 65.2 + 2 x 82.5) / 13 = 89.1.
longllada_groups = [
    dict(name="NIAH", members=niah_tasks),
    dict(name="AGG", members=["vt", "cwe", "fwe"]),
    dict(name="QA", members=qa_tasks),
    dict(name="Avg", members=all_tasks),
]
# UltraLLaDA (arXiv 2510.10481, Table 3): variable tracking stands apart from aggregation.
ultrallada_groups = [
    dict(name="NIAH", members=niah_tasks),
    dict(name="AGG", members=["cwe", "fwe"]),
    dict(name="QA", members=qa_tasks),
    dict(name="VT", members=["vt"]),
    dict(name="AVG", members=all_tasks),
]
# Both in one table, under names that say which AGG is meant.
ruler_groups = [
    dict(name="NIAH", members=niah_tasks),
    dict(name="CWE+FWE", members=["cwe", "fwe"]),
    dict(name="VT+CWE+FWE", members=["vt", "cwe", "fwe"]),
    dict(name="QA", members=qa_tasks),
    dict(name="13 tasks", members=all_tasks),
]
