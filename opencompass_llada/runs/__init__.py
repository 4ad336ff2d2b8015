"""Runs OpenCompass: checks before a run, its tasks, what they record, and the exit status."""

from opencompass_llada.runs.task_lifetime import end_with_the_run

# A task takes seconds to import; its run may be gone before that is done.
end_with_the_run()
