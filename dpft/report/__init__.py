"""Reports: what several runs cost in privacy and what they scored, as one page or as Markdown. No torch.

:mod:`dpft.report.gather` reads from the store what may be shared, and nothing else; :mod:`dpft.report.story`
arranges it; :mod:`dpft.report.html` and :mod:`dpft.report.markdown` write it down.

The charts are drawn here (:mod:`dpft.report.scales`, :mod:`dpft.report.charts`, ``templates/charts.html.j2``)
and not by a plotting library. An SVG of lines, dots and text needs a few hundred lines, takes its colours
from the page (so that the dark scheme and paper get their own), names its parts for a screen reader and
weighs a few kilobytes. Matplotlib's SVG has fixed colours, and shapes in the place of text; Plotly brings
megabytes of script, and draws nothing without it.
"""
