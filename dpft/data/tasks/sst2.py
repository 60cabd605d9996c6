"""SST-2: is a phrase from a film review positive?"""

from dpft.data.task import Task

__all__ = ["TASK"]

TASK = Task(
    name="sst2",
    description="GLUE SST-2: sentiment of phrases from film reviews",
    text_columns=("sentence",),
    labels=("negative", "positive"),
    glue_folder="SST-2",
    hub_config="sst2",
)
