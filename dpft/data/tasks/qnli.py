"""QNLI: does a sentence hold the answer to a question?"""

from dpft.data.task import Task

__all__ = ["TASK"]

TASK = Task(
    name="qnli",
    description="GLUE QNLI: whether a sentence answers a question",
    text_columns=("question", "sentence"),
    labels=("entailment", "not_entailment"),
    glue_folder="QNLI",
    hub_config="qnli",
)
