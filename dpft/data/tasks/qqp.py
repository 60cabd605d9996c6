"""QQP: do two questions ask the same?"""

from dpft.data.task import Task

__all__ = ["TASK"]

TASK = Task(
    name="qqp",
    description="GLUE QQP: whether two questions ask the same",
    text_columns=("question1", "question2"),
    labels=("not_duplicate", "duplicate"),
    label_column="is_duplicate",
    metrics=("accuracy", "f1"),
    glue_folder="QQP",
    hub_config="qqp",
)
