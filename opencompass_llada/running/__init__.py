"""Running OpenCompass from here: checks before a run, tasks, runner, and completeness after it."""
