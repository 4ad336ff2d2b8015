"""Running OpenCompass from here: checks before a run, the tasks, and the exit status after it."""

from opencompass_llada.runs.task_lifetime import end_with_the_run

# A task takes seconds to import; its run may be gone before that is done.
end_with_the_run()
