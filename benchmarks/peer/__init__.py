"""The same algorithms in plain PyTorch, to compare with.

`published` runs the released training step as it was released: one record at a
time, the whole model forward and backward, every row, dense updates. `batched`
runs our own step as a good PyTorch engineer would: records batched, hooks
instead of weight gradients, factored edits, the head only where an answer is
scored. Tests hold both to our numbers.
"""
