"""A row: what was asked of a model and what it answered, as `evaluate` and prediction_files.py give it. No torch here.

id, source      of the question, and of the clip; clips of one source are resampled together
task, kind      of conf/tasks, and of question (caption, label, ...)
condition       sound | other (another clip's) | text (no sound) | shuffled (the choices)
question, references, choices
fields          what else the publisher says of the question: its id, its difficulty, ...
prediction      None where it failed, which counts as wrong
scores          where there are any: the LLM's log-probability of each label
"""

from typing import Any

Row = dict[str, Any]
