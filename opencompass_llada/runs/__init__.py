"""Running OpenCompass from here: checks before a run, tasks, runner, and completeness after it."""

from opencompass_llada.runs.ending import end_with_the_run

# A task takes seconds to import; its run may be gone before that is done.
end_with_the_run()
