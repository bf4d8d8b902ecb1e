"""One report of one or several evaluations: tables, pictures and a page.

`build` reads evaluation folders, tells which of their editors are runs of the
same one, sums up, and writes report.md, report.tex, report.csv and the page
report.html, which needs neither a server nor a network.
"""

from instructedit_jax.reports.build import Settings, build

__all__ = ["Settings", "build"]
