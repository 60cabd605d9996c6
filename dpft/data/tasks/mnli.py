"""MNLI: does a premise entail a hypothesis, contradict it, or neither?"""

from dpft.data.task import Task

__all__ = ["TASK"]

TASK = Task(
    name="mnli",
    description="GLUE MNLI: whether a premise entails a hypothesis, contradicts it, or neither",
    text_columns=("sentence1", "sentence2"),
    labels=("entailment", "neutral", "contradiction"),
    label_column="gold_label",
    validation_splits={
        "validation_matched": "dev_matched.tsv",
        "validation_mismatched": "dev_mismatched.tsv",
    },
    glue_folder="MNLI",
    hub_config="mnli",
    hub_text_columns=("premise", "hypothesis"),
)
