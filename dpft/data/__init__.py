"""Private text in, tokenised examples out: tasks, where their rows come from, the Arrow cache, and scores.

A task (:mod:`dpft.data.task`) says what a row is. :func:`dpft.data.sources.read_rows` reads rows from
files of the user's own, a GLUE folder, the hub, or a built-in generator, and refuses bad ones by file and
line.
:func:`dpft.data.prepare.prepare` tokenises them once. :mod:`dpft.data.metrics` scores predictions offline.

Labels, columns and lengths come from the task and from options, never from the rows: what is learnt from
private rows without noise leaks them.
"""
