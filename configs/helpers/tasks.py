"""How the two stages of a run are cut into tasks and started: the same for every eval config.

A config pulls functions in with ``read_base`` under names that start with two underscores; see
`models`.
"""

from opencompass_llada.runs.local_runner import CoreSharingLocalRunner
from opencompass_llada.runs.tasks import CellByCellEvalTask, ShortNamedInferTask


def make_infer(run):
    """Return OpenCompass's ``infer``.

    Args:
        run: What a ``plan_run`` returned: its partitioner and workers (tasks at a time).
    """
    return dict(
        partitioner=run["partitioner"],
        runner=dict(
            type=CoreSharingLocalRunner,
            max_num_workers=run["workers"],
            task=dict(type=ShortNamedInferTask),
        ),
    )


def make_eval(run, **task_options):
    """Return OpenCompass's ``eval``.

    Args:
        run: What a ``plan_run`` returned: its eval_partitioner and workers.
        task_options: Of the task: ``dump_details=True`` keeps each answer with its score.
    """
    return dict(
        partitioner=run["eval_partitioner"],
        runner=dict(
            type=CoreSharingLocalRunner,
            max_num_workers=run["workers"],
            task=dict(type=CellByCellEvalTask, **task_options),
        ),
    )
