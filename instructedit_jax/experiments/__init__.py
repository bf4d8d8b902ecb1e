"""The experiments of arXiv 2402.16123 and what it leaves open.

Each module that has a `main` is one experiment, started alike:

  python -m instructedit_jax.experiments.table3 \
    --config=configs/paper/table3.py --data=DIR --out=results/table3

It trains the editors that its configuration names and that are missing, with
the usual trainer; evaluates them with the usual evaluator; and writes a table,
a picture, all numbers and the protocol to OUT. The same command goes on where
an earlier one was cut off.
"""
